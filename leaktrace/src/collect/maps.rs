//! The kernel half's maps, typed.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use leaktrace_ebpf::records::{
    self, COUNTER_COUNT, Counter, Counters, MAX_ALLOCATOR_RANGES, MAX_TARGETS, Mappings, SlotHits,
    TARGET_OPEN, Terms,
};

use super::clock;
use super::gauge::{self, Gauge, Hits};
use super::mapped::MappedArray;
use super::tables::{LiveBlock, Tables};
use super::unwind_tables::MappingsChunk;
use super::wrong_frees::{self, WrongFrees, WrongFreesMap};
use crate::model::{Addr, Pid, Slot, StackId, Totals};

/// aya's typed maps want to know which types are plain data; its own trait cannot be implemented
/// in the crate of the records, which knows no aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct PlainData<T>(pub(super) T);
// SAFETY: only used with the `#[repr(C)]` records of integers, which have no padding.
#[expect(unsafe_code, reason = "see above")]
unsafe impl<T: Copy + 'static> aya::Pod for PlainData<T> {}

/// The ring buffer through which the kernel half tells what cannot wait.
pub type MessageRing = RingBuf<MapData>;

/// The kernel half's maps.
pub struct KernelMaps {
    tables: Tables,
    targets: Array<MapData, PlainData<records::Target>>,
    mappings: Array<MapData, PlainData<Mappings>>,
    watched: HashMap<MapData, u32, PlainData<records::Watched>>,
    watched_fd: OwnedFd,
    counters: PerCpuArray<MapData, PlainData<Counters>>,
    hits: PerCpuArray<MapData, PlainData<SlotHits>>,
    wrong_frees: WrongFreesMap,
    /// Of the maps of targets, hits and counters, for [`Gauge`]s.
    gauged: [OwnedFd; 3],
    /// The slots that were open so far are those below.
    slots: u16,
}

