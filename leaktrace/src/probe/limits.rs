//! This process's resource limits.

#![expect(unsafe_code, reason = "getrlimit and setrlimit")]

use std::io;

/// Takes away the limit on locked memory, which kernels before 5.11 charge BPF maps to.
pub(super) fn lift_locked_memory() {
    let infinite = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid pointer for the duration of the call. Where it fails, loading says so.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const infinite) };
}

/// Raises the limit on open files as far as it may be: each file that a target maps is held open.
/// Returns what it was.
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: valid pointers for the duration of the calls. Where they fail, fewer files are read.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return 0;
        }
        let before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        before
    }
}

/// Sets the limit on open files; 0 leaves it.
///
/// # Errors
///
/// The kernel's.
pub fn set_open_files(soft: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    if soft == 0 {
        return Ok(());
    }
    // SAFETY: valid pointers for the duration of the calls.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = soft.min(limit.rlim_max);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
