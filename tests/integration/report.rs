//! A JSON report, asked what the tests want to know.

use std::path::Path;

use serde_json::Value;

/// What a code path holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) bytes: u64,
    pub(crate) blocks: u64,
}

/// `leaktrace.report/1`.
pub(crate) struct Report(pub(crate) Value);

impl Report {
    pub(crate) fn parse(text: &str) -> Self {
        let value: Value = serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("not a JSON report: {error}\n{text}"));
        assert_eq!(value["schema"], "leaktrace.report/1");
        Self(value)
    }

    pub(crate) fn read(path: &Path) -> Self {
        Self::parse(&std::fs::read_to_string(path).unwrap_or_else(|error| {
            panic!("{}: {error}: the report was not written", path.display())
        }))
    }

    /// The number at a JSON pointer.
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        self.at(pointer).as_u64().unwrap_or_else(|| panic!("{pointer} is no count: {}", self.0))
    }

    /// The text at a JSON pointer.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_else(|| panic!("{pointer} is no text: {}", self.0))
    }

    pub(crate) fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {}", self.0))
    }

    pub(crate) fn totals(&self) -> Held {
        Held {
            bytes: self.number("/totals/outstanding_bytes"),
            blocks: self.number("/totals/outstanding_blocks"),
        }
    }

    pub(crate) fn stacks(&self) -> &[Value] {
        self.at("/stacks").as_array().unwrap()
    }

    /// What the stacks hold whose first named frame is `function`: its own allocations. A C++
    /// name is compared without its parameters.
    pub(crate) fn held_by(&self, function: &str) -> Held {
        self.held(|names| {
            names
                .first()
                .and_then(|name| name.split('(').next())
                .is_some_and(|name| name == function)
        })
    }

    /// What the stacks hold that pass through a function with `part` in its name.
    pub(crate) fn held_under(&self, part: &str) -> Held {
        self.held(|names| names.iter().any(|name| name.contains(part)))
    }

    /// What the stacks hold that pass through `function`. A C++ name is compared without its
    /// parameters.
    pub(crate) fn held_in(&self, function: &str) -> Held {
        self.held(|names| {
            names.iter().any(|name| name.split('(').next().is_some_and(|name| name == function))
        })
    }

    fn held(&self, belongs: impl Fn(&[&str]) -> bool) -> Held {
        let mut held = Held::default();
        for stack in self.stacks().iter().filter(|stack| belongs(&names(stack))) {
            held.bytes += stack["outstanding_bytes"].as_u64().unwrap();
            held.blocks += stack["outstanding_blocks"].as_u64().unwrap();
        }
        held
    }

    /// Nothing was lost, and every probe is in place.
    pub(crate) fn assert_complete(&self) {
        let health = self.at("/health");
        let lost = health["lost"].as_object().unwrap();
        assert!(lost.values().all(|count| count == 0), "lost: {health}");
        assert_eq!(health["probe_failures"], serde_json::json!([]));
        assert_eq!(health["complete"], true, "{health}");
    }

    /// Every free was of a block whose allocation was seen.
    pub(crate) fn assert_every_free_matched(&self) {
        assert_eq!(self.number("/health/unknown_frees"), 0, "{}", self.at("/health"));
        assert_eq!(self.number("/health/matched_frees"), self.number("/health/frees"));
    }
}

/// The names of a stack's frames, leaf first, without the frames that have none.
pub(crate) fn names(stack: &Value) -> Vec<&str> {
    let frames = stack["frames"].as_array().unwrap();
    frames.iter().filter_map(|frame| frame["function"].as_str()).collect()
}

/// The first frame whose function has `part` in its name.
pub(crate) fn frame<'a>(stack: &'a Value, part: &str) -> Option<&'a Value> {
    let frames = stack["frames"].as_array().unwrap();
    frames.iter().find(|frame| frame["function"].as_str().is_some_and(|name| name.contains(part)))
}

/// Nanoseconds since 1970 of an RFC 3339 time in UTC.
pub(crate) fn unix_ns(rfc3339: &str) -> u64 {
    let time = rfc3339
        .strip_suffix('Z')
        .or_else(|| rfc3339.strip_suffix("+00:00"))
        .unwrap_or_else(|| panic!("{rfc3339} is not in UTC"));
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let numbers: Vec<u64> =
        whole.split(['-', 'T', ':']).map(|number| number.parse().unwrap()).collect();
    let [year, month, day, hour, minute, second] = numbers[..] else {
        panic!("{rfc3339} is no time");
    };
    // Days since 1970-01-01, counted in years that begin in March (Howard Hinnant, "chrono-
    // Compatible Low-Level Date Algorithms", days_from_civil).
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    seconds * 1_000_000_000 + format!("{fraction:0<9}")[..9].parse::<u64>().unwrap()
}

#[test]
fn rfc_3339_times_are_read() {
    assert_eq!(unix_ns("1970-01-01T00:00:00Z"), 0);
    assert_eq!(unix_ns("2024-02-29T12:34:56.25Z"), 1_709_210_096_250_000_000);
    assert_eq!(unix_ns("2026-07-25T00:00:01.000000002+00:00"), 1_784_937_601_000_000_002);
}
