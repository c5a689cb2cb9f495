//! Why a process cannot be traced.

use std::io;

use thiserror::Error;

use crate::model::Pid;

/// Why a process cannot be traced.
#[derive(Debug, Error)]
pub enum TargetError {
    /// There is no such process, or it is gone.
    #[error(
        "process {pid} does not exist (any more): look up its id again, e.g. with `pgrep -a NAME`"
    )]
    Gone {
        /// The process.
        pid: Pid,
    },
    /// It has ended and waits for its parent.
    #[error("process {pid} ({comm}) is a zombie: it has ended, and only its parent can remove it")]
    Zombie {
        /// The process.
        pid: Pid,
        /// Its command name.
        comm: String,
    },
    /// Its main thread has ended, its others have not.
    #[error(
        "process {pid} ({comm}): its main thread has ended while others run on; the kernel places \
         no probes for such a process: have its main thread wait for the others"
    )]
    MainThreadEnded {
        /// The process.
        pid: Pid,
        /// Its command name.
        comm: String,
    },
    /// It has no user memory.
    #[error("process {pid} ({comm}) is a kernel thread: it has no user memory to trace")]
    KernelThread {
        /// The process.
        pid: Pid,
        /// Its command name.
        comm: String,
    },
    /// The id is a thread's.
    #[error("{pid} is a thread of process {process}: trace that instead, with `-p {process}`")]
    Thread {
        /// The thread.
        pid: Pid,
        /// Its process.
        process: u32,
    },
    /// Its executable is not for a supported machine.
    #[error(
        "process {pid} runs {exe}, {what}: leaktrace traces 64-bit programs of this machine's kind only"
    )]
    Machine {
        /// The process.
        pid: Pid,
        /// Its executable.
        exe: String,
        /// What it is instead.
        what: String,
    },
    /// The kernel refuses to show it.
    #[error("not permitted to {what} of process {pid}: run as root, or with CAP_SYS_PTRACE")]
    NotPermitted {
        /// The process.
        pid: Pid,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A return probe would kill it.
    #[error(
        "process {pid} ({comm}) has a seccomp filter, and this kernel sends return probes through \
         a system call that such a filter may answer with a kill; leaktrace leaves it alone. \
         Linux 6.14 and current stable kernels have the fix"
    )]
    SeccompKills {
        /// The process.
        pid: Pid,
        /// Its command name.
        comm: String,
    },
    /// No function to probe.
    #[error(
        "process {pid} ({exe}): no allocation functions found in any of its {files} mapped files{hint}"
    )]
    NoAllocator {
        /// The process.
        pid: Pid,
        /// Its executable.
        exe: String,
        /// How many files were looked into.
        files: usize,
        /// What to do.
        hint: String,
    },
    /// Anything else that /proc answered.
    #[error("cannot {what} of process {pid}")]
    Io {
        /// The process.
        pid: Pid,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl TargetError {
    /// Sorts an error of /proc: a process that is gone is a result, not a failure.
    pub fn from_io(pid: Pid, what: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => Self::Gone { pid },
            Some(libc::EACCES | libc::EPERM) => Self::NotPermitted { pid, what, source },
            _ => Self::Io { pid, what, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_answer_is_said_once() {
        let pid = Pid::new(1).unwrap();
        for (code, expect) in [
            (
                libc::EACCES,
                "not permitted to read it of process 1: run as root, or with CAP_SYS_PTRACE: \
                 Permission denied (os error 13)",
            ),
            (libc::EIO, "cannot read it of process 1: Input/output error (os error 5)"),
        ] {
            let source = io::Error::from_raw_os_error(code);
            let error = anyhow::Error::from(TargetError::from_io(pid, "read it", source));
            assert_eq!(format!("{error:#}"), expect);
        }
    }
}
