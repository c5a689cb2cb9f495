//! `leaktrace run`: starts a command and traces it from its first allocation.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::args::{ExecArgs, RunArgs};
use super::attach::runtime;
use super::session::Session;
use crate::model::{EndedBy, Pid};
use crate::probe::hold::{self, Waited};
use crate::probe::own_process;

/// The shell's exit codes for a command that cannot be started.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// The shell's exit code for a command that a signal ended is this plus the signal.
const SIGNALLED: u8 = 128;

/// Runs and traces a command. Returns its exit code.
///
/// # Errors
///
/// When it cannot be traced; it is not left running then.
pub fn main(args: &RunArgs) -> Result<u8> {
    runtime()?.block_on(async {
        let mut session = Session::open(&args.trace)?;
        let child = Command::new("/proc/self/exe")
            .arg("__exec")
            .arg("--")
            .args(&args.command)
            .spawn()
            .context("cannot start a child")?;
        let mut child = Started { child, traced: false };
        let pid = Pid::new(child.child.id()).context("the child has no id")?;
        // The child stops itself right before it becomes the command.
        if hold::wait_for_stop(pid) != Waited::Stopped || !session.add_child_at_exec(pid)? {
            return child.exit_code();
        }
        session.begin()?;
        child.traced = true;
        hold::resume(pid);
        let (code, report) = session.run().await?;
        drop(session);
        if report.trace.ended_by == Some(EndedBy::Signal) {
            child.terminate(pid);
        }
        let own = child.exit_code_passing_signals_on(pid).await?;
        Ok(if code != 0 { code } else { own })
    })
}

/// The command's process. One that never came to run is not left behind.
struct Started {
    child: Child,
    traced: bool,
}

impl Started {
    /// Asks the command to end, as whoever ended leaktrace would have it.
    fn terminate(&mut self, pid: Pid) {
        if matches!(self.child.try_wait(), Ok(None)) {
            own_process::signal_child(pid, libc::SIGTERM);
        }
    }

    /// Waits for the command to end; a trace that ended before it leaves it running.
    async fn exit_code_passing_signals_on(&mut self, pid: Pid) -> Result<u8> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut child_ends = signal(SignalKind::child())?;
        while self.child.try_wait().context("cannot wait for the command")?.is_none() {
            tokio::select! {
                _ = child_ends.recv() => {}
                _ = interrupt.recv() => self.terminate(pid),
                _ = terminate.recv() => self.terminate(pid),
            }
        }
        self.exit_code()
    }

    /// Waits for the command to end.
    fn exit_code(&mut self) -> Result<u8> {
        let status = self.child.wait().context("cannot wait for the command")?;
        let signal = status.signal().and_then(|signal| u8::try_from(signal).ok());
        Ok(match (status.code(), signal) {
            (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
            (None, Some(signal)) => SIGNALLED.saturating_add(signal),
            (None, None) => u8::MAX,
        })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.traced {
            // It is stopped, or has ended: nobody else would ever let it go on.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The hidden `__exec`: stops itself until leaktrace is ready, then becomes the command.
///
/// # Errors
///
/// Never returns one for a command that cannot be started: that is an exit code.
pub fn exec_main(args: &ExecArgs) -> Result<u8> {
    // If leaktrace dies while this process is held, it goes on.
    own_process::continue_when_parent_dies();
    own_process::stop();
    let Some((program, arguments)) = args.command.split_first() else {
        return Ok(super::exit::USAGE);
    };
    let error = Command::new(program).args(arguments).exec();
    let shown = crate::model::printable(&program.to_string_lossy());
    eprintln!("leaktrace: cannot start `{shown}`: {error}");
    Ok(if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}
