//! Waiting for a descriptor of the kernel's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// A duplicate of a descriptor, to wait on until it can be read.
///
/// # Errors
///
/// When there are no more descriptors, or this kind cannot be waited for.
#[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
pub fn readable(fd: &impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = fd.as_fd().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` is one descriptor, its own, until it is dropped.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
