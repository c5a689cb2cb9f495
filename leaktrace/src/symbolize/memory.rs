//! How much memory a process takes for itself.

use std::fs;

/// Bytes of resident memory that belong to a process alone: `RssAnon` of `/proc/PID/status`. Pages
/// of mapped files are not in it: the kernel can take them back at any time.
pub(super) fn own_bytes(pid: u32) -> Option<u64> {
    field(&format!("/proc/{pid}/status"), "RssAnon:")
}

/// Bytes of memory in this machine: `MemTotal` of `/proc/meminfo`.
pub(super) fn total_bytes() -> Option<u64> {
    field("/proc/meminfo", "MemTotal:")
}

fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_some_of_the_memory_there_is() {
        let own = own_bytes(std::process::id()).unwrap();
        assert!(own > 100_000 && own < total_bytes().unwrap(), "{own}");
    }
}
