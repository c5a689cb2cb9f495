//! What is read of an ELF file to plan probes: segments, functions by name, and the slots through
//! which it calls functions of others.
//!
//! The file is hostile input. Nothing is mapped (a file that shrinks under a mapping kills the
//! reader), every read is bounded by the file's size and by a limit, and nothing is trusted to
//! point into the file.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64, Rela64, SectionHeader64, Sym64};
use object::pod::{Pod, from_bytes, slice_from_bytes};
use thiserror::Error;

use super::budget::Budget;

#[cfg(test)]
mod tests;

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
/// The most relocation tables that are gone through; linkers make two.
const MOST_RELOCATION_TABLES: usize = 16;
/// The most functions, symbols and slots that are found in a file; the catalogue has some 30.
const MOST_FOUND: usize = 256;

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

/// A function that the file defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name, without a version.
    pub name: String,
    /// Its virtual address.
    pub address: u64,
    /// Its size in bytes; 0 when the symbol doesn't say.
    pub size: u64,
}

/// An ELF file, opened.
pub struct Elf<'f> {
    file: &'f File,
    file_size: u64,
    own_budget: Budget,
    shared_budget: Option<&'f Budget>,
    segments: Vec<Segment>,
    sections: Vec<SectionHeader64<LE>>,
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
        Self::with_budget(file, None)
    }

    /// The same, for one of several files: what is read of them all comes out of `budget`, besides
    /// the limit that each file has.
    ///
    /// # Errors
    ///
    /// As [`Elf::open`]; [`ElfError::OverBudget`], from this and from all that reads.
    pub fn open_within(file: &'f File, budget: &'f Budget) -> Result<Self, ElfError> {
        Self::with_budget(file, Some(budget))
    }

    fn with_budget(file: &'f File, shared_budget: Option<&'f Budget>) -> Result<Self, ElfError> {
        let file_size = file.metadata()?.len();
        let mut this = Self {
            file,
            file_size,
            own_budget: Budget::of(MOST_BYTES),
            shared_budget,
            segments: Vec::new(),
            sections: Vec::new(),
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
        let programs = this.table::<ProgramHeader64<LE>>(
            header.e_phoff.get(LE),
            u64::from(header.e_phnum.get(LE)),
            header.e_phentsize.get(LE),
        )?;
        for program in &programs {
            match program.p_type.get(LE) {
                elf::PT_LOAD => this.segments.push(Segment {
                    address: program.p_vaddr.get(LE),
                    offset: program.p_offset.get(LE),
                    size: program.p_filesz.get(LE),
                    executable: program.p_flags.get(LE).contains(elf::PF_X),
                }),
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

    /// The virtual address of a variable among the dynamic symbols.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when the symbol table cannot be read.
    pub fn variable(&self, name: &str) -> Result<Option<u64>, ElfError> {
        let mut address = None;
        self.each_symbol(elf::SHT_DYNSYM, |_, symbol, names| {
            let is_variable = symbol.st_info.st_type() == elf::STT_OBJECT;
            if is_variable && name_at(names, symbol.st_name.get(LE)) == Some(name) {
                address = Some(symbol.st_value.get(LE));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(address)
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

    /// The functions defined here whose name is `wanted`: from the dynamic symbols, and from
    /// `.symtab` for names that are not among those. The first 256 of them, should there be more,
    /// and none whose name is longer than 63 bytes.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when a symbol table cannot be read.
    pub fn functions(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Function>, ElfError> {
        let mut found: Vec<Function> = Vec::new();
        for kind in [elf::SHT_DYNSYM, elf::SHT_SYMTAB] {
            let known: HashSet<String> = found.iter().map(|f| f.name.clone()).collect();
            self.each_symbol(kind, |_, symbol, names| {
                if found.len() >= MOST_FOUND {
                    return ControlFlow::Break(());
                }
                if is_defined_function(symbol)
                    && let Some(name) = name_at(names, symbol.st_name.get(LE))
                    && wanted(name)
                    && !known.contains(name)
                {
                    found.push(Function {
                        name: name.to_owned(),
                        address: symbol.st_value.get(LE),
                        size: symbol.st_size.get(LE),
                    });
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(found)
    }

    /// The slots (virtual addresses in the global offset table) that the dynamic loader fills with
    /// the address of a function whose name is `wanted`.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when a table cannot be read.
    pub fn slots(&self, wanted: impl Fn(&str) -> bool) -> Result<HashMap<u64, String>, ElfError> {
        let mut of_interest: HashMap<usize, String> = HashMap::new();
        self.each_symbol(elf::SHT_DYNSYM, |index, symbol, names| {
            if of_interest.len() >= MOST_FOUND {
                return ControlFlow::Break(());
            }
            if let Some(name) = name_at(names, symbol.st_name.get(LE))
                && wanted(name)
            {
                of_interest.insert(index, name.to_owned());
            }
            ControlFlow::Continue(())
        })?;
        let mut slots = HashMap::new();
        if of_interest.is_empty() {
            return Ok(slots);
        }
        let tables = self.sections.iter().filter(|s| s.sh_type.get(LE) == elf::SHT_RELA);
        for section in tables.take(MOST_RELOCATION_TABLES) {
            self.each_entry::<Rela64<LE>>(section, |_, relocation| {
                if slots.len() >= MOST_FOUND {
                    return ControlFlow::Break(());
                }
                let symbol = relocation.r_sym(LE, false) as usize;
                if let Some(name) = of_interest.get(&symbol) {
                    slots.insert(relocation.r_offset.get(LE), name.clone());
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(slots)
    }

    /// Goes through the first symbol table of a kind (a linker makes one): index, symbol, and all
    /// names of the table.
    fn each_symbol(
        &self,
        kind: elf::SectionType,
        mut visit: impl FnMut(usize, &Sym64<LE>, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), ElfError> {
        let Some(section) = self.sections.iter().find(|s| s.sh_type.get(LE) == kind) else {
            return Ok(());
        };
        let strings = self
            .sections
            .get(section.sh_link.get(LE) as usize)
            .ok_or(ElfError::Corrupt("a symbol table without names"))?;
        let names = self.read(strings.sh_offset.get(LE), strings.sh_size.get(LE))?;
        self.each_entry(section, |index, symbol| visit(index, symbol, &names))
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
            self.file.read_exact_at(&mut bytes, offset)?;
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

    fn read(&self, offset: u64, size: u64) -> Result<Vec<u8>, ElfError> {
        self.end_of(offset, size)?;
        if size > LARGEST_READ {
            return Err(ElfError::OverBudget);
        }
        self.charge(size)?;
        let mut bytes = vec![0; size as usize];
        self.file.read_exact_at(&mut bytes, offset)?;
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

fn is_defined_function(symbol: &Sym64<LE>) -> bool {
    // Not STT_GNU_IFUNC: such a symbol's address is that of a resolver.
    symbol.st_info.st_type() == elf::STT_FUNC
        && symbol.st_shndx.get(LE) != elf::SHN_UNDEF
        && symbol.st_value.get(LE) != 0
}

fn name_at(names: &[u8], offset: u32) -> Option<&str> {
    // No function of the catalogue has a longer name, even with the suffixes of a cold part.
    const LONGEST: usize = 64;
    let tail = names.get(offset as usize..)?;
    let tail = tail.get(..LONGEST).unwrap_or(tail);
    CStr::from_bytes_until_nul(tail).ok()?.to_str().ok()
}
