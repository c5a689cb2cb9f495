//! Where the user's functions are in the files of a process, and the probes that they get.

use std::collections::HashMap;
use std::sync::Arc;

use leaktrace_ebpf::cookie::FUNCTION_BITS;

use super::names::{LONGEST_SYMBOL, Wanted, is_mangled};
use super::start::{Known, function_at};
use super::{OwnAllocators, OwnFunction, Place};
use crate::model::{ProbeFailure, Unprobed, printable};
use crate::target::budget::Budget;
use crate::target::decode::{self, Machine};
use crate::target::demangle::demangled;
use crate::target::elf::{Elf, ElfError, Function};
use crate::target::entry_points::frees;
use crate::target::image::Image;
use crate::target::maps::FileId;
use crate::target::object_file::ObjectFile;
use crate::target::plan::{Number, Plan};
use crate::target::sites::sites_of;
use crate::target::tails::Bounds;

/// As many symbols of one file are found ([`Elf::functions`]).
const MOST_SYMBOLS: usize = 1024;
/// So many functions of one file may have one name.
const MOST_MATCHES: usize = 64;
/// So many names are told that come close.
const CLOSE_NAMES: usize = 3;
/// The number of an implementation that stands for the user's own functions: the last.
const IMPLEMENTATION: u8 = (u16::MAX >> FUNCTION_BITS) as u8;
/// What is decoded of a function whose size nobody knows: its first instruction, in bytes.
const LONGEST_INSTRUCTION: u64 = 15;

/// Adds the probes of the user's functions to a plan, and says what is amiss. Where the catalogue has
/// the same function, the user knows better.
pub(in crate::target) fn add_to(
    plan: &mut Plan,
    image: &Image,
    own: &OwnAllocators,
    budget: &Budget,
) {
    if own.is_empty() {
        return;
    }
    let search = search(plan, image, own, budget, |_| true);
    search.tell_missing(image);
    plan.notes.extend(own.notes());
}

/// Adds those that are in files that were mapped since.
pub(in crate::target) fn add_later(
    plan: &mut Plan,
    image: &Image,
    own: &OwnAllocators,
    budget: &Budget,
    is_new: impl Fn(FileId) -> bool,
) {
    if !own.is_empty() {
        search(plan, image, own, budget, is_new);
    }
}

fn search<'a, 'p>(
    plan: &'p mut Plan,
    image: &Image,
    own: &'a OwnAllocators,
    budget: &'a Budget,
    is_new: impl Fn(FileId) -> bool,
) -> Search<'a, 'p> {
    let wishes = own.functions.iter().map(|function| Wish {
        function,
        wanted: match &function.place {
            Place::Symbol { name, .. } => Some(Wanted::new(name)),
            Place::Address { .. } => None,
        },
        found: false,
    });
    let mut search = Search { plan, budget, wishes: wishes.collect(), taken: HashMap::new() };
    for file in image.files().filter(|file| is_new(file.id)) {
        search.look_into(file);
    }
    search
}

/// A function that is looked for.
struct Wish<'a> {
    function: &'a OwnFunction,
    /// By which name; `None`: by its address.
    wanted: Option<Wanted<'a>>,
    /// It was found, whether or not it can be probed.
    found: bool,
}

impl Wish<'_> {
    fn is_in(&self, file: &ObjectFile) -> bool {
        let path = file.path.trim_end_matches(" (deleted)");
        self.function.place.object().is_none_or(|end| path.ends_with(end))
    }

    fn is(&self, symbol: &str) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.is(symbol))
    }
}

struct Search<'a, 'p> {
    plan: &'p mut Plan,
    budget: &'a Budget,
    wishes: Vec<Wish<'a>>,
    /// Whose probes sit where.
    taken: HashMap<(FileId, u64), String>,
}

impl Search<'_, '_> {
    fn look_into(&mut self, file: &Arc<ObjectFile>) {
        if !self.wishes.iter().any(|wish| wish.is_in(file)) {
            return;
        }
        let taken = self.taken.len();
        match self.add_file(file) {
            Ok(()) => {}
            Err(error @ ElfError::OverBudget) => {
                self.fail("the user's own functions", file, error.to_string(), Unprobed::Files);
            }
            Err(error) => {
                let note = format!("{} was not looked into: {error}", file.path);
                if !self.plan.notes.contains(&note) {
                    self.plan.notes.push(note);
                }
            }
        }
        if self.taken.len() != taken {
            self.plan.frees_nest = true;
            self.plan.allocators.push(format!("{} (your functions)", file.path));
        }
    }

    fn add_file(&mut self, file: &Arc<ObjectFile>) -> Result<(), ElfError> {
        let elf = Elf::open_within(file.file(), self.budget)?;
        let chosen: Vec<usize> = (0..)
            .zip(&self.wishes)
            .filter_map(|(index, wish)| wish.is_in(file).then_some(index))
            .collect();
        let among = |symbol: &str| {
            let mut wishes = chosen.iter().filter_map(|index| self.wishes.get(*index));
            wishes.any(|wish| wish.is(symbol))
        };
        let symbols = elf.functions_called(LONGEST_SYMBOL, among)?;
        if symbols.len() >= MOST_SYMBOLS {
            let why = format!("{MOST_SYMBOLS} or more symbols have their names");
            self.fail("the user's own functions", file, why, Unprobed::Files);
        }
        let bounds = Bounds::of(&elf);
        let known = Known::default();
        for index in chosen {
            self.add_wish(&bounds, file, index, &symbols, &known);
        }
        Ok(())
    }

