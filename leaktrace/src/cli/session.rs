//! A trace under way: what `attach`, `run` and `demo` have in common.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leaktrace_ebpf::records::MAX_TARGETS;

use super::args::TraceArgs;
use super::assemble;
use super::calibration::Calibration;
use super::exit;
use super::follow::Follow;
use super::governed::lock;
use super::hit_cost::HitCost;
use super::mappings::MappingsTrace;
use super::newcomers::Newcomers;
use super::output::Outputs;
use super::retired::Retired;
use super::say::say;
use super::traced::{Terms, Traced};
use super::unwinding::Unwinding;
use super::values::Share;
use crate::analyse::History;
use crate::collect::children::Children;
use crate::collect::gauge::Hits;
use crate::collect::live::Exits;
use crate::collect::maps::CounterValues;
use crate::collect::messages;
use crate::collect::{
    KernelMaps, Ledger, Live, MessageRing, Step, UnwindTables, clock, event_loop, kernel_log,
    ledger,
};
use crate::model::{EndedBy, Pid, Report, Slot, Snapshot, StackId};
use crate::probe::hold::{self, Waited};
use crate::probe::{Kernel, Settings, features, own_process};
use crate::report::trust;
use crate::symbolize::{self, Symbolizer};
use crate::target::{Process, process};

/// So many targets are announced one by one.
const MOST_ANNOUNCED: usize = 20;

/// A trace under way.
pub struct Session {
    pub(super) args: TraceArgs,
    pub(super) terms: Terms,
    pub(super) maps: KernelMaps,
    pub(super) messages: MessageRing,
    live: Option<Live>,
    exits: Exits,
    pub(super) outputs: Outputs,
    pub(super) targets: Vec<Traced>,
    pub(super) ledger: Ledger,
    pub(super) history: History,
    pub(super) mappings: MappingsTrace,
    pub(super) symbolizer: Symbolizer,
    pub(super) unwinding: Unwinding,
    pub(super) calibration: Calibration,
    pub(super) started: Instant,
    pub(super) started_at: String,
    pub(super) duration_s: Option<f64>,
    /// The counters when counting began (afresh).
    pub(super) counters_before: CounterValues,
    /// The hits then.
    pub(super) hits_before: Hits,
    /// What the reader of the report has to know of what happened.
    pub(super) notes: Vec<String>,
    pub(super) last_scan: assemble::LastScan,
    pub(super) next_slot: u16,
    /// With `--follow`.
    pub(super) follow: Option<Follow>,
    pub(super) hold: bool,
    pub(super) ending: bool,
    pub(super) last_progress: (Instant, u64),
    /// When the totals were last looked at, and the CPU time that it took.
    pub(super) last_sample: (Instant, Duration),
    pub(super) newcomers: Newcomers,
    pub(super) retired: Retired,
}

impl Session {
    /// Loads the kernel half; nothing is attached to any process yet.
    ///
    /// # Errors
    ///
    /// What is missing on this host or in the user's rights, and output files that cannot be
    /// written.
    pub fn open(args: &TraceArgs) -> Result<Self> {
        let outputs = Outputs::check(args)?;
        let plan = args.plan_options()?;
        features::require()?;
        let follow = args.follow;
        anyhow::ensure!(
            !follow || own_process::is_in_initial_pid_namespace(),
            "children cannot be followed from inside of a PID namespace: run leaktrace in the \
             host's (`docker run --pid=host`, `nsenter -p -t 1`), or without --follow"
        );
        let settings = Settings {
            follow,
            max_blocks: args.max_blocks,
            max_stacks: args.max_stacks,
            min_size: args.min_size.unwrap_or(0),
            max_size: args.max_size.unwrap_or(u64::MAX),
            verbose: args.verbose >= 2,
            sample_bytes: args.sample_bytes(),
            start_ns: clock::monotonic_ns(),
            perf_links: args.perf_links,
            fixed_sizes: plan.own.fixed_sizes(),
            check_frees: args.check_frees,
        };
        let mut kernel = Kernel::load(&settings)?;
        // All programs are loaded before the maps are taken: some of these are closed then.
        let mut notes = Vec::new();
        let mappings = MappingsTrace::start(&mut kernel, args, &mut notes);
        let (mut maps, messages) = KernelMaps::take(kernel.ebpf(), settings.terms())?;
        let children = follow.then(|| Children::take(kernel.ebpf())).transpose()?;
        if follow {
            maps.count_all_slots();
        }
        let anchors = kernel.anchors();
        if args.verbose >= 2 {
            kernel_log::forward(kernel.ebpf());
        }
        kernel.watch_processes()?;
        let live = Live::new(&messages, args.interval)?;
        let unwinding = Unwinding::new(UnwindTables::take(kernel.ebpf())?);
        let hit_cost = Arc::new(HitCost::default());
        let terms = Terms {
            kernel: Arc::new(Mutex::new(kernel)),
            hit_cost: Arc::clone(&hit_cost),
            budget: args.budget().map(Share::get),
            plan,
            follow,
        };
        Ok(Self {
            args: args.clone(),
            terms,
            maps,
            messages,
            exits: live.exits(),
            live: Some(live),
            outputs,
            targets: Vec::new(),
            ledger: Ledger::default(),
            history: History::default(),
            mappings,
            symbolizer: Symbolizer::new(symbolize::Options::default()),
            unwinding,
            calibration: Calibration::start(args.perf_links || follow, hit_cost),
            started: Instant::now(),
            started_at: String::new(),
            duration_s: None,
            counters_before: CounterValues::ZERO,
            hits_before: Hits::default(),
            notes,
            last_scan: assemble::LastScan::default(),
            next_slot: 0,
            follow: children.map(|children| Follow::new(children, anchors)),
            hold: false,
            ending: false,
            last_progress: (Instant::now(), 0),
            last_sample: (Instant::now(), Duration::ZERO),
            newcomers: Newcomers::none(),
            retired: Retired::default(),
        })
    }

