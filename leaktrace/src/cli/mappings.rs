//! Memory that targets map past their allocators, as a part of a trace.

use std::collections::HashMap;

use anyhow::anyhow;
use leaktrace_ebpf::records::Counter;

use super::args::TraceArgs;
use super::session::Session;
use crate::collect::ledger::BlockAges;
use crate::collect::maps::CounterValues;
use crate::collect::{Mappings, clock};
use crate::model::{Addr, MappedMemory, Snapshot, StackId, Totals};
use crate::probe::{Kernel, MappingPrograms};
use crate::target::Image;
use crate::target::maps::Mapping;

/// What is known of the mappings, and what tells of them.
pub struct MappingsTrace {
    /// The mappings of all targets.
    pub known: Mappings,
    programs: Option<MappingPrograms>,
    /// How often programs had been left out when counting began (afresh).
    missed_before: u64,
}

impl MappingsTrace {
    /// Has the kernel tell of mappings, unless the user does not want that; what it refuses costs
    /// those, not the trace. `notes` get to know of it.
    pub fn start(kernel: &mut Kernel, args: &TraceArgs, notes: &mut Vec<String>) -> Self {
        let programs = match args.no_mappings {
            true => Err(anyhow!("--no-mappings")),
            false => kernel.watch_mappings(),
        };
        let programs = programs.map_err(|error| {
            notes.push(format!(
                "memory that is mapped past the allocators (mmap, brk) is not traced: {error:#}"
            ));
        });
        let known = Mappings::new(args.min_size.unwrap_or(0), args.max_size.unwrap_or(u64::MAX));
        Self { known, programs: programs.ok(), missed_before: 0 }
    }

    fn missed(&self) -> u64 {
        let missed = self.programs.as_ref().map(MappingPrograms::missed);
        missed.and_then(Result::ok).unwrap_or(0)
    }
}

impl Session {
    /// Begins to count the mappings of a target, by its index.
    pub(super) fn open_mappings(&mut self, index: usize) {
        let Some(target) = self.targets.get(index) else { return };
        let image = &target.space.image;
        let heap_end = heap_end(image);
        let now = clock::monotonic_ns();
        self.mappings.known.open(target.slot, now, anonymous(image.mappings()), heap_end);
    }

    /// Forgets all mappings; what comes now is counted afresh.
    pub(super) fn clear_mappings(&mut self) {
        self.mappings.known.clear();
        self.mappings.missed_before = self.mappings.missed();
    }

    /// Adds what targets have mapped themselves to what they have allocated.
    pub(super) fn add_mappings(&self, snapshot: &mut Snapshot) {
        for (id, totals) in self.own_mappings() {
            *snapshot.stacks.entry(id).or_default() += totals;
        }
    }

    /// What targets have mapped themselves: not their allocators for them.
    fn own_mappings(&self) -> impl Iterator<Item = (StackId, Totals)> {
        self.targets.iter().flat_map(|target| {
            let of_target = self.mappings.known.of(target.slot);
            of_target.filter(|(id, _)| {
                let stack = self.ledger.frames(*id);
                !stack.is_some_and(|stack| target.callers.map_for_themselves(&stack.frames))
            })
        })
    }

    /// Whether a stack is one of mappings: counted, whatever windows or a sample show of others.
    pub(super) fn is_mapping(&self, id: StackId) -> bool {
        self.mappings.known.knows(id)
    }

    /// Adds how old mappings are.
    pub(super) fn add_mapping_ages(&self, min_age_ns: u64, ages: &mut HashMap<StackId, BlockAges>) {
        self.mappings.known.add_ages(clock::monotonic_ns(), min_age_ns, ages);
    }

    /// Where unmappings may have been missed, what is not mapped any more is no leak.
    pub(super) fn check_mappings(&mut self) {
        let lost = |counters: CounterValues| counters.get(Counter::LostMappings) != 0;
        let counters = self.maps.counters().map(|now| now.since(&self.counters_before));
        let missed = self.mappings.missed() != self.mappings.missed_before;
        if !missed && !counters.is_ok_and(lost) {
            return;
        }
        for target in self.targets.iter().filter(|target| !target.ended && !target.awaits_probes) {
            if let Ok(now) = Image::capture(target.process.pid)
                && target.process.lives()
            {
                self.mappings.known.keep_only(target.slot, anonymous(now.mappings()));
            }
        }
    }

