//! The processes of a control group, and which group a path means.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::find::Processes;
use crate::model::Pid;

/// More groups than this are not looked into: whoever made them, a look must not take long.
const MOST_GROUPS: usize = 1 << 12;
/// Nested deeper than this, they are not either.
const DEEPEST: usize = 64;
/// More processes of one set are not looked at; fewer can be traced.
const MOST_PROCESSES: usize = 1 << 12;

/// A set of processes that may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// A group and those below it, by its directory.
    Directory(PathBuf),
    /// Whatever is in a group with this name, or below one: where the groups themselves are not to be
    /// seen, as in a container.
    Named(String),
}

impl Cgroup {
    /// The processes in it now, by id.
    pub fn processes(&self, all: &Processes) -> BTreeSet<Pid> {
        let mut found = BTreeSet::new();
        match self {
            Self::Directory(directory) => walk(directory, &mut |group| {
                // A threaded group lists no processes: those are listed by the group above it.
                let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                let room = MOST_PROCESSES.saturating_sub(found.len());
                // 0: of another PID namespace, which leaktrace's does not see.
                let pids = list.lines().filter_map(|pid| Pid::new(pid.parse().ok()?)).take(room);
                found.extend(pids.filter(|pid| all.is_candidate(*pid)));
            }),
            Self::Named(name) => {
                let is_in = |pid: &Pid| components(&all.cgroups_of(*pid)).any(|part| part == name);
                found.extend(all.all().unwrap_or_default().into_iter().filter(is_in));
            }
        }
        found
    }

    /// As people know it.
    pub fn shown(&self) -> String {
        match self {
            Self::Directory(directory) => crate::model::printable(&directory.to_string_lossy()),
            Self::Named(name) => crate::model::printable(name),
        }
    }
}

/// The names of the groups in a text of `/proc/PID/cgroup` (`12:pids:/a/b`).
pub(super) fn components(cgroups: &str) -> impl Iterator<Item = &str> {
    cgroups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .flat_map(|path| path.split('/'))
        .filter(|part| !part.is_empty() && *part != "..")
}

/// Visits a group and those below it.
pub(super) fn walk(from: &Path, visit: &mut impl FnMut(&Path)) {
    let mut rest = vec![(from.to_owned(), 0)];
    let mut seen = 0;
    while let Some((group, depth)) = rest.pop() {
        visit(&group);
        seen += 1;
        if depth >= DEEPEST || seen + rest.len() >= MOST_GROUPS {
            continue;
        }
        let entries = fs::read_dir(&group).into_iter().flatten().filter_map(Result::ok);
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        rest.extend(folders.take(MOST_GROUPS - seen).map(|entry| (entry.path(), depth + 1)));
    }
}

/// Where control groups are mounted, by a text of `/proc/self/mountinfo`: the second version first.
pub fn mounts(mountinfo: &str) -> Vec<PathBuf> {
    let of_kind = |wanted: &'static str| {
        mountinfo.lines().filter_map(move |line| {
            let (fields, kind) = line.split_once(" - ")?;
            let place = fields.split(' ').nth(4)?;
            (kind.split(' ').next()? == wanted).then(|| PathBuf::from(unescaped(place)))
        })
    };
    of_kind("cgroup2").chain(of_kind("cgroup")).collect()
}

/// The kernel writes spaces, tabs, newlines and backslashes as octal numbers there.
fn unescaped(place: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(place.to_owned(), |place, (octal, plain)| place.replace(octal, plain))
}

/// The group that a path means: a directory, or a path as `/proc/PID/cgroup` gives it. Of those with
/// that path in several hierarchies, the first that has processes.
pub fn find(path: &str, mounts: &[PathBuf], all: &Processes) -> Option<Cgroup> {
    let given = Path::new(path);
    let is_group = |directory: &Path| directory.join("cgroup.procs").is_file();
    let absolute = given.is_absolute() && mounts.iter().any(|mount| given.starts_with(mount));
    let mut found = Vec::new();
    if absolute && is_group(given) {
        found.push(given.to_owned());
    }
    let relative = path.trim_start_matches('/');
    // None leads out of the hierarchy.
    if !given.components().any(|part| part == std::path::Component::ParentDir) {
        found.extend(mounts.iter().map(|mount| mount.join(relative)).filter(|dir| is_group(dir)));
    }
    first_with_processes(found, all)
}

