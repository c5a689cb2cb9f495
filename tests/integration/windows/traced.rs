//! A recording, traced in windows on paper: the governor says when probes are in, blocks die
//! unseen between windows, and the exact ledger is at hand all the time.

use std::collections::{BTreeMap, HashMap};

use leaktrace::analyse::governor::{Governor, Phase, Reading};
use leaktrace::analyse::interval::Sampling;
use leaktrace::analyse::windows::{Amount, Live, Span, Window, Windows};
use leaktrace::model::StackId;

use super::recording::{Block, Event, Recording};

/// What a hit costs, and what it is taken for: a calibration is never quite right.
const HIT_S: f64 = 0.9e-6;
const HIT_TAKEN_FOR_S: f64 = 0.85e-6;
/// Putting probes in, and waiting until they are out.
const ATTACHING_S: f64 = 0.02;
const LEAVING_S: f64 = 0.04;

/// A block that a window saw, and of which run of the program it is.
#[derive(Clone, Copy)]
struct Seen {
    block: u32,
    run: u32,
    born_ns: u64,
    of_window: u64,
}

/// The program in one moment: which run of it, and the next event.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    run: u32,
    next: usize,
    /// Untraced seconds into the run.
    at_s: f64,
}

/// Everything that is known, on both sides.
pub(crate) struct Traced<'a> {
    recording: &'a Recording,
    place: Place,
    // What leaktrace knows.
    blocks: BTreeMap<u64, Seen>,
    governor: Governor,
    pub(crate) windows: Windows,
    allocated: HashMap<StackId, Amount>,
    // Clocks and counters, from the beginning.
    pub(crate) now_s: f64,
    cpu_s: f64,
    taken_s: f64,
    pub(crate) spent_s: f64,
    frees: u64,
    window: u64,
    frees_of_window: u64,
    survivors: u64,
    spans: [Span; 3],
    oracle: f64,
}

fn index_of(phase: Phase) -> usize {
    match phase {
        Phase::Open => 0,
        Phase::Draining => 1,
        Phase::Closed => 2,
    }
}

impl<'a> Traced<'a> {
    /// `oracle` is the chance that a look at the allocator's own memory tells that a block is dead.
    pub(crate) fn new(recording: &'a Recording, budget: f64, oracle: f64) -> Self {
        Self {
            recording,
            place: Place::default(),
            blocks: BTreeMap::new(),
            governor: Governor::new(budget),
            windows: Windows::default(),
            allocated: HashMap::new(),
            now_s: 0.0,
            cpu_s: 0.0,
            taken_s: 0.0,
            spent_s: 0.0,
            frees: 0,
            window: 0,
            frees_of_window: 0,
            survivors: 0,
            spans: [Span::default(); 3],
            oracle,
        }
    }

    /// Goes on to the end of the next window, or for two seconds of one that stays open.
    pub(crate) fn goes_on(&mut self) {
        let until_s = self.now_s + 2.0;
        loop {
            let before = self.governor.phase();
            let decision = self.governor.look(&Reading {
                now_s: self.now_s,
                target_cpu_s: self.cpu_s,
                spent_s: self.taken_s,
                most_cpus: 1.0,
                frees_of_window: self.frees_of_window,
                survivors: self.survivors,
            });
            let phase = decision.phase;
            match (before, phase) {
                (Phase::Closed, Phase::Open) => {
                    self.runs(ATTACHING_S, Phase::Draining);
                    self.window += 1;
                    (self.frees_of_window, self.survivors) = (0, 0);
                }
                (Phase::Open, Phase::Draining | Phase::Closed) => {
                    self.runs(LEAVING_S / 4.0, Phase::Open);
                    self.ends_cohort();
                    self.runs(LEAVING_S * 0.75, phase);
                }
                (Phase::Draining, Phase::Closed) => {
                    self.runs(LEAVING_S / 4.0, Phase::Draining);
                    self.looks_at_blocks();
                    return;
                }
                (Phase::Open, Phase::Open) if self.now_s >= until_s => {
                    self.ends_cohort();
                    self.looks_at_blocks();
                    return;
                }
                _ => {}
            }
            self.runs(decision.look_again_in_s, phase);
        }
    }

