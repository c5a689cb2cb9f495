//! `leaktrace run`: starts a command and traces it from its first allocation.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::args::{ExecArgs, RunArgs};
use super::attach::runtime;
use super::say::say;
use super::session::Session;
use crate::model::{EndedBy, Pid};
use crate::probe::guard::Guard;
use crate::probe::hold::{self, Waited};
use crate::probe::{limits, own_process};
use crate::target::process;

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
    // As it was before anything here changed it: the command is to find it so.
    let ignored_signals = own_process::ignored_signals();
    let open_files = limits::raise_open_files();
    runtime()?.block_on(async {
        let mut session = Session::open(&args.trace)?;
        session.outputs.without_live_view_on_terminal();
        session.outputs.keep_going();
        let mut child = Started::new(&args.command, ignored_signals, open_files)?;
        let pid = child.pid;
        // The child stops itself right before it becomes the command.
        match hold::wait_for_stop(pid) {
            Waited::Stopped => {}
            Waited::Ended => return child.exit_code(),
            Waited::Neither => anyhow::bail!("the command's process {pid} does not get ready"),
        }
        let watched = args.trace.follow.then(|| session.maps.watched()).transpose()?;
        let guard = Guard::start(pid, watched)?;
        if !session.add_child_at_exec(pid)? {
            return child.exit_code();
        }
        session.begin()?;
        child.traced = true;
        hold::resume(pid);
        let (code, report) = session.run().await?;
        drop(session);
        // Stopped by an exec in the very moment in which the trace ended.
        if process::state(pid) == Some('T') {
            hold::resume(pid);
        }
        drop(guard);
        if report.trace.ended_by == Some(EndedBy::Signal) {
            child.terminate();
        }
        let own = child.exit_code_passing_signals_on().await?;
        Ok(if code != 0 { code } else { own })
    })
}

/// The command's process. One that never came to run is not left behind.
struct Started {
    child: Child,
    pid: Pid,
    traced: bool,
}

impl Started {
    fn new(command: &[OsString], ignored_signals: u64, open_files: u64) -> Result<Self> {
        let child = Command::new("/proc/self/exe")
            .arg("__exec")
            .args(["--parent", &std::process::id().to_string()])
            .args(["--ignored-signals", &ignored_signals.to_string()])
            .args(["--open-files", &open_files.to_string()])
            .arg("--")
            .args(command)
            .spawn()
            .context("cannot start a child")?;
        let pid = Pid::new(child.id()).context("the child has no id")?;
        Ok(Self { child, pid, traced: false })
    }

    /// Asks the command to end, as whoever ended leaktrace would have it.
    fn terminate(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            own_process::signal_child(self.pid, libc::SIGTERM);
        }
    }

    /// Waits for the command to end; a trace that ended before it leaves it running.
    async fn exit_code_passing_signals_on(&mut self) -> Result<u8> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut child_ends = signal(SignalKind::child())?;
        while self.child.try_wait().context("cannot wait for the command")?.is_none() {
            tokio::select! {
                _ = child_ends.recv() => {}
                _ = interrupt.recv() => self.terminate(),
                _ = terminate.recv() => self.terminate(),
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
/// When the command's limits cannot be set; that it cannot be started is an exit code.
pub fn exec_main(args: &ExecArgs) -> Result<u8> {
    own_process::stop_for(args.parent);
    own_process::ignore_signals(args.ignored_signals);
    limits::set_open_files(args.open_files).context("cannot set the limit on open files")?;
    let Some((program, arguments)) = args.command.split_first() else {
        return Ok(super::exit::USAGE);
    };
    let error = Command::new(program).args(arguments).exec();
    let shown = crate::model::printable(&program.to_string_lossy());
    say(format_args!("leaktrace: cannot start `{shown}`: {error}"));
    Ok(if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}
