//! The probe plan: where in which file a probe will sit, and what it will cost. A value: making
//! it attaches nothing.

use std::sync::Arc;

use leaktrace_ebpf::cookie::{FUNCTION_BITS, Form, NO_ARGUMENT, Signature};
use leaktrace_ebpf::records::MAX_ALLOCATOR_RANGES;

use super::allocators::{self, Entry};
use super::budget::Budget;
use super::debug_symbols::{self, Sought};
use super::elf::{Elf, ElfError, Function, LONGEST_KNOWN};
use super::entry_points::{ALL_FUNCTIONS, frees};
use super::error::TargetError;
use super::image::{Image, MOST_FILES};
use super::loader::LoaderHook;
use super::maps::FileId;
use super::object_file::ObjectFile;
use super::own_allocators::{self, OwnAllocators};
use super::sites::{Role, RoleSite, operator_site, sites};
use super::tails::Bounds;
use crate::model::{Addr, ProbeFailure, Unprobed};

mod code_ranges;
pub(super) mod defined;
mod planned_probe;
#[cfg(test)]
mod tests;

pub use planned_probe::PlannedProbe;

use defined::{Chosen, Defined};

/// Functions of one target are told apart by so many numbers.
const MOST_FUNCTIONS: u16 = 1 << FUNCTION_BITS;
/// And implementations by so many: the last is the user's, the one before stands for all beyond.
const MOST_IMPLEMENTATIONS: u8 = 1 << (u16::BITS - FUNCTION_BITS);

/// What the user wants probed.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Only files whose path ends with this (`-O`).
    pub only: Option<String>,
    /// The user's own allocators; [`PlanOptions::only`] is not about them.
    pub own: OwnAllocators,
    /// Operators that only call another function are to be told from it (`--check-frees`).
    pub check_frees: bool,
}

/// Where to probe a process.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The probes.
    pub probes: Vec<PlannedProbe>,
    /// Where the code of the allocators is mapped: start (inclusive), end (exclusive).
    pub allocator_code: Vec<(Addr, Addr)>,
    /// The same as pieces of files: offsets, start (inclusive), end (exclusive).
    pub code: Vec<(FileId, (u64, u64))>,
    /// The files that implement an allocator.
    pub allocators: Vec<String>,
    /// A function that takes blocks may pass them on to another that is probed.
    pub frees_nest: bool,
    /// Functions that need no probe of their own: another name of one that has one, or all they do
    /// is call one.
    pub covered: Vec<String>,
    /// Where the dynamic loader tells of libraries that are loaded later.
    pub loader_hook: Option<LoaderHook>,
    /// Functions that cannot be probed, and why.
    pub failures: Vec<ProbeFailure>,
    /// Files that could not be read; one sentence each.
    pub notes: Vec<String>,
    /// See [`PlanOptions::check_frees`].
    pub check_frees: bool,
}

impl Plan {
    /// Keeps the functions apart from those of `others` more plans, which are in force beside it.
    pub fn renumber(&mut self, others: u16) {
        /// No plan is likely to have more.
        const EACH: u16 = 211;
        const MASK: u16 = (1 << FUNCTION_BITS) - 1;
        for probe in &mut self.probes {
            let index = probe.function_index;
            let moved = index.wrapping_add(others.wrapping_mul(EACH));
            probe.function_index = index & !MASK | moved & MASK;
        }
    }

    /// Plans the probes for an address space.
    ///
    /// # Errors
    ///
    /// [`TargetError::NoAllocator`] when there is nothing to probe.
    pub fn make(image: &Image, exe: &str, options: &PlanOptions) -> Result<Self, TargetError> {
        let only = options.only.as_deref();
        let budget = Budget::for_plan();
        let loader_hook = LoaderHook::find(image, &budget);
        let check_frees = options.check_frees;
        let mut plan = Self { loader_hook, check_frees, ..Self::default() };
        plan.note_unopened(image, only);
        let files = plan.add_files(image, options, &budget, |_| true);
        let of_catalogue = plan.failures.len();
        own_allocators::add_to(&mut plan, image, &options.own, &budget);
        plan.forget_overruled(of_catalogue);
        if plan.probes.is_empty() {
            return Err(TargetError::NoAllocator {
                pid: image.pid,
                exe: exe.to_owned(),
                files,
                hint: plan.hint(only),
            });
        }
        Ok(plan)
    }

