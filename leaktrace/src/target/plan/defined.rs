//! Which functions of the catalogue a file defines, and which of them belong together.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use leaktrace_ebpf::cookie::Form;

use crate::target::allocators::{self, Entry, Family};
use crate::target::elf::{Elf, ElfError, Function};
use crate::target::route::Route;

/// The functions of the catalogue that a file defines, as far as they make up allocators.
pub(in crate::target) struct Defined {
    /// One for each address, under the best name.
    pub(in crate::target) functions: Vec<(&'static Entry, Function)>,
    /// Those that are another name of one of them.
    pub(in crate::target) aliases: Vec<(&'static Entry, Function)>,
}

impl Defined {
    pub(in crate::target) fn by(elf: &Elf<'_>) -> Result<Self, ElfError> {
        Ok(Self::of(elf.functions(|name| allocators::find(name).is_some())?))
    }

    pub(in crate::target) fn of(found: Vec<Function>) -> Self {
        let mut ranked: Vec<(usize, &'static Entry, Function)> = found
            .into_iter()
            .filter_map(|function| {
                let (rank, entry) = allocators::find(&function.name)?;
                Some((rank, entry, function))
            })
            .collect();
        let whole = whole_families(ranked.iter().map(|(_, entry, _)| *entry));
        ranked.retain(|(_, entry, _)| whole.contains(&entry.family));
        ranked.sort_by_key(|(rank, ..)| *rank);
        let mut seen = HashSet::new();
        let (functions, aliases) = ranked
            .into_iter()
            .map(|(_, entry, function)| (entry, function))
            .partition(|(_, function)| seen.insert(function.address));
        Self { functions, aliases }
    }

    /// Whether there is an allocator: more than operators, which may be made of another's functions.
    pub(in crate::target) fn has_allocator(&self) -> bool {
        self.functions.iter().any(|(entry, _)| !entry.is_operator())
    }

    /// Whether the file has an allocator of its own, rather than operators over another's.
    fn has_own_blocks(&self) -> bool {
        self.functions.iter().any(|(entry, _)| !entry.family.is_made_of_others())
    }

    /// Families made of others' functions whose blocks need not be those of the others: where one
    /// function does more than to hand its calls on, the block that it gives may begin behind a header, and
    /// those of the same family that take it back must see it as it was given.
    fn families_that_stand_alone(&self, covering: &[Option<&Entry>]) -> BTreeSet<Family> {
        let entries = self.functions.iter().map(|(entry, _)| *entry).zip(covering);
        let alone = entries.filter(|(entry, by)| by.is_none() && entry.family.is_made_of_others());
        let families = alone.map(|(entry, _)| entry.family);
        // An allocator's own operators have its own blocks.
        if self.has_own_blocks() { BTreeSet::new() } else { families.collect() }
    }

    /// The functions with all that matters to their probes.
    ///
    /// `apart`: those that only call another get a probe of their own, which tells the forms apart.
    pub(in crate::target) fn sorted_out(
        &self,
        elf: &Elf<'_>,
        apart: bool,
    ) -> Result<SortedOut, ElfError> {
        let route = Route::through(elf, &self.functions)?;
        let mut families = Families::of(self.functions.iter().map(|(entry, _)| entry.family));
        let mut forms = Forms::default();
        for (entry, alias) in &self.aliases {
            let first = self.functions.iter().find(|(_, f)| f.address == alias.address);
            if let Some((first, _)) = first {
                families.unite(first.family, entry.family);
                forms.unite(first, entry);
            }
        }
        let mut out = SortedOut::default();
        let covering: Vec<_> = self
            .functions
            .iter()
            .map(|(entry, function)| route.covering(elf, entry, function))
            .collect();
        let stand_alone = self.families_that_stand_alone(&covering);
        for ((entry, function), by) in self.functions.iter().zip(covering) {
            let by =
                by.filter(|by| by.family == entry.family || !stand_alone.contains(&entry.family));
            if let Some(by) = by {
                families.unite(entry.family, by.family);
                if !apart {
                    forms.unite(entry, by);
                }
                out.covered.push((entry, function.clone()));
            } else {
                let calls_another = route.calls_another(elf, entry, function);
                out.frees_nest |= entry.frees() && calls_another;
                out.probed.push(Chosen {
                    entry,
                    function: function.clone(),
                    form: entry.signature.form,
                    encloses: entry.family.is_made_of_others()
                        && (!self.has_own_blocks() || calls_another),
                    group: 0,
                });
            }
        }
        for chosen in &mut out.probed {
            chosen.group = families.group(chosen.entry.family);
            chosen.form = forms.of(chosen.form);
        }
        out.forms = forms;
        Ok(out)
    }
}

/// What a file's functions come to.
#[derive(Default)]
pub(in crate::target) struct SortedOut {
    /// Those to probe.
    pub(in crate::target) probed: Vec<Chosen>,
    /// Those whose calls others see.
    pub(in crate::target) covered: Vec<(&'static Entry, Function)>,
    /// Whether one that takes a block may pass it on to another that is probed.
    pub(in crate::target) frees_nest: bool,
    forms: Forms,
}

impl SortedOut {
    /// The form of a function, as far as it can be told from others.
    pub(in crate::target) fn form_of(&self, entry: &Entry) -> Form {
        self.forms.of(entry.signature.form)
    }
}

/// A function to probe.
pub(in crate::target) struct Chosen {
    pub(in crate::target) entry: &'static Entry,
    pub(in crate::target) function: Function,
    /// Which frees its blocks go together with.
    pub(in crate::target) form: Form,
    /// What it calls in turn is part of its calls.
    pub(in crate::target) encloses: bool,
    /// The same for all functions of one implementation within the file.
    pub(in crate::target) group: usize,
}

/// The families of which a file has what an allocator needs.
fn whole_families(entries: impl Iterator<Item = &'static Entry>) -> BTreeSet<Family> {
    let mut gives = BTreeSet::new();
    let mut takes = BTreeSet::new();
    for entry in entries {
        let is_enough = entry.family != Family::Libc || matches!(entry.name, "malloc" | "free");
        if is_enough {
            (if entry.frees() { &mut takes } else { &mut gives }).insert(entry.family);
        }
    }
    let any: BTreeSet<Family> = gives.union(&takes).copied().collect();
    let is_whole = |family: &Family| {
        *family == Family::Cxx || (gives.contains(family) && takes.contains(family))
    };
    any.into_iter().filter(is_whole).collect()
}

/// Which families are one implementation: their functions are each other's.
struct Families {
    group: BTreeMap<Family, usize>,
}

impl Families {
    fn of(present: impl Iterator<Item = Family>) -> Self {
        let mut present: BTreeSet<Family> = present.collect();
        // These take each other's blocks wherever they stand together.
        let standard = [Family::Libc, Family::LibcInternal, Family::Cxx, Family::Jemalloc];
        let mut group: BTreeMap<Family, usize> = BTreeMap::new();
        for family in standard {
            if present.remove(&family) {
                group.insert(family, 0);
            }
        }
        group.extend(present.into_iter().zip(1..));
        Self { group }
    }

    fn group(&self, family: Family) -> usize {
        self.group.get(&family).copied().unwrap_or(0)
    }

    fn unite(&mut self, one: Family, other: Family) {
        let (Some(&one), Some(&other)) = (self.group.get(&one), self.group.get(&other)) else {
            return;
        };
        for group in self.group.values_mut().filter(|group| **group == one.max(other)) {
            *group = one.min(other);
        }
    }
}

/// Forms that cannot be told apart, since one function serves them all.
#[derive(Default)]
struct Forms {
    /// Of each form, the one that stands for it.
    united: BTreeMap<u8, Form>,
}

impl Forms {
    fn unite(&mut self, one: &Entry, other: &Entry) {
        let (one, other) = (self.of(one.signature.form), self.of(other.signature.form));
        let (kept, gone) = if (one as u8) < other as u8 { (one, other) } else { (other, one) };
        if kept == gone {
            return;
        }
        for form in [Form::Plain, Form::New, Form::NewArray] {
            if self.of(form) == gone {
                self.united.insert(form as u8, kept);
            }
        }
    }

    fn of(&self, form: Form) -> Form {
        self.united.get(&(form as u8)).copied().unwrap_or(form)
    }
}
