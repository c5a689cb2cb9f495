//! Which processes a trace is about: by id, by name, by control group, by container.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use clap::Args;
use thiserror::Error;

use crate::model::{Pid, printable};
use crate::target::cgroup::{self, Cgroup};
use crate::target::container;
use crate::target::find::Processes;

/// The options that choose processes. Several add up.
#[derive(Clone, Debug, Default, Args)]
#[group(id = "chosen", required = true, multiple = true)]
pub struct ChosenArgs {
    /// Process to trace; several separated by commas
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',')]
    pub pids: Vec<Pid>,
    /// All processes of this command name, or whose executable has this file name; repeatable
    #[arg(short, long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// All processes of this control group and those below it, new ones included; repeatable
    #[arg(long = "cgroup", value_name = "PATH", conflicts_with = "follow")]
    pub cgroups: Vec<String>,
    /// All processes of this container, new ones included, by its id or the beginning of it, or
    /// its name in LXC and systemd-nspawn; repeatable
    #[arg(long = "container", value_name = "ID", conflicts_with = "follow")]
    pub containers: Vec<String>,
}

/// The processes that a trace is about.
pub struct Chosen {
    /// Those that the user gave by their ids: each must be traced.
    pub named: BTreeSet<Pid>,
    /// Those that were found: one that cannot be traced is not the end.
    pub found: BTreeSet<Pid>,
    /// Where others may come.
    pub groups: Vec<Cgroup>,
}

/// Why there is nothing to trace.
#[derive(Debug, Error)]
pub enum ChosenError {
    /// No process has that name.
    #[error(
        "no process is called `{0}`, nor is the executable of any: names match as a whole; look \
         with `pgrep -a .`"
    )]
    NoName(String),
    /// There is no such group.
    #[error(
        "there is no control group `{0}`: give a directory below {1}, or a path as in \
         /proc/PID/cgroup"
    )]
    NoGroup(String, String),
    /// No process is in the group.
    #[error("no process is in the control group {0} or below it")]
    EmptyGroup(String),
}

impl Chosen {
    /// Looks for the processes that the options mean.
    ///
    /// # Errors
    ///
    /// [`ChosenError`] and [`container::ContainerError`] where an option means none.
    pub fn find(args: &ChosenArgs) -> Result<Self> {
        let all = Processes::of_host();
        let named: BTreeSet<Pid> = args.pids.iter().copied().collect();
        let (mut found, mut groups) = (BTreeSet::new(), Vec::new());
        for name in &args.names {
            let called = all.named(name).context("cannot read /proc")?;
            if called.is_empty() {
                return Err(ChosenError::NoName(printable(name)).into());
            }
            found.extend(called);
        }
        if !args.cgroups.is_empty() || !args.containers.is_empty() {
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let mounts = cgroup::mounts(&table);
            for path in &args.cgroups {
                let group = cgroup::find(path, &mounts, &all);
                groups.push(group.ok_or_else(|| {
                    let mount = mounts.first().map(|mount| mount.to_string_lossy().into_owned());
                    let mount = mount.unwrap_or_else(|| "/sys/fs/cgroup".to_owned());
                    ChosenError::NoGroup(printable(path), printable(&mount))
                })?);
            }
            for id in &args.containers {
                groups.push(container::find(id, &mounts, &all)?);
            }
        }
        for group in &groups {
            let inside = group.processes(&all);
            if inside.is_empty() {
                return Err(ChosenError::EmptyGroup(group.shown()).into());
            }
            found.extend(inside);
        }
        found.retain(|pid| !named.contains(pid));
        Ok(Self { named, found, groups })
    }
}