/// Of groups that are the same in several hierarchies, the first that has processes, or the first.
pub(super) fn first_with_processes(groups: Vec<PathBuf>, all: &Processes) -> Option<Cgroup> {
    let mut groups = groups.into_iter().map(Cgroup::Directory);
    let first = groups.next()?;
    if first.processes(all).is_empty() {
        return Some(groups.find(|group| !group.processes(all).is_empty()).unwrap_or(first));
    }
    Some(first)
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A made-up `/proc` and two hierarchies, as of version 2 and 1.
    pub(crate) struct Tree(tempfile::TempDir);

    impl Tree {
        pub(crate) fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for folder in ["proc", "unified", "memory"] {
                fs::create_dir(tree.0.path().join(folder)).unwrap();
            }
            tree.group("unified", &[]);
            tree.group("memory", &[]);
            tree
        }

        /// A group with processes, which are there then.
        pub(crate) fn group(&self, path: &str, pids: &[u32]) {
            let folder = self.0.path().join(path);
            fs::create_dir_all(&folder).unwrap();
            let list: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
            fs::write(folder.join("cgroup.procs"), list).unwrap();
            for pid in pids.iter().filter(|pid| **pid != 0) {
                self.process(*pid, &format!("0::/{path}\n"));
            }
        }

        pub(crate) fn process(&self, pid: u32, cgroups: &str) {
            let folder = self.0.path().join("proc").join(pid.to_string());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cgroup"), cgroups).unwrap();
            let _there_already = symlink("/bin/sh", folder.join("exe"));
        }

        pub(crate) fn mounts(&self) -> Vec<PathBuf> {
            ["unified", "memory"].map(|mount| self.0.path().join(mount)).to_vec()
        }

        pub(crate) fn processes(&self) -> Processes {
            Processes::under(&self.0.path().join("proc"))
        }

        pub(crate) fn path(&self, below: &str) -> PathBuf {
            self.0.path().join(below)
        }
    }

    fn ids(group: &Cgroup, tree: &Tree) -> Vec<u32> {
        group.processes(&tree.processes()).iter().map(|pid| pid.get()).collect()
    }

    #[test]
    fn a_group_has_the_processes_of_those_below_it() {
        let tree = Tree::new();
        tree.group("unified/a", &[5, 0]);
        tree.group("unified/a/b", &[4, 7]);
        tree.group("unified/ab", &[6]);
        // Of a threaded group the list cannot be read.
        fs::create_dir_all(tree.path("unified/a/threaded")).unwrap();
        // One that has ended meanwhile.
        fs::write(tree.path("unified/a/b/cgroup.procs"), "4\n7\n99\nx\n").unwrap();
        assert_eq!(ids(&Cgroup::Directory(tree.path("unified/a")), &tree), [4, 5, 7]);
        assert_eq!(ids(&Cgroup::Directory(tree.path("unified/gone")), &tree), [0; 0]);
    }

    #[test]
    fn a_path_is_found_wherever_it_is_told_from() {
        let tree = Tree::new();
        tree.group("unified/system/empty", &[]);
        tree.group("memory/system/empty", &[8]);
        tree.group("memory/old", &[9]);
        let find = |path: &str| find(path, &tree.mounts(), &tree.processes());
        let directory = |path: &str| Some(Cgroup::Directory(tree.path(path)));
        assert_eq!(find("/old"), directory("memory/old"));
        assert_eq!(find("old"), directory("memory/old"));
        assert_eq!(find(tree.path("memory/old").to_str().unwrap()), directory("memory/old"));
        assert_eq!(find("/system/empty"), directory("memory/system/empty"), "it has processes");
        assert_eq!(find("/system"), None, "it has no list of processes");
        assert_eq!(find("/memory/../old"), None);
        assert_eq!(find("/etc"), None);
    }

    #[test]
    fn hierarchies_are_found_in_the_mount_table() {
        let table = "26 24 0:23 / /sys/fs/cgroup/memory\\040x rw - cgroup cgroup rw,memory\n\
                     27 24 0:24 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 none rw\n\
                     28 24 0:25 / /tmp rw - tmpfs cgroup2 rw\n\
                     nonsense\n";
        let expected = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory x"];
        assert_eq!(mounts(table), expected.map(PathBuf::from));
    }
}
