//! Where the names of a target's generated code are: which mappings can hold such code, and which
//! perf map names it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

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

/// The perf maps of processes. They stay known when a process is gone, and can still be opened if
/// its mount namespace went with it.
#[derive(Debug, Default)]
pub(super) struct PerfMapPlaces {
    known: HashMap<Pid, Known>,
}

#[derive(Debug)]
struct Known {
    place: PerfMapPlace,
    /// The process's `/tmp`, held.
    directory: File,
}

impl PerfMapPlaces {
    /// That of a process; `None` if it was gone already the first time.
    pub(super) fn of(&mut self, pid: Pid) -> Option<PerfMapPlace> {
        if let Some(own) = own_pid_and_user(pid)
            && let Ok(directory) = open_directory(&format!("/proc/{pid}/root/tmp"))
        {
            // The one that is held stays if it still is the same: so its path stays the same.
            let held = self.known.remove(&pid).map(|known| known.directory);
            let held = held.filter(|held| is_same(held, &directory));
            let directory = held.unwrap_or(directory);
            let place = place(own, &directory);
            self.known.insert(pid, Known { place, directory });
        }
        self.known.get(&pid).map(|known| known.place.clone())
    }
}

/// Takes hold of a directory, which need not be readable for that.
fn open_directory(path: &str) -> io::Result<File> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    File::options().read(true).custom_flags(flags).open(path)
}

fn is_same(one: &File, other: &File) -> bool {
    let id = |file: &File| file.metadata().ok().map(|found| (found.dev(), found.ino()));
    id(one).is_some() && id(one) == id(other)
}

fn place((own_pid, uid): (u32, u32), directory: &File) -> PerfMapPlace {
    let name = format!("perf-{own_pid}.map");
    PerfMapPlace {
        path: format!("/proc/{}/fd/{}/{name}", std::process::id(), directory.as_raw_fd()),
        path_in_target: format!("/tmp/{name}"),
        uid,
    }
}

/// The number that a process has for itself, and its user.
fn own_pid_and_user(pid: Pid) -> Option<(u32, u32)> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    read_status(&String::from_utf8_lossy(&status))
}

fn read_status(status: &str) -> Option<(u32, u32)> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    // Real, effective, saved, file system.
    let uid = field("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
    // From the outermost PID namespace inwards.
    let own_pid = field("NSpid:")?.split_whitespace().next_back()?.parse().ok()?;
    Some((own_pid, uid))
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
                writable: false,
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
        assert_eq!(read_status(status), Some((1, 1001)));
        assert_eq!(read_status("Uid:\t0\n"), None);
    }

    #[test]
    fn the_place_is_known_when_the_process_is_gone() {
        let mut child = std::process::Command::new("cat");
        let child = child.stdin(std::process::Stdio::piped());
        let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
        let pid = Pid::new(child.id()).unwrap();
        let mut places = PerfMapPlaces::default();
        let place = places.of(pid).unwrap();
        assert_eq!(places.of(pid).as_ref(), Some(&place), "asked again");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(places.of(pid).as_ref(), Some(&place));
        assert_eq!(place.path_in_target, format!("/tmp/perf-{pid}.map"));
        let name = format!("leaktrace-test-{pid}");
        let held = place.path.replace(&format!("perf-{pid}.map"), &name);
        fs::write(&held, "").unwrap();
        fs::remove_file(format!("/tmp/{name}")).unwrap();
        assert_eq!(PerfMapPlaces::default().of(pid), None);
    }
}