    /// What there is to be said of mappings.
    pub(super) fn mapped_memory(&self) -> MappedMemory {
        let known = &self.mappings.known;
        let (mut all, mut own) = (Totals::default(), Totals::default());
        for target in &self.targets {
            known.of(target.slot).for_each(|(_, totals)| all += totals);
        }
        self.own_mappings().for_each(|(_, totals)| own += totals);
        MappedMemory {
            traced: self.mappings.programs.is_some(),
            mapped: own.allocated_blocks,
            unmapped: own.freed_blocks,
            allocator_bytes: known.allocator_bytes()
                + all.outstanding_bytes().saturating_sub(own.outstanding_bytes()),
            missed: self.mappings.missed().saturating_sub(self.mappings.missed_before),
        }
    }
}

/// What is mapped without a file, by address. To the kernel, some of it has one: memory that is shared,
/// and huge pages (`HUGETLB_ANON_FILE` of `fs/hugetlbfs/inode.c`).
fn anonymous(mappings: &[Mapping]) -> impl Iterator<Item = (Addr, Addr)> {
    let has_none = |mapping: &&Mapping| {
        mapping.file.is_none()
            || mapping.path.starts_with("/dev/zero")
            || mapping.path == "/anon_hugepage (deleted)"
            // Shared, and given a name by `prctl`.
            || mapping.path.starts_with("[anon_shmem:")
    };
    mappings.iter().filter(has_none).map(|mapping| (mapping.start, mapping.end))
}

/// Where the heap of `brk` ends.
fn heap_end(image: &Image) -> Option<Addr> {
    image.mappings().iter().filter(|m| m.path == "[heap]").map(|m| m.end).max()
}

#[cfg(test)]
mod tests {
    use leaktrace_ebpf::records::{MAPPING_MAPPED, MappingRecord};

    use super::*;
    use crate::model::Slot;
    use crate::target::maps;

    const MAP_HUGETLB: u64 = 0x4_0000;

    /// As the kernel writes them; two neighbours that are none of ours lie between.
    #[test]
    fn huge_pages_and_shared_memory_are_anonymous_though_they_have_an_inode() {
        let text = "\
            7f7ac0000000-7f7ac0400000 rw-p 00000000 00:10 32842  /anon_hugepage (deleted)\n\
            7f7ac1000000-7f7ac1001000 rw-s 00000000 00:01 2061   /dev/zero (deleted)\n\
            7f7ac2000000-7f7ac2001000 rw-s 00000000 00:01 2062   [anon_shmem:of a pool]\n\
            7f7ac3000000-7f7ac3001000 rw-p 00000000 00:00 0      [anon:of a pool]\n\
            7f7ac4000000-7f7ac4001000 rw-p 00000000 00:00 0\n\
            7f7ac5000000-7f7ac5001000 rw-s 00000000 00:01 2063   /memfd:a file (deleted)\n\
            7f7ac6000000-7f7ac6001000 rw-p 00000000 fe:00 1234   /tmp/anon_hugepage (deleted)\n";
        let mappings = maps::parse(text);
        let starts: Vec<u64> = anonymous(&mappings).map(|(start, _)| start.0).collect();
        let expected: Vec<u64> = (0..5).map(|n| 0x7f7a_c000_0000 + (n << 24)).collect();
        assert_eq!(starts, expected);

        // Programs were missed: what is still mapped stays.
        let mut known = Mappings::new(0, u64::MAX);
        known.open(Slot(0), 0, std::iter::empty(), None);
        let huge = MappingRecord {
            operation: MAPPING_MAPPED,
            address: 0x7f7a_c000_0000,
            length: 4 << 20,
            flags: MAP_HUGETLB,
            stack: 7,
            ..MappingRecord::default()
        };
        known.take(&huge);
        known.keep_only(Slot(0), anonymous(&mappings));
        let held: Vec<u64> = known.of(Slot(0)).map(|(_, held)| held.outstanding_bytes()).collect();
        assert_eq!(held, [4 << 20]);
    }
}
