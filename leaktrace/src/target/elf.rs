//! What is read of an ELF file: its headers here, and the bytes they point to; sections by name and
//! symbols in the files below.
//!
//! The file is hostile input. Nothing is mapped (a file that shrinks under a mapping kills the
//! reader), every read is bounded by the file's size and by a limit, and nothing is trusted to
//! point into the file.

use std::fs::File;
use std::ops::ControlFlow;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::pod::{Pod, from_bytes, slice_from_bytes};
use thiserror::Error;

use super::budget::Budget;

mod sections;
mod source;
mod symbols;
#[cfg(test)]
mod tests;

pub use sections::Section;
pub use symbols::{Function, LONGEST_KNOWN};

use source::Source;

/// The most bytes of one file that are read: over ten times libLLVM's symbols.
const MOST_BYTES: u64 = 512 << 20;
/// The most bytes that are held at once: the names of a symbol table.
const LARGEST_READ: u64 = 256 << 20;
/// What is held at once of a table that is gone through, in bytes.
const CHUNK: u64 = 1 << 20;
/// What a read takes out of the budget at least, in bytes: it costs time, however short it is.
const SHORTEST_READ: u64 = 4096;
/// Decoding a byte of code takes as long as reading so many.
const DECODING: u64 = 16;
/// The most program or section headers that are read.
const MOST_HEADERS: u64 = 1 << 16;

/// Why a file could not be read.
#[derive(Debug, Error)]
pub enum ElfError {
    /// It is no ELF file of the supported kind.
    #[error("not a 64-bit little-endian ELF file")]
    NotElf,
    /// It contradicts itself.
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    /// There is more to read than the budget has left.
    #[error("its tables are too large, or those of the files before it were")]
    OverBudget,
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its virtual address.
    pub address: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes in the file.
    pub size: u64,
    /// Whether its code can run.
    pub executable: bool,
}

/// An ELF file, opened.
pub struct Elf<'f> {
    source: Source<'f>,
    file_size: u64,
    own_budget: Budget,
    shared_budget: Option<&'f Budget>,
    segments: Vec<Segment>,
    frame_header: Option<Segment>,
    sections: Vec<SectionHeader64<LE>>,
    section_names: u16,
    machine: elf::Machine,
    entry: u64,
    interpreter: Option<String>,
}

impl<'f> Elf<'f> {
    /// Reads the headers.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when it is no ELF file, or its headers lie outside of it.
    pub fn open(file: &'f File) -> Result<Self, ElfError> {
        Self::with_budget(Source::File(file), None)
    }

    /// The same, for one of several files: what is read of them all comes out of `budget`, besides
    /// the limit that each file has.
    ///
    /// # Errors
    ///
    /// As [`Elf::open`]; [`ElfError::OverBudget`], from this and from all that reads.
    pub fn open_within(file: &'f File, budget: &'f Budget) -> Result<Self, ElfError> {
        Self::with_budget(Source::File(file), Some(budget))
    }

    /// The same, for the bytes of a file.
    ///
    /// # Errors
    ///
    /// As [`Elf::open_within`].
    pub fn in_memory(bytes: &'f [u8], budget: &'f Budget) -> Result<Self, ElfError> {
        Self::with_budget(Source::Memory(bytes), Some(budget))
    }

    fn with_budget(
        source: Source<'f>,
        shared_budget: Option<&'f Budget>,
    ) -> Result<Self, ElfError> {
        let mut this = Self {
            source,
            file_size: source.size()?,
            own_budget: Budget::of(MOST_BYTES),
            shared_budget,
            segments: Vec::new(),
            frame_header: None,
            sections: Vec::new(),
            section_names: 0,
            machine: elf::EM_NONE,
            entry: 0,
            interpreter: None,
        };
        let header = this.read(0, size_of::<FileHeader64<LE>>() as u64)?;
        let (header, _) = from_bytes::<FileHeader64<LE>>(&header).map_err(|()| ElfError::NotElf)?;
        let ident = &header.e_ident;
        if ident.magic != elf::ELFMAG
            || ident.class != elf::ELFCLASS64
            || ident.data != elf::ELFDATA2LSB
        {
            return Err(ElfError::NotElf);
        }
        this.entry = header.e_entry.get(LE);
        this.machine = header.e_machine.get(LE);
        this.section_names = header.e_shstrndx.get(LE).0;
        let programs = this.table::<ProgramHeader64<LE>>(
            header.e_phoff.get(LE),
            u64::from(header.e_phnum.get(LE)),
            header.e_phentsize.get(LE),
        )?;
        for program in &programs {
            let segment = Segment {
                address: program.p_vaddr.get(LE),
                offset: program.p_offset.get(LE),
                size: program.p_filesz.get(LE),
                executable: program.p_flags.get(LE).contains(elf::PF_X),
            };
            match program.p_type.get(LE) {
                elf::PT_LOAD => this.segments.push(segment),
                elf::PT_GNU_EH_FRAME => this.frame_header = Some(segment),
                elf::PT_INTERP if this.interpreter.is_none() => {
                    let path =
                        this.read(program.p_offset.get(LE), program.p_filesz.get(LE).min(4096))?;
                    let path = String::from_utf8_lossy(&path);
                    this.interpreter = Some(path.trim_end_matches('\0').to_owned());
                }
                _ => {}
            }
        }
        this.sections = this.table::<SectionHeader64<LE>>(
            header.e_shoff.get(LE),
            u64::from(header.e_shnum.get(LE)),
            header.e_shentsize.get(LE),
        )?;
        Ok(this)
    }