impl KernelMaps {
    /// Takes the maps out of the loaded object, and the ring buffer beside them. `terms` are those
    /// that it was loaded with.
    ///
    /// # Errors
    ///
    /// When the object lacks one, which a matching object does not.
    pub fn take(ebpf: &mut Ebpf, terms: Terms) -> Result<(Self, MessageRing)> {
        let mut take = |name: &'static str| -> Result<Map> {
            ebpf.take_map(name).with_context(|| format!("the BPF object lacks the map {name}"))
        };
        let (targets, hits, counters) = (take("TARGETS")?, take("HITS")?, take("COUNTERS")?);
        let watched = take("WATCHED")?;
        let gauged = [descriptor(&targets)?, descriptor(&hits)?, descriptor(&counters)?];
        let this = Self {
            tables: Tables {
                blocks: MappedArray::new(&take("BLOCKS")?)?,
                stacks: MappedArray::new(&take("STACKS")?)?,
                terms,
            },
            targets: targets.try_into()?,
            mappings: take("MAPPINGS")?.try_into()?,
            watched_fd: descriptor(&watched)?,
            watched: watched.try_into()?,
            counters: counters.try_into()?,
            hits: hits.try_into()?,
            wrong_frees: take("WRONG_FREES")?.try_into()?,
            gauged,
            slots: 0,
        };
        Ok((this, take("MESSAGES")?.try_into()?))
    }

    /// How allocations are sampled, and when births are told from.
    pub fn terms(&self) -> Terms {
        self.tables.terms
    }

    /// Lets the events of a target count from now on. `frees_nest`: one of its functions that free
    /// may call another.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn open_target(
        &mut self,
        slot: Slot,
        allocator_code: &[(Addr, Addr)],
        frees_nest: bool,
    ) -> Result<()> {
        let mut ranges = [[0; 2]; MAX_ALLOCATOR_RANGES];
        for (range, (start, end)) in ranges.iter_mut().zip(allocator_code) {
            *range = [start.0, end.0];
        }
        self.slots = self.slots.max(slot.0.saturating_add(1));
        let range_count = allocator_code.len().min(MAX_ALLOCATOR_RANGES) as u32;
        self.set_target(
            slot,
            records::Target {
                since_ns: clock::monotonic_ns(),
                state: TARGET_OPEN,
                range_count,
                window: self.window(slot).wrapping_add(1),
                frees_nest: frees_nest.into(),
                lineage: slot.0.into(),
                forked: 0,
                ranges,
            },
        )
    }

    /// Has a target that was opened as a copy of another's stand for itself from now on.
    /// `frees_nest` as in [`KernelMaps::open_target`].
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn make_lineage(
        &mut self,
        slot: Slot,
        allocator_code: &[(Addr, Addr)],
        frees_nest: bool,
    ) -> Result<()> {
        let target = self.targets.get(&u32::from(slot.0), 0);
        let mut target = target.context("cannot read the map of targets")?.0;
        for (range, (start, end)) in target.ranges.iter_mut().zip(allocator_code) {
            *range = [start.0, end.0];
        }
        target.range_count = allocator_code.len().min(MAX_ALLOCATOR_RANGES) as u32;
        target.lineage = slot.0.into();
        target.frees_nest = frees_nest.into();
        self.set_target(slot, target)
    }

    /// A descriptor of the map of watched processes.
    ///
    /// # Errors
    ///
    /// When there are no more descriptors.
    pub fn watched(&self) -> Result<OwnedFd> {
        self.watched_fd.try_clone().context("no more descriptors")
    }

    /// Says where in the unwind tables the mappings of a target are, and how often that has changed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn set_mappings(
        &mut self,
        slot: Slot,
        chunk: MappingsChunk,
        generation: u32,
    ) -> Result<()> {
        self.mappings
            .set(
                u32::from(slot.0),
                PlainData(Mappings { chunk_from_1: chunk.0 + 1, generation }),
                0,
            )
            .context("cannot write the map of mappings")
    }

    /// The counts and the state of one target, to be looked at from elsewhere.
    ///
    /// # Errors
    ///
    /// When there are no more descriptors.
    pub fn gauge(&self, slot: Slot) -> Result<Gauge> {
        let [targets, hits, counters] = &self.gauged;
        Gauge::new(slot, targets.as_fd(), hits.as_fd(), counters.as_fd())
    }

    fn window(&self, slot: Slot) -> u32 {
        self.targets.get(&u32::from(slot.0), 0).map_or(0, |target| target.0.window)
    }

    fn set_target(&mut self, slot: Slot, target: records::Target) -> Result<()> {
        self.targets
            .set(u32::from(slot.0), PlainData(target), 0)
            .context("cannot write the map of targets")
    }

    /// Has the kernel half report a process's execs; `hold` stops it there.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn watch(&mut self, pid: Pid, slot: Slot, hold: bool) -> Result<()> {
        let watched = records::Watched { slot: u32::from(slot.0), hold: u32::from(hold) };
        self.watched
            .insert(pid.get(), PlainData(watched), 0)
            .context("cannot write the map of watched processes")
    }

    /// Ends [`KernelMaps::watch`].
    pub fn unwatch(&mut self, pid: Pid) {
        // It is not an error that it was never watched.
        let _ = self.watched.remove(&pid.get());
    }

    /// The same if it is watched as the process in a slot.
    pub fn unwatch_if_in(&mut self, pid: Pid, slot: Slot) {
        if self.watched.get(&pid.get(), 0).is_ok_and(|it| it.0.slot == u32::from(slot.0)) {
            self.unwatch(pid);
        }
    }

    /// The same for all that are watched as processes in these slots.
    pub fn unwatch_slots(&mut self, slots: &HashSet<Slot>) {
        let entries = self.watched.iter().filter_map(Result::ok);
        let of_slots = entries.filter(|(_, watched)| {
            u16::try_from(watched.0.slot).is_ok_and(|slot| slots.contains(&Slot(slot)))
        });
        for pid in of_slots.map(|(pid, _)| pid).collect::<Vec<_>>() {
            // As above.
            let _ = self.watched.remove(&pid);
        }
    }

    /// Ends [`KernelMaps::watch`] for all, children among them: nothing counts any more where these
    /// are followed.
    pub fn unwatch_all(&mut self) {
        // A process that is watched may fork another meanwhile.
        const TRIES: u32 = 100;
        for _ in 0..TRIES {
            let watched: Vec<u32> = self.watched.keys().filter_map(Result::ok).collect();
            if watched.is_empty() {
                return;
            }
            for pid in watched {
                // As above.
                let _ = self.watched.remove(&pid);
            }
        }
    }

    /// Has the hits of all slots counted, whoever gives them out.
    pub fn count_all_slots(&mut self) {
        self.slots = MAX_TARGETS as u16;
    }

    /// Forgets stacks and their totals.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn forget_stacks(&mut self, stacks: &[StackId]) -> Result<()> {
        self.tables.forget_stacks(Some(stacks)).context("cannot clear the table of stacks")
    }

    /// The counters, summed over all CPUs.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn counters(&self) -> Result<CounterValues> {
        CounterValues::read(&self.counters)
    }

    /// The probe hits in all targets so far.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn hits(&self) -> Result<Hits> {
        let mut sum = Hits::default();
        for slot in 0..self.slots {
            sum += gauge::slot_hits(&self.hits, Slot(slot))?;
        }
        Ok(sum)
    }

    /// Lets the events of a target count no longer; what it holds stays as it is.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn close_target(&self, slot: Slot) -> Result<()> {
        self.gauge(slot)?.close()
    }

    /// Visits the totals of every stack. A stack that was forgotten and came again may be visited
    /// twice: its totals are the sum.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn for_each_stack(&self, visit: impl FnMut(StackId, Totals)) -> Result<()> {
        self.tables.for_each_stack(visit).context("cannot read the table of stacks")
    }

    /// Visits every live block, with its address and the slot of its target. Blocks that come or go
    /// meanwhile may be missed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn for_each_block(&self, visit: impl FnMut(Addr, Slot, &LiveBlock)) -> Result<()> {
        self.tables.for_each_block(visit).context("cannot read the table of live blocks")
    }

    /// Takes blocks that turned out to be gone out of the table, and books them as freed; returns how
    /// many of them it held.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn remove_blocks(&mut self, gone: &[(Slot, Addr)]) -> Result<u64> {
        self.tables.remove_blocks(gone).context("cannot change the table of live blocks")
    }

    /// Forgets the blocks of an address space that is gone, and the totals of its stacks.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn purge(&mut self, slot: Slot, stacks: &[StackId]) -> Result<()> {
        let cleared = self.tables.forget_blocks(|of| of == slot);
        cleared.context("cannot clear the table of live blocks")?;
        self.tables.forget_stacks(Some(stacks)).context("cannot clear the table of stacks")
    }

    /// The wrong frees so far.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn wrong_frees(&self) -> Result<Vec<WrongFrees>> {
        wrong_frees::read(&self.wrong_frees)
    }

    /// Forgets all blocks and totals.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn clear(&mut self) -> Result<()> {
        wrong_frees::clear(&mut self.wrong_frees)?;
        self.tables.forget_blocks(|_| true).context("cannot empty the table of live blocks")?;
        self.tables.forget_stacks(None).context("cannot empty the table of stacks")
    }
}

