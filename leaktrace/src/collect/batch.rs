//! The system call bpf(2), for what aya has no operation for.
//!
//! Its attributes are described in `include/uapi/linux/bpf.h`.

use std::io;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
pub(super) struct BatchAttr {
    pub(super) in_batch: u64,
    pub(super) out_batch: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) count: u32,
    pub(super) map_fd: u32,
    pub(super) elem_flags: u64,
    pub(super) flags: u64,
}

/// The system call bpf(2). The pointers in `attr` must be to buffers that live through it.
#[expect(unsafe_code, reason = "the bpf system call")]
pub(super) fn syscall<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is as long as said, and its pointers are to live buffers (see the callers).
    match unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) }
    {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
