//! The guard of a child that may be held: should leaktrace die while the child is stopped, nobody
//! else would ever let it go on.
//!
//! The guard is a process of its own, outside of leaktrace's process group, that waits for its
//! pipe to close. The kernel may stop the child once more while it takes out a dead leaktrace's
//! probes, so the guard lets it go on for longer than that takes.

#![expect(unsafe_code, reason = "a descriptor that comes by its number, through an exec")]

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::bpf_call;
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
    /// Guards a child; and with `watched`, the map of all that may be held, those in it.
    ///
    /// # Errors
    ///
    /// When no process can be started.
    pub fn start(child: Pid, watched: Option<OwnedFd>) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args([GUARD_COMMAND, &child.to_string()]);
        if let Some(map) = &watched {
            let fd = map.as_raw_fd();
            command.args(["--watched", &fd.to_string()]);
            let keep_open = move || {
                // SAFETY: no pointers.
                match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            };
            // SAFETY: one system call, on a descriptor that is open until `spawn` is over.
            unsafe { command.pre_exec(keep_open) };
        }
        let process = command
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
pub fn main(child: Pid, watched: Option<RawFd>) -> Result<()> {
    // SAFETY: whoever started this process has left it open, for us.
    let watched = watched.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let identity = process::start_time(child);
    let mut word = [0];
    if std::io::stdin().read(&mut word).context("cannot wait for leaktrace")? != 0 {
        return Ok(());
    }
    let died = Instant::now();
    while died.elapsed() < WATCH {
        let lives = identity.is_some() && process::start_time(child) == identity;
        if !lives && watched.is_none() {
            break;
        }
        let others = watched.as_ref().map(|map| bpf_call::keys(map.as_fd())).unwrap_or_default();
        let others = others.into_iter().filter_map(Pid::new).filter(|pid| *pid != child);
        for pid in lives.then_some(child).into_iter().chain(others) {
            if process::state(pid) == Some('T') {
                signal_child(pid, libc::SIGCONT);
            }
        }
        std::thread::sleep(BETWEEN);
    }
    Ok(())
}
