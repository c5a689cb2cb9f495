//! Where the user's functions are in the files of a process, and the probes that they get.

use std::collections::HashMap;
use std::sync::Arc;

use leaktrace_ebpf::cookie::FUNCTION_BITS;

use super::names::{LONGEST_SYMBOL, Wanted};
use super::start::Starts;
use super::{OwnAllocators, OwnFunction, Place, exceptions, missing};
use crate::model::{ProbeFailure, Unprobed, printable};
use crate::target::budget::Budget;
use crate::target::debug_symbols::{self, Sought};
use crate::target::decode::{self, Machine};
use crate::target::elf::{Elf, ElfError, Function};
use crate::target::entry_points::frees;
use crate::target::image::Image;
use crate::target::maps::FileId;
use crate::target::object_file::ObjectFile;
use crate::target::plan::{Number, Plan};
use crate::target::tails::Bounds;

/// As many symbols of one file are found ([`Elf::functions`]).
const MOST_SYMBOLS: usize = 1024;
/// So many functions of one file may have one name.
const MOST_MATCHES: usize = 64;
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
    let missing = search.wishes.iter().filter(|wish| !wish.found);
    let failures: Vec<_> = missing.map(|wish| missing::failure(wish, image, budget)).collect();
    plan.failures.extend(failures);
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
            Place::Symbol { name, .. } => Some(Wanted::new(name, budget)),
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
pub(super) struct Wish<'a> {
    pub(super) function: &'a OwnFunction,
    /// By which name; `None`: by its address.
    pub(super) wanted: Option<Wanted<'a>>,
    /// It was found, whether or not it can be probed, or why it may have been missed was said.
    found: bool,
}

