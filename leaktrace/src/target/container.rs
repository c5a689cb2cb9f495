//! Containers, by the names that docker, podman, containerd, CRI-O, Kubernetes, LXC and
//! systemd-nspawn give to their control groups.

use std::collections::BTreeMap;
use std::path::PathBuf;

use thiserror::Error;

use super::cgroup::{self, Cgroup};
use super::find::Processes;
use crate::model::printable;

/// A beginning of an id must have so many digits.
const SHORTEST_PREFIX: usize = 4;
/// So many are listed.
const MOST_LISTED: usize = 8;

/// Why a container is not found.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// There is none.
    #[error(
        "no container `{0}` is running here: give its id, or 4 digits of that or more, as \
         `docker inspect -f '{{{{.Id}}}}' NAME`, podman's like and `crictl ps` say it"
    )]
    Unknown(String),
    /// There are several whose ids begin so.
    #[error("`{given}` may be any of the containers {matches}: give more of the id")]
    Ambiguous {
        /// What was asked for.
        given: String,
        /// Some of them.
        matches: String,
    },
}

/// What the name of a group says of the container in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Container {
    /// An id, of which the beginning is enough.
    Id(String),
    /// A name.
    Name(String),
}

/// The container that a group is of, by the group's name; `None` for any other group, and for those
/// of the processes that only look after a container.
fn container(group: &str) -> Option<Container> {
    let unit = group.strip_suffix(".scope").unwrap_or(group);
    // Podman's and CRI-O's monitors of containers.
    if unit.contains("-conmon-") || group.starts_with("lxc.monitor") {
        return None;
    }
    if let Some(name) = group.strip_prefix("lxc.payload.") {
        return Some(Container::Name(name.to_owned()));
    }
    if let Some(id) = unit.rsplit('-').next().filter(|id| is_id(id)) {
        return Some(Container::Id(id.to_owned()));
    }
    if let Some(name) = unit.strip_prefix("machine-").filter(|_| unit != group) {
        return Some(Container::Name(unit_unescaped(name)));
    }
    if let Some(unit) = group.strip_suffix(".service") {
        return Some(Container::Name(unit_unescaped(unit.strip_prefix("systemd-nspawn@")?)));
    }
    // A pod of Kubernetes: pod<uid>, or kubepods-burstable-pod<uid with underscores>.slice.
    let pod = group.strip_suffix(".slice").unwrap_or(group);
    let uid = pod.rsplit_once("pod").filter(|(before, _)| {
        before.is_empty() || (before.starts_with("kubepods") && before.ends_with('-'))
    });
    let uid = uid.map(|(_, uid)| uid.replace('_', "-"));
    uid.filter(|uid| is_uid(uid)).map(Container::Id)
}

/// 64 hexadecimal digits.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(is_hex)
}

/// As in `0f8fad5b-d9cb-469f-a165-70867728950e`, or a checksum of a static pod's description.
fn is_uid(text: &str) -> bool {
    matches!(text.len(), 32 | 36) && text.bytes().all(|byte| is_hex(byte) || byte == b'-')
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// systemd writes what may not stand in the name of a unit as `\x2d`.
fn unit_unescaped(name: &str) -> String {
    let mut parts = name.split("\\x");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok());
        match (code, part.get(2..)) {
            (Some(code), Some(rest)) if code.is_ascii() => {
                plain.push(char::from(code));
                plain.push_str(rest);
            }
            _ => plain.push_str(&format!("\\x{part}")),
        }
    }
    plain
}

/// Finds a container by its id, the beginning of its id, or its name where it has only that.
///
/// # Errors
///
/// [`ContainerError`] when there is not exactly one.
pub fn find(given: &str, mounts: &[PathBuf], all: &Processes) -> Result<Cgroup, ContainerError> {
    // As `kubectl` gives it: containerd://<id>.
    let wanted = given.rsplit_once("://").map_or(given, |(_, id)| id);
    let mut directories: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for mount in mounts {
        cgroup::walk(mount, &mut |group| {
            let Some(name) = group.file_name().and_then(|name| name.to_str()) else { return };
            if let Some(id) = matched(name, wanted) {
                directories.entry(id).or_default().push(group.to_owned());
            }
        });
    }
    // A whole name is that, whatever else begins so.
    let exact = directories.remove(wanted).map(|directories| (wanted.to_owned(), directories));
    if exact.is_none() && directories.len() > 1 {
        return Err(ambiguous(given, directories.keys()));
    }
    let one = exact.or_else(|| directories.pop_first());
    if let Some(group) = one.and_then(|(_, paths)| cgroup::first_with_processes(paths, all)) {
        return Ok(group);
    }
    by_processes(given, wanted, all)
}

/// Where the groups are not to be seen: what the processes say of theirs.
fn by_processes(given: &str, wanted: &str, all: &Processes) -> Result<Cgroup, ContainerError> {
    let mut groups: BTreeMap<String, String> = BTreeMap::new();
    for pid in all.all().unwrap_or_default() {
        let cgroups = all.cgroups_of(pid);
        for group in cgroup::components(&cgroups) {
            let id = matched(group, wanted);
            groups.extend(id.map(|id| (id, group.to_owned())));
        }
    }
    if groups.len() > 1 && !groups.contains_key(wanted) {
        return Err(ambiguous(given, groups.keys()));
    }
    let group = groups.remove(wanted).or_else(|| Some(groups.pop_first()?.1));
    group.map(Cgroup::Named).ok_or_else(|| ContainerError::Unknown(printable(given)))
}

