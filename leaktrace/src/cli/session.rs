//! A trace under way: what `attach`, `run` and `demo` have in common.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leaktrace_ebpf::records::MAX_TARGETS;

use super::args::TraceArgs;
use super::assemble;
use super::calibration::Calibration;
use super::exit;
use super::output::Outputs;
use super::say::say;
use super::traced::Traced;
use super::unwinding::Unwinding;
use crate::analyse::History;
use crate::collect::maps::CounterValues;
use crate::collect::messages;
use crate::collect::{
    KernelMaps, Ledger, Live, MessageRing, Step, UnwindTables, event_loop, kernel_log, ledger,
};
use crate::model::{EndedBy, Pid, Report, Slot, Snapshot};
use crate::probe::hold::{self, Waited};
use crate::probe::{Kernel, Settings, features};
use crate::symbolize::{self, Symbolizer};
use crate::target::{Process, process};

/// A trace under way.
pub struct Session {
    pub(super) args: TraceArgs,
    pub(super) kernel: Kernel,
    pub(super) maps: KernelMaps,
    pub(super) messages: MessageRing,
    live: Option<Live>,
    pub(super) outputs: Outputs,
    pub(super) targets: Vec<Traced>,
    pub(super) ledger: Ledger,
    pub(super) history: History,
    pub(super) symbolizer: Symbolizer,
    pub(super) unwinding: Unwinding,
    pub(super) calibration: Calibration,
    pub(super) started: Instant,
    pub(super) started_at: String,
    pub(super) duration_s: Option<f64>,
    /// The counters when counting began (afresh).
    pub(super) counters_before: CounterValues,
    /// What the reader of the report has to know of what happened.
    pub(super) notes: Vec<String>,
    pub(super) last_scan: assemble::LastScan,
    pub(super) next_slot: u16,
    pub(super) hold: bool,
    pub(super) ending: bool,
    pub(super) last_progress: (Instant, u64),
    /// When the totals were last looked at, and how long that took.
    pub(super) last_sample: (Instant, Duration),
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
        features::require()?;
        let mut kernel = Kernel::load(&Settings {
            max_blocks: args.max_blocks,
            max_stacks: args.max_stacks,
            min_size: args.min_size.unwrap_or(0),
            max_size: args.max_size.unwrap_or(u64::MAX),
            verbose: args.verbose >= 2,
        })?;
        let (maps, messages) = KernelMaps::take(kernel.ebpf())?;
        if args.verbose >= 2 {
            kernel_log::forward(kernel.ebpf());
        }
        kernel.watch_processes()?;
        let live = Live::new(&messages, args.interval)?;
        let unwinding = Unwinding::new(UnwindTables::take(kernel.ebpf())?);
        Ok(Self {
            args: args.clone(),
            kernel,
            maps,
            messages,
            live: Some(live),
            outputs,
            targets: Vec::new(),
            ledger: Ledger::default(),
            history: History::default(),
            symbolizer: Symbolizer::new(symbolize::Options::default()),
            unwinding,
            calibration: Calibration::start(),
            started: Instant::now(),
            started_at: String::new(),
            duration_s: None,
            counters_before: CounterValues::ZERO,
            notes: Vec::new(),
            last_scan: assemble::LastScan::default(),
            next_slot: 0,
            hold: false,
            ending: false,
            last_progress: (Instant::now(), 0),
            last_sample: (Instant::now(), Duration::ZERO),
        })
    }

    /// Adds a process that runs already.
    ///
    /// # Errors
    ///
    /// When it cannot be traced.
    pub fn add(&mut self, process: Process) -> Result<()> {
        let slot = self.take_slot()?;
        let live = self.live.as_ref().context("the trace is over")?;
        let pid = process.pid;
        self.maps.watch(pid, slot, self.hold)?;
        let only = self.args.obj.as_deref();
        let traced =
            Traced::attach(&mut self.kernel, live, process, slot, only, &mut self.unwinding)?;
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
        match hold::run_to_libraries(&mut self.kernel, pid)? {
            Waited::Stopped => {}
            Waited::Ended => return Ok(false),
            Waited::Neither => self.notes.push(
                "the command was not seen to finish loading its libraries: its first allocations \
                 may be missing"
                    .to_owned(),
            ),
        }
        self.add(Process::open(pid)?)?;
        Ok(true)
    }

    pub(super) fn take_slot(&mut self) -> Result<Slot> {
        let slot = Slot(self.next_slot);
        anyhow::ensure!(
            u32::from(slot.0) < MAX_TARGETS,
            "too many processes: {MAX_TARGETS} at most"
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
        for target in &mut self.targets {
            target.open(&mut self.maps, &mut self.unwinding)?;
        }
        self.started = Instant::now();
        self.started_at = jiff::Timestamp::now().to_string();
        if let Some(live) = &mut self.live {
            live.start(self.args.duration);
        }
        self.targets.iter().for_each(|target| self.announce(target));
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
        say(format_args!(
            "leaktrace: tracing {pid} {comm} ({probes} probes{cost}); Ctrl-C ends it"
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
        self.messages()?;
        for target in &self.targets {
            self.maps.close_target(target.slot)?;
        }
        self.duration_s = Some(self.started.elapsed().as_secs_f64());
        for target in &mut self.targets {
            target.look_again();
        }
        let probes: Vec<_> = self.targets.iter_mut().filter_map(Traced::take_probes).collect();
        let detaching = std::thread::Builder::new()
            .spawn(move || probes.into_iter().map(crate::probe::Attached::detach).max());
        self.messages()?;
        let snapshot = self.snapshot()?;
        self.history.add(&snapshot, true);
        let limit = self.outputs.final_stacks();
        let report = assemble::report(self, &snapshot, limit, Some(ended_by))?;
        if let Ok(detaching) = detaching
            && let Ok(Some(took)) = detaching.join()
        {
            log::info!("the probes came out in {:.0} ms", took.as_secs_f64() * 1e3);
        }
        Ok(report)
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        let at_s = self.duration_s.unwrap_or_else(|| self.started.elapsed().as_secs_f64());
        ledger::snapshot(&self.maps, at_s)
    }
}

/// So many lost events in a hundred that the report proves nothing.
const TOO_MANY_LOST_PERCENT: u64 = 5;

fn exit_code(report: &Report) -> u8 {
    let lost = report.health.lost_events();
    if lost * 100 > report.health.allocs * TOO_MANY_LOST_PERCENT && lost > 0 {
        say(format_args!(
            "leaktrace: {lost} events were lost, of {} allocations: too many for a verdict",
            report.health.allocs
        ));
        return exit::INCOMPLETE;
    }
    0
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
