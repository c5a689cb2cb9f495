//! Memory of another process, read in bulk.

#![expect(unsafe_code, reason = "process_vm_readv has no safe wrapper")]

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::model::Pid;
use crate::target::TargetError;

/// Memory that can be read by address: a target's, or a test's.
pub trait Memory {
    /// Reads from `at` on. Returns how many bytes came, from the first on: fewer than asked where
    /// the memory behind them cannot be read.
    fn read(&self, at: u64, into: &mut [u8]) -> usize;
}

/// Words from `at` on; `None` if not all of them can be read.
pub(super) fn words<const N: usize>(memory: &impl Memory, at: u64) -> Option<[u64; N]> {
    let mut bytes = [[0_u8; 8]; N];
    let flat = bytes.as_flattened_mut();
    (memory.read(at, flat) == flat.len()).then(|| bytes.map(u64::from_ne_bytes))
}

/// The memory of a process.
///
/// Reading may wait for the target: for a page that is swapped out, or that it handles by
/// userfaultfd. Whoever must not wait reads from a thread of their own.
pub struct ForeignMemory {
    pid: Pid,
    /// Bound to the address space that the process had when it was opened, which the process id
    /// is not: that may since have executed another program.
    bound: File,
}

impl ForeignMemory {
    /// Opens the memory of a process.
    ///
    /// # Errors
    ///
    /// [`TargetError`] if the process is gone or may not be looked at.
    pub fn open(pid: Pid) -> Result<Self, TargetError> {
        let bound = File::open(format!("/proc/{pid}/mem"))
            .map_err(|error| TargetError::from_io(pid, "read the memory", error))?;
        Ok(Self { pid, bound })
    }

    /// Whether all that was read so far is of the address space that was opened. `known` is an
    /// address that could be read.
    pub fn is_still(&self, known: u64) -> bool {
        // Nothing is left to read once no task has the address space any more.
        self.bound.read_at(&mut [0], known).is_ok_and(|read| read == 1)
    }
}

impl Memory for ForeignMemory {
    fn read(&self, at: u64, into: &mut [u8]) -> usize {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: into.len() };
        let pid = self.pid.get().cast_signed();
        // SAFETY: `local` is all of `into`, which is ours alone until this returns; the kernel
        // checks `remote`, which is an address of the other process.
        let read = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
        usize::try_from(read).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_read_and_what_is_not_ends_it() {
        let memory = ForeignMemory::open(Pid::new(std::process::id()).unwrap()).unwrap();
        let known: Vec<u64> = (0..100_000).collect();
        let at = known.as_ptr() as u64;
        assert_eq!(words(&memory, at + 8 * 70_000), Some([70_000, 70_001, 70_002]));
        assert!(memory.is_still(at));
        assert_eq!(words::<1>(&memory, 0), None);
        assert_eq!(words::<1>(&memory, u64::MAX - 3), None);
        // The stack of a program ends in memory that is not mapped.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let maps = crate::target::maps::parse(&maps);
        let ends = maps.windows(2).find(|two| two[0].end < two[1].start && two[0].writable);
        let end = ends.unwrap()[0].end.0;
        let mut bytes = [0; 4096];
        assert_eq!(memory.read(end - 100, &mut bytes), 100);
    }

    #[test]
    fn an_address_space_that_was_left_is_noticed() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::new(child.id()).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        // Between fork and exec the child has our own memory.
        while std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() != "sleep\n" {
            assert!(std::time::Instant::now() < deadline);
        }
        let memory = ForeignMemory::open(pid).unwrap();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let known = crate::target::maps::parse(&maps)[0].start.0;
        assert!(memory.is_still(known));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!memory.is_still(known));
        assert_eq!(memory.read(known, &mut [0; 8]), 0);
    }
}
