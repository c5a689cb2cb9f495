//! The worker's side: reads the target's files, which may be made to harm their reader, in a
//! process of its own. It can hang, grow or crash: [`super::client`] survives all of that.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;

use anyhow::Context;
use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolizer};

use super::debug_file::{self, DEBUG_DIR};
use super::demangle::demangled;
use super::elf_facts::ElfFacts;
use super::memory;
use super::perf_map::{self, PerfMapFile};
use super::protocol::{Answer, Request, Symbol};
use super::regular_file::own_path;
use crate::model::printable;

/// When the worker has grown beyond this it forgets the files it has read.
const MOST_REMEMBERED_BYTES: u64 = 512 << 20;
/// Deeper inlining is cut: the innermost functions and the real one stay.
const MOST_INLINED: usize = 128;

/// Answers the requests on standard input, one JSON value a line, on standard output, until the
/// other end is closed: then it ends the process at once, even in the middle of an answer.
///
/// # Errors
///
/// If standard input is no sequence of requests, or an answer cannot be written.
pub fn worker_main() -> anyhow::Result<()> {
    // Should memory run out the kernel had better take this process than leaktrace or the target.
    // It is no matter if it cannot be told so.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let last = line.is_err();
            if sender.send(line).is_err() || last {
                return;
            }
        }
        // leaktrace is gone, and nobody would end a worker that hangs in a hostile file.
        std::process::exit(0);
    });
    let mut engine = Engine::default();
    let mut output = io::stdout().lock();
    for line in requests {
        let request = line.context("cannot read a request from standard input")?;
        let request = serde_json::from_str(&request).context(
            "standard input is not a request: `__symbolize` is started by leaktrace only",
        )?;
        let answer = engine.answer(&request);
        serde_json::to_writer(&mut output, &answer).context("cannot write an answer")?;
        output.write_all(b"\n").context("cannot write an answer")?;
        output.flush().context("cannot write an answer")?;
    }
    Ok(())
}

/// What the worker knows from one request to the next.
#[derive(Debug, Default)]
pub(super) struct Engine {
    modules: HashMap<Identity, Module>,
    perf_maps: HashMap<String, PerfMapFile>,
}

/// A file by device, inode, size and time of its last change.
type Identity = (u64, u64, u64, (i64, i64));

#[derive(Debug)]
struct Module {
    facts: ElfFacts,
    symbolizer: Symbolizer,
    /// Where to look for names, best first.
    sources: Vec<NameSource>,
    has_names: bool,
    /// What is wrong with it.
    notes: Vec<String>,
}

#[derive(Debug)]
struct NameSource {
    /// Held open: blazesym opens it by its number.
    file: File,
    /// Whether DWARF is read or the symbol tables only.
    dwarf: bool,
}

impl Engine {
    /// Answers a request.
    pub(super) fn answer(&mut self, request: &Request) -> Answer {
        let answered = match request {
            Request::Module { open, path, root, offsets, dwarf } => {
                let module = self.module(open, path, Path::new(root));
                module.map(|module| module.answer(offsets, *dwarf))
            }
            Request::PerfMap { path, uid, addresses } => {
                self.perf_map_answer(path, *uid, addresses)
            }
        };
        answered.unwrap_or_else(|error| Answer {
            error: Some(error),
            symbols: vec![Vec::new(); request.places()],
            ..Answer::default()
        })
    }

    /// The module, read if it was not before.
    fn module(&mut self, open: &str, path: &str, root: &Path) -> Result<&Module, String> {
        let file = File::open(open).map_err(|e| format!("cannot open it: {e}"))?;
        let found = file.metadata().map_err(|e| e.to_string())?;
        let identity = (found.dev(), found.ino(), found.len(), (found.mtime(), found.mtime_nsec()));
        if !self.modules.contains_key(&identity) {
            let used = memory::own_bytes(std::process::id()).unwrap_or(0);
            if used > MOST_REMEMBERED_BYTES {
                self.modules.clear();
                self.perf_maps.clear();
            }
            let module = Module::open(file, path, root)?;
            self.modules.insert(identity, module);
        }
        self.modules.get(&identity).ok_or_else(|| "it was forgotten".to_owned())
    }

    fn perf_map_answer(
        &mut self,
        path: &str,
        uid: u32,
        addresses: &[u64],
    ) -> Result<Answer, String> {
        match perf_map::read(Path::new(path), uid, self.perf_maps.get(path)) {
            Ok(Some(read)) => {
                self.perf_maps.insert(path.to_owned(), read);
            }
            Ok(None) => {}
            // The target may be gone: what it said before still holds.
            Err(_) if self.perf_maps.contains_key(path) => {}
            Err(error) => return Err(error.to_string()),
        }
        let map = self.perf_maps.get(path).map(|file| &file.map);
        let symbol = |name| Symbol { function: printable(name), ..Symbol::default() };
        let name = |&address: &u64| map?.name_at(address);
        let symbols = addresses.iter().map(|a| name(a).map(symbol).into_iter().collect());
        Ok(Answer { symbols: symbols.collect(), ..Answer::default() })
    }
}

impl Module {
    fn open(file: File, path: &str, root: &Path) -> Result<Self, String> {
        if file.metadata().is_ok_and(|found| found.len() > super::regular_file::LARGEST_FILE) {
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
                sources.push(NameSource { file: found.file, dwarf: found.dwarf });
                has_names = true;
            } else if facts.has_debug_info {
                notes
                    .push("its debug information refers to another file, so it is not read".into());
            }
        }
        sources.push(NameSource { file, dwarf: own_dwarf });
        let symbolizer = Symbolizer::builder()
            .enable_auto_reload(false)
            // It takes a C function's whole name `f` for the code of `float`.
            .enable_demangling(false)
            .set_debug_dirs(Some([DEBUG_DIR]))
            .build();
        Ok(Self { facts, symbolizer, sources, has_names, notes })
    }

    fn answer(&self, offsets: &[u64], with_dwarf: bool) -> Answer {
        let mut symbols = vec![Vec::new(); offsets.len()];
        let mut error = None;
        for source in &self.sources {
            // Damaged DWARF takes the symbol tables with it, so they are also read alone.
            let ways: &[bool] = if source.dwarf && with_dwarf { &[true, false] } else { &[false] };
            for &dwarf in ways {
                if let Err(e) = self.look_up(source, dwarf, offsets, &mut symbols) {
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
        source: &NameSource,
        dwarf: bool,
        offsets: &[u64],
        symbols: &mut [Vec<Symbol>],
    ) -> Result<(), String> {
        let mut open = Vec::new();
        let mut addresses = Vec::new();
        for (symbol, &offset) in symbols.iter_mut().zip(offsets).filter(|(s, _)| s.is_empty()) {
            if let Some(address) = self.facts.address_of(offset) {
                open.push(symbol);
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Ok(());
        }
        let mut elf = Elf::new(own_path(&source.file));
        elf.debug_syms = dwarf;
        let found = self
            .symbolizer
            .symbolize(&Source::Elf(elf), Input::VirtOffset(&addresses))
            .map_err(|e| format!("{e:#}"))?;
        let full_names = if dwarf { self.symbol_names(source, &addresses) } else { Vec::new() };
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

    /// The names that the symbol table has for addresses.
    fn symbol_names(&self, source: &NameSource, addresses: &[u64]) -> Vec<Option<String>> {
        let mut elf = Elf::new(own_path(&source.file));
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
