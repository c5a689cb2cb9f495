//! Signals between leaktrace and its own children; never a stranger's.

#![expect(unsafe_code, reason = "prctl, raise, kill, signal")]

use std::os::unix::fs::MetadataExt;

use crate::model::Pid;

/// `PROC_PID_INIT_INO` of `include/linux/proc_ns.h`.
pub(super) const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// Whether processes are counted as the kernel itself does.
pub fn is_in_initial_pid_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|ns| ns.ino() == INITIAL_PID_NAMESPACE)
}

/// Stops this process until it is told to go on. It dies if its parent, whose id is `parent`, dies
/// before that.
pub fn stop_for(parent: u32) {
    die_with_parent();
    // SAFETY: no pointers.
    unsafe {
        // The parent may have died before the kernel was told to watch it.
        if libc::getppid().cast_unsigned() == parent {
            libc::raise(libc::SIGSTOP);
        }
        libc::prctl(libc::PR_SET_PDEATHSIG, 0);
    }
}

/// Has the kernel kill this process when its parent dies.
pub fn die_with_parent() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Sends a signal to a child that has not been waited for.
pub fn signal_child(pid: Pid, signal: i32) {
    // SAFETY: no pointers. As long as it was not waited for, the id is the child's.
    unsafe { libc::kill(pid.get().cast_signed(), signal) };
}

/// The signals that this process ignores, a bit each, signal 1 the lowest (`SigIgn` in proc(5)).
pub fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Ignores those of the signals that leaktrace handles which are set in `mask`, as whoever started
/// leaktrace had it.
pub fn ignore_signals(mask: u64) {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2] {
        if mask >> (signal - 1) & 1 != 0 {
            // SAFETY: no handler of this process is replaced: it has none.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
    }
}
