//! Times, sizes and shares as people type them.

use std::time::Duration;

/// `500ms`, `30s`, `5m`, `2h`, `1d`; a bare number is seconds.
///
/// # Errors
///
/// What is wrong, for the user.
pub fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(format!("`{text}` is no time: write 500ms, 30s, 5m or 2h")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` is no time: write 500ms, 30s, 5m or 2h"))?;
    Duration::try_from_secs_f64(number * seconds_per_unit)
        .map_err(|_| format!("`{text}` is out of range"))
}

/// A time that is not nothing.
///
/// # Errors
///
/// As [`time`].
pub fn positive_time(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("must be more than 0".to_owned()),
        time => Ok(time),
    }
}

/// `4096`, `512KiB`, `1M`, `2GiB`: K, M, G with or without `iB` or `B`, by powers of 1024.
///
/// # Errors
///
/// What is wrong, for the user.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let wrong = || format!("`{text}` is no size: write 4096, 512KiB or 1M");
    let unit = unit.to_ascii_lowercase();
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is out of range"))
}

/// A part of a whole, more than 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// What tracing may cost a target when nobody says otherwise: 5 %.
    pub const DEFAULT_BUDGET: Self = Self(0.05);

    /// From 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// `5%` or `5`: percent.
///
/// # Errors
///
/// What is wrong, for the user.
pub fn percent(text: &str) -> Result<Share, String> {
    let (number, unit) = split(text);
    let percent = match (number.parse::<f64>(), unit) {
        (Ok(percent), "" | "%") => percent,
        _ => return Err(format!("`{text}` is no percentage: write 5% or 0.5%")),
    };
    let share = Share(percent / 100.0);
    if share.0 > 0.0 && share.0 <= 1.0 {
        Ok(share)
    } else {
        Err("must be more than 0 % and at most 100 %".to_owned())
    }
}

/// How many bytes a target allocates between two samples, on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleSize {
    asked: u64,
    bytes: u64,
}

impl SampleSize {
    /// The kernel half samples by no more: 4 GiB.
    const MOST: u64 = 1 << 32;

    /// A power of two, or 0 for every allocation.
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// What was asked for, when it is not what is done.
    pub fn rounded_from(self) -> Option<u64> {
        (self.asked != self.bytes).then_some(self.asked)
    }
}

/// A size, rounded to the next power of two, up or down.
///
/// # Errors
///
/// What is wrong, for the user.
pub fn sample_size(text: &str) -> Result<SampleSize, String> {
    let asked = size(text)?;
    if asked > SampleSize::MOST {
        return Err(format!("`{text}` is out of range: 4GiB at most"));
    }
    let above = asked.next_power_of_two();
    let bytes = match asked {
        // Every byte would be a sample.
        0 | 1 => 0,
        _ if above - asked <= asked - above / 2 => above,
        _ => above / 2,
    };
    Ok(SampleSize { asked, bytes })
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(time("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(time("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("7"), Ok(Duration::from_secs(7)));
        for wrong in ["", "s", "5y", "-1s", "1e99h", "999999999999999999999d", "nan"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert!(positive_time("0").is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("512KiB"), Ok(512 << 10));
        assert_eq!(size("1M"), Ok(1 << 20));
        assert_eq!(size("2gb"), Ok(2 << 30));
        for wrong in ["", "x", "1.5M", "-1", "1T", "99999999999999999999", "17179869184G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn percentages() {
        let share = |text| percent(text).map(Share::get);
        assert_eq!(share("5%"), Ok(0.05));
        assert_eq!(share("5"), Ok(Share::DEFAULT_BUDGET.get()));
        assert_eq!(share("0.5 %"), Ok(0.005));
        assert_eq!(share("100%"), Ok(1.0));
        for wrong in ["", "%", "0", "0%", "101%", "-1%", "5s", "nan", "1e1", "5%%", "1.2.3"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
        assert!(percent(&"9".repeat(400)).is_err(), "infinity");
    }

    #[test]
    fn samples_are_rounded_to_the_nearest_power_of_two() {
        let sample = |text| sample_size(text).map(|size| (size.bytes(), size.rounded_from()));
        assert_eq!(sample("512KiB"), Ok((512 << 10, None)));
        assert_eq!(sample("0"), Ok((0, None)));
        assert_eq!(sample("1"), Ok((0, Some(1))));
        assert_eq!(sample("2"), Ok((2, None)));
        assert_eq!(sample("3"), Ok((4, Some(3))));
        assert_eq!(sample("5"), Ok((4, Some(5))));
        assert_eq!(sample("500KiB"), Ok((512 << 10, Some(500 << 10))));
        assert_eq!(sample("1000"), Ok((1024, Some(1000))));
        assert_eq!(sample("4GiB"), Ok((1 << 32, None)));
        for wrong in ["", "x", "5G", "-1", "1.5K"] {
            assert!(sample_size(wrong).is_err(), "{wrong}");
        }
    }
}
