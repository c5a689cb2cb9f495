//! Does the target's memory say which of its blocks are dead? Never of a live one, and of how many
//! dead ones: for a program that rests, and for one that works on while it is read.

use std::collections::HashSet;
use std::fs;
use std::time::Instant;

use leaktrace::model::{Addr, Pid};
use leaktrace::target::heap::{ForeignMemory, HeapCheck, Judged, Verdict};
use leaktrace::target::{Image, Plan, PlanOptions};

use crate::processes::{Target, need_root};
use crate::programs::program;

/// No limit to what is read.
const ALL: u64 = u64::MAX;

/// A program with blocks in all states, and the truth about them.
struct Blocks {
    target: Target,
    /// Address and size, by address.
    blocks: Vec<(Addr, u64)>,
    /// Whether it lives, and how it was allocated.
    truth: Vec<(bool, String)>,
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
            assert!(matches!(state, "live" | "dead"), "{line}");
            blocks.push((Addr(address.parse().unwrap()), size.parse().unwrap()));
            truth.push((state == "live", kind.to_owned()));
        }
        assert!(blocks.is_sorted_by(|a, b| a.0 < b.0));
        let pid = Pid::new(target.pid()).unwrap();
        let image = Image::capture(pid).unwrap();
        let plan = Plan::make(&image, "", &PlanOptions::default()).unwrap();
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
            .filter(|(_, lives, _, verdict)| *lives && verdict.is_dead())
            .collect();
        assert!(
            blamed.is_empty(),
            "{} live blocks called dead: {:?}",
            blamed.len(),
            blamed.first()
        );
        judged
    }

    /// Size, whether it lives, how it was allocated, and what is said of it.
    fn each<'a>(
        &'a self,
        judged: &'a Judged,
    ) -> impl Iterator<Item = (u64, bool, &'a str, Verdict)> {
        let truth = self.truth.iter().zip(&judged.verdicts);
        self.blocks
            .iter()
            .zip(truth)
            .map(|(&(_, size), ((lives, kind), &verdict))| (size, *lives, kind.as_str(), verdict))
    }

    /// Of the dead blocks of each class, at least this share is found.
    fn assert_found(&self, judged: &Judged, least: f64) {
        for sizes in CLASSES {
            let dead = self.each(judged).filter(|(size, lives, ..)| !lives && sizes.contains(size));
            let verdicts: Vec<Verdict> = dead.map(|(.., verdict)| verdict).collect();
            let found = verdicts.iter().filter(|verdict| verdict.is_dead()).count();
            println!("{sizes:?}: {found} of {} dead blocks found", verdicts.len());
            assert!(!verdicts.is_empty());
            assert!(found as f64 >= least * verdicts.len() as f64, "{sizes:?}: less than {least}");
        }
    }
}

/// Sizes by what glibc does with freed blocks of them: lists of arenas and of threads, lists of
/// threads only, none, a mapping of its own.
const CLASSES: [std::ops::Range<u64>; 4] = [0..121, 121..1033, 1033..131_072, 131_072..1 << 20];

#[test]
fn dead_blocks_of_a_program_that_rests_are_found_and_no_live_one_is_blamed() {
    // Enough for arenas of several heaps each.
    let mut blocks = Blocks::of(0, 60_000);
    let judged = blocks.look(ALL);
    blocks.assert_found(&judged, 0.999);
    assert!(judged.heaps.0 > 4 && judged.heaps.1 == judged.heaps.0, "{:?}", judged.heaps);
    let seen: HashSet<(bool, Verdict)> =
        blocks.each(&judged).map(|(_, lives, _, verdict)| (lives, verdict)).collect();
    for reason in
        [Verdict::Unmapped, Verdict::OtherSize, Verdict::Free, Verdict::NoChunk, Verdict::Listed]
    {
        assert!(seen.contains(&(false, reason)), "no block was found by {reason:?}");
    }
    assert!(!seen.contains(&(true, Verdict::NotJudged)), "all that live are seen to");
    // In small portions, no live block is blamed either, and each heap has its turn.
    let dead = judged.counts().0;
    let mut found = HashSet::new();
    for _ in 0..2 * judged.heaps.0 {
        let part = blocks.look(400 << 20);
        assert!(part.bytes_read <= 400 << 20);
        let verdicts = part.verdicts.iter().enumerate();
        found.extend(verdicts.filter(|(_, verdict)| verdict.is_dead()).map(|(index, _)| index));
    }
    assert!(found.len() as f64 > 0.999 * dead as f64, "{} of {dead}", found.len());
    blocks.target.kill();
}

#[test]
fn dead_blocks_of_a_program_that_works_on_are_found_and_no_live_one_is_blamed() {
    let mut blocks = Blocks::of(3, 20_000);
    for _ in 0..10 {
        let judged = blocks.look(ALL);
        // The others' places were handed out again, in the same size.
        blocks.assert_found(&judged, 0.8);
    }
    blocks.target.kill();
}
