//! A BPF array map as memory: read and changed without system calls for its entries.
//!
//! Only a few mebibytes are mapped at a time, so that a large map does not become leaktrace's own
//! memory. The kernel half reads and writes the same entries meanwhile: every access is volatile or
//! in one step.

use std::cell::RefCell;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;

use anyhow::{Context, Result};
use aya::maps::Map;
use leaktrace_ebpf::blocks::{self, Bucket};
use leaktrace_ebpf::records::StackTotals;

/// Bytes that are mapped at once: a multiple of every page size and entry size.
const WINDOW: usize = 4 << 20;

/// Records of integers that lie in an mmapable array of the kernel half's; any bits are one, and
/// their size is a power of two.
pub(super) trait Record {}
impl Record for Bucket {}
impl Record for StackTotals {}

/// An array map whose entries can be mapped.
pub(super) struct MappedArray<T> {
    fd: OwnedFd,
    len: u32,
    record: PhantomData<fn() -> T>,
}

/// A piece of the map, mapped for reading and writing.
struct Window {
    memory: NonNull<libc::c_void>,
    bytes: usize,
}

impl Drop for Window {
    #[expect(unsafe_code, reason = "munmap")]
    fn drop(&mut self) {
        // SAFETY: what `MappedArray::window` has mapped; pointers into it end with their borrower.
        unsafe { libc::munmap(self.memory.as_ptr(), self.bytes) };
    }
}

impl<T: Record> MappedArray<T> {
    const PER_WINDOW: u32 = (WINDOW / size_of::<T>()) as u32;

    /// The array behind a loaded map.
    ///
    /// # Errors
    ///
    /// When it is no array, or its entries have another size.
    pub(super) fn new(map: &Map) -> Result<Self> {
        let Map::Array(data) = map else {
            anyhow::bail!("the BPF object has a map of another kind than expected");
        };
        let info = data.info().context("cannot ask for a map's size")?;
        if info.value_size() as usize != size_of::<T>() {
            anyhow::bail!("the BPF object has a map with entries of another size than expected");
        }
        let fd = data.fd().as_fd().try_clone_to_owned().context("no more descriptors")?;
        Ok(Self { fd, len: info.max_entries(), record: PhantomData })
    }

    /// Zeroed memory instead of a map.
    #[cfg(test)]
    #[expect(unsafe_code, reason = "memfd_create")]
    pub(super) fn of_memory(len: u32) -> Self {
        use std::os::fd::FromRawFd;
        // SAFETY: a name that ends with a zero.
        let fd = unsafe { libc::memfd_create(c"entries".as_ptr(), 0) };
        assert!(fd >= 0);
        // SAFETY: a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let file = std::fs::File::from(fd);
        file.set_len((len as usize * size_of::<T>()).next_multiple_of(4096) as u64).unwrap();
        Self { fd: file.into(), len, record: PhantomData }
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Maps the window with this number.
    #[expect(unsafe_code, reason = "mmap")]
    fn window(&self, number: u32) -> io::Result<Window> {
        let entries = (self.len - number * Self::PER_WINDOW).min(Self::PER_WINDOW);
        // The kernel maps whole pages, and has rounded the map up to them.
        let bytes = entries as usize * size_of::<T>();
        let offset = libc::off_t::from(number) * WINDOW as libc::off_t;
        // SAFETY: a new mapping at an address of the kernel's choice, of a map that is shared with
        // programs which know as little of this process as it does of them.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                self.fd.as_raw_fd(),
                offset,
            )
        };
        match NonNull::new(memory) {
            Some(memory) if memory.as_ptr() != libc::MAP_FAILED => Ok(Window { memory, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Visits all entries in order. The pointers are good during the visit.
    ///
    /// # Errors
    ///
    /// When the kernel maps no memory.
    pub(super) fn for_each(&self, mut visit: impl FnMut(u32, *mut T)) -> io::Result<()> {
        for number in 0..self.len.div_ceil(Self::PER_WINDOW) {
            let window = self.window(number)?;
            let first = window.memory.as_ptr().cast::<T>();
            for entry in 0..(window.bytes / size_of::<T>()) as u32 {
                visit(number * Self::PER_WINDOW + entry, first.wrapping_add(entry as usize));
            }
        }
        Ok(())
    }
}

/// Entries of an array by index; cheap when asked for in order.
///
/// The last two windows stay mapped, so the last two entries asked for are good at any time.
pub(super) struct Pieces<'a, T> {
    array: &'a MappedArray<T>,
    windows: RefCell<[Option<(u32, Window)>; 2]>,
}

impl<'a, T: Record> Pieces<'a, T> {
    /// Nothing is mapped yet.
    pub(super) fn of(array: &'a MappedArray<T>) -> Self {
        Self { array, windows: RefCell::new([None, None]) }
    }

    /// The entry at `index`, good until two others are asked for; `None` when there is none, or the
    /// kernel maps no memory.
    pub(super) fn get(&self, index: u32) -> Option<*mut T> {
        if index >= self.array.len {
            return None;
        }
        let number = index / MappedArray::<T>::PER_WINDOW;
        let mut windows = self.windows.borrow_mut();
        if !windows.iter().flatten().any(|(n, _)| *n == number) {
            windows.swap(0, 1);
            let [newest, _] = &mut *windows;
            *newest = Some((number, self.array.window(number).ok()?));
        }
        let (_, window) = windows.iter().flatten().find(|(n, _)| *n == number)?;
        let entry = index % MappedArray::<T>::PER_WINDOW;
        Some(window.memory.as_ptr().cast::<T>().wrapping_add(entry as usize))
    }
}

impl blocks::Memory for Pieces<'_, Bucket> {
    fn buckets(&self) -> u32 {
        self.array.len
    }

    fn bucket(&self, index: u32) -> Option<*mut Bucket> {
        self.get(index)
    }
}
