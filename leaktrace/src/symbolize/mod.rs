//! Addresses of a target to names: function, source line, inlined functions.
//!
//! The target's files are hostile input to a process that runs as root, so they are not read here
//! but in a worker process (this program started again, see [`worker_main`]), one request for each
//! file, so that a file that makes the worker hang, grow or crash costs its own names and nothing
//! else. What comes back is printable (see [`crate::model::printable()`]) and remembered: a place in
//! a file is asked about once. Never touches the target, never fails: what could not be named is
//! said in [`Symbolizer::warnings`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

mod asker;
mod client;
mod culprit;
mod debug_file;
mod elf_facts;
#[doc(hidden)]
pub mod fuzzing;
mod generated_code;
mod memory;
mod mini_debug_info;
mod module;
pub mod perf_map;
mod perf_map_file;
mod protocol;
mod symbol_table;
#[cfg(test)]
mod tests;
mod worker;

pub use client::Options;
pub use culprit::culprit;
pub use worker::worker_main;

use asker::{Asker, Skipped};
use generated_code::{PerfMapPlaces, is_memory_file, may_be_generated};
use protocol::{Answer, Request, Symbol};

use crate::model::{CodeAddr, Frame, Pid, printable};
use crate::target::maps::FileId;
use crate::target::{Image, Located, ObjectFile};

/// So many places are asked about at once.
const MOST_PLACES: usize = 4096;

/// Names addresses, and remembers the names.
#[derive(Debug)]
pub struct Symbolizer {
    asker: Asker,
    modules: HashMap<FileId, Module>,
    perf_maps: PerfMapPlaces,
}

/// A mapped file and the names that are known in it.
#[derive(Debug)]
struct Module {
    /// Held open, so that its device and inode stay its own.
    file: Arc<ObjectFile>,
    build_id: Option<String>,
    reading: Reading,
    /// By offset in the file; empty where there is no name.
    symbols: HashMap<u64, Arc<[Symbol]>>,
}

/// How much of a file is read. Each time it makes the worker fail it is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// DWARF and symbol tables.
    Everything,
    /// Symbol tables.
    SymbolsOnly,
    /// Nothing.
    Nothing,
}

impl Symbolizer {
    /// One that has nothing read yet; the worker is started when there is something to read.
    pub fn new(options: Options) -> Self {
        Self::with_asker(Asker::new(options))
    }

    fn with_asker(asker: Asker) -> Self {
        Self { asker, modules: HashMap::new(), perf_maps: PerfMapPlaces::default() }
    }

    /// Takes note of a target while it lives: where its perf map is. A target that has ended before
    /// it is first noted or named has no names for its generated code.
    pub fn note(&mut self, pid: Pid) {
        self.perf_maps.of(pid);
    }

    /// The frames at code addresses of a target, for each address the innermost inlined function
    /// first and the real function last. There is always at least one; without a name if none is
    /// known. Blocks for [`Options::call_time`] at most.
    pub fn symbolize(&mut self, image: &Image, addresses: &[CodeAddr]) -> Vec<Vec<Frame>> {
        let until = Instant::now() + self.asker.call_time;
        let places: Vec<Option<Located<'_>>> =
            addresses.iter().map(|address| image.locate(address.instruction())).collect();
        let generated = self.name_generated(image, addresses, &places, until);
        self.name_modules(addresses, &places, &generated, until);
        let frames = addresses.iter().zip(&places).map(|(&address, place)| {
            match (place, generated.get(&address)) {
                (_, Some(name)) => vec![generated_frame(address, name)],
                (Some(located), None) => self.frames_in(address, located),
                (None, None) => vec![Frame { ip: address.ip(), ..Frame::default() }],
            }
        });
        frames.collect()
    }

    /// What could not be named and why, one sentence each; each only once, those of earlier calls
    /// left out.
    pub fn warnings(&mut self) -> Vec<String> {
        self.asker.take_warnings()
    }

    /// The process that reads files, if there is one.
    pub fn worker(&self) -> Option<Pid> {
        self.asker.worker_pid().and_then(Pid::new)
    }