    /// Adds a process that runs already.
    ///
    /// # Errors
    ///
    /// When it cannot be traced.
    pub fn add(&mut self, process: Process) -> Result<()> {
        let slot = self.take_slot()?;
        let pid = process.pid;
        self.maps.watch(pid, slot, self.hold)?;
        let attached = Traced::attach(
            &self.terms,
            &self.exits,
            process,
            slot,
            &mut self.maps,
            &mut self.unwinding,
        );
        let traced = match (attached, &mut self.follow) {
            (Ok(traced), _) => traced,
            (Err(error), Some(follow)) => {
                follow.children.give_back(slot)?;
                return Err(error);
            }
            (Err(error), None) => {
                self.retired.give_back(slot);
                return Err(error);
            }
        };
        self.symbolizer.note(pid);
        self.targets.push(traced);
        Ok(())
    }

    /// Has a child of leaktrace's own stop at every exec until its probes are in. It is stopped
    /// now, and about to call exec for the first time.
    ///
    /// Returns false when it ended without doing so.
    ///
    /// # Errors
    ///
    /// When it cannot be traced.
    pub fn add_child_at_exec(&mut self, pid: Pid) -> Result<bool> {
        self.hold = true;
        self.maps.watch(pid, Slot(u16::MAX), true)?;
        hold::resume(pid);
        if !wait_for_exec(&mut self.messages, pid) {
            return Ok(false);
        }
        let waited = hold::run_to_libraries(&mut lock(&self.terms.kernel), pid)?;
        match waited {
            Waited::Stopped => {}
            Waited::Ended => return Ok(false),
            Waited::Neither => self.notes.push(
                "the command was not seen to finish loading its libraries: its first allocations \
                 may be missing"
                    .to_owned(),
            ),
        }
        self.add(Process::open(pid)?)?;
        if let Some(target) = self.targets.last_mut() {
            target.known.from_first = waited == Waited::Stopped;
        }
        Ok(true)
    }

    pub(super) fn take_slot(&mut self) -> Result<Slot> {
        if let Some(follow) = &mut self.follow {
            let slot = follow.children.take_slot();
            return slot.context("too many processes are followed: no slot is left");
        }
        if let Some(slot) = self.retired.take_slot() {
            return Ok(slot);
        }
        let slot = Slot(self.next_slot);
        anyhow::ensure!(
            u32::from(slot.0) < MAX_TARGETS,
            "too many processes: {MAX_TARGETS} at most at a time"
        );
        self.next_slot += 1;
        Ok(slot)
    }

