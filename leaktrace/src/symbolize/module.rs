//! The names in one file of a target: which sources of them there are, and which wins.
//!
//! Best is debug information, the file's own or in a separate file; then a full symbol table; then
//! what a stripped file has left: mini debug information and the functions it exports. Runs in the
//! worker only.

use std::fs::File;
use std::path::Path;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolizer};

use super::debug_file;
use super::elf_facts::ElfFacts;
use super::mini_debug_info;
use super::protocol::{Answer, Symbol};
use super::symbol_table::SymbolTable;
use crate::model::printable;
use crate::target::debug_places::DEBUG_DIR;
use crate::target::demangle::demangled;
use crate::target::regular_file::{self, own_path};

/// Deeper inlining is cut: the innermost functions and the real one stay.
const MOST_INLINED: usize = 128;

/// A file of a target, and where its names are.
#[derive(Debug)]
pub(super) struct Module {
    facts: ElfFacts,
    symbolizer: Symbolizer,
    /// Where to look for names, best first.
    sources: Vec<NameSource>,
    has_names: bool,
    /// What is wrong with it.
    notes: Vec<String>,
}

#[derive(Debug)]
enum NameSource {
    /// An ELF file, for blazesym.
    File {
        /// Held open: blazesym opens it by its number.
        file: File,
        /// Whether DWARF is read or the symbol tables only.
        dwarf: bool,
    },
    /// Functions that were read already.
    Table(SymbolTable),
}

impl Module {
    /// The file that the target sees at `path`; its root directory is `root`.
    ///
    /// # Errors
    ///
    /// A sentence, if it is no file that can have names.
    pub(super) fn open(file: File, path: &str, root: &Path) -> Result<Self, String> {
        if file.metadata().is_ok_and(|found| found.len() > regular_file::LARGEST_FILE) {
            return Err("it is larger than 4 GiB".to_owned());
        }
        let facts = ElfFacts::read(&file)?;
        let alone = debug_file::stands_alone(&facts);
        let own_dwarf = facts.has_debug_info && alone;
        let mut notes = Vec::new();
        let mut sources = Vec::new();
        let mut has_names = facts.has_symbols || own_dwarf;
        if !own_dwarf {
            if let Some(found) = debug_file::find(&facts, path, root) {
                sources.push(NameSource::File { file: found.file, dwarf: found.dwarf });
                has_names = true;
            } else if facts.has_debug_info {
                notes
                    .push("its debug information refers to another file, so it is not read".into());
            }
        }
        let mini = mini_debug_info::functions(&file, &facts);
        // blazesym reads no symbol table at all of a file whose mini debug information it would
        // have to unpack.
        if own_dwarf || mini.is_none() {
            sources.push(NameSource::File { file, dwarf: own_dwarf });
        }
        if let Some((table, more_notes)) = mini {
            has_names |= !table.is_empty();
            notes.extend(more_notes);
            sources.push(NameSource::Table(table));
        }
        let symbolizer = Symbolizer::builder()
            .enable_auto_reload(false)
            // It takes a C function's whole name `f` for the code of `float`.
            .enable_demangling(false)
            .set_debug_dirs(Some([DEBUG_DIR]))
            .build();
        Ok(Self { facts, symbolizer, sources, has_names, notes })
    }

    /// The functions at offsets in the file.
    pub(super) fn answer(&self, offsets: &[u64], with_dwarf: bool) -> Answer {
        let mut symbols = vec![Vec::new(); offsets.len()];
        let mut error = None;
        for source in &self.sources {
            let (file, dwarf) = match source {
                NameSource::File { file, dwarf } => (file, *dwarf),
                NameSource::Table(table) => {
                    self.look_up_in_table(table, offsets, &mut symbols);
                    continue;
                }
            };
            // Damaged DWARF takes the symbol tables with it, so they are also read alone.
            let ways: &[bool] = if dwarf && with_dwarf { &[true, false] } else { &[false] };
            for &dwarf in ways {
                if let Err(e) = self.look_up(file, dwarf, offsets, &mut symbols) {
                    error.get_or_insert(e);
                }
            }
        }
        let mut notes = self.notes.clone();
        if symbols.iter().any(Vec::is_empty) && !self.has_names {
            notes.push("it is stripped, and no separate debug file was found".to_owned());
        }
        if symbols.iter().any(|found| !found.is_empty())
            && let Some(error) = error.take()
        {
            notes.push(error);
        }
        Answer { error, notes, build_id: self.facts.build_id_hex(), symbols }
    }

