//! The probe plan: where in which file a probe will sit, and what it will cost. A value: making
//! it attaches nothing.

use std::collections::HashSet;
use std::sync::Arc;

use leaktrace_ebpf::cookie::Signature;
use leaktrace_ebpf::records::MAX_ALLOCATOR_RANGES;

use super::allocators::{self, Entry};
use super::budget::Budget;
use super::elf::{Elf, ElfError, Function};
use super::error::TargetError;
use super::image::{Image, MOST_FILES};
use super::loader::LoaderHook;
use super::object_file::ObjectFile;
use super::route::Route;
use super::sites::{Role, sites};
use crate::model::{Addr, ProbeFailure, ProbeInfo};

#[cfg(test)]
mod tests;

/// What the user wants probed.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Only files whose path ends with this (`-O`).
    pub only: Option<String>,
}

/// A probe to place.
#[derive(Clone, Debug)]
pub struct PlannedProbe {
    /// The function, as people write it.
    pub function: String,
    /// Tells the functions of a plan apart.
    pub function_index: u16,
    /// How it is called.
    pub signature: Signature,
    /// The file.
    pub file: Arc<ObjectFile>,
    /// Where in the file, in bytes.
    pub file_offset: u64,
    /// Where in the function, in bytes.
    pub function_offset: u64,
    /// What it is for.
    pub role: Role,
    /// It books a new block, and sits on a return instruction rather than being a return probe.
    pub on_return_instruction: bool,
    /// The instruction under it.
    pub instruction: String,
    /// Whether the kernel emulates it.
    pub emulated: bool,
}

impl PlannedProbe {
    /// As the reports show it.
    pub fn info(&self) -> ProbeInfo {
        ProbeInfo {
            function: self.function.clone(),
            module: self.file.path.clone(),
            file_offset: self.file_offset,
            function_offset: self.function_offset,
            role: self.role.name(),
            instruction: self.instruction.clone(),
            emulated: self.emulated,
        }
    }
}

/// Where to probe a process.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The probes.
    pub probes: Vec<PlannedProbe>,
    /// Where the code of the allocators is mapped: start (inclusive), end (exclusive).
    pub allocator_code: Vec<(Addr, Addr)>,
    /// The files that implement an allocator.
    pub allocators: Vec<String>,
    /// Functions that need no probe of their own: another name of one that has one, or all they do
    /// is call one.
    pub covered: Vec<String>,
    /// Where the dynamic loader tells of libraries that are loaded later.
    pub loader_hook: Option<LoaderHook>,
    /// Functions that cannot be probed, and why.
    pub failures: Vec<ProbeFailure>,
    /// Files that could not be read; one sentence each.
    pub notes: Vec<String>,
}