    /// Whether all its probes are on the user's own functions.
    pub fn is_only_own(&self) -> bool {
        self.probes.iter().all(|probe| probe.signature.form == Form::Own)
    }

    /// Adds the probes for those files of an address space that are new. Returns how many of these
    /// were looked into.
    fn add_files(
        &mut self,
        image: &Image,
        options: &PlanOptions,
        budget: &Budget,
        is_new: impl Fn(FileId) -> bool,
    ) -> usize {
        let only = options.only.as_deref();
        let probes = self.probes.len();
        let mut files = 0;
        for file in image.files().filter(|file| is_new(file.id) && is_chosen(file, only)) {
            files += 1;
            if let Err(error) = self.add_file(image, file, budget) {
                self.was_not_read(file, format!("{} was not looked into", file.path), &error);
            }
        }
        cap(&mut self.notes, |n| format!("{n} more files were not looked into"));
        cap(&mut self.failures, |n| ProbeFailure {
            function: ALL_FUNCTIONS.to_owned(),
            module: format!("{n} more files"),
            error: "they were not looked into".to_owned(),
            about: Unprobed::Files,
        });
        self.note_sizeless(probes);
        files
    }

    /// Names the functions of the catalogue among the probes from the `first` on whose blocks have a
    /// size that no argument says.
    fn note_sizeless(&mut self, first: usize) {
        let is_sizeless = |probe: &&PlannedProbe| {
            probe.role == Role::AllocEntry && probe.signature.size == NO_ARGUMENT
        };
        let sizeless = self.probes.iter().skip(first).filter(is_sizeless);
        let names: Vec<&str> = sizeless.map(|probe| probe.function.as_str()).collect();
        if !names.is_empty() {
            self.notes.push(format!(
                "no argument says how large the blocks of {} are: each counts as 1 byte",
                names.join(", ")
            ));
        }
    }

    /// Says what of a file could not be read.
    fn was_not_read(&mut self, file: &ObjectFile, what: String, error: &ElfError) {
        match error {
            // An allocator may be among them.
            ElfError::OverBudget => self.failures.push(ProbeFailure {
                function: ALL_FUNCTIONS.to_owned(),
                module: file.path.clone(),
                error: error.to_string(),
                about: Unprobed::Files,
            }),
            error => self.notes.push(format!("{what}: {error}")),
        }
    }

    /// The same for files that came later, with the user's own functions among them.
    pub fn add_later(
        &mut self,
        image: &Image,
        options: &PlanOptions,
        budget: &Budget,
        is_new: impl Fn(FileId) -> bool,
    ) {
        self.add_files(image, options, budget, &is_new);
        let of_catalogue = self.failures.len();
        own_allocators::add_later(self, image, &options.own, budget, is_new);
        self.forget_overruled(of_catalogue);
    }

    /// What could not be probed by the catalogue's word, which the first failures are about, and is
    /// probed by the user's, lacks nothing.
    fn forget_overruled(&mut self, of_catalogue: usize) {
        let is_own = |failure: &ProbeFailure| {
            self.probes.iter().any(|probe| {
                probe.signature.form == Form::Own
                    && probe.function == failure.function
                    && probe.file.path == failure.module
            })
        };
        let mut at = 0;
        self.failures.retain(|failure| {
            at += 1;
            at > of_catalogue || !is_own(failure)
        });
    }

    /// Files that no one could look into may hold an allocator whose blocks are then missed.
    fn note_unopened(&mut self, image: &Image, only: Option<&str>) {
        let unopened = match only {
            Some(only) => {
                image.unopened_among(|path| path.trim_end_matches(" (deleted)").ends_with(only))
            }
            None => image.unopened(),
        };
        if unopened > 0 {
            self.failures.push(ProbeFailure {
                function: ALL_FUNCTIONS.to_owned(),
                module: format!("{unopened} mapped file{}", if unopened == 1 { "" } else { "s" }),
                error: format!(
                    "they could not be opened: run as root, and raise the limit of open files \
                     (`ulimit -n`); leaktrace opens {MOST_FILES} at most"
                ),
                about: Unprobed::Files,
            });
        }
    }

