//! How much of what happened was seen.

use std::collections::BTreeMap;

use super::trust::Trust;

/// What a trace saw and what it missed. Every report carries it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Successful allocations seen, reallocations included.
    pub allocs: u64,
    /// Frees of a non-null pointer seen, reallocations included.
    pub frees: u64,
    /// Frees whose block was known.
    pub matched_frees: u64,
    /// Frees of blocks that were not: allocated before the trace began, or missed.
    pub unknown_frees: u64,
    /// Allocations that failed.
    pub failed_allocs: u64,
    /// Blocks handed out again without a free of them having been seen.
    pub reappeared: u64,
    /// Calls left by `longjmp` or an exception.
    pub abandoned_calls: u64,
    /// Allocations outside `--min-size` and `--max-size`.
    pub filtered: u64,
    /// Allocations that were seen but not chosen for the sample: those chosen stand for them.
    pub sampled_out: u64,
    /// Blocks of earlier windows that are dead for sure, though no free of them was seen.
    pub refuted_blocks: u64,
    /// Blocks of earlier windows that nothing could be found out about: they count as live.
    pub unjudged_blocks: u64,
    /// What was lost, by reason; reasons without a loss are 0, not missing.
    pub lost: BTreeMap<&'static str, u64>,
    /// Allocations whose stack has more frames than are kept.
    pub truncated_stacks: u64,
    /// How whole the stacks are.
    pub stacks: StackQuality,
    /// Probes that could not be placed.
    pub probe_failures: Vec<ProbeFailure>,
    /// What else the reader of a report has to know: one sentence each.
    pub notes: Vec<String>,
    /// Blocks freed that were freed before; 0 where frees are not checked.
    pub double_frees: u64,
    /// Blocks freed by another family than they were allocated by; 0 as above.
    pub mismatched_frees: u64,
    /// Frees in forked children of blocks that they began with: copies of their parents'.
    pub inherited_frees: u64,
    /// The children of the targets; `None` where they are not followed.
    pub children: Option<ChildrenSeen>,
    /// Memory that was mapped past the allocators.
    pub mappings: MappedMemory,
    /// How far that can be trusted.
    pub trust: Trust,
}

/// The processes that the targets have forked, and these in turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildrenSeen {
    /// How many were forked.
    pub seen: u64,
    /// How many of them live.
    pub live: u64,
    /// How often they have called exec.
    pub execed: u64,
    /// How many are in no figure: there was no room for them, or they could not be traced.
    pub missed: u64,
}

/// Anonymous memory that targets map themselves: by `mmap`, `mremap` and `brk`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappedMemory {
    /// Whether the kernel tells of it.
    pub traced: bool,
    /// Mappings made by the targets' own code.
    pub mapped: u64,
    /// Those of them that were unmapped to the last byte.
    pub unmapped: u64,
    /// Bytes that allocators hold in mappings made since tracing began: their blocks count, these
    /// don't.
    pub allocator_bytes: u64,
    /// How often the kernel left a call out, of any process on this machine.
    pub missed: u64,
}

/// How many allocations have a whole stack, and why the others have not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StackQuality {
    /// Allocations whose stack reaches the thread's start.
    pub complete: u64,
    /// Allocations whose stack has more frames than are kept.
    pub cut_short: u64,
    /// Where the stacks of the others end, most allocations first.
    pub lost_at: Vec<LostAt>,
}

/// A module that stacks end in because the next caller could not be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostAt {
    /// The mapped file, or a name in brackets for other memory.
    pub module: String,
    /// Why.
    pub reason: LostReason,
    /// Allocations whose stack ends there.
    pub allocations: u64,
}

/// Why a caller could not be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LostReason {
    /// The file has no unwind data that could be used, and its code keeps no frame pointer.
    NoUnwindData,
    /// Generated code that keeps no frame pointer.
    GeneratedCode,
    /// The unwind data led nowhere.
    Inconsistent,
    /// The code was mapped while tracing, and its unwind data was not there yet; or the address
    /// is none of any code.
    NotMapped,
    /// A return probe, of leaktrace's or of another tracer's, stands in the place of the return
    /// address.
    ReturnProbe,
    /// The stack was lost as a whole: what else the health says was lost says why.
    NotKept,
}

impl LostReason {
    /// As the JSON report writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoUnwindData => "no_unwind_data",
            Self::GeneratedCode => "generated_code",
            Self::Inconsistent => "inconsistent",
            Self::NotMapped => "not_mapped",
            Self::ReturnProbe => "return_probe",
            Self::NotKept => "not_kept",
        }
    }
}

impl StackQuality {
    /// Allocations whose stack ends because a caller could not be found.
    pub fn lost(&self) -> u64 {
        self.lost_at.iter().map(|at| at.allocations).sum()
    }

    /// All allocations that have a stack.
    pub fn all(&self) -> u64 {
        self.complete + self.cut_short + self.lost()
    }
}

/// A probe that could not be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFailure {
    /// The function.
    pub function: String,
    /// The file it is in.
    pub module: String,
    /// Why.
    pub error: String,
    /// What it is about.
    pub about: Unprobed,
}

/// What has no probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unprobed {
    /// Whole files or processes, or what is no function.
    Files,
    /// A function that was found.
    Function {
        /// It ends blocks, and no other probe sees that.
        frees: bool,
    },
    /// A function of the user's own that no file has, of those mapped so far.
    Missing {
        /// It ends blocks.
        frees: bool,
        /// What the path of its file ends with, if that was said.
        object: Option<String>,
    },
}

impl Unprobed {
    /// Whether blocks end unseen.
    pub fn frees(&self) -> bool {
        match self {
            Self::Files => false,
            Self::Function { frees } | Self::Missing { frees, .. } => *frees,
        }
    }
}

impl Health {
    /// Everything lost, over all reasons but those that count bytes.
    pub fn lost_events(&self) -> u64 {
        self.lost.iter().filter(|(reason, _)| !reason.ends_with("_bytes")).map(|(_, n)| n).sum()
    }

    /// Whether nothing was lost, every probe is in place, and nothing else speaks against it.
    pub fn complete(&self) -> bool {
        self.lost_events() == 0 && self.probe_failures.is_empty() && self.trust.is_enough()
    }
}
