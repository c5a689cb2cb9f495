//! What the probes in one target have cost so far, and which of its events count: for whoever
//! keeps the cost within bounds while the rest of the program is busy with a report.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use leaktrace_ebpf::records::{
    Counter, Counters, MAX_ALLOCATOR_RANGES, SlotHits, TARGET_CLOSED, TARGET_DRAINING,
    TARGET_EXECED, TARGET_OPEN, Target,
};

use super::maps::{CounterValues, PlainData};
use crate::model::{Addr, Slot};

/// One target's state and counts.
pub struct Gauge {
    slot: Slot,
    targets: Array<MapData, PlainData<Target>>,
    hits: PerCpuArray<MapData, PlainData<SlotHits>>,
    counters: PerCpuArray<MapData, PlainData<Counters>>,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Probe hits in this target.
    pub hits: Hits,
    /// The handlers' mean time, of all targets, in nanoseconds; `None` before any was timed.
    pub handler_ns: Option<f64>,
    /// Allocations seen, of all targets.
    pub allocs: u64,
    /// Frees seen of blocks that were known, of all targets.
    pub matched_frees: u64,
    /// Frees seen, of all targets.
    pub frees: u64,
}

/// How often probes were hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// In all.
    pub all: u64,
    /// Those on instructions that the kernel single-steps.
    pub stepped: u64,
    /// Those of return probes.
    pub returns: u64,
}

impl Hits {
    /// How many there were since.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            all: self.all.saturating_sub(earlier.all),
            stepped: self.stepped.saturating_sub(earlier.stepped),
            returns: self.returns.saturating_sub(earlier.returns),
        }
    }
}

impl std::ops::AddAssign for Hits {
    fn add_assign(&mut self, other: Self) {
        self.all += other.all;
        self.stepped += other.stepped;
        self.returns += other.returns;
    }
}

impl Gauge {
    pub(super) fn new(
        slot: Slot,
        targets: BorrowedFd<'_>,
        hits: BorrowedFd<'_>,
        counters: BorrowedFd<'_>,
    ) -> Result<Self> {
        let again = |fd: BorrowedFd<'_>| -> Result<MapData> {
            Ok(MapData::from_fd(fd.as_fd().try_clone_to_owned().context("no more descriptors")?)?)
        };
        Ok(Self {
            slot,
            targets: Map::Array(again(targets)?).try_into()?,
            hits: Map::PerCpuArray(again(hits)?).try_into()?,
            counters: Map::PerCpuArray(again(counters)?).try_into()?,
        })
    }

    /// The counts now.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn counts(&self) -> Result<Counts> {
        let hits = slot_hits(&self.hits, self.slot)?;
        let counters = CounterValues::read(&self.counters)?;
        Ok(Counts {
            hits,
            handler_ns: counters.handler_ns(),
            allocs: counters.get(Counter::Allocs),
            matched_frees: counters.get(Counter::MatchedFrees),
            frees: counters.get(Counter::MatchedFrees)
                + counters.get(Counter::UnknownFrees)
                + counters.get(Counter::UnsampledFrees),
        })
    }

    /// Lets all events of the target count again, in a new window; its blocks are still known.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn open(&mut self) -> Result<()> {
        self.change(|target| {
            target.window = target.window.wrapping_add(1);
            target.state = TARGET_OPEN;
        })
    }

    /// Lets its allocations count no longer, but still what ends a block.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn drain(&mut self) -> Result<()> {
        self.change(|target| target.state = TARGET_DRAINING)
    }

    /// Lets its events count no longer; its blocks are still known.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn close(&mut self) -> Result<()> {
        self.change(|target| target.state = TARGET_CLOSED)
    }

    /// Says where the code of the target's allocators is mapped now, and whether one of its functions
    /// that free may call another. What counts stays as it is.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn set_allocators(&mut self, code: &[(Addr, Addr)], frees_nest: bool) -> Result<()> {
        self.change(|target| {
            target.range_count = code.len().min(MAX_ALLOCATOR_RANGES) as u32;
            for (range, (start, end)) in target.ranges.iter_mut().zip(code) {
                *range = [start.0, end.0];
            }
            target.frees_nest = frees_nest.into();
        })
    }

    /// Changes the target, unless it has called exec: what that left is nobody's.
    fn change(&mut self, change: impl FnOnce(&mut Target)) -> Result<()> {
        let index = u32::from(self.slot.0);
        let mut target = self.targets.get(&index, 0).context("no such target")?.0;
        if target.state == TARGET_EXECED {
            return Ok(());
        }
        change(&mut target);
        self.targets.set(index, PlainData(target), 0).context("cannot write the map of targets")
    }
}

/// The hits in one target, summed over all CPUs.
pub(super) fn slot_hits(
    hits: &PerCpuArray<MapData, PlainData<SlotHits>>,
    slot: Slot,
) -> Result<Hits> {
    let per_cpu = hits.get(&u32::from(slot.0), 0).context("cannot read the map of hits")?;
    let mut sum = Hits::default();
    for PlainData(cpu) in per_cpu.iter() {
        sum += Hits { all: cpu.hits, stepped: cpu.stepped, returns: cpu.returns };
    }
    Ok(sum)
}
