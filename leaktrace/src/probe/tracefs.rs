//! The kernel's tracing file system, mounted for this process alone and nowhere in the tree: nobody
//! else sees it, and it is gone with the descriptor.

#![expect(unsafe_code, reason = "fsopen(2), fsmount(2)")]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use anyhow::{Context, Result};

/// `FSCONFIG_CMD_CREATE` of `include/uapi/linux/mount.h`.
const CREATE: u32 = 6;

/// The tracing file system.
pub(super) struct Tracefs {
    mount: OwnedFd,
}

impl Tracefs {
    /// Mounts it (Linux 5.2).
    ///
    /// # Errors
    ///
    /// When the kernel has none, or refuses.
    pub(super) fn open() -> Result<Self> {
        Self::mount().map(|mount| Self { mount }).context(
            "the kernel's tracing file system (tracefs) cannot be had: it takes CAP_SYS_ADMIN and \
             a kernel with CONFIG_FTRACE",
        )
    }

    fn mount() -> io::Result<OwnedFd> {
        // SAFETY: a string that outlives the call.
        let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), 1) })?;
        // SAFETY: this command takes no pointers.
        let created = unsafe {
            libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, 0usize, 0usize, 0)
        };
        if created < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: no pointers.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })
    }

    /// The path of a file in it; good as long as this is, in this process.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{file}", self.mount.as_raw_fd()))
    }

    /// The number by which `perf_event_open` knows a tracepoint, e.g. `syscalls/sys_enter_mmap`.
    ///
    /// # Errors
    ///
    /// When the kernel has no such tracepoint.
    pub(super) fn event_id(&self, event: &str) -> Result<u64> {
        let id = fs::read_to_string(self.path(&format!("events/{event}/id")))
            .with_context(|| format!("this kernel has no tracepoint {event}"))?;
        id.trim().parse().with_context(|| format!("the tracepoint {event} has no number"))
    }
}

/// A descriptor that the kernel has just given; the flag for both calls is that it closes on exec.
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracepoints_have_numbers_and_nothing_stays_mounted() {
        let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
        let before = mounts();
        let tracefs = Tracefs::open().unwrap();
        assert!(tracefs.event_id("sched/sched_process_fork").unwrap() > 0);
        assert!(tracefs.event_id("sched/no_such_event").is_err());
        assert_eq!(mounts(), before);
    }
}