    fn hint(&self, only: Option<&str>) -> String {
        let mut hint = match only {
            Some(only) => format!(" that match `{only}` (leave out --obj to look into all)"),
            None => {
                "; a static program needs its symbols: use a build that is not stripped, install \
                     its separate debug file, or name its functions by `--alloc-fn OBJECT+OFFSET` \
                     and `--free-fn OBJECT+OFFSET`"
                    .to_owned()
            }
        };
        for note in self.notes.iter().take(3) {
            hint.push_str("; ");
            hint.push_str(note);
        }
        for failure in self.failures.iter().take(3) {
            hint.push_str(&format!(
                "; {} in {} cannot be probed: {}",
                failure.function, failure.module, failure.error
            ));
        }
        hint
    }

    fn add_file(
        &mut self,
        image: &Image,
        file: &Arc<ObjectFile>,
        budget: &Budget,
    ) -> Result<(), ElfError> {
        let elf = Elf::open_within(file.file(), budget)?;
        let mut defined = Defined::by(&elf)?;
        if !defined.has_allocator() && !elf.has_symbol_table() {
            // A static program, say, that is stripped.
            let sought = Sought {
                is_wanted: |name: &str| allocators::find(name).is_some(),
                longest: LONGEST_KNOWN,
                in_libraries: false,
            };
            match debug_symbols::functions(&elf, file, budget, &sought).map(Defined::of) {
                Ok(elsewhere) if elsewhere.has_allocator() => defined = elsewhere,
                Ok(_) => {}
                // Operators that the file itself has are there all the same.
                Err(error) => {
                    let what = format!("the debug symbols of {} were not looked into", file.path);
                    self.was_not_read(file, what, &error);
                }
            }
        }
        if defined.functions.is_empty() {
            return Ok(());
        }
        let bounds = Bounds::of(&elf);
        let sorted_out = defined.sorted_out(&elf, self.check_frees)?;
        let first = self.probes.iter().map(|p| p.implementation + 1).max().unwrap_or(0);
        let mut probed = false;
        for chosen in &sorted_out.probed {
            let implementation = first.saturating_add(chosen.group as u8);
            probed |= self.add_function(&bounds, file, chosen, implementation);
        }
        if self.check_frees {
            for (entry, function) in &sorted_out.covered {
                // One that is told from `malloc` alone, while another is `free` itself, would
                // accuse it.
                let signature = entry.signature.form(sorted_out.form_of(entry));
                if signature.form != Form::Plain {
                    let entry = Entry { signature, ..**entry };
                    self.add_operator(&bounds, file, &entry, function, first);
                }
            }
        }
        let shown = |functions: &[(&Entry, _)]| -> Vec<String> {
            functions.iter().map(|(entry, _)| allocators::display_name(entry.name)).collect()
        };
        if defined.has_allocator() && (probed || !sorted_out.covered.is_empty()) {
            self.covered.extend(shown(&sorted_out.covered));
        }
        if probed {
            self.frees_nest |= sorted_out.frees_nest || !self.allocators.is_empty();
            self.allocators.push(file.path.clone());
            self.covered.extend(shown(&defined.aliases));
            let pieces = code_ranges::of(&elf, file.name(), &defined, &sorted_out);
            self.code.extend(pieces.into_iter().map(|piece| (file.id, piece)));
            self.place_code(image, &file.path);
        }
        Ok(())
    }

    /// Where the allocators' own code is mapped now: what that calls is part of its calls.
    pub fn code_in(&self, image: &Image) -> Vec<(Addr, Addr)> {
        let pieces = self.code.iter();
        let mapped = pieces.flat_map(|(file, piece)| code_ranges::mapped(image, *file, *piece));
        mapped.take(MAX_ALLOCATOR_RANGES + 1).collect()
    }

    fn place_code(&mut self, image: &Image, module: &str) {
        let had_room = self.allocator_code.len() < MAX_ALLOCATOR_RANGES;
        self.allocator_code = self.code_in(image);
        let is_over = self.allocator_code.len() > MAX_ALLOCATOR_RANGES;
        self.allocator_code.truncate(MAX_ALLOCATOR_RANGES);
        if is_over && had_room {
            self.failures.push(ProbeFailure {
                function: "inner calls".to_owned(),
                module: module.to_owned(),
                error: format!(
                    "they may count twice: its code has more pieces than the \
                     {MAX_ALLOCATOR_RANGES} that are looked at"
                ),
                about: Unprobed::Files,
            });
        }
    }

