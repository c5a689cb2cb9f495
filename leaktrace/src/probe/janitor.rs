//! Definitions of uprobe events, and the process that removes them whatever becomes of leaktrace: they
//! are no descriptors, and nobody else would.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::tracefs::Tracefs;
use crate::model::Pid;
use crate::target::process;

/// The hidden subcommand that runs [`main`].
pub const JANITOR_COMMAND: &str = "__janitor";

/// Groups of leaktrace's events are called so, then its process id and when that started.
const GROUP_PREFIX: &str = "leaktrace_";
const LIST: &str = "uprobe_events";

/// How long the janitor tries: with many processes, the kernel takes a while to close all events.
const PATIENCE: Duration = Duration::from_secs(300);
const BETWEEN: Duration = Duration::from_millis(20);

/// The definitions of one leaktrace. Dropping it removes what is left of them.
pub(super) struct Definitions {
    tracefs: Tracefs,
    group: String,
    next: AtomicU32,
    janitor: Option<Child>,
}

impl Definitions {
    /// None yet; removes those that a leaktrace left behind that was killed, with its janitor.
    ///
    /// # Errors
    ///
    /// When the kernel has no tracefs, or no process can be started.
    pub(super) fn open() -> Result<Self> {
        let tracefs = Tracefs::open()?;
        let own = std::process::id();
        let start = Pid::new(own).and_then(process::start_time).unwrap_or(0);
        let group = format!("{GROUP_PREFIX}{own}_{start}");
        for stale in defined(&tracefs).into_iter().filter(|name| is_stale(name)) {
            let _ = write(&tracefs, &format!("-:{stale}"));
        }
        let janitor = Command::new("/proc/self/exe")
            .args([JANITOR_COMMAND, &group])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start the process that cleans up after leaktrace")?;
        Ok(Self { tracefs, group, next: AtomicU32::new(0), janitor: Some(janitor) })
    }

    /// Defines an event at an offset of a file; returns its name and number.
    ///
    /// # Errors
    ///
    /// What the kernel refuses.
    pub(super) fn add(&self, at_return: bool, path: &Path, offset: u64) -> Result<(String, u64)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}/e{number}", self.group);
        let kind = if at_return { 'r' } else { 'p' };
        write(&self.tracefs, &format!("{kind}:{name} {}:{offset:#x}", path.display()))
            .with_context(|| format!("the kernel refuses a probe at {offset:#x}"))?;
        let id = self.tracefs.event_id(&name)?;
        Ok((name, id))
    }

    /// Removes a definition; the janitor removes what is still in use.
    pub(super) fn remove(&self, name: &str) {
        if let Err(error) = write(&self.tracefs, &format!("-:{name}")) {
            log::debug!("the event {name} is not removed yet: {error}");
        }
    }
}

impl Drop for Definitions {
    fn drop(&mut self) {
        if let Some(mut janitor) = self.janitor.take() {
            drop(janitor.stdin.take());
            let _ = janitor.wait();
        }
    }
}

fn write(tracefs: &Tracefs, line: &str) -> std::io::Result<()> {
    File::options().append(true).open(tracefs.path(LIST))?.write_all(line.as_bytes())
}

/// The names of all uprobe events: `group/event`.
fn defined(tracefs: &Tracefs) -> Vec<String> {
    let list = fs::read_to_string(tracefs.path(LIST)).unwrap_or_default();
    let name = |line: &str| Some(line.split_once(':')?.1.split_once(' ')?.0.to_owned());
    list.lines().filter_map(name).collect()
}

/// Whether an event is one of a leaktrace that is gone.
fn is_stale(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(GROUP_PREFIX) else { return false };
    let owner = rest.split_once('/').and_then(|(group, _)| group.split_once('_'));
    let Some((Ok(pid), Ok(start))) = owner.map(|(p, s)| (p.parse::<u32>(), s.parse::<u64>()))
    else {
        return false;
    };
    Pid::new(pid).and_then(process::start_time) != Some(start)
}

/// The janitor's process: waits for the end of leaktrace, and removes the definitions of a group.
///
/// # Errors
///
/// When the tracing file system cannot be had, or definitions stay in use.
pub fn main(group: &str) -> Result<()> {
    let tracefs = Tracefs::open()?;
    let mut word = [0];
    // Nothing is ever said: it ends with leaktrace.
    let _ = std::io::stdin().read(&mut word);
    let begun = Instant::now();
    let its = |name: &String| name.split_once('/').is_some_and(|(of, _)| of == group);
    loop {
        let left: Vec<String> = defined(&tracefs).into_iter().filter(its).collect();
        if left.is_empty() {
            return Ok(());
        }
        for name in &left {
            // Refused while it is in use.
            let _ = write(&tracefs, &format!("-:{name}"));
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "uprobe events of {group} stay in use");
        std::thread::sleep(BETWEEN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_of_a_leaktrace_that_is_gone_are_stale() {
        let own = std::process::id();
        let start = process::start_time(Pid::new(own).unwrap()).unwrap();
        assert!(!is_stale(&format!("leaktrace_{own}_{start}/e0")));
        assert!(is_stale(&format!("leaktrace_{own}_{}/e0", start + 1)));
        assert!(is_stale("leaktrace_4194999_17/e3"));
        for other in ["probe_1_2/e0", "leaktrace_x_2/e0", "leaktrace_1/e0", "leaktrace_1_2"] {
            assert!(!is_stale(other), "{other}");
        }
    }
}
