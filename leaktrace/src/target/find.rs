//! Which processes there are: all, or those with a name.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;

use super::budget::Budget;
use super::elf::Elf;
use crate::model::Pid;

/// `/proc`, and who looks at it: leaktrace finds neither itself nor its helpers.
pub struct Processes {
    proc: PathBuf,
    /// Device and inode of leaktrace's executable.
    own: Option<(u64, u64)>,
}

impl Processes {
    /// Those of this host, as far as leaktrace's own PID namespace shows them.
    pub fn of_host() -> Self {
        let own = fs::metadata("/proc/self/exe").map(|file| (file.dev(), file.ino()));
        Self { proc: "/proc".into(), own: own.ok() }
    }

    /// Those under another root of `/proc`.
    #[cfg(test)]
    pub(super) fn under(proc: &Path) -> Self {
        Self { proc: proc.to_owned(), own: None }
    }

    /// All that have user memory and have not ended, by id.
    ///
    /// # Errors
    ///
    /// When `/proc` cannot be read.
    pub fn all(&self) -> io::Result<Vec<Pid>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.proc)? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            found.extend(Pid::new(pid).filter(|pid| self.is_candidate(*pid)));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Those whose command name, or whose executable's file name, is `name`: of a command name the
    /// kernel keeps 15 bytes.
    ///
    /// # Errors
    ///
    /// When `/proc` cannot be read.
    pub fn named(&self, name: &str) -> io::Result<Vec<Pid>> {
        let mut found = self.all()?;
        found.retain(|pid| {
            let comm = fs::read(self.file(*pid, "comm")).unwrap_or_default();
            let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
            comm == name.as_bytes() || self.executable_is_named(*pid, name)
        });
        Ok(found)
    }

    /// Whether a process may be one to trace: it has an executable, unlike kernel threads and zombies,
    /// and that is not leaktrace's.
    pub fn is_candidate(&self, pid: Pid) -> bool {
        match fs::metadata(self.file(pid, "exe")) {
            Ok(file) => Some((file.dev(), file.ino())) != self.own,
            // It has one that this user may not see: tracing it says so.
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        }
    }

    fn executable_is_named(&self, pid: Pid, name: &str) -> bool {
        let Ok(exe) = fs::read_link(self.file(pid, "exe")) else { return false };
        let Some(base) = exe.file_name() else { return false };
        let base = base.as_bytes();
        base.strip_suffix(b" (deleted)").unwrap_or(base) == name.as_bytes()
    }

    /// The text of `/proc/PID/cgroup`; empty for a process that is gone.
    pub(super) fn cgroups_of(&self, pid: Pid) -> String {
        fs::read(self.file(pid, "cgroup"))
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    fn file(&self, pid: Pid, name: &str) -> PathBuf {
        self.proc.join(pid.to_string()).join(name)
    }
}

/// Whether a process is known to have no allocator where none was found: its executable is static, and
/// names its functions.
pub fn names_all_its_functions(pid: Pid) -> bool {
    let Ok(file) = File::open(format!("/proc/{pid}/exe")) else { return false };
    let budget = Budget::for_plan();
    let Ok(elf) = Elf::open_within(&file, &budget) else { return false };
    let functions = elf.function_ranges().unwrap_or_default();
    elf.interpreter().is_none() && !functions.is_empty()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn process(proc: &Path, pid: u32, comm: &str, exe: Option<&str>) {
        let folder = proc.join(pid.to_string());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("comm"), format!("{comm}\n")).unwrap();
        if let Some(exe) = exe {
            let file = proc.join(exe);
            fs::write(&file, exe).unwrap();
            symlink(file, folder.join("exe")).unwrap();
        }
    }

    #[test]
    fn processes_are_found_by_command_and_by_executable() {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir(proc.path().join("sys")).unwrap();
        process(proc.path(), 40, "worker", Some("server"));
        process(proc.path(), 7, "server", Some("interpreter"));
        process(proc.path(), 9, "a-name-longer-t", Some("a-name-longer-than-15-bytes"));
        process(proc.path(), 11, "was-replaced", Some("old (deleted)"));
        process(proc.path(), 12, "server2", Some("server2"));
        process(proc.path(), 13, "server", None);
        let processes = Processes::under(proc.path());
        let check = |name: &str, expected: &[u32]| {
            let found: Vec<u32> =
                processes.named(name).unwrap().iter().map(|pid| pid.get()).collect();
            assert_eq!(found, expected, "{name}");
        };
        check("server", &[7, 40]);
        check("worker", &[40]);
        check("a-name-longer-than-15-bytes", &[9]);
        check("a-name-longer-t", &[9]);
        check("old", &[11]);
        check("serve", &[]);
        check("", &[]);
    }

    #[test]
    fn this_program_is_not_found_and_its_parent_is() {
        let all = Processes::of_host().all().unwrap();
        let pid = |id| Pid::new(id).unwrap();
        assert!(!all.contains(&pid(std::process::id())));
        assert!(all.contains(&pid(std::os::unix::process::parent_id())));
    }
}