/// The container of a group, if it is the wanted one.
fn matched(group: &str, wanted: &str) -> Option<String> {
    match container(group)? {
        Container::Id(id) if wanted.len() >= SHORTEST_PREFIX && id.starts_with(wanted) => Some(id),
        Container::Name(name) if name == wanted => Some(name),
        _ => None,
    }
}

fn ambiguous<'a>(given: &str, ids: impl Iterator<Item = &'a String>) -> ContainerError {
    let mut matches: Vec<String> = ids.map(|id| printable(id)).collect();
    let beyond = matches.len().saturating_sub(MOST_LISTED);
    matches.truncate(MOST_LISTED);
    if beyond > 0 {
        matches.push(format!("and {beyond} more"));
    }
    ContainerError::Ambiguous { given: printable(given), matches: matches.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::tests::Tree;
    use super::*;

    const ONE: &str = "1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef";
    const TWO: &str = "1234ffff90abcdef1234567890abcdef1234567890abcdef1234567890abcdef";

    #[test]
    fn each_runtime_names_its_groups() {
        let id = |group: String| assert_eq!(container(&group), Some(Container::Id(ONE.into())));
        for runtime in ["docker", "libpod", "cri-containerd", "crio", "nerdctl"] {
            id(format!("{runtime}-{ONE}.scope"));
        }
        id(ONE.to_owned());
        id(format!("libpod-{ONE}"));
        let named = |group: &str, name: &str| {
            assert_eq!(container(group), Some(Container::Name(name.to_owned())));
        };
        named("lxc.payload.web-1", "web-1");
        named("machine-web\\x2d1.scope", "web-1");
        named("systemd-nspawn@web-1.service", "web-1");
        let pod = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let uid = Some(Container::Id(pod.to_owned()));
        assert_eq!(container(&format!("pod{pod}")), uid);
        let slice = format!("kubepods-besteffort-pod{}.slice", pod.replace('-', "_"));
        assert_eq!(container(&slice), uid);
        for other in [
            "docker",
            "user.slice",
            "ssh.service",
            "session-1.scope",
            "machine.slice",
            "libpod-conmon-1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef.scope",
            "lxc.monitor.web-1",
            "podman",
            "",
        ] {
            assert_eq!(container(other), None, "{other}");
        }
        assert_eq!(unit_unescaped("a\\x2db\\xzz\\x"), "a-b\\xzz\\x");
    }

    #[test]
    fn a_container_is_found_by_the_beginning_of_its_id() {
        let tree = Tree::new();
        tree.group(&format!("unified/system.slice/docker-{ONE}.scope"), &[5]);
        tree.group(&format!("unified/system.slice/docker-{ONE}.scope/inside"), &[6]);
        tree.group(&format!("memory/docker/{TWO}"), &[7]);
        tree.group("memory/lxc.payload.1234", &[8]);
        let ids = |given: &str| {
            find(given, &tree.mounts(), &tree.processes()).map(|group| {
                let pids = group.processes(&tree.processes());
                pids.iter().map(|pid| pid.get()).collect::<Vec<_>>()
            })
        };
        assert_eq!(ids("12345").unwrap(), [5, 6]);
        assert_eq!(ids(ONE).unwrap(), [5, 6]);
        assert_eq!(ids(&format!("docker://{ONE}")).unwrap(), [5, 6]);
        assert_eq!(ids("1234ff").unwrap(), [7]);
        assert_eq!(ids("1234").unwrap(), [8], "the name of one is no beginning of another");
        tree.group(&format!("unified/{}", ONE.replace("12345", "12346")), &[9]);
        assert_eq!(ids("1234567").unwrap(), [5, 6]);
        let error = ids("123").unwrap_err();
        assert!(matches!(error, ContainerError::Unknown(_)), "too short: {error}");
        let error = ids("abcdef").unwrap_err();
        assert!(error.to_string().contains("docker inspect -f '{{.Id}}' NAME"), "{error}");
    }

    #[test]
    fn several_that_begin_alike_are_listed() {
        let tree = Tree::new();
        tree.group(&format!("unified/docker-{ONE}.scope"), &[5]);
        tree.group(&format!("memory/docker/{ONE}"), &[5]);
        tree.group(&format!("memory/docker/{TWO}"), &[7]);
        let error = find("1234", &tree.mounts(), &tree.processes()).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(ONE) && said.contains(TWO), "{said}");
        assert_eq!(said.matches(ONE).count(), 1, "one container in two hierarchies: {said}");
    }

    #[test]
    fn where_no_group_is_seen_the_processes_tell() {
        let tree = Tree::new();
        tree.process(5, &format!("0::/../docker-{ONE}.scope/inside\n"));
        tree.process(6, "0::/\n");
        let group = find("12345", &[], &tree.processes()).unwrap();
        assert_eq!(group, Cgroup::Named(format!("docker-{ONE}.scope")));
        let pids = group.processes(&tree.processes());
        assert_eq!(pids.iter().map(|pid| pid.get()).collect::<Vec<_>>(), [5]);
    }
}