    /// Adds the probe of an operator that only calls another function.
    fn add_operator(
        &mut self,
        bounds: &Bounds<'_, '_>,
        file: &Arc<ObjectFile>,
        entry: &Entry,
        function: &Function,
        implementation: u8,
    ) {
        let shown = allocators::display_name(entry.name);
        let number = self.next_number();
        let found = operator_site(bounds.elf, entry, function)
            .and_then(|site| Ok((number.ok_or_else(too_many_functions)?, site)));
        match found {
            Ok((number, site)) => {
                let implementation = implementation.min(MOST_IMPLEMENTATIONS - 2);
                let number = Number { function: number, implementation };
                self.add_sites(file, &shown, entry.signature, number, vec![site]);
            }
            Err(error) => {
                let module = file.path.clone();
                // What it frees, the function that it calls is seen to free.
                let about = Unprobed::Function { frees: false };
                self.failures.push(ProbeFailure { function: shown, module, error, about });
            }
        }
    }

    /// Adds the probes of one function; false when it cannot be probed.
    fn add_function(
        &mut self,
        bounds: &Bounds<'_, '_>,
        file: &Arc<ObjectFile>,
        chosen: &Chosen,
        implementation: u8,
    ) -> bool {
        let entry = chosen.entry;
        let shown = allocators::display_name(entry.name);
        let found = match self.next_number() {
            Some(number) => sites(bounds, entry, &chosen.function).map(|sites| (number, sites)),
            None => Err(too_many_functions()),
        };
        let (function, sites) = match found {
            Ok(found) => found,
            Err(error) => {
                let module = file.path.clone();
                let about = Unprobed::Function { frees: frees(entry.signature.kind) };
                self.failures.push(ProbeFailure { function: shown, module, error, about });
                return false;
            }
        };
        let implementation = implementation.min(MOST_IMPLEMENTATIONS - 2);
        let signature = Signature {
            encloses: chosen.encloses,
            ..entry.signature.form(chosen.form).throws(entry.throws)
        };
        self.add_sites(file, &shown, signature, Number { function, implementation }, sites);
        true
    }

    /// A number that no function of the plan has yet.
    pub(super) fn next_number(&self) -> Option<u16> {
        let used = self.probes.iter().map(|probe| probe.function_index % MOST_FUNCTIONS);
        let next = used.max().map_or(0, |last| last + 1);
        (next < MOST_FUNCTIONS).then_some(next)
    }

    /// Adds the probes of a function.
    pub(super) fn add_sites(
        &mut self,
        file: &Arc<ObjectFile>,
        function: &str,
        signature: Signature,
        number: Number,
        sites: Vec<RoleSite>,
    ) {
        let Number { function: index, implementation } = number;
        let function_index = u16::from(implementation) << FUNCTION_BITS | index;
        self.probes.extend(sites.into_iter().map(|site| PlannedProbe {
            function: function.to_owned(),
            function_index,
            implementation,
            signature,
            file: Arc::clone(file),
            file_offset: site.file_offset,
            function_offset: site.site.offset,
            role: site.role,
            on_return_instruction: site.on_return_instruction,
            instruction: site.site.instruction,
            emulated: site.site.emulated,
        }));
    }
}

/// What tells a function of a plan from the others.
pub(super) struct Number {
    /// Below [`MOST_FUNCTIONS`].
    pub(super) function: u16,
    /// Whose implementation it is.
    pub(super) implementation: u8,
}

fn too_many_functions() -> String {
    format!("{MOST_FUNCTIONS} functions are probed already")
}

/// Says a hundred things at most, and how many there were beyond.
fn cap<T>(said: &mut Vec<T>, more: impl Fn(usize) -> T) {
    const MOST: usize = 100;
    if let Some(beyond) = said.len().checked_sub(MOST).filter(|beyond| *beyond > 0) {
        said.truncate(MOST);
        said.push(more(beyond));
    }
}

fn is_chosen(file: &ObjectFile, only: Option<&str>) -> bool {
    if let Some(only) = only {
        return file.path.trim_end_matches(" (deleted)").ends_with(only);
    }
    // Older glibc's dynamic loader has a malloc for itself, which nobody else calls.
    !file.name().starts_with("ld-linux")
}
