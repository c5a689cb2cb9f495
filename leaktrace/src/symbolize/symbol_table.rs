//! The functions in symbol tables of one program, taken together from several ELF files.
//!
//! Hostile input: read in the worker only. Tables above a size are refused, and names are looked at
//! only when one is asked for: thousands of symbols can share one long name.

use std::borrow::Cow;
use std::cmp::Reverse;

use object::elf::{
    FileHeader64, SHN_UNDEF, SHT_DYNSYM, SHT_SYMTAB, STB_GLOBAL, STB_WEAK, STT_FUNC, STT_GNU_IFUNC,
    Sym64,
};
use object::read::elf::{FileHeader, SectionHeader, Sym};
use object::{Endianness, ReadRef, SectionIndex};

type Header = FileHeader64<Endianness>;

/// A symbol table or its names may have so many bytes: libxul's have 30 MiB.
const MOST_BYTES: u64 = 64 << 20;
/// Functions that begin in others are looked through this deep.
const MOST_NESTED: usize = 64;

/// Which of a file's two symbol tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// `.symtab`, with all functions.
    Full,
    /// `.dynsym`, with those that other files may call.
    Dynamic,
}

/// Functions by address.
#[derive(Debug, Default)]
pub(super) struct SymbolTable {
    /// By start; where several cover an address, the last one names it.
    functions: Vec<Function>,
    /// The string tables.
    names: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Function {
    start: u64,
    end: u64,
    /// Which of the string tables its name is in, and where.
    names: usize,
    name: u32,
    /// Whether it reaches to the next one: assembly often does not say its size.
    is_open: bool,
    /// Of several names for one function the most public one is preferred.
    publicity: u8,
}

impl SymbolTable {
    /// Adds the functions of a table of an ELF file, if the file has that table.
    ///
    /// # Errors
    ///
    /// A sentence, if it is no ELF file, or its table is damaged or too large.
    pub(super) fn add<'d, R: ReadRef<'d>>(&mut self, data: R, table: Table) -> Result<(), String> {
        let damaged = |e: object::read::Error| format!("its symbol table is damaged ({e})");
        let header = Header::parse(data).map_err(|e| format!("it is no 64-bit ELF file ({e})"))?;
        let endian = header.endian().map_err(damaged)?;
        let sections = header.sections(endian, data).map_err(damaged)?;
        let kind = match table {
            Table::Full => SHT_SYMTAB,
            Table::Dynamic => SHT_DYNSYM,
        };
        let Some(section) = sections.iter().find(|section| section.sh_type(endian) == kind) else {
            return Ok(());
        };
        let link = SectionIndex(section.sh_link(endian) as usize);
        let strings = sections.section(link).map_err(damaged)?;
        if section.sh_size(endian).max(strings.sh_size(endian)) > MOST_BYTES {
            return Err(format!("its symbol table is larger than {} MiB", MOST_BYTES >> 20));
        }
        let symbols: &[Sym64<Endianness>] = section.data_as_array(endian, data).map_err(damaged)?;
        let names = strings.data(endian, data).map_err(damaged)?.to_vec();
        let at = self.names.len();
        self.names.push(names);
        self.functions.extend(symbols.iter().filter_map(|s| function(s, endian, table, at)));
        self.put_in_order();
        Ok(())
    }

    /// Whether it has no function.
    pub(super) fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// The name, as it is in the table, of the function that covers an address.
    pub(super) fn name_at(&self, address: u64) -> Option<Cow<'_, str>> {
        let behind = self.functions.partition_point(|function| function.start <= address);
        let before = self.functions.get(..behind)?.iter().rev();
        let function = before.take(MOST_NESTED).find(|function| address < function.end)?;
        let names = self.names.get(function.names)?.get(function.name as usize..)?;
        let length = names.iter().position(|&byte| byte == 0)?;
        let name = names.get(..length).filter(|name| !name.is_empty())?;
        Some(String::from_utf8_lossy(name))
    }

    fn put_in_order(&mut self) {
        self.functions.sort_by_key(|f| (f.start, Reverse(f.end), f.publicity));
        let mut next_start = None;
        let mut this_start = None;
        for function in self.functions.iter_mut().rev() {
            if this_start != Some(function.start) {
                (next_start, this_start) = (this_start, Some(function.start));
            }
            if function.is_open {
                function.end = next_start.unwrap_or(function.start);
            }
        }
    }
}

fn function(
    symbol: &Sym64<Endianness>,
    endian: Endianness,
    table: Table,
    names: usize,
) -> Option<Function> {
    let is_function = matches!(symbol.st_type(), STT_FUNC | STT_GNU_IFUNC);
    if !is_function || symbol.st_shndx(endian) == SHN_UNDEF {
        return None;
    }
    let (start, size) = (symbol.st_value(endian), symbol.st_size(endian));
    // The dynamic table has few functions: one without a size would reach over many others.
    let is_open = size == 0 && table == Table::Full;
    let end = start.checked_add(size)?;
    let publicity = match symbol.st_bind() {
        STB_GLOBAL => 2,
        STB_WEAK => 1,
        _ => 0,
    };
    Some(Function { start, end, names, name: symbol.st_name(endian), is_open, publicity })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start, end; those without an end are open.
    fn table(functions: &[(u64, Option<u64>, &str, u8)]) -> SymbolTable {
        let mut table = SymbolTable { functions: Vec::new(), names: vec![vec![0]] };
        for &(start, end, name, publicity) in functions {
            let at = u32::try_from(table.names[0].len()).unwrap();
            table.names[0].extend_from_slice(name.as_bytes());
            table.names[0].push(0);
            let (is_open, end) = (end.is_none(), end.unwrap_or(start));
            table.functions.push(Function { start, end, names: 0, name: at, is_open, publicity });
        }
        table.put_in_order();
        table
    }

    #[test]
    fn the_innermost_and_most_public_function_is_named() {
        let check = |functions: &[_], expected: &[(u64, Option<&str>)]| {
            let table = table(functions);
            for &(address, name) in expected {
                assert_eq!(table.name_at(address).as_deref(), name, "{address:#x}");
            }
        };
        check(&[], &[(0, None), (u64::MAX, None)]);
        check(
            &[(0x10, Some(0x40), "outer", 0), (0x20, Some(0x30), "inner", 0)],
            &[
                (0xf, None),
                (0x10, Some("outer")),
                (0x20, Some("inner")),
                (0x2f, Some("inner")),
                (0x30, Some("outer")),
                (0x40, None),
            ],
        );
        check(
            &[(0x10, Some(0x20), "pub", 2), (0x10, Some(0x20), "priv", 0), (1, Some(2), "", 0)],
            &[(0x11, Some("pub")), (1, None)],
        );
        check(
            &[(0x10, None, "open", 0), (0x10, None, "alias", 2), (0x20, Some(0x21), "next", 0)],
            &[(0x1f, Some("alias")), (0x20, Some("next")), (0x21, None)],
        );
        check(&[(0x10, None, "last", 0)], &[(0x10, None), (0x11, None)]);
    }

    #[test]
    fn the_functions_of_this_very_program() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        let mut table = SymbolTable::default();
        table.add(program.as_slice(), Table::Full).unwrap();
        let name = "the_functions_of_this_very_program";
        let here = table.functions.iter().find(|function| {
            let name_of = table.name_at(function.start);
            function.end > function.start && name_of.is_some_and(|found| found.contains(name))
        });
        assert!(here.is_some());
        assert!(SymbolTable::default().add(&program[..200], Table::Full).is_err());
        assert!(SymbolTable::default().add(&b"\x7fELF"[..], Table::Dynamic).is_err());
    }
}