    pub(crate) fn closed(&self) -> u64 {
        self.governor.windows_closed()
    }

    /// CPU time of the program without probes.
    pub(crate) fn own_cpu_s(&self) -> f64 {
        self.cpu_s - self.spent_s
    }

    fn now_ns(&self) -> u64 {
        (self.now_s * 1e9) as u64
    }

    /// The program runs for so long by the clock.
    fn runs(&mut self, wall_s: f64, phase: Phase) {
        let cpus = self.recording.cpus;
        let (mut own_s, mut hits, mut frees) = (0.0, 0u64, 0u64);
        // What is idle untraced can be spent in probes; what is not makes it slower.
        let took = |own_s: f64, hits: u64| own_s.max(cpus * own_s + hits as f64 * HIT_S);
        let left_s = |own_s: f64, hits: u64| wall_s - took(own_s, hits);
        while left_s(own_s, hits) > 0.0 {
            let at_s = self.recording.times_s.get(self.place.next).copied();
            let ahead_s = at_s.unwrap_or(self.recording.length_s) - self.place.at_s;
            let most_s = (wall_s - own_s).min((wall_s - hits as f64 * HIT_S) / cpus - own_s);
            if phase == Phase::Closed {
                self.skips(wall_s);
                own_s = wall_s;
                break;
            }
            let step_s = ahead_s.max(0.0).min(most_s.max(0.0));
            own_s += step_s;
            self.place.at_s += step_s;
            if step_s < ahead_s {
                break;
            }
            if at_s.is_none() {
                self.starts_again();
                continue;
            }
            match self.recording.events[self.place.next] {
                Event::Allocated(block) if phase == Phase::Open => {
                    hits += 2;
                    let ns = ((self.now_s + took(own_s, hits)) * 1e9) as u64;
                    self.sees(block, ns);
                }
                Event::Allocated(_) => {}
                Event::Freed(block) => {
                    hits += 1;
                    frees += 1;
                    self.sees_go(block);
                }
            }
            self.place.next += 1;
        }
        let wall_s = took(own_s, hits).max(1e-9);
        let spent_s = hits as f64 * HIT_S;
        let span = Span {
            wall_s,
            cpu_s: cpus * own_s + spent_s,
            spent_s: hits as f64 * HIT_TAKEN_FOR_S,
            frees,
        };
        self.now_s += wall_s;
        self.cpu_s += span.cpu_s;
        self.taken_s += span.spent_s;
        self.spent_s += spent_s;
        self.frees += frees;
        self.spans[index_of(phase)].add(&span);
    }

    fn skips(&mut self, own_s: f64) {
        self.place.at_s += own_s;
        while self.place.at_s >= self.recording.length_s {
            let rest_s = self.place.at_s - self.recording.length_s;
            self.starts_again();
            self.place.at_s = rest_s;
        }
        self.place.next = self.recording.times_s.partition_point(|at| *at <= self.place.at_s);
    }

    fn starts_again(&mut self) {
        self.place = Place { run: self.place.run + 1, ..Place::default() };
    }

    /// Leaked blocks stay, so each run leaks other addresses.
    fn address(&self, block: Block, run: u32) -> u64 {
        let leaked = self.recording.is_leaked(&block);
        block.address + if leaked { u64::from(run + 1) << 48 } else { 0 }
    }

    fn sees(&mut self, index: u32, born_ns: u64) {
        let block = self.recording.blocks[index as usize];
        let address = self.address(block, self.place.run);
        let end = address + block.size.max(1);
        // Blocks under it are dead; one that begins before it may reach into it.
        let below = self.blocks.range(..address).next_back();
        if let Some((&start, seen)) = below
            && start + self.recording.blocks[seen.block as usize].size > address
        {
            self.blocks.remove(&start);
        }
        while let Some((&start, _)) = self.blocks.range(address..end).next() {
            self.blocks.remove(&start);
        }
        let (run, of_window) = (self.place.run, self.window);
        self.blocks.insert(address, Seen { block: index, run, born_ns, of_window });
        let amount = self.allocated.entry(StackId(block.stack)).or_default();
        amount.bytes += block.size as f64;
        amount.blocks += 1.0;
        self.survivors += 1;
    }

