//! How far a report can be trusted: what speaks for it and against it, in numbers.

/// How far a report can be trusted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trust {
    /// Whether enough was seen to say what leaks.
    pub verdict: TrustVerdict,
    /// Why not; empty when it was enough.
    pub reasons: Vec<Distrust>,
    /// What that rests on.
    pub evidence: TrustEvidence,
}

impl Trust {
    /// Whether enough was seen to say what leaks.
    pub fn is_enough(&self) -> bool {
        self.verdict == TrustVerdict::Enough
    }
}

/// Whether enough was seen to say what leaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrustVerdict {
    /// It was.
    #[default]
    Enough,
    /// It was not: neither that something leaks nor that nothing does is shown.
    NotEnough,
}

impl TrustVerdict {
    /// As the JSON report writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enough => "enough",
            Self::NotEnough => "not_enough",
        }
    }
}

/// Why a report says too little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// Too many events were lost.
    Lost {
        /// Events lost.
        events: u64,
        /// Allocations seen.
        allocs: u64,
    },
    /// Blocks were handed out again without a free of them having been seen.
    Reappeared {
        /// So many.
        blocks: u64,
        /// Allocations seen.
        allocs: u64,
    },
    /// Functions that free have no probe: `free in /lib/libc.so.6`.
    UnprobedFrees(Vec<String>),
    /// Though traced from the first allocation on, blocks were freed whose allocation was not seen.
    UnknownFrees {
        /// So many.
        blocks: u64,
        /// Frees seen.
        frees: u64,
    },
    /// More blocks were freed whose allocation was not seen than there were before the trace.
    MoreThanBefore {
        /// Frees of blocks whose allocation was not seen.
        blocks: u64,
        /// Blocks that there can have been when tracing began.
        before: u64,
    },
    /// All probes are out of a process that runs on, and why.
    ProbesOut(String),
}

/// What is known of how whole a trace is. Sums over all targets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrustEvidence {
    /// The functions of the allocators that were found.
    pub entry_points: EntryPoints,
    /// Why all probes of a target are out before the trace has ended.
    pub probes_out: Vec<String>,
    /// There was time that was not traced in full, for the budget's sake: allocations and frees in it
    /// were not seen.
    pub in_windows: bool,
    /// Only a sample of the allocations is known, and their frees.
    pub is_sample: bool,
    /// All targets were traced from their first allocation on, and all their allocators.
    pub from_first: bool,
    /// Allocations that are in the figures.
    pub allocs: u64,
    /// Frees whose block was known.
    pub matched_frees: u64,
    /// Frees of blocks that were not.
    pub unknown_frees: u64,
    /// Allocations that were seen and are in no figure, by choice or since they were lost: their
    /// frees are unknown.
    pub left_out: u64,
    /// Blocks handed out again without a free of them having been seen.
    pub reappeared: u64,
    /// Blocks outstanding.
    pub outstanding_blocks: u64,
    /// Events lost.
    pub lost: u64,
    /// The memory that was there when tracing began; `None` when it is not known of a target.
    pub before: Option<Before>,
    /// Bytes outstanding of what was allocated since.
    pub bytes_tracked: u64,
}

/// The functions of the allocators that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryPoints {
    /// How many there are.
    pub found: u64,
    /// How many of them are probed, or do nothing but call one that is.
    pub covered: u64,
    /// Those of the others that free: `free in /lib/libc.so.6`.
    pub unprobed_frees: Vec<String>,
}

/// The memory that was there when tracing began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Bytes.
    pub bytes: u64,
    /// They are those of blocks in use, as the allocator itself has it; else of all memory that no
    /// file backs, and blocks are a part of that.
    pub in_use: bool,
    /// There were no more blocks than this.
    pub most_blocks: u64,
}

impl Before {
    /// Of several targets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            in_use: self.in_use && other.in_use,
            most_blocks: self.most_blocks.saturating_add(other.most_blocks),
        }
    }
}

impl TrustEvidence {
    /// The share of frees whose block was known, from 0 to 1; `None` where there were none, and
    /// where it says nothing: in windows and samples, most blocks are not known by choice.
    pub fn matched_share(&self) -> Option<f64> {
        let frees = self.matched_frees.saturating_add(self.unknown_frees);
        let says_something = frees > 0 && !self.in_windows && !self.is_sample;
        says_something.then(|| self.matched_frees as f64 / frees as f64)
    }

    /// The share of allocations that got the place of a block no free of which was seen, from 0
    /// to 1; `None` where there were none, and in windows.
    pub fn reappeared_share(&self) -> Option<f64> {
        (self.allocs > 0 && !self.in_windows).then(|| self.reappeared as f64 / self.allocs as f64)
    }
}