    /// Begins to count, now that every probe is in place.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn begin(&mut self) -> Result<()> {
        self.counters_before = self.maps.counters()?;
        self.hits_before = self.maps.hits()?;
        // One that calls exec is told by that from now on; before, nothing of it counts.
        let roots = self.targets.iter().filter(|target| !target.ended && target.is_root);
        for (pid, slot) in roots.map(|t| (t.process.pid, t.slot)).collect::<Vec<_>>() {
            self.follow_root(pid, slot)?;
        }
        for target in self.targets.iter_mut().filter(|target| !target.ended) {
            target.open(&mut self.maps, &mut self.unwinding, &self.terms)?;
        }
        (0..self.targets.len()).for_each(|index| self.open_mappings(index));
        self.started = Instant::now();
        self.started_at = jiff::Timestamp::now().to_string();
        if let Some(live) = &mut self.live {
            live.start(self.args.duration);
        }
        let (first, beyond) = self.targets.split_at(self.targets.len().min(MOST_ANNOUNCED));
        first.iter().for_each(|target| self.announce(target));
        if !beyond.is_empty() && !self.outputs.is_quiet() {
            say(format_args!("leaktrace: tracing {} more processes", beyond.len()));
        }
        Ok(())
    }

    pub(super) fn announce(&self, target: &Traced) {
        if self.outputs.is_quiet() {
            return;
        }
        let probes = target.probes.len();
        let stepped = target.probes.iter().filter(|p| !p.emulated).count();
        let cost = if stepped == 0 { String::new() } else { format!(", {stepped} of them slow") };
        let (pid, comm) = (target.process.pid, &target.process.comm);
        let children = if self.terms.follow { " and its children, exactly" } else { "" };
        say(format_args!(
            "leaktrace: tracing {pid} {comm}{children} ({probes} probes{cost}); Ctrl-C ends it"
        ));
    }

    /// Traces until the end, and writes the last report. Returns the exit code.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or a report cannot be written.
    pub async fn run(&mut self) -> Result<(u8, Report)> {
        let mut live = self.live.take().context("the trace is over")?;
        let ended_by = event_loop::run(&mut live, self).await?;
        let report = self.finish(ended_by)?;
        self.outputs.finish(&report)?;
        Ok((exit_code(&report), report))
    }

    /// Ends the trace: counting stops at once, the probes come out while the report is made.
    fn finish(&mut self, ended_by: EndedBy) -> Result<Report> {
        // From now on no exec stops anybody; those that did are let go on.
        self.ending = true;
        for target in &self.targets {
            self.maps.unwatch(target.process.pid);
        }
        if self.follow.is_some() {
            self.maps.unwatch_all();
        }
        self.messages()?;
        // The governing ends first, or it might open a window.
        let probes: Vec<_> = self.targets.iter_mut().filter_map(Traced::take_probes).collect();
        for target in &self.targets {
            self.maps.close_target(target.slot)?;
        }
        self.duration_s = Some(self.started.elapsed().as_secs_f64());
        for target in &mut self.targets {
            target.check_governing();
            target.look_again();
        }
        let detaching = std::thread::Builder::new()
            .spawn(move || probes.into_iter().map(crate::probe::Attached::detach).max());
        self.messages()?;
        if self.follow.is_some() {
            // A fork that was under way at the first time may have added a child since.
            self.maps.unwatch_all();
        }
        self.release_held();
        self.bury(true)?;
        let counted = self.counted()?;
        let news = self.follow_windows(&counted, true)?;
        self.check_mappings();
        let snapshot = self.estimated(counted);
        if news {
            self.history.add(&snapshot, true);
        }
        let limit = self.outputs.final_stacks();
        let report = assemble::report(self, &snapshot, limit, Some(ended_by))?;
        if let Ok(detaching) = detaching
            && let Ok(Some(took)) = detaching.join()
        {
            log::info!("the probes came out in {:.0} ms", took.as_secs_f64() * 1e3);
        }
        Ok(report)
    }

    /// What was counted, by stack.
    pub(super) fn counted(&self) -> Result<Snapshot> {
        let at_s = self.duration_s.unwrap_or_else(|| self.started.elapsed().as_secs_f64());
        ledger::snapshot(&self.maps, at_s)
    }

    /// Takes account of what windows have seen since the last call. Returns whether there is
    /// anything new to be said.
    pub(super) fn follow_windows(&mut self, counted: &Snapshot, last: bool) -> Result<bool> {
        let alone = self.targets.len() == 1;
        let (mut news, mut exact) = (false, self.targets.is_empty());
        for target in self.targets.iter_mut().filter(|t| t.windowed.is_some()) {
            let ledger = &self.ledger;
            let is_own = |id: &StackId| ledger.frames(*id).is_some_and(|f| f.slot == target.slot);
            let own = match alone {
                true => Cow::Borrowed(&counted.stacks),
                false => {
                    let own = counted.stacks.iter().filter(|(id, _)| is_own(id));
                    Cow::Owned(own.map(|(id, totals)| (*id, *totals)).collect())
                }
            };
            news |= target.follow_windows(&mut self.maps, &own, alone, last)?;
        }
        exact |= self.targets.iter().any(|target| !target.is_estimate());
        Ok(news || exact)
    }

    /// The figures: as counted, or as estimated where windows have closed.
    pub(super) fn estimated(&self, mut counted: Snapshot) -> Snapshot {
        let alone = self.targets.len() == 1;
        for target in self.targets.iter().filter(|t| t.is_estimate()) {
            let Some(windowed) = &target.windowed else { continue };
            let ledger = &self.ledger;
            let is_own = |id: &StackId| ledger.frames(*id).is_some_and(|f| f.slot == target.slot);
            counted.stacks.retain(|id, _| !alone && !is_own(id));
            let known = windowed.estimates().iter();
            counted.stacks.extend(known.map(|(id, known)| (*id, known.totals)));
        }
        self.add_mappings(&mut counted);
        counted
    }

    /// The figures as they are now.
    pub(super) fn present(&mut self) -> Result<Snapshot> {
        let counted = self.counted()?;
        self.follow_windows(&counted, false)?;
        self.check_mappings();
        Ok(self.estimated(counted))
    }
}

fn exit_code(report: &Report) -> u8 {
    for why in trust::reasons(&report.health.trust) {
        say(format_args!("leaktrace: not enough for a verdict: {why}"));
    }
    if report.health.trust.is_enough() { 0 } else { exit::INCOMPLETE }
}

/// Waits for the exec of a child; false when it ended instead.
fn wait_for_exec(messages: &mut MessageRing, pid: Pid) -> bool {
    loop {
        while let Some(item) = messages.next() {
            if let Some(messages::Message::Exec(exec)) = messages::decode(&item)
                && exec.pid == pid
            {
                return hold::wait_for_stop(pid) == Waited::Stopped;
            }
        }
        if process::has_ended(pid) {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}