    /// Asks for the names of generated code: each time, because it changes.
    fn name_generated(
        &mut self,
        image: &Image,
        addresses: &[CodeAddr],
        places: &[Option<Located<'_>>],
        until: Instant,
    ) -> HashMap<CodeAddr, String> {
        // What lies nowhere may lie in a mapping that came after the last look at a process that is
        // gone; or it is an address of a broken stack, of which nothing is said.
        let with_place = addresses.iter().zip(places);
        let possible = with_place.filter(|(_, p)| p.as_ref().is_none_or(may_be_generated));
        let possible: BTreeMap<CodeAddr, bool> = possible.map(|(&a, p)| (a, p.is_some())).collect();
        let is_certain = possible.values().any(|&is_certain| is_certain);
        let generated: Vec<CodeAddr> = possible.into_keys().collect();
        let mut names = HashMap::new();
        if generated.is_empty() {
            return names;
        }
        let Some(place) = self.perf_maps.of(image.pid) else {
            if is_certain {
                self.asker.warn(format!(
                    "process {} had ended before the names of its generated code were looked for",
                    image.pid
                ));
            }
            return names;
        };
        for part in generated.chunks(MOST_PLACES) {
            let request = Request::PerfMap {
                path: place.path.clone(),
                uid: place.uid,
                addresses: part.iter().map(|address| address.instruction().0).collect(),
            };
            let what = format!("names of generated code of process {}", image.pid);
            let Ok(answer) = self.asker.ask(&request, &what, "names", until) else { return names };
            if let Some(error) = answer.error.filter(|_| is_certain) {
                self.asker.warn(format!(
                    "{what} could not be read from its {}: {}; runtimes write that file on \
                     request, Node.js with --perf-basic-prof",
                    place.path_in_target,
                    printable(&error),
                ));
            }
            for note in answer.notes {
                let note = printable(&note);
                self.asker
                    .warn(format!("{}: {note}; some {what} are missing", place.path_in_target));
            }
            for (&address, symbols) in part.iter().zip(answer.symbols) {
                if let Some(symbol) = symbols.into_iter().next() {
                    names.insert(address, printable(&symbol.function));
                }
            }
        }
        names
    }

    /// Asks for the names that are not known yet, file by file.
    fn name_modules(
        &mut self,
        addresses: &[CodeAddr],
        places: &[Option<Located<'_>>],
        generated: &HashMap<CodeAddr, String>,
        until: Instant,
    ) {
        let mut wanted: BTreeMap<FileId, BTreeSet<u64>> = BTreeMap::new();
        for (address, located) in addresses.iter().zip(places) {
            let Some(located) = located else { continue };
            if generated.contains_key(address) || located.mapping.file.is_none() {
                continue;
            }
            let Some(file) = located.file else {
                if !is_memory_file(&located.mapping.path) {
                    let path = printable(&located.mapping.path);
                    self.asker
                        .warn(format!("{path} could not be opened; its frames have no names"));
                }
                continue;
            };
            let module = self.modules.entry(file.id).or_insert_with(|| Module {
                file: Arc::clone(file),
                build_id: None,
                reading: Reading::Everything,
                symbols: HashMap::new(),
            });
            if module.reading != Reading::Nothing
                && !module.symbols.contains_key(&located.file_offset)
            {
                wanted.entry(file.id).or_default().insert(located.file_offset);
            }
        }
        for (id, offsets) in wanted {
            let offsets: Vec<u64> = offsets.into_iter().collect();
            for part in offsets.chunks(MOST_PLACES) {
                self.name_in_module(id, part, until);
            }
        }
    }

    fn name_in_module(&mut self, id: FileId, offsets: &[u64], until: Instant) {
        while let Some(module) = self.modules.get_mut(&id) {
            let (dwarf, loss, less) = match module.reading {
                Reading::Everything => (true, "lines", Reading::SymbolsOnly),
                Reading::SymbolsOnly => (false, "names", Reading::Nothing),
                Reading::Nothing => return,
            };
            let path = module.file.path.clone();
            let request = Request::Module {
                open: module.file.proc_path().to_string_lossy().into_owned(),
                path: module.file.raw_path.clone(),
                root: module.file.root.to_string_lossy().into_owned(),
                offsets: offsets.to_vec(),
                dwarf,
            };
            let what = if dwarf { "debug information" } else { "symbols" };
            match self.asker.ask(&request, &format!("{what} of {path}"), loss, until) {
                Ok(answer) => return self.remember(id, &path, offsets, answer),
                Err(Skipped::Later) => return,
                Err(Skipped::Bad) => {
                    if let Some(module) = self.modules.get_mut(&id) {
                        module.reading = less;
                    }
                }
            }
        }
    }

    fn remember(&mut self, id: FileId, path: &str, offsets: &[u64], answer: Answer) {
        if let Some(error) = answer.error.filter(|_| !is_memory_file(path)) {
            let why = printable(&error);
            self.asker.warn(format!(
                "symbols of {path} could not be read: {why}; its frames have no names"
            ));
        }
        for note in answer.notes {
            let why = printable(&note);
            self.asker.warn(format!("{path}: {why}; frames in it may have no names or lines"));
        }
        if let Some(module) = self.modules.get_mut(&id) {
            module.build_id = answer.build_id.as_deref().map(printable);
            for (&offset, symbols) in offsets.iter().zip(answer.symbols) {
                module.symbols.insert(offset, symbols.into());
            }
        }
    }

    /// The frames at an address of a mapping whose names are known as far as they can be.
    fn frames_in(&self, address: CodeAddr, located: &Located<'_>) -> Vec<Frame> {
        let path = located.mapping.path.as_str();
        let mut frame = Frame { ip: address.ip(), ..Frame::default() };
        if path.is_empty() {
            frame.module = Some("[anonymous]".to_owned());
            return vec![frame];
        }
        frame.module = Some(printable(path));
        let behind = address.ip().0.wrapping_sub(address.instruction().0);
        frame.module_offset = located.file_offset.checked_add(behind);
        let Some(module) = located.file.and_then(|file| self.modules.get(&file.id)) else {
            return vec![frame];
        };
        frame.build_id.clone_from(&module.build_id);
        match module.symbols.get(&located.file_offset) {
            Some(symbols) if !symbols.is_empty() => named_frames(&frame, symbols),
            _ => vec![frame],
        }
    }
}

fn generated_frame(address: CodeAddr, name: &str) -> Frame {
    Frame {
        ip: address.ip(),
        function: Some(name.to_owned()),
        module: Some("[jit]".to_owned()),
        ..Frame::default()
    }
}

fn named_frames(place: &Frame, symbols: &[Symbol]) -> Vec<Frame> {
    let frames = symbols.iter().enumerate().map(|(index, symbol)| Frame {
        function: Some(printable(&symbol.function)),
        file: symbol.file.as_deref().map(printable),
        line: symbol.line,
        column: symbol.column,
        inlined: index + 1 < symbols.len(),
        ..place.clone()
    });
    frames.collect()
}