    fn sees_go(&mut self, index: u32) {
        let block = self.recording.blocks[index as usize];
        if let Some(seen) = self.blocks.remove(&block.address)
            && seen.of_window == self.window
        {
            self.frees_of_window += 1;
            self.survivors = self.survivors.saturating_sub(1);
        }
    }

    fn ends_cohort(&mut self) {
        let [inside, drain, closed] = std::mem::take(&mut self.spans);
        let window = Window { to_ns: self.now_ns(), inside, drain, closed };
        self.windows.close(&window, std::mem::take(&mut self.allocated));
    }

    /// Counts what nothing speaks against, and asks the allocator.
    fn looks_at_blocks(&mut self) {
        let live = self.presumed_live();
        self.windows.take(&live, self.now_ns());
        let mut blocks = std::mem::take(&mut self.blocks);
        blocks.retain(|_, seen| self.is_live(seen) || !self.allocator_tells(seen));
        self.blocks = blocks;
        let live = self.presumed_live();
        self.windows.check(&live);
    }

    fn presumed_live(&self) -> Live {
        let mut live = Live::new();
        for seen in self.blocks.values() {
            let block = self.recording.blocks[seen.block as usize];
            let cohort = self.windows.cohort_of(seen.born_ns);
            let kept = live.entry((StackId(block.stack), cohort)).or_default();
            kept.add(block.size, Sampling::default());
        }
        live
    }

    fn is_live(&self, seen: &Seen) -> bool {
        let dies = self.recording.blocks[seen.block as usize].dies as usize;
        if dies == self.recording.events.len() {
            return self.recording.leaks == Some(self.recording.blocks[seen.block as usize].stack)
                || seen.run == self.place.run;
        }
        seen.run == self.place.run && dies >= self.place.next
    }

    /// Whether the heap shows that a dead block is dead: not if a block of the same size lies
    /// there now, and else with the oracle's chance, which is drawn once for each block.
    fn allocator_tells(&self, seen: &Seen) -> bool {
        let dead = self.recording.blocks[seen.block as usize];
        let chunk = |size: u64| (size + 8).div_ceil(16);
        let there = &self.recording.by_address[&dead.address];
        let at = there.partition_point(|&b| {
            (self.recording.blocks[b as usize].born as usize) < self.place.next
        });
        if let Some(&last) = at.checked_sub(1).and_then(|at| there.get(at)) {
            let last = self.recording.blocks[last as usize];
            if last.dies as usize >= self.place.next && chunk(last.size) == chunk(dead.size) {
                return false;
            }
        }
        let draw = (u64::from(seen.block) << 32 | u64::from(seen.run))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            >> 11;
        (draw as f64) < self.oracle * (1u64 << 53) as f64
    }

    /// The exact ledger: outstanding bytes by stack.
    pub(crate) fn truth(&self) -> HashMap<StackId, f64> {
        let mut outstanding = HashMap::new();
        for block in &self.recording.blocks {
            let born = (block.born as usize) < self.place.next;
            let mut times = u32::from(born && block.dies as usize >= self.place.next);
            if self.recording.is_leaked(block) {
                times += self.place.run;
            }
            if times > 0 {
                *outstanding.entry(StackId(block.stack)).or_default() +=
                    block.size as f64 * f64::from(times);
            }
        }
        outstanding
    }

    /// Bytes of blocks said to be live that are dead, weighted as the estimate weights them, as a
    /// share of all that are said to be live.
    pub(crate) fn blamed_wrongly(&self) -> f64 {
        let (mut dead, mut all) = (0.0, 0.0);
        for seen in self.blocks.values() {
            let size = self.recording.blocks[seen.block as usize].size as f64;
            let weighted = size * self.windows.weight_of(self.windows.cohort_of(seen.born_ns));
            all += weighted;
            dead += if self.is_live(seen) { 0.0 } else { weighted };
        }
        if all > 0.0 { dead / all } else { 0.0 }
    }
}