    /// The program interpreter (dynamic loader) that it asks for.
    pub fn interpreter(&self) -> Option<&str> {
        self.interpreter.as_deref()
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.file_size
    }

    /// Its loadable segments, as the headers have them: they may overlap or lie outside of the file.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Where the index of its unwind data is (`PT_GNU_EH_FRAME`).
    pub fn frame_header(&self) -> Option<Segment> {
        self.frame_header
    }

    /// Whether its code is for x86-64.
    pub fn is_x86_64(&self) -> bool {
        self.machine == elf::EM_X86_64
    }

    /// The virtual address where it starts to run; 0 for most libraries.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Where it starts to run, as an offset in the file.
    pub fn entry_offset(&self) -> Option<u64> {
        self.file_offset(self.entry)
    }

    /// Where a virtual address lies in the file, if it is code.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let segment = self
            .segments
            .iter()
            .find(|s| s.executable && address >= s.address && address - s.address < s.size)?;
        segment.offset.checked_add(address - segment.address)
    }

    /// The virtual address of code that lies at `offset` in the file.
    pub fn address_at(&self, offset: u64) -> Option<u64> {
        // A mapping begins at a page, a segment need not.
        const PAGE: u64 = 0xfff;
        let segment = self.segments.iter().find(|s| {
            let start = s.offset & !PAGE;
            s.executable && offset >= start && offset < s.offset.saturating_add(s.size)
        })?;
        Some(segment.address.wrapping_add(offset).wrapping_sub(segment.offset))
    }

    /// Up to `size` bytes of code at a virtual address.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when there is no code.
    pub fn code(&self, address: u64, size: u64) -> Result<Vec<u8>, ElfError> {
        let segment = self
            .segments
            .iter()
            .find(|s| s.executable && address >= s.address && address - s.address < s.size)
            .ok_or(ElfError::Corrupt("a function lies outside of all code"))?;
        let within = address - segment.address;
        let offset = segment
            .offset
            .checked_add(within)
            .ok_or(ElfError::Corrupt("a segment lies outside of the file"))?;
        let size = size.min(segment.size - within);
        self.charge(size.saturating_mul(DECODING - 1))?;
        self.read(offset, size)
    }

    /// Goes through a table, a chunk at a time.
    fn each_entry<T: Pod>(
        &self,
        section: &SectionHeader64<LE>,
        mut visit: impl FnMut(usize, &T) -> ControlFlow<()>,
    ) -> Result<(), ElfError> {
        let (mut offset, size) = (section.sh_offset.get(LE), section.sh_size.get(LE));
        let end = self.end_of(offset, size)?;
        self.charge(size)?;
        let entry_size = size_of::<T>().max(1) as u64;
        let chunk = CHUNK - CHUNK % entry_size;
        let mut bytes = vec![0; chunk.min(size) as usize];
        let mut index = 0;
        while end - offset >= entry_size {
            bytes.truncate(chunk.min(end - offset) as usize);
            self.source.read_exact_at(&mut bytes, offset)?;
            for entry in entries::<T>(&bytes) {
                if visit(index, entry).is_break() {
                    return Ok(());
                }
                index += 1;
            }
            offset += bytes.len() as u64;
        }
        Ok(())
    }

    fn table<T: Pod>(&self, offset: u64, count: u64, entry_size: u16) -> Result<Vec<T>, ElfError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if usize::from(entry_size) != size_of::<T>() || count > MOST_HEADERS {
            return Err(ElfError::Corrupt("headers of an unknown size"));
        }
        let bytes = self.read(offset, count * size_of::<T>() as u64)?;
        Ok(entries::<T>(&bytes).to_vec())
    }

    /// The bytes of the file from `offset` on.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when the file ends before, or they are too many.
    pub fn read(&self, offset: u64, size: u64) -> Result<Vec<u8>, ElfError> {
        self.end_of(offset, size)?;
        if size > LARGEST_READ {
            return Err(ElfError::OverBudget);
        }
        self.charge(size)?;
        let mut bytes = vec![0; size as usize];
        self.source.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Where a table ends, which is inside of the file.
    fn end_of(&self, offset: u64, size: u64) -> Result<u64, ElfError> {
        offset
            .checked_add(size)
            .filter(|&end| end <= self.file_size)
            .ok_or(ElfError::Corrupt("a table lies outside of the file"))
    }

    fn charge(&self, bytes: u64) -> Result<(), ElfError> {
        let bytes = bytes.max(SHORTEST_READ);
        let allowed =
            self.own_budget.take(bytes) && self.shared_budget.is_none_or(|all| all.take(bytes));
        if allowed { Ok(()) } else { Err(ElfError::OverBudget) }
    }
}

/// As many whole entries as there are bytes for.
fn entries<T: Pod>(bytes: &[u8]) -> &[T] {
    let count = bytes.len() / size_of::<T>().max(1);
    slice_from_bytes(bytes, count).map_or(&[], |(entries, _)| entries)
}
