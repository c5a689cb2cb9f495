//! Files that a target keeps mapped and counts in, while the test reads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::processes::Target;
use crate::programs::program;
use crate::report::{Report, unix_ns};

fn u64_at(file: &File, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset).unwrap();
    u64::from_ne_bytes(bytes)
}

/// Bytes that a program had leaked at a time of day, by its own log: pairs of the time and the bytes.
fn leaked_until(log: &File, unix_ns: u64) -> u64 {
    (0..1 << 16)
        .map(|index| index * 16)
        .map(|offset| (u64_at(log, offset), u64_at(log, offset + 8)))
        .take_while(|&(at_ns, _)| at_ns != 0 && at_ns <= unix_ns)
        .last()
        .map_or(0, |(_, leaked_bytes)| leaked_bytes)
}

/// The bytes leaked while a report's trace went on.
pub(crate) fn leaked_in(log: &File, report: &Report) -> u64 {
    let began_ns = unix_ns(report.text("/trace/started_at"));
    let traced = Duration::from_secs_f64(report.at("/trace/duration_s").as_f64().unwrap());
    let ended_ns = began_ns + u64::try_from(traced.as_nanos()).unwrap();
    leaked_until(log, ended_ns) - leaked_until(log, began_ns)
}

/// What the two threads of `load.c` count.
pub(crate) struct Pairs(File);

/// Where the second one's number is: `LINE` in `load.c`.
const SECOND: u64 = 64;

impl Pairs {
    /// How many pairs of `malloc` and `free` they have done.
    pub(crate) fn done(&self) -> u64 {
        u64_at(&self.0, 0) + u64_at(&self.0, SECOND)
    }
}

/// `load.c` under load, and what it counts in a file.
pub(crate) fn start_load(file: &Path) -> (Target, Pairs) {
    let target = Target::start(&program("load.c"), &[file]);
    (target, Pairs(File::open(file).unwrap()))
}
