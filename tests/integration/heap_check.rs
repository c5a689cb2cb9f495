//! Does the target's memory say which of its blocks are dead? Never of a live one, and of how many
//! dead ones: for a program that rests, and for one that works on while it is read.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use leaktrace::model::{Addr, Pid};
use leaktrace::target::heap::{ForeignMemory, HeapCheck, Judged, Verdict};
use leaktrace::target::{Image, Plan};

use crate::processes::{Target, need_root};
use crate::programs::program;

/// No limit to what is read.
const ALL: u64 = u64::MAX;

/// What the program says of a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum State {
    Live,
    Dead,
    /// Dead, and another block began at its address since.
    Again,
}

/// A program with blocks in all states, and the truth about them.
struct Blocks {
    target: Target,
    /// Address and size, by address.
    blocks: Vec<(Addr, u64)>,
    truth: Vec<(State, String)>,
    image: Image,
    memory: ForeignMemory,
    check: HeapCheck,
}

impl Blocks {
    fn of(busy: u32, blocks_of_thread: u32) -> Self {
        need_root();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("truth");
        let (busy, count) = (busy.to_string(), blocks_of_thread.to_string());
        let args = [file.to_str().unwrap(), &busy, &count];
        let target = Target::start(&program("heap_states.c"), &args);
        let mut blocks = Vec::new();
        let mut truth = Vec::new();
        for line in fs::read_to_string(&file).unwrap().lines() {
            let [address, size, state, kind] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            let state = match state {
                "live" => State::Live,
                "dead" => State::Dead,
                "again" => State::Again,
                _ => panic!("{line}"),
            };
            blocks.push((Addr(address.parse().unwrap()), size.parse().unwrap()));
            truth.push((state, kind.to_owned()));
        }
        assert!(blocks.is_sorted_by(|a, b| a.0 < b.0));
        let pid = Pid::new(target.pid()).unwrap();
        let image = Image::capture(pid).unwrap();
        let plan = Plan::make(&image, "", None).unwrap();
        let check = HeapCheck::new(&image, &plan);
        assert!(check.knows_the_allocator());
        let memory = ForeignMemory::open(pid).unwrap();
        Self { target, blocks, truth, image, memory, check }
    }

    /// Looks once. No live block may be called dead.
    fn look(&mut self, most_bytes: u64) -> Judged {
        self.image.refresh().unwrap();
        let began = Instant::now();
        let mappings = self.image.mappings();
        let judged = self.check.look(&self.memory, mappings, &self.blocks, most_bytes);
        println!(
            "{} blocks in {:?}: {:?} dead, live, not judged; {} MiB, heaps {:?}, {} threads",
            self.blocks.len(),
            began.elapsed(),
            judged.counts(),
            judged.bytes_read >> 20,
            judged.heaps,
            judged.thread_caches
        );
        assert!(self.memory.is_still(self.image.mappings()[0].start.0));
        assert_eq!(judged.verdicts.len(), self.blocks.len());
        let blamed: Vec<_> = self
            .each(&judged)
            .filter(|(.., state, _, v)| *state == State::Live && v.is_dead())
            .collect();
        assert!(
            blamed.is_empty(),
            "{} live blocks called dead: {:x?}",
            blamed.len(),
            blamed.first()
        );
        judged
    }

    fn each<'a>(
        &'a self,
        judged: &'a Judged,
    ) -> impl Iterator<Item = (Addr, u64, State, &'a str, Verdict)> {
        let truth = self.truth.iter().zip(&judged.verdicts);
        self.blocks.iter().zip(truth).map(|(&(block, size), ((state, kind), &verdict))| {
            (block, size, *state, kind.as_str(), verdict)
        })
    }

    /// The share of the blocks in a state that is called dead, of those whose size is in a range.
    fn dead_share(&self, judged: &Judged, wanted: State, sizes: std::ops::Range<u64>) -> f64 {
        let of = |dead_only: bool| {
            let blocks = self.each(judged);
            let blocks =
                blocks.filter(|(_, size, state, ..)| *state == wanted && sizes.contains(size));
            blocks.filter(|(.., verdict)| verdict.is_dead() || !dead_only).count()
        };
        let all = of(false);
        assert!(all > 0, "no {wanted:?} block of {sizes:?}");
        of(true) as f64 / all as f64
    }

    fn show(&self, judged: &Judged) {
        let mut table: BTreeMap<(State, &str, Verdict), usize> = BTreeMap::new();
        for (.., state, kind, verdict) in self.each(judged) {
            *table.entry((state, kind, verdict)).or_default() += 1;
        }
        for (row, count) in table {
            println!("{row:?}: {count}");
        }
    }
}

/// Sizes by what glibc does with freed blocks of them: lists of arenas and of threads, lists of
/// threads only, none, a mapping of its own.
const CLASSES: [std::ops::Range<u64>; 4] = [0..121, 121..1033, 1033..131_072, 131_072..1 << 20];

#[test]
fn dead_blocks_of_a_program_that_rests_are_found_and_no_live_one() {
    let mut blocks = Blocks::of(0, 20_000);
    let judged = blocks.look(ALL);
    blocks.show(&judged);
    for class in CLASSES {
        let share = blocks.dead_share(&judged, State::Dead, class.clone());
        println!("{class:?}: {share}");
    }
    blocks.target.kill();
}

#[test]
fn dead_blocks_of_a_program_that_works_on_are_found_and_no_live_one() {
    let mut blocks = Blocks::of(3, 20_000);
    for _ in 0..30 {
        let judged = blocks.look(ALL);
        for class in CLASSES {
            let share = blocks.dead_share(&judged, State::Dead, class.clone());
            println!("{class:?}: {share}");
        }
    }
    blocks.target.kill();
}