    fn add_wish(
        &mut self,
        bounds: &Bounds<'_, '_>,
        file: &Arc<ObjectFile>,
        index: usize,
        symbols: &[Function],
        known: &Known,
    ) {
        let Some(wish) = self.wishes.get_mut(index) else { return };
        let own = wish.function;
        let about = Unprobed::Function { frees: frees(own.signature.kind) };
        let shown = printable(&own.place.function());
        let mut functions = match &own.place {
            Place::Address { address, .. } => {
                match function_at(bounds.elf, known, shown.clone(), *address) {
                    Ok(function) => vec![function],
                    Err(why) => {
                        wish.found = true;
                        return self.fail(&shown, file, why, about);
                    }
                }
            }
            Place::Symbol { .. } => {
                let mut same: Vec<Function> =
                    symbols.iter().filter(|symbol| wish.is(&symbol.name)).cloned().collect();
                same.sort_by_key(|function| function.address);
                same.dedup_by_key(|function| function.address);
                same
            }
        };
        wish.found |= !functions.is_empty();
        if functions.len() > MOST_MATCHES {
            let why = format!("more than {MOST_MATCHES} functions have this name");
            self.fail(&shown, file, why, about);
            functions.truncate(MOST_MATCHES);
        }
        for function in functions {
            self.add_function(bounds, file, own, &shown, function);
        }
    }

    fn add_function(
        &mut self,
        bounds: &Bounds<'_, '_>,
        file: &Arc<ObjectFile>,
        own: &OwnFunction,
        shown: &str,
        mut function: Function,
    ) {
        let elf = bounds.elf;
        let about = Unprobed::Function { frees: frees(own.signature.kind) };
        if let Some(other) = self.taken.get(&(file.id, function.address)) {
            let why = format!("it is the same function as {other}, which is named before it");
            // The other's probe sees its calls.
            return self.fail(shown, file, why, Unprobed::Function { frees: false });
        }
        if function.size == 0 && matches!(own.place, Place::Address { .. }) {
            let code = elf.code(function.address, LONGEST_INSTRUCTION).unwrap_or_default();
            function.size = decode::first_length(Machine::HOST, &code);
            if function.size == 0 {
                let why = "no instruction can be decoded there".to_owned();
                return self.fail(shown, file, why, about);
            }
        }
        let sites = match sites_of(bounds, own.signature, own.throws, &function) {
            Ok(sites) => sites,
            Err(why) => return self.fail(shown, file, why, about),
        };
        let Some(number) = self.plan.next_number() else {
            let why = "too many functions are probed already".to_owned();
            return self.fail(shown, file, why, about);
        };
        if let Some(start) = elf.file_offset(function.address) {
            self.plan.probes.retain(|probe| {
                !(probe.file.id == file.id
                    && probe.file_offset.wrapping_sub(probe.function_offset) == start)
            });
        }
        self.taken.insert((file.id, function.address), shown.to_owned());
        let number = Number { function: number, implementation: IMPLEMENTATION };
        let signature = own.signature.throws(own.throws);
        self.plan.add_sites(file, shown, signature, number, sites);
    }

    fn fail(&mut self, function: &str, file: &ObjectFile, error: String, about: Unprobed) {
        let (function, module) = (function.to_owned(), file.path.clone());
        self.plan.failures.push(ProbeFailure { function, module, error, about });
    }

    /// Says of the functions that no file has so, and which names come close.
    fn tell_missing(self, image: &Image) {
        for wish in self.wishes.iter().filter(|wish| !wish.found) {
            let files: Vec<_> = image.files().filter(|file| wish.is_in(file)).collect();
            let object = wish.function.place.object().map(printable);
            let module = object.clone().unwrap_or_else(|| match files.len() {
                1 => "the one mapped file".to_owned(),
                n => format!("any of the {n} mapped files"),
            });
            let error = match (&wish.wanted, object) {
                (_, Some(object)) if files.is_empty() => format!(
                    "the process has mapped no file whose path ends with `{object}`: look into \
                     /proc/{}/maps",
                    image.pid
                ),
                (Some(wanted), _) => {
                    let gave_up = if wanted.gave_up() {
                        "; too many symbols contain it to demangle all: give the symbol as `nm` \
                         prints it"
                    } else {
                        ""
                    };
                    format!(
                        "no symbol has this name{}; a function that the compiler inlined has none, and \
                         a stripped file has only those that it exports: there, name it by OBJECT+0xADDRESS{gave_up}",
                        self.close_names(wanted, &files)
                    )
                }
                (None, _) => "it could not be looked into".to_owned(),
            };
            let function = printable(&wish.function.place.function());
            let about = Unprobed::Missing {
                frees: frees(wish.function.signature.kind),
                object: wish.function.place.object().map(str::to_owned),
            };
            self.plan.failures.push(ProbeFailure { function, module, error, about });
        }
    }

    fn close_names(&self, wanted: &Wanted<'_>, files: &[&Arc<ObjectFile>]) -> String {
        let mut close: Vec<(usize, String)> = Vec::new();
        for file in files {
            let Ok(elf) = Elf::open_within(file.file(), self.budget) else { continue };
            let is_close = |symbol: &str| wanted.distance(symbol).is_some();
            let Ok(found) = elf.functions_called(LONGEST_SYMBOL, is_close) else { continue };
            close.extend(found.iter().filter_map(|f| {
                let name = if is_mangled(&f.name) { demangled(&f.name) } else { (&f.name).into() };
                Some((wanted.distance(&f.name)?, printable(&name)))
            }));
        }
        close.sort();
        close.dedup();
        let names: Vec<String> =
            close.into_iter().take(CLOSE_NAMES).map(|(_, name)| format!("`{name}`")).collect();
        match names.as_slice() {
            [] => String::new(),
            names => format!(" (near: {})", names.join(", ")),
        }
    }
}
