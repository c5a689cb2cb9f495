//! Control groups of a test's own: made, filled, and gone with it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::processes::{DEADLINE, need_root, wait_until};

/// A control group of the second version.
pub(crate) struct Group {
    directory: PathBuf,
    root: PathBuf,
}

impl Group {
    /// A new one at `path` below the root, whose parents are there.
    pub(crate) fn new(path: &str) -> Self {
        need_root();
        let root = root();
        let directory = root.join(path);
        fs::create_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        Self { directory, root }
    }

    /// A name that no other test, and no other run, has.
    pub(crate) fn name(of: &str) -> String {
        format!("leaktrace-test-{}-{of}", std::process::id())
    }

    /// Puts a process in.
    pub(crate) fn add(&self, pid: u32) {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever is still in it, say because a test fails, goes back to the root.
        for pid in
            fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default().lines()
        {
            let _gone = fs::write(self.root.join("cgroup.procs"), pid);
        }
        let removed = || fs::remove_dir(&self.directory).is_ok() || !self.directory.exists();
        if std::thread::panicking() {
            removed();
        } else {
            wait_until(DEADLINE, "the control group can be removed", removed);
        }
    }
}

/// Where the second version's hierarchy is mounted.
fn root() -> PathBuf {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(" - cgroup2 "));
    let line = line.expect("the tests need the cgroup2 hierarchy: mount -t cgroup2 none DIRECTORY");
    line.split(' ').nth(4).unwrap().into()
}
