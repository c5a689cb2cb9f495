//! What `-v` and `-vv` show: log lines on standard error.

use log::{LevelFilter, Log, Metadata, Record};

use super::say::say;
use crate::model::printable;

struct StandardError;

impl Log for StandardError {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("leaktrace")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            say(format_args!("leaktrace: {}", printable(&record.args().to_string())));
        }
    }

    fn flush(&self) {}
}

/// Shows what is said at this verbosity: 0 nothing, 1 what leaktrace does, 2 also what happens in
/// the kernel half.
pub fn install(verbosity: u8) {
    let level = match verbosity {
        0 => LevelFilter::Off,
        1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    // It fails only when there is a logger already, as in a test.
    if log::set_logger(&StandardError).is_ok() {
        log::set_max_level(level);
    }
}
