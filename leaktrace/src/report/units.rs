//! Sizes, rates, durations and counts as people read them.

/// Bytes: `512 B`, `12.0 MiB`.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes as f64)
}

/// Bytes a second, with a sign: `+1.0 MiB/s`; `?/s` when there is no figure.
pub fn rate(bytes_per_s: f64) -> String {
    if bytes_per_s.is_nan() {
        return "?/s".to_owned();
    }
    let sign = match bytes_per_s {
        rate if rate >= 0.5 => "+",
        rate if rate <= -0.5 => "-",
        _ => "",
    };
    format!("{sign}{}/s", scaled(bytes_per_s.abs()))
}

/// Seconds: `350 ms`, `9.8 s`, `1m 12s`, `2h 5m`, `3d 4h`; `?` when there is no figure.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".to_owned();
    }
    let seconds = seconds.max(0.0);
    if seconds < 0.9995 {
        return format!("{:.0} ms", seconds * 1e3);
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    whole_seconds(seconds.round() as u64)
}

/// Whole seconds: `12s`, `1m 12s`, `2h 5m`, `3d 4h`.
pub fn whole_seconds(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{}d {}h", days, hours % 24)
    } else if hours > 0 {
        format!("{}h {}m", hours, minutes % 60)
    } else if minutes > 0 {
        format!("{}m {}s", minutes, seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

/// A count with thousands separators: `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun: `1 block`, `2 blocks`.
pub fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// A count in at most nine characters: `8,123`, `12.3 M`.
pub fn short_count(n: u64) -> String {
    if n < 10_000_000 {
        return count(n);
    }
    let mut value = n as f64 / 1e6;
    let mut unit = "M";
    for next in ["G", "T", "P", "E"] {
        if value < 999.95 {
            break;
        }
        value /= 1e3;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A share of 0 to 1 as a percentage, never rounded up to all: `99.9 %`.
pub fn percent(share: f64) -> String {
    if share.is_nan() {
        return "? %".to_owned();
    }
    // The tiny addition keeps 0.998 from becoming 99.7 for want of a last bit.
    format!("{:.1} %", (share * 1e3 + 1e-9).floor() / 10.0)
}

/// A share of 0 to 1 that something costs, as a percentage: with two decimals below 1 %, where one
/// would say too little.
pub fn cost_share(share: f64) -> String {
    let percentage = share * 100.0;
    match share {
        share if share.is_nan() => "? %".to_owned(),
        share if share > 0.0 && percentage < 0.01 => "less than 0.01 %".to_owned(),
        share if share > 0.0 && percentage < 0.995 => format!("{percentage:.2} %"),
        _ if percentage > 1e6 => "over 1000000 %".to_owned(),
        share if share < 1.0 && percentage >= 99.95 => "99.9 %".to_owned(),
        _ => format!("{percentage:.1} %"),
    }
}

/// A share of 0 to 1 as somebody would have typed it: `5 %`, `0.5 %`.
pub fn budget(share: f64) -> String {
    format!("{} %", (share * 1e6).round() / 1e4)
}

/// Bytes a second of something slow, by the hour: `2.0 MiB/h`; the fast by the second.
pub fn leak_rate(bytes_per_s: f64) -> String {
    const FAST: f64 = 102_400.0;
    match bytes_per_s {
        rate if !rate.is_finite() => "?/h".to_owned(),
        rate if rate >= FAST => format!("{}/s", scaled(rate)),
        rate => format!("{}/h", scaled(rate.max(0.0) * 3600.0)),
    }
}

fn scaled(bytes: f64) -> String {
    if bytes < 1023.5 {
        return format!("{bytes:.0} B");
    }
    let mut value = bytes / 1024.0;
    let mut unit = "KiB";
    for next in ["MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 1e4 { format!("{value:.1} {unit}") } else { format!("over 9999 {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (0, "0 B"),
            (512, "512 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (12_288, "12.0 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (12 << 20, "12.0 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (size, text) in cases {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn rates() {
        let cases = [
            (0.0, "0 B/s"),
            (-0.0, "0 B/s"),
            (0.4, "0 B/s"),
            (1048576.0, "+1.0 MiB/s"),
            (-3072.0, "-3.0 KiB/s"),
            (f64::NAN, "?/s"),
            (f64::INFINITY, "+over 9999 EiB/s"),
            (f64::NEG_INFINITY, "-over 9999 EiB/s"),
        ];
        for (speed, text) in cases {
            assert_eq!(rate(speed), text);
        }
    }

    #[test]
    fn durations() {
        let cases = [
            (0.0, "0 ms"),
            (-1.0, "0 ms"),
            (0.35, "350 ms"),
            (0.9999, "1.0 s"),
            (9.84, "9.8 s"),
            (59.99, "1m 0s"),
            (72.0, "1m 12s"),
            (7500.0, "2h 5m"),
            (273_600.0, "3d 4h"),
            (f64::NAN, "?"),
            (f64::INFINITY, "?"),
            (1e30, "213503982334601d 7h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(whole_seconds(12), "12s");
    }

    #[test]
    fn counts() {
        let cases = [
            (0, "0", "0"),
            (999, "999", "999"),
            (1000, "1,000", "1,000"),
            (1_234_567, "1,234,567", "1,234,567"),
            (12_345_678, "12,345,678", "12.3 M"),
            (999_990_000, "999,990,000", "1.0 G"),
            (u64::MAX, "18,446,744,073,709,551,615", "18.4 E"),
        ];
        for (n, long, short) in cases {
            assert_eq!((count(n).as_str(), short_count(n).as_str()), (long, short));
        }
        assert_eq!(
            (counted(1, "block").as_str(), counted(0, "block").as_str()),
            ("1 block", "0 blocks")
        );
    }

    #[test]
    fn costs() {
        let cases = [
            (0.0, "0.0 %"),
            (0.000_01, "less than 0.01 %"),
            (0.004_31, "0.43 %"),
            (0.0487, "4.9 %"),
            (0.999_9, "99.9 %"),
            (1.0, "100.0 %"),
            (f64::NAN, "? %"),
            (f64::INFINITY, "over 1000000 %"),
        ];
        for (share, text) in cases {
            assert_eq!(cost_share(share), text);
        }
        let budgets = [(0.05, "5 %"), (0.005, "0.5 %"), (0.07, "7 %"), (1.0, "100 %")];
        for (share, text) in budgets {
            assert_eq!(budget(share), text);
        }
    }

    #[test]
    fn slow_leaks_are_told_by_the_hour() {
        let cases = [
            (2.0 * 1048576.0 / 3600.0, "2.0 MiB/h"),
            (1048576.0, "1.0 MiB/s"),
            (0.0, "0 B/h"),
            (-1.0, "0 B/h"),
            (f64::NAN, "?/h"),
        ];
        for (rate, text) in cases {
            assert_eq!(leak_rate(rate), text);
        }
    }

    #[test]
    fn nearly_all_is_not_all() {
        assert_eq!(percent(1.0), "100.0 %");
        assert_eq!(percent(0.999_999), "99.9 %");
        assert_eq!(percent(0.998), "99.8 %");
        assert_eq!(percent(0.0), "0.0 %");
        assert_eq!(percent(f64::NAN), "? %");
    }
}
