//! The inner maps of an array of maps, and putting many of them into it at once.
//!
//! The kernel waits, some 20 ms, until no program uses what an array of maps held before; with
//! `BPF_MAP_UPDATE_BATCH` (Linux 6.0 for maps of maps) once for all. aya has no batched operations,
//! and shows no descriptor of a map that it made.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use leaktrace_ebpf::unwind::CHUNK_WORDS;

use super::batch::{BatchAttr, syscall};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_TYPE_ARRAY: u32 = 2;

/// The words of a chunk.
pub(super) type Chunk = [u64; CHUNK_WORDS];

/// An array map with one chunk.
pub(super) struct ChunkMap(OwnedFd);

/// The beginning of what `BPF_MAP_CREATE` takes, in `union bpf_attr` of `include/uapi/linux/bpf.h`.
#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// What the operations on one element take.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl ChunkMap {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// When the kernel has no memory, or this process no descriptor left.
    pub(super) fn create() -> io::Result<Self> {
        let mut attr = CreateAttr {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: size_of::<u32>() as u32,
            value_size: size_of::<Chunk>() as u32,
            max_entries: 1,
            map_flags: 0,
        };
        let fd = syscall(BPF_MAP_CREATE, &mut attr)?;
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: a descriptor that the kernel has just given out, and nobody else knows.
        #[expect(unsafe_code, reason = "see above")]
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Writes all its words.
    ///
    /// # Errors
    ///
    /// What the kernel refuses.
    pub(super) fn write(&self, words: &Chunk) -> io::Result<()> {
        update(self.0.as_fd(), 0, std::ptr::from_ref(words).addr())
    }
}

/// Puts chunks into an array of maps, each at its index.
///
/// # Errors
///
/// What the kernel refuses; some may be in it then.
pub(super) fn put(outer: BorrowedFd<'_>, chunks: &[(u32, &ChunkMap)]) -> io::Result<()> {
    if chunks.is_empty() {
        return Ok(());
    }
    let keys: Vec<u32> = chunks.iter().map(|(index, _)| *index).collect();
    let values: Vec<u32> = chunks.iter().map(|(_, map)| map.0.as_raw_fd() as u32).collect();
    let mut attr = BatchAttr {
        keys: keys.as_ptr().addr() as u64,
        values: values.as_ptr().addr() as u64,
        count: keys.len() as u32,
        map_fd: outer.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    if syscall(BPF_MAP_UPDATE_BATCH, &mut attr).is_ok() {
        return Ok(());
    }
    // A kernel without batches of maps, or that stopped half way: one by one, which says why.
    keys.iter()
        .zip(&values)
        .try_for_each(|(key, value)| update(outer, *key, std::ptr::from_ref(value).addr()))
}

fn update(map: BorrowedFd<'_>, key: u32, value: usize) -> io::Result<()> {
    element(BPF_MAP_UPDATE_ELEM, map, key, value)
}

/// An operation on one element, whose value is at the address `value`.
fn element(command: libc::c_long, map: BorrowedFd<'_>, key: u32, value: usize) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        reserved: 0,
        key: (&raw const key).addr() as u64,
        value: value as u64,
        flags: 0,
    };
    syscall(command, &mut attr).map(drop)
}

#[cfg(test)]
impl AsFd for ChunkMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads a chunk of an array of maps.
#[cfg(test)]
pub(super) fn get(outer: BorrowedFd<'_>, index: u32) -> io::Result<Box<Chunk>> {
    const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
    const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
    let mut id = 0u32;
    element(BPF_MAP_LOOKUP_ELEM, outer, index, (&raw mut id).addr())?;
    let fd = syscall(BPF_MAP_GET_FD_BY_ID, &mut [id, 0, 0])?;
    // SAFETY: a descriptor that the kernel has just given out, and nobody else knows.
    #[expect(unsafe_code, reason = "see above")]
    let map = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut words: Box<Chunk> = Box::new([0; CHUNK_WORDS]);
    element(BPF_MAP_LOOKUP_ELEM, map.as_fd(), 0, std::ptr::from_mut(&mut *words).addr())?;
    Ok(words)
}