    /// Fills in what is still without a name.
    fn look_up(
        &self,
        file: &File,
        dwarf: bool,
        offsets: &[u64],
        symbols: &mut [Vec<Symbol>],
    ) -> Result<(), String> {
        let (open, addresses): (Vec<_>, Vec<u64>) = self.unnamed(offsets, symbols).unzip();
        if addresses.is_empty() {
            return Ok(());
        }
        let mut elf = Elf::new(own_path(file));
        elf.debug_syms = dwarf;
        let found = self
            .symbolizer
            .symbolize(&Source::Elf(elf), Input::VirtOffset(&addresses))
            .map_err(|e| format!("{e:#}"))?;
        let full_names = if dwarf { self.symbol_names(file, &addresses) } else { Vec::new() };
        let mut full_names = full_names.into_iter();
        for (symbol, found) in open.into_iter().zip(found) {
            let full_name = full_names.next().flatten();
            if let Some(found) = found.into_sym().filter(|sym| !sym.name.is_empty()) {
                *symbol = functions_at(&found);
                if let (Some(outermost), Some(full_name)) = (symbol.last_mut(), full_name)
                    && says_more(&full_name, &outermost.function)
                {
                    outermost.function = full_name;
                }
            }
        }
        Ok(())
    }

    /// The places without a name and their addresses.
    fn unnamed<'a>(
        &'a self,
        offsets: &'a [u64],
        symbols: &'a mut [Vec<Symbol>],
    ) -> impl Iterator<Item = (&'a mut Vec<Symbol>, u64)> {
        let unnamed = symbols.iter_mut().zip(offsets).filter(|(symbol, _)| symbol.is_empty());
        unnamed.filter_map(|(symbol, &offset)| Some((symbol, self.facts.address_of(offset)?)))
    }

    fn look_up_in_table(&self, table: &SymbolTable, offsets: &[u64], symbols: &mut [Vec<Symbol>]) {
        for (found, address) in self.unnamed(offsets, symbols) {
            found.extend(table.name_at(address).map(|name| symbol(&name, None)));
        }
    }

    /// The names that the symbol table has for addresses.
    fn symbol_names(&self, file: &File, addresses: &[u64]) -> Vec<Option<String>> {
        let mut elf = Elf::new(own_path(file));
        elf.debug_syms = false;
        let found = self.symbolizer.symbolize(&Source::Elf(elf), Input::VirtOffset(addresses));
        let named = found.unwrap_or_default().into_iter();
        named.map(|found| Some(printable(&demangled(&found.into_sym()?.name)))).collect()
    }
}

/// Whether a symbol's name is that of the same function with its path: reduced DWARF (Rust's
/// `debug = "line-tables-only"`) has only the last part.
fn says_more(symbol: &str, dwarf: &str) -> bool {
    let last = |name: &str| {
        let end = name.find(['<', '(']).unwrap_or(name.len());
        name.get(..end).unwrap_or(name).to_owned()
    };
    let bare = last(dwarf);
    !bare.is_empty() && !bare.contains("::") && symbol.contains(&format!("::{bare}"))
}

/// The functions at an address, innermost first.
fn functions_at(found: &Sym<'_>) -> Vec<Symbol> {
    let inlined = found.inlined.iter().rev().take(MOST_INLINED);
    let mut functions: Vec<Symbol> =
        inlined.map(|f| symbol(&f.name, f.code_info.as_ref())).collect();
    functions.push(symbol(&found.name, found.code_info.as_deref()));
    functions
}

fn symbol(name: &str, code: Option<&CodeInfo<'_>>) -> Symbol {
    Symbol {
        function: printable(&demangled(name)),
        file: code.map(|c| printable(&c.to_path().to_string_lossy())),
        line: code.and_then(|c| c.line).filter(|&line| line != 0),
        column: code.and_then(|c| c.column).filter(|&column| column != 0).map(u32::from),
    }
}
