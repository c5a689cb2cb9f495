//! What is read of an ELF file to plan probes: segments, functions by name, and the slots through
//! which it calls functions of others.
//!
//! The file is hostile input. Nothing is mapped (a file that shrinks under a mapping kills the
//! reader), every read is bounded by the file's size and by a limit, and nothing is trusted to
//! point into the file.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64, Rela64, SectionHeader64, Sym64};
use object::pod::{Pod, from_bytes, slice_from_bytes};
use thiserror::Error;

/// The most bytes of one table that are read: over ten times libLLVM's symbols.
const LARGEST_TABLE: u64 = 512 << 20;
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
        let file_size = file.metadata()?.len();
        let mut this = Self {
            file,
            file_size,
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
                elf::PT_INTERP => {
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
        let dynamic = self.sections.iter().find(|s| s.sh_type.get(LE) == elf::SHT_DYNSYM);
        let Some(section) = dynamic else { return Ok(None) };
        let (symbols, names) = self.symbols(section)?;
        Ok(symbols
            .iter()
            .filter(|s| s.st_info.st_type() == elf::STT_OBJECT)
            .find(|s| name_at(&names, s.st_name.get(LE)) == Some(name))
            .map(|s| s.st_value.get(LE)))
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
        self.read(offset, size.min(segment.size - within))
    }

    /// The functions defined here whose name is `wanted`: from the dynamic symbols, and from
    /// `.symtab` for names that are not among those.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when a symbol table cannot be read.
    pub fn functions(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Function>, ElfError> {
        let mut found: Vec<Function> = Vec::new();
        for kind in [elf::SHT_DYNSYM, elf::SHT_SYMTAB] {
            let known: HashSet<String> = found.iter().map(|f| f.name.clone()).collect();
            for section in self.sections.iter().filter(|s| s.sh_type.get(LE) == kind) {
                let (symbols, names) = self.symbols(section)?;
                for symbol in symbols.iter().filter(|s| is_defined_function(s)) {
                    let Some(name) = name_at(&names, symbol.st_name.get(LE)) else { continue };
                    if wanted(name) && !known.contains(name) {
                        found.push(Function {
                            name: name.to_owned(),
                            address: symbol.st_value.get(LE),
                            size: symbol.st_size.get(LE),
                        });
                    }
                }
            }
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
        let mut slots = HashMap::new();
        let Some(section) = self.sections.iter().find(|s| s.sh_type.get(LE) == elf::SHT_DYNSYM)
        else {
            return Ok(slots);
        };
        let (symbols, names) = self.symbols(section)?;
        let of_interest: HashMap<usize, &str> = symbols
            .iter()
            .enumerate()
            .filter_map(|(i, s)| Some((i, name_at(&names, s.st_name.get(LE))?)))
            .filter(|(_, name)| wanted(name))
            .collect();
        for section in self.sections.iter().filter(|s| s.sh_type.get(LE) == elf::SHT_RELA) {
            let bytes = self.read(section.sh_offset.get(LE), section.sh_size.get(LE))?;
            for relocation in entries::<Rela64<LE>>(&bytes) {
                let symbol = relocation.r_sym(LE, false) as usize;
                if let Some(name) = of_interest.get(&symbol) {
                    slots.insert(relocation.r_offset.get(LE), (*name).to_owned());
                }
            }
        }
        Ok(slots)
    }

    fn symbols(
        &self,
        section: &SectionHeader64<LE>,
    ) -> Result<(Vec<Sym64<LE>>, Vec<u8>), ElfError> {
        let strings = self
            .sections
            .get(section.sh_link.get(LE) as usize)
            .ok_or(ElfError::Corrupt("a symbol table without names"))?;
        let symbols = self.read(section.sh_offset.get(LE), section.sh_size.get(LE))?;
        let names = self.read(strings.sh_offset.get(LE), strings.sh_size.get(LE))?;
        Ok((entries::<Sym64<LE>>(&symbols).to_vec(), names))
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
        let end = offset.checked_add(size);
        if size > LARGEST_TABLE || end.is_none_or(|end| end > self.file_size) {
            return Err(ElfError::Corrupt("a table lies outside of the file"));
        }
        let mut bytes = vec![0; size as usize];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
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
    // No function of the catalogue has a longer name.
    const LONGEST: usize = 256;
    let tail = names.get(offset as usize..)?;
    let tail = tail.get(..LONGEST).unwrap_or(tail);
    let end = tail.iter().position(|&b| b == 0)?;
    std::str::from_utf8(tail.get(..end)?).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// Reads all there is to read; must return, whatever the bytes.
    fn read_all(bytes: &[u8]) -> usize {
        let file = file_of(bytes);
        let Ok(elf) = Elf::open(&file) else { return 0 };
        let functions = elf.functions(|_| true).unwrap_or_default();
        for function in functions.iter().take(100) {
            let _ = elf.code(function.address, function.size.min(4096));
            let _ = elf.file_offset(function.address);
        }
        let _ = elf.slots(|_| true);
        functions.len()
    }

    fn own_binary() -> Vec<u8> {
        // The headers and tables are what matters; a small program has them all.
        std::fs::read("/bin/true").unwrap()
    }

    #[test]
    fn the_c_library_defines_malloc_in_its_code() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps
            .lines()
            .find_map(|l| l.find("/").map(|i| &l[i..]).filter(|p| p.contains("/libc.so")))
            .unwrap();
        let file = File::open(libc).unwrap();
        let elf = Elf::open(&file).unwrap();
        let functions = elf.functions(|name| name == "malloc" || name == "free").unwrap();
        assert_eq!(functions.len(), 2, "{functions:?}");
        for function in functions {
            assert!(elf.file_offset(function.address).is_some());
            assert_eq!(elf.code(function.address, 16).unwrap().len(), 16);
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_read_or_refused() {
        let whole = own_binary();
        for cut in (0..whole.len()).step_by(97) {
            read_all(&whole[..cut]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn flipped_bytes_are_read_or_refused(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
            in_headers in any::<bool>(),
        ) {
            let mut bytes = own_binary();
            let reach = if in_headers { 64 + 56 * 12 } else { bytes.len() };
            for (index, value) in flips {
                let at = index.index(reach);
                bytes[at] = value;
            }
            read_all(&bytes);
        }
    }
}
