//! The line that says a trace goes on.

use super::units;

/// How far a trace is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Seconds since tracing began.
    pub elapsed_s: f64,
    /// Allocations and frees a second, of late.
    pub events_per_s: f64,
    /// Blocks outstanding.
    pub live_blocks: u64,
    /// Bytes in them.
    pub outstanding_bytes: u64,
    /// Events lost so far.
    pub lost: u64,
}

/// At most 80 columns, no line end: `  12s  50,112 events/s  8,123 live blocks (31.7 MiB)  0 lost`.
pub fn line(progress: &Progress) -> String {
    // A float becomes an integer by saturation, and 0 when it is no number.
    let elapsed = units::whole_seconds(progress.elapsed_s.min(1e9) as u64);
    format!(
        "{elapsed:>5}  {} events/s  {} live {} ({})  {} lost",
        units::short_count(progress.events_per_s.round() as u64),
        units::short_count(progress.live_blocks),
        if progress.live_blocks == 1 { "block" } else { "blocks" },
        units::bytes(progress.outstanding_bytes),
        units::short_count(progress.lost),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let progress = Progress {
            elapsed_s: 12.3,
            events_per_s: 50_112.0,
            live_blocks: 8_123,
            outstanding_bytes: 33_239_859,
            lost: 0,
        };
        assert_eq!(line(&progress), "  12s  50,112 events/s  8,123 live blocks (31.7 MiB)  0 lost");
        let huge = Progress {
            elapsed_s: f64::INFINITY,
            events_per_s: f64::INFINITY,
            live_blocks: u64::MAX,
            outstanding_bytes: u64::MAX,
            lost: u64::MAX,
        };
        assert!(line(&huge).len() <= 80, "{}", line(&huge));
        let none = Progress { elapsed_s: f64::NAN, events_per_s: f64::NAN, ..huge };
        assert!(line(&none).len() <= 80, "{}", line(&none));
    }
}
