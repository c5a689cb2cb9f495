//! Where the bytes of an ELF file are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The file, or what was read of it.
#[derive(Clone, Copy)]
pub(super) enum Source<'f> {
    File(&'f File),
    Memory(&'f [u8]),
}

impl Source<'_> {
    pub(super) fn size(self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    pub(super) fn read_exact_at(self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Memory(bytes) => {
                let end = offset.saturating_add(buffer.len() as u64);
                let bytes = bytes.get(offset as usize..end as usize);
                buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}
