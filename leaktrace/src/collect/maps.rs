//! The kernel half's maps, typed.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use leaktrace_ebpf::records::{
    self, Block, COUNTER_COUNT, Counter, Counters, MAX_ALLOCATOR_RANGES, Mappings, StackTotals,
    TARGET_CLOSED, TARGET_OPEN, UNKNOWN_STACK,
};

use super::unwind_tables::MappingsChunk;
use super::{batch, clock};
use crate::model::{Addr, Pid, Slot, StackId, Totals};

/// aya's typed maps want to know which types are plain data; its own trait cannot be implemented
/// in the crate of the records, which knows no aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct PlainData<T>(T);
// SAFETY: only used with the `#[repr(C)]` records of integers, which have no padding.
#[expect(unsafe_code, reason = "see above")]
unsafe impl<T: Copy + 'static> aya::Pod for PlainData<T> {}

/// The ring buffer through which the kernel half tells what cannot wait.
pub type MessageRing = RingBuf<MapData>;

/// The kernel half's maps.
pub struct KernelMaps {
    blocks: OwnedFd,
    stacks_fd: OwnedFd,
    stacks: HashMap<MapData, u64, PlainData<StackTotals>>,
    targets: Array<MapData, PlainData<records::Target>>,
    mappings: Array<MapData, PlainData<Mappings>>,
    watched: HashMap<MapData, u32, PlainData<records::Watched>>,
    counters: PerCpuArray<MapData, PlainData<Counters>>,
}

impl KernelMaps {
    /// Takes the maps out of the loaded object, and the ring buffer beside them.
    ///
    /// # Errors
    ///
    /// When the object lacks one, which a matching object does not.
    pub fn take(ebpf: &mut Ebpf) -> Result<(Self, MessageRing)> {
        let mut take = |name: &'static str| -> Result<Map> {
            ebpf.take_map(name).with_context(|| format!("the BPF object lacks the map {name}"))
        };
        let blocks = descriptor(&take("BLOCKS")?)?;
        let stacks = take("STACKS")?;
        let mut this = Self {
            blocks,
            stacks_fd: descriptor(&stacks)?,
            stacks: stacks.try_into()?,
            targets: take("TARGETS")?.try_into()?,
            mappings: take("MAPPINGS")?.try_into()?,
            watched: take("WATCHED")?.try_into()?,
            counters: take("COUNTERS")?.try_into()?,
        };
        let messages = take("MESSAGES")?.try_into()?;
        this.add_unknown_stack()?;
        Ok((this, messages))
    }

    fn add_unknown_stack(&mut self) -> Result<()> {
        let unknown = StackTotals { frames_sent: 1, ..StackTotals::default() };
        self.stacks
            .insert(UNKNOWN_STACK, PlainData(unknown), 0)
            .context("cannot write the map of stacks")
    }

    /// Lets the events of a target count from now on.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn open_target(&mut self, slot: Slot, allocator_code: &[(Addr, Addr)]) -> Result<()> {
        let mut ranges = [[0; 2]; MAX_ALLOCATOR_RANGES];
        for (range, (start, end)) in ranges.iter_mut().zip(allocator_code) {
            *range = [start.0, end.0];
        }
        let range_count = allocator_code.len().min(MAX_ALLOCATOR_RANGES) as u32;
        self.set_target(
            slot,
            records::Target {
                since_ns: clock::monotonic_ns(),
                state: TARGET_OPEN,
                range_count,
                ranges,
            },
        )
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

    /// Lets the events of a target count no longer; what it holds stays as it is.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn close_target(&mut self, slot: Slot) -> Result<()> {
        let mut target = self.targets.get(&u32::from(slot.0), 0).context("no such target")?.0;
        target.state = TARGET_CLOSED;
        self.set_target(slot, target)
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

    /// The counters, summed over all CPUs.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn counters(&self) -> Result<CounterValues> {
        let per_cpu = self.counters.get(&0, 0).context("cannot read the counters")?;
        let mut sums = [0u64; COUNTER_COUNT];
        for cpu in per_cpu.iter() {
            for (sum, value) in sums.iter_mut().zip(cpu.0.values) {
                *sum = sum.wrapping_add(value);
            }
        }
        Ok(CounterValues(sums))
    }

    /// Visits the totals of every stack.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn for_each_stack(&self, mut visit: impl FnMut(StackId, Totals)) -> Result<()> {
        batch::for_each::<StackTotals>(self.stacks_fd.as_fd(), |id, totals| {
            visit(
                StackId(id),
                Totals {
                    allocated_bytes: totals.allocated_bytes,
                    allocated_blocks: totals.allocated_blocks,
                    freed_bytes: totals.freed_bytes,
                    freed_blocks: totals.freed_blocks,
                },
            );
        })
        .context("cannot read the map of stacks")
    }

    /// Visits every live block, with the slot of its target.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn for_each_block(&self, mut visit: impl FnMut(&Block)) -> Result<()> {
        batch::for_each::<Block>(self.blocks.as_fd(), |_, block| visit(block))
            .context("cannot read the map of live blocks")
    }

    /// Forgets the blocks of an address space that is gone, and the totals of its stacks.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn purge(&mut self, slot: Slot, stacks: &[StackId]) -> Result<()> {
        let mut keys = Vec::new();
        batch::for_each::<Block>(self.blocks.as_fd(), |key, _| {
            if key >> 48 == u64::from(slot.0) {
                keys.push(key);
            }
        })?;
        batch::delete(self.blocks.as_fd(), &keys).context("cannot clear the map of blocks")?;
        let stacks: Vec<u64> = stacks.iter().map(|id| id.0).collect();
        batch::delete(self.stacks_fd.as_fd(), &stacks).context("cannot clear the map of stacks")
    }

    /// Forgets all blocks and totals.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn clear(&mut self) -> Result<()> {
        let mut keys = Vec::new();
        batch::for_each::<Block>(self.blocks.as_fd(), |key, _| keys.push(key))?;
        batch::delete(self.blocks.as_fd(), &keys).context("cannot empty the map of blocks")?;
        keys.clear();
        batch::for_each::<StackTotals>(self.stacks_fd.as_fd(), |key, _| keys.push(key))?;
        batch::delete(self.stacks_fd.as_fd(), &keys).context("cannot empty the map of stacks")?;
        self.add_unknown_stack()
    }
}

/// A descriptor of a hash map, for what aya has no operation for.
fn descriptor(map: &Map) -> Result<OwnedFd> {
    let Map::HashMap(data) = map else {
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

    /// One of them.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
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
