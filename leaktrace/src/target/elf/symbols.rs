//! What the symbol and relocation tables of an ELF file say: functions and variables by name, and
//! the slots through which it calls functions of others.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::ops::ControlFlow;

use object::LittleEndian as LE;
use object::elf::{self, Rela64, Sym64};

use super::{Elf, ElfError};

/// The most relocation tables that are gone through; linkers make two.
const MOST_RELOCATION_TABLES: usize = 16;
/// The most functions, symbols and slots that are found in a file; the catalogue has some 200.
const MOST_FOUND: usize = 1024;
/// No function of the catalogue has a longer name, even with the suffixes of a cold part; bytes.
pub const LONGEST_KNOWN: usize = 63;
/// The most functions whose places are noted.
const MOST_RANGES: usize = 1 << 20;

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

impl Elf<'_> {
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

    /// The functions defined here whose name is `wanted`: from the dynamic symbols, and from
    /// `.symtab` for names that are not among those. The first 1024 of them, should there be more,
    /// and none whose name is longer than 63 bytes.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when a symbol table cannot be read.
    pub fn functions(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Function>, ElfError> {
        self.functions_called(LONGEST_KNOWN, wanted)
    }

    /// The same for names of up to `longest` bytes.
    ///
    /// # Errors
    ///
    /// As [`Elf::functions`].
    pub fn functions_called(
        &self,
        longest: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Function>, ElfError> {
        let mut found: Vec<Function> = Vec::new();
        for kind in [elf::SHT_DYNSYM, elf::SHT_SYMTAB] {
            let known: HashSet<String> = found.iter().map(|f| f.name.clone()).collect();
            self.each_symbol(kind, |_, symbol, names| {
                if found.len() >= MOST_FOUND {
                    return ControlFlow::Break(());
                }
                if is_defined_function(symbol)
                    && let Some(name) = name_within(names, symbol.st_name.get(LE), longest)
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

    /// Address and size of all functions defined here, whatever their names; the first million.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when a symbol table cannot be read.
    pub fn function_ranges(&self) -> Result<Vec<(u64, u64)>, ElfError> {
        let mut found = Vec::new();
        for kind in [elf::SHT_DYNSYM, elf::SHT_SYMTAB] {
            self.each_symbol(kind, |_, symbol, _| {
                if found.len() >= MOST_RANGES {
                    return ControlFlow::Break(());
                }
                if is_defined_function(symbol) {
                    found.push((symbol.st_value.get(LE), symbol.st_size.get(LE)));
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

    /// The function defined here whose address the dynamic loader puts into a slot, unless another
    /// file has one of that name: address and size.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when a table cannot be read.
    pub fn function_in_slot(&self, slot: u64) -> Result<Option<(u64, u64)>, ElfError> {
        let mut wanted = None;
        let tables = self.sections.iter().filter(|s| s.sh_type.get(LE) == elf::SHT_RELA);
        for section in tables.take(MOST_RELOCATION_TABLES) {
            self.each_entry::<Rela64<LE>>(section, |_, relocation| {
                if relocation.r_offset.get(LE) != slot {
                    return ControlFlow::Continue(());
                }
                wanted = Some(relocation.r_sym(LE, false) as usize).filter(|&index| index != 0);
                ControlFlow::Break(())
            })?;
        }
        let Some(wanted) = wanted else { return Ok(None) };
        let mut found = None;
        self.each_symbol(elf::SHT_DYNSYM, |index, symbol, _| {
            if index < wanted {
                return ControlFlow::Continue(());
            }
            if is_defined_function(symbol) {
                found = Some((symbol.st_value.get(LE), symbol.st_size.get(LE)));
            }
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Whether it has a full symbol table, not only the dynamic one.
    pub fn has_symbol_table(&self) -> bool {
        self.sections.iter().any(|s| s.sh_type.get(LE) == elf::SHT_SYMTAB)
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
}

fn is_defined_function(symbol: &Sym64<LE>) -> bool {
    // Not STT_GNU_IFUNC: such a symbol's address is that of a resolver.
    symbol.st_info.st_type() == elf::STT_FUNC
        && symbol.st_shndx.get(LE) != elf::SHN_UNDEF
        && symbol.st_value.get(LE) != 0
}

fn name_at(names: &[u8], offset: u32) -> Option<&str> {
    name_within(names, offset, LONGEST_KNOWN)
}

fn name_within(names: &[u8], offset: u32, longest: usize) -> Option<&str> {
    let tail = names.get(offset as usize..)?;
    let tail = tail.get(..=longest).unwrap_or(tail);
    CStr::from_bytes_until_nul(tail).ok()?.to_str().ok()
}