/// A descriptor of a map, for what aya has no operation for.
fn descriptor(map: &Map) -> Result<OwnedFd> {
    let (Map::HashMap(data) | Map::Array(data) | Map::PerCpuArray(data)) = map else {
        anyhow::bail!("the BPF object has a map of another kind than expected");
    };
    data.fd().as_fd().try_clone_to_owned().context("no more descriptors")
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct CounterValues([u64; COUNTER_COUNT]);

impl CounterValues {
    /// All zero.
    pub const ZERO: Self = Self([0; COUNTER_COUNT]);

    pub(super) fn read(counters: &PerCpuArray<MapData, PlainData<Counters>>) -> Result<Self> {
        let per_cpu = counters.get(&0, 0).context("cannot read the counters")?;
        let mut sums = [0u64; COUNTER_COUNT];
        for cpu in per_cpu.iter() {
            for (sum, value) in sums.iter_mut().zip(cpu.0.values) {
                *sum = sum.wrapping_add(value);
            }
        }
        Ok(Self(sums))
    }

    /// One of them.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
    }

    /// Frees of a non-null pointer, whether its block was known or not.
    pub fn frees(&self) -> u64 {
        [
            Counter::MatchedFrees,
            Counter::UnknownFrees,
            Counter::UnsampledFrees,
            Counter::InheritedFrees,
        ]
        .into_iter()
        .map(|counter| self.get(counter))
        .sum()
    }

    /// The mean time of the handlers that were timed, in nanoseconds.
    pub fn handler_ns(&self) -> Option<f64> {
        let hits = self.get(Counter::TimedHits);
        (hits != 0).then(|| self.get(Counter::TimedNs) as f64 / hits as f64)
    }

    /// How much each has grown since.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut grown = self.0;
        for (now, then) in grown.iter_mut().zip(earlier.0) {
            *now = now.saturating_sub(then);
        }
        Self(grown)
    }
}
