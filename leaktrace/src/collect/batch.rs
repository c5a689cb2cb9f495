//! Reading a BPF hash map in batches: a third of what one system call an entry costs.
//!
//! aya has no batched operations. `BPF_MAP_LOOKUP_BATCH` and `BPF_MAP_DELETE_BATCH` are described in
//! `include/uapi/linux/bpf.h`; they exist since Linux 5.6.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use leaktrace_ebpf::records::{Block, StackTotals};

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

/// Entries asked for at once. A bucket of the hash must fit in.
const BATCH: usize = 4096;

/// What may be read as plain bytes.
///
/// # Safety
///
/// The type has no padding and no pointers, and any bit pattern is a value of it.
#[expect(unsafe_code, reason = "a promise about layout")]
pub unsafe trait Plain: Copy + Default {}
// SAFETY: integers.
#[expect(unsafe_code, reason = "see the trait")]
unsafe impl Plain for u64 {}
// SAFETY: `#[repr(C)]` structs of integers whose sizes are asserted beside them.
#[expect(unsafe_code, reason = "see the trait")]
unsafe impl Plain for Block {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see the trait")]
unsafe impl Plain for StackTotals {}

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

fn bpf(command: libc::c_long, attr: &mut BatchAttr) -> io::Result<()> {
    syscall(command, attr).map(drop)
}

/// Visits every entry of a hash map with 8-byte keys. Entries that come or go meanwhile may be
/// missed; none is visited twice.
///
/// # Errors
///
/// What the kernel refuses.
pub fn for_each<V: Plain>(map: BorrowedFd<'_>, mut visit: impl FnMut(u64, &V)) -> io::Result<()> {
    let mut size = BATCH;
    let mut keys = vec![0u64; size];
    let mut values = vec![V::default(); size];
    let (mut position, mut next) = (0u64, 0u64);
    let mut first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { (&raw const position).addr() as u64 },
            out_batch: (&raw mut next).addr() as u64,
            keys: keys.as_mut_ptr().addr() as u64,
            values: values.as_mut_ptr().addr() as u64,
            count: size as u32,
            map_fd: map.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attr);
        let last = match result {
            Ok(()) => false,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => true,
                Some(libc::EINTR) => continue,
                // A bucket holds more than the buffers do.
                Some(libc::ENOSPC) if size < 1 << 24 => {
                    size *= 2;
                    keys.resize(size, 0);
                    values.resize(size, V::default());
                    continue;
                }
                _ => return Err(error),
            },
        };
        for (key, value) in keys.iter().zip(&values).take(attr.count as usize) {
            visit(*key, value);
        }
        if last {
            return Ok(());
        }
        position = next;
        first = false;
    }
}

/// Deletes entries; those that are gone already don't matter.
///
/// # Errors
///
/// What the kernel refuses.
pub fn delete(map: BorrowedFd<'_>, keys: &[u64]) -> io::Result<()> {
    let mut rest = keys;
    while !rest.is_empty() {
        let mut attr = BatchAttr {
            keys: rest.as_ptr().addr() as u64,
            count: u32::try_from(rest.len()).unwrap_or(u32::MAX),
            map_fd: map.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        let result = bpf(BPF_MAP_DELETE_BATCH, &mut attr);
        let done = attr.count as usize;
        match result {
            Ok(()) => return Ok(()),
            // The entry behind those that were deleted does not exist.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                rest = rest.get(done + 1..).unwrap_or(&[]);
            }
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {
                rest = rest.get(done..).unwrap_or(&[]);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
