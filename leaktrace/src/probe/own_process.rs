//! Signals between leaktrace and its own children; never a stranger's.

/// Has the kernel send this process SIGCONT when its parent dies, even after an exec: held by a
/// leaktrace that is killed, it would stay stopped for ever.
#[expect(unsafe_code, reason = "prctl")]
pub fn continue_when_parent_dies() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGCONT) };
}

/// Stops this process until it is told to go on.
#[expect(unsafe_code, reason = "raise")]
pub fn stop() {
    // SAFETY: no pointers.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// Has the kernel kill this process when its parent dies.
#[expect(unsafe_code, reason = "prctl")]
pub fn die_with_parent() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Sends a signal to a child that has not been waited for.
#[expect(unsafe_code, reason = "kill")]
pub fn signal_child(pid: crate::model::Pid, signal: i32) {
    // SAFETY: no pointers. As long as it was not waited for, the id is the child's.
    unsafe { libc::kill(pid.get() as libc::pid_t, signal) };
}
