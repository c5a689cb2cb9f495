//! What leaktrace itself takes: CPU time, memory, and what its maps take in the kernel.
//!
//! A worker that was ended, and the child that probes were tried on, are in no figure.

use std::collections::BTreeMap;
use std::fs;

use crate::collect::clock;
use crate::model::Pid;

/// What was used so far; `None` for what the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnUse {
    /// CPU seconds.
    pub cpu_s: Option<f64>,
    /// The most memory so far, in bytes.
    pub memory_bytes: Option<u64>,
    /// What BPF maps take in the kernel now, in bytes.
    pub kernel_memory_bytes: Option<u64>,
}

/// Of this process, and of the worker that reads files for it.
pub fn so_far(worker: Option<Pid>) -> OwnUse {
    let own = Pid::new(std::process::id());
    let both = || own.into_iter().chain(worker);
    let known: Vec<f64> = both().filter_map(clock::process_cpu_s).collect();
    let peaks: Vec<u64> = both().filter_map(peak_memory_bytes).collect();
    OwnUse {
        cpu_s: (!known.is_empty()).then(|| known.iter().sum()),
        memory_bytes: (!peaks.is_empty()).then(|| peaks.iter().sum()),
        kernel_memory_bytes: map_memory_bytes(),
    }
}

fn peak_memory_bytes(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = field(&status, "VmHWM")?.strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    kib.checked_mul(1024)
}

/// By what the kernel says of the maps behind this process's descriptors; each map once. Before
/// Linux 6.4 that is what their capacity would take.
fn map_memory_bytes() -> Option<u64> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo").ok()? {
        // A descriptor that was closed meanwhile is none.
        let Ok(text) = entry.and_then(|entry| fs::read_to_string(entry.path())) else { continue };
        let number = |name| field(&text, name).and_then(|value| value.parse::<u64>().ok());
        if let (Some(id), Some(bytes)) = (number("map_id"), number("memlock")) {
            maps.insert(id, bytes);
        }
    }
    (!maps.is_empty()).then(|| maps.values().sum())
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let used = so_far(None);
        assert!(used.cpu_s.is_some_and(|s| s > 0.0), "{used:?}");
        // A test program is larger than 1 MiB and smaller than 1 TiB.
        assert!(
            used.memory_bytes.is_some_and(|bytes| (20..40).contains(&bytes.ilog2())),
            "{used:?}"
        );
    }

    #[test]
    fn fields_of_proc_files() {
        let text = "pos:\t0\nmap_id:\t42\nmemlock:\t4096\n";
        assert_eq!(field(text, "memlock"), Some("4096"));
        assert_eq!(field(text, "map"), None);
    }
}