impl Plan {
    /// Plans the probes for an address space.
    ///
    /// # Errors
    ///
    /// [`TargetError::NoAllocator`] when there is nothing to probe.
    pub fn make(image: &Image, exe: &str, options: &PlanOptions) -> Result<Self, TargetError> {
        let only = options.only.as_deref();
        let budget = Budget::for_plan();
        let loader_hook = LoaderHook::find(image, &budget);
        let mut plan = Self { loader_hook, ..Self::default() };
        let mut files = 0;
        plan.note_unopened(image, only);
        for file in image.files().filter(|f| is_chosen(f, only)) {
            files += 1;
            match plan.add_file(image, file, &budget) {
                Ok(()) => {}
                // An allocator may be among them.
                Err(error @ ElfError::OverBudget) => plan.failures.push(ProbeFailure {
                    function: "all functions".to_owned(),
                    module: file.path.clone(),
                    error: error.to_string(),
                }),
                Err(error) => {
                    plan.notes.push(format!("{} was not looked into: {error}", file.path));
                }
            }
        }
        cap(&mut plan.notes, |n| format!("{n} more files were not looked into"));
        cap(&mut plan.failures, |n| ProbeFailure {
            function: "all functions".to_owned(),
            module: format!("{n} more files"),
            error: "they were not looked into".to_owned(),
        });
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
                function: "all functions".to_owned(),
                module: format!("{unopened} mapped file{}", if unopened == 1 { "" } else { "s" }),
                error: format!(
                    "they could not be opened: run as root, and raise the limit of open files \
                     (`ulimit -n`); leaktrace opens {MOST_FILES} at most"
                ),
            });
        }
    }

    fn hint(&self, only: Option<&str>) -> String {
        let mut hint = match only {
            Some(only) => format!(" that match `{only}` (leave out --obj to look into all)"),
            None => "; a static program needs its symbols (.symtab): use a build that is not \
                     stripped"
                .to_owned(),
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
        let Defined { functions, aliases, cold } = Defined::by(&elf)?;
        let defines = |name: &str| functions.iter().chain(&aliases).any(|(_, f)| f.name == name);
        let is_allocator = defines("malloc") && defines("free");
        let mut probed = false;
        let mut route = None;
        for (entry, function) in &functions {
            if !entry.operator && !is_allocator {
                continue;
            }
            if entry.wraps {
                let route = match &mut route {
                    Some(route) => route,
                    None => route.insert(Route::through(&elf, &functions)?),
                };
                if route.is_taken_by(&elf, function) {
                    if is_allocator {
                        self.covered.push(allocators::display_name(entry.name));
                    }
                    continue;
                }
            }
            probed |= self.add_function(&elf, file, entry, function, &cold);
        }
        if probed {
            self.allocators.push(file.path.clone());
            self.covered.extend(aliases.iter().map(|(e, _)| allocators::display_name(e.name)));
            let room = MAX_ALLOCATOR_RANGES.saturating_sub(self.allocator_code.len());
            self.allocator_code.extend(image.code_of(file.id).take(room).map(|m| (m.start, m.end)));
        }
        Ok(())
    }

    /// Adds the probes of one function; false when it cannot be probed.
    fn add_function(
        &mut self,
        elf: &Elf<'_>,
        file: &Arc<ObjectFile>,
        entry: &Entry,
        function: &Function,
        cold: &[Function],
    ) -> bool {
        let shown = allocators::display_name(entry.name);
        let sites = match sites(elf, entry, function, cold) {
            Ok(sites) => sites,
            Err(error) => {
                let module = file.path.clone();
                self.failures.push(ProbeFailure { function: shown, module, error });
                return false;
            }
        };
        let function_index = u16::try_from(self.probes.len()).unwrap_or(u16::MAX);
        for site in sites {
            self.probes.push(PlannedProbe {
                function: shown.clone(),
                function_index,
                signature: entry.signature,
                file: Arc::clone(file),
                file_offset: site.file_offset,
                function_offset: site.site.offset,
                role: site.role,
                on_return_instruction: site.on_return_instruction,
                instruction: site.site.instruction,
                emulated: site.site.emulated,
            });
        }
        true
    }
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

/// The functions of the catalogue that a file defines.
struct Defined {
    /// One for each address, under the best name.
    functions: Vec<(&'static Entry, Function)>,
    /// Those that are another name of one of them.
    aliases: Vec<(&'static Entry, Function)>,
    /// Parts of them that lie elsewhere, under their own names.
    cold: Vec<Function>,
}

impl Defined {
    fn by(elf: &Elf<'_>) -> Result<Self, ElfError> {
        let is_wanted = |name: &str| {
            allocators::find(name).is_some() || allocators::cold_part_of(name).is_some()
        };
        let (named, cold): (Vec<Function>, Vec<Function>) = elf
            .functions(is_wanted)?
            .into_iter()
            .partition(|function| allocators::find(&function.name).is_some());
        let mut ranked: Vec<(usize, &'static Entry, Function)> = named
            .into_iter()
            .filter_map(|function| {
                let (rank, entry) = allocators::find(&function.name)?;
                Some((rank, entry, function))
            })
            .collect();
        ranked.sort_by_key(|(rank, ..)| *rank);
        let mut seen = HashSet::new();
        let (functions, aliases) = ranked
            .into_iter()
            .map(|(_, entry, function)| (entry, function))
            .partition(|(_, function)| seen.insert(function.address));
        Ok(Self { functions, aliases, cold })
    }
}
