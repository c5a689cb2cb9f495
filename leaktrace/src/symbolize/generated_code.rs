//! Where the names of a target's generated code are: which mappings can hold such code, and which
//! perf map names it.

use std::collections::HashMap;
use std::fs;

use crate::model::Pid;
use crate::target::Located;

/// Whether a mapping is code that no file on disk has: a runtime can have put it there. A broken
/// stack's addresses may lie in `[heap]` or `[stack]`, which no perf map can name.
pub(super) fn may_be_generated(located: &Located<'_>) -> bool {
    let mapping = located.mapping;
    let unfiled = mapping.file.is_none() && !mapping.path.starts_with("[v");
    mapping.executable && (unfiled || is_memory_file(&mapping.path))
}

/// Whether a mapped path is that of a file in memory, which need not be an ELF file.
pub(super) fn is_memory_file(path: &str) -> bool {
    let names = ["/memfd:", "/dev/zero", "/dev/shm/", "/SYSV", "//anon", "/anon_hugepage"];
    names.iter().any(|name| path.starts_with(name))
}

/// The perf map of a process, and who has to own it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PerfMapPlace {
    /// Its path for leaktrace.
    pub(super) path: String,
    /// Its path for the process.
    pub(super) path_in_target: String,
    /// The process's user.
    pub(super) uid: u32,
}

/// The perf maps of processes. They stay known when a process is gone.
#[derive(Debug, Default)]
pub(super) struct PerfMapPlaces {
    known: HashMap<Pid, PerfMapPlace>,
}

impl PerfMapPlaces {
    /// That of a process; `None` if it was gone already the first time.
    pub(super) fn of(&mut self, pid: Pid) -> Option<PerfMapPlace> {
        let status = fs::read(format!("/proc/{pid}/status")).ok();
        if let Some(status) = status
            && let Some(place) = place(pid, &String::from_utf8_lossy(&status))
        {
            self.known.insert(pid, place);
        }
        self.known.get(&pid).cloned()
    }
}

fn place(pid: Pid, status: &str) -> Option<PerfMapPlace> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    // Real, effective, saved, file system.
    let uid = field("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
    // From the outermost PID namespace inwards.
    let own_pid: u32 = field("NSpid:")?.split_whitespace().next_back()?.parse().ok()?;
    let path_in_target = format!("/tmp/perf-{own_pid}.map");
    Some(PerfMapPlace { path: format!("/proc/{pid}/root{path_in_target}"), path_in_target, uid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Addr;
    use crate::target::maps::Mapping;

    #[test]
    fn data_is_no_generated_code() {
        let check = |path: &str, executable, expected| {
            let mapping = Mapping {
                start: Addr(0x1000),
                end: Addr(0x2000),
                executable,
                offset: 0,
                file: None,
                path: path.to_owned(),
            };
            let located = Located { mapping: &mapping, file: None, file_offset: 0 };
            assert_eq!(may_be_generated(&located), expected, "{path} {executable}");
        };
        for path in ["[heap]", "[stack]", "", "/memfd:data (deleted)", "[vvar]"] {
            check(path, false, false);
        }
        for path in ["", "[heap]", "/memfd:doublemapper (deleted)"] {
            check(path, true, true);
        }
        check("[vdso]", true, false);
    }

    #[test]
    fn a_process_in_a_container_writes_under_its_own_pid() {
        let status = "Name:\tnode\\nUid:\t0\nUid:\t1000\t1001\t1000\t1000\nNSpid:\t4242\t17\t1\n";
        let expected = PerfMapPlace {
            path: "/proc/4242/root/tmp/perf-1.map".to_owned(),
            path_in_target: "/tmp/perf-1.map".to_owned(),
            uid: 1001,
        };
        assert_eq!(place(Pid::new(4242).unwrap(), status), Some(expected));
        assert_eq!(place(Pid::new(4242).unwrap(), "Uid:\t0\n"), None);
    }
}
