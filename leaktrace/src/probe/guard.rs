//! The guard of a child that may be held: should leaktrace die while the child is stopped, nobody
//! else would ever let it go on.
//!
//! The guard is a process of its own, outside of leaktrace's process group, that waits for its
//! pipe to close. The kernel may stop the child once more while it takes out a dead leaktrace's
//! probes, so the guard lets it go on for longer than that takes.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::own_process::signal_child;
use crate::model::Pid;
use crate::target::process;

/// The hidden subcommand that runs [`main`].
pub const GUARD_COMMAND: &str = "__guard";

/// How long the guard lets the child go on, after leaktrace has died: the kernel takes out probes
/// for one to two seconds.
const WATCH: Duration = Duration::from_secs(4);
const BETWEEN: Duration = Duration::from_millis(20);

/// A guard at work; dismissed when dropped.
pub struct Guard {
    process: Child,
}

impl Guard {
    /// Guards a child.
    ///
    /// # Errors
    ///
    /// When no process can be started.
    pub fn start(child: Pid) -> Result<Self> {
        let process = Command::new("/proc/self/exe")
            .args([GUARD_COMMAND, &child.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start a guard for the command")?;
        Ok(Self { process })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.process.stdin.take() {
            // A guard that is gone needs no word.
            let _ = pipe.write_all(b"x");
        }
        let _ = self.process.wait();
    }
}

/// The guard's process.
///
/// # Errors
///
/// When its pipe breaks.
pub fn main(child: Pid) -> Result<()> {
    let identity = process::start_time(child);
    let mut word = [0];
    if std::io::stdin().read(&mut word).context("cannot wait for leaktrace")? != 0 {
        return Ok(());
    }
    let died = Instant::now();
    while died.elapsed() < WATCH && process::start_time(child) == identity && identity.is_some() {
        if process::state(child) == Some('T') {
            signal_child(child, libc::SIGCONT);
        }
        std::thread::sleep(BETWEEN);
    }
    Ok(())
}