impl Wish<'_> {
    pub(super) fn is_in(&self, file: &ObjectFile) -> bool {
        let path = file.path.trim_end_matches(" (deleted)");
        self.function.place.object().is_none_or(|end| path.ends_with(end))
    }

    fn is(&self, symbol: &str) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.is(symbol))
    }

    /// Its address, where that is what is known of it.
    fn address(&self) -> Option<u64> {
        match self.function.place {
            Place::Address { address, .. } => Some(address),
            Place::Symbol { .. } => None,
        }
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
        if let Err(error) = self.add_file(file) {
            self.was_not_read(file, format!("{} was not looked into", file.path), &error);
        }
        if self.taken.len() != taken {
            self.plan.frees_nest = true;
            self.plan.allocators.push(format!("{} (your functions)", file.path));
        }
    }

    /// Says what of a file could not be read.
    fn was_not_read(&mut self, file: &ObjectFile, what: String, error: &ElfError) {
        if let ElfError::OverBudget = error {
            return self.fail("the user's own functions", file, error.to_string(), Unprobed::Files);
        }
        let note = format!("{what}: {error}");
        if !self.plan.notes.contains(&note) {
            self.plan.notes.push(note);
        }
    }

    fn add_file(&mut self, file: &Arc<ObjectFile>) -> Result<(), ElfError> {
        let elf = Elf::open_within(file.file(), self.budget)?;
        let chosen: Vec<usize> = (0..)
            .zip(&self.wishes)
            .filter_map(|(index, wish)| wish.is_in(file).then_some(index))
            .collect();
        let mut symbols =
            self.named(&chosen, |among| elf.functions_called(LONGEST_SYMBOL, among))?;
        if !elf.has_symbol_table() {
            symbols.extend(self.named_elsewhere(&elf, file, &chosen, &symbols));
        }
        if symbols.len() >= MOST_SYMBOLS {
            let why = format!("{MOST_SYMBOLS} or more symbols have their names");
            self.fail("the user's own functions", file, why, Unprobed::Files);
        }
        let bounds = Bounds::of(&elf);
        let of_chosen = chosen.iter().filter_map(|index| self.wishes.get(*index));
        let starts = Starts::of(&bounds, of_chosen.filter_map(Wish::address).collect());
        for index in chosen {
            self.add_wish(&starts, file, index, &symbols);
        }
        Ok(())
    }

    /// What `find` finds among the symbols that have the name of one of these.
    fn named<E>(
        &self,
        chosen: &[usize],
        find: impl FnOnce(&dyn Fn(&str) -> bool) -> Result<Vec<Function>, E>,
    ) -> Result<Vec<Function>, E> {
        let wishes = || chosen.iter().filter_map(|index| self.wishes.get(*index));
        wishes().filter_map(|wish| wish.wanted.as_ref()).for_each(Wanted::begin);
        find(&|symbol| wishes().any(|wish| wish.is(symbol)))
    }

    /// Those of a stripped file that its own tables do not name.
    fn named_elsewhere(
        &mut self,
        elf: &Elf<'_>,
        file: &Arc<ObjectFile>,
        chosen: &[usize],
        found: &[Function],
    ) -> Vec<Function> {
        let wish = |index: &usize| self.wishes.get(*index);
        let is_missing = |index: &usize| {
            let Some(wish) = wish(index) else { return false };
            wish.wanted.iter().for_each(Wanted::begin);
            wish.wanted.is_some() && !found.iter().any(|symbol| wish.is(&symbol.name))
        };
        let missing: Vec<usize> = chosen.iter().copied().filter(is_missing).collect();
        if missing.is_empty() {
            return Vec::new();
        }
        let mut names = missing.iter().filter_map(wish);
        let in_libraries = names.any(|wish| wish.function.place.object().is_some());
        let found = self.named(&missing, |is_wanted| {
            let sought = Sought { is_wanted, longest: LONGEST_SYMBOL, in_libraries };
            debug_symbols::functions(elf, file, self.budget, &sought)
        });
        found.unwrap_or_else(|error| {
            let what = format!("the debug symbols of {} were not looked into", file.path);
            self.was_not_read(file, what, &error);
            Vec::new()
        })
    }

    fn add_wish(
        &mut self,
        starts: &Starts<'_, '_, '_>,
        file: &Arc<ObjectFile>,
        index: usize,
        symbols: &[Function],
    ) {
        let Some(wish) = self.wishes.get_mut(index) else { return };
        let own = wish.function;
        let about = Unprobed::Function { frees: frees(own.signature.kind) };
        let shown = printable(&own.place.function());
        let mut functions = match &own.place {
            Place::Address { address, .. } => match starts.function_at(shown.clone(), *address) {
                Ok(function) => vec![function],
                Err(why) => {
                    wish.found = true;
                    return self.fail(&shown, file, why, about);
                }
            },
            Place::Symbol { .. } => {
                wish.wanted.iter().for_each(Wanted::begin);
                let mut same: Vec<Function> =
                    symbols.iter().filter(|symbol| wish.is(&symbol.name)).cloned().collect();
                same.sort_by_key(|function| function.address);
                same.dedup_by_key(|function| function.address);
                same
            }
        };
        let gave_up = wish.wanted.as_ref().is_some_and(Wanted::gave_up);
        wish.found |= !functions.is_empty() || gave_up;
        if gave_up {
            let why = "too many symbols contain its name to demangle all: give the symbol as `nm` \
                       prints it";
            self.fail(&shown, file, why.to_owned(), about.clone());
        }
        if functions.len() > MOST_MATCHES {
            let why = format!("more than {MOST_MATCHES} functions have this name");
            self.fail(&shown, file, why, about);
            functions.truncate(MOST_MATCHES);
        }
        for function in functions {
            self.add_function(starts.bounds, file, own, &shown, function);
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
        if function.size == 0 {
            function.size = bounds.size_at(function.address).unwrap_or(0);
        }
        let throws = exceptions::may_pass(bounds, own, &function);
        if function.size == 0 && !throws && matches!(own.place, Place::Address { .. }) {
            let code = elf.code(function.address, LONGEST_INSTRUCTION).unwrap_or_default();
            function.size = decode::first_length(Machine::HOST, &code);
            if function.size == 0 {
                let why = "no instruction can be decoded there".to_owned();
                return self.fail(shown, file, why, about);
            }
        }
        let sites = match exceptions::sites(bounds, own, throws, &function) {
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
        let signature = own.signature.throws(throws);
        self.plan.add_sites(file, shown, signature, number, sites);
    }

    fn fail(&mut self, function: &str, file: &ObjectFile, error: String, about: Unprobed) {
        let (function, module) = (function.to_owned(), file.path.clone());
        self.plan.failures.push(ProbeFailure { function, module, error, about });
    }
}
