//! What a trace does about each event, execs among them.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Result;
use leaktrace_ebpf::records::Counter;

use super::address_space::AddressSpace;
use super::assemble;
use super::follow::Follow;
use super::governed::lock;
use super::say::say;
use super::session::Session;
use super::traced::Traced;
use super::windowed::Windowed;
use crate::analyse::History;
use crate::collect::messages::{self, Exec, Message};
use crate::collect::{Step, clock};
use crate::model::{Pid, Slot, Snapshot, StackId, Totals};
use crate::probe::hold::{self, Waited};
use crate::report::progress::{self, Progress};
use crate::target::TargetError;

/// Looking at the totals takes at most this share of leaktrace's time: one part in so many.
const SAMPLE_SHARE: u32 = 40;

impl Session {
    /// Plans a process anew after its exec. A process that was stopped for that goes on, whatever
    /// comes of it.
    fn execed(&mut self, exec: Exec) -> Result<()> {
        let planned = match &self.follow {
            _ if self.ending => Ok(()),
            Some(_) => self.followed_exec(exec),
            None => self.replace_image(exec),
        };
        if exec.held {
            hold::resume(exec.pid);
        }
        planned
    }

    fn replace_image(&mut self, exec: Exec) -> Result<()> {
        // Not by the slot: the process may have called exec twice since it was planned.
        let found = self.targets.iter().position(|t| t.process.pid == exec.pid && !t.ended);
        let Some(index) = found else { return Ok(()) };
        let alone = self.targets.len() == 1;
        let Some(target) = self.targets.get(index) else { return Ok(()) };
        let slot = target.slot;
        let mut stacks = self.ledger.forget(slot);
        self.mappings.known.forget(slot);
        if alone {
            // Stacks whose frames never arrived are nobody else's either.
            self.maps.for_each_stack(|id, _| stacks.push(id))?;
            stacks.retain(|id| *id != StackId::UNKNOWN);
        }
        // What is booked after that would stay for ever.
        if let Some(target) = self.targets.get_mut(index) {
            drop(target.take_probes());
        }
        self.maps.purge(slot, &stacks)?;
        let is_held = exec.held && self.runs_to_libraries(exec.pid);
        self.plan_anew(index, true, is_held)
    }

    /// Lets a process that is held at its exec load its libraries. Returns whether it waits there,
    /// and so has allocated nothing yet.
    pub(super) fn runs_to_libraries(&mut self, pid: Pid) -> bool {
        match hold::run_to_libraries(&mut lock(&self.terms.kernel), pid) {
            Ok(waited) => waited == Waited::Stopped,
            Err(error) => {
                log::info!("process {pid}: {error:#}");
                false
            }
        }
    }

    fn plan_anew(&mut self, index: usize, patient: bool, is_held: bool) -> Result<()> {
        let Ok(slot) = self.take_slot() else {
            self.notes.push("there were too many execs: the last ones are not traced".to_owned());
            return Ok(());
        };
        let Some(target) = self.targets.get_mut(index) else { return Ok(()) };
        let pid = target.process.pid;
        let first_try = !target.awaits_probes;
        target.awaits_probes = true;
        match target.attach_anew(&self.terms, slot, patient, &mut self.unwinding) {
            Ok(true) => {
                self.maps.watch(pid, slot, self.hold)?;
                target.known.from_first = is_held;
                target.known.came_later = true;
                target.open(&mut self.maps, &mut self.unwinding, &self.terms)?;
                let exe = &target.process.exe;
                let at = self.started.elapsed().as_secs_f64();
                let note = format!(
                    "process {pid} called exec after {at:.1} s: its figures are about {exe}, from \
                     then on"
                );
                if !self.outputs.is_quiet() {
                    say(format_args!("leaktrace: {note}"));
                }
                self.notes.push(note);
                self.open_mappings(index);
                if let Some(target) = self.targets.get(index) {
                    self.announce(target);
                }
            }
            Ok(false) => {
                self.retired.give_back(slot);
                if first_try {
                    log::info!("process {pid} has called exec and has no allocator yet");
                }
            }
            Err(error) => {
                self.retired.give_back(slot);
                let gone = error.downcast_ref::<TargetError>();
                if !matches!(gone, Some(TargetError::Gone { .. } | TargetError::Zombie { .. })) {
                    target.awaits_probes = false;
                    self.notes.push(format!(
                        "process {pid} called exec and is not traced any more: {error:#}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// What looks at the memory of all targets took so far.
    fn looking(&self) -> Duration {
        self.targets.iter().filter_map(|t| t.windowed.as_ref()).map(Windowed::looking).sum()
    }

    fn show_progress(&mut self, snapshot: &Snapshot) -> Result<()> {
        let now = Instant::now();
        let counters = self.maps.counters()?.since(&self.counters_before);
        let events = counters.get(Counter::Allocs) + counters.frees();
        let (then, before) = self.last_progress;
        let seconds = (now - then).as_secs_f64().max(1e-3);
        self.last_progress = (now, events);
        let mut total = Totals::default();
        snapshot.stacks.values().for_each(|totals| total += *totals);
        self.outputs.progress(&progress::line(&Progress {
            elapsed_s: snapshot.at_s,
            events_per_s: events.saturating_sub(before) as f64 / seconds,
            live_blocks: total.outstanding_blocks(),
            outstanding_bytes: total.outstanding_bytes(),
            lost: assemble::lost_events(&counters, self.ledger.collisions),
        }));
        Ok(())
    }
}

/// The address space in a slot, if it is still there.
fn space_of(targets: &mut [Traced], slot: Slot) -> Option<&mut AddressSpace> {
    let target = targets.iter_mut().find(|t| t.slot == slot && !t.ended)?;
    Some(&mut target.space)
}

impl Step for Session {
    fn messages(&mut self) -> Result<()> {
        let (mut execs, mut libraries) = (Vec::new(), Vec::new());
        while let Some(item) = self.messages.next() {
            let Some(message) = messages::decode(&item) else {
                log::debug!("a message of {} bytes makes no sense", item.len());
                continue;
            };
            match message {
                Message::Stack { id, check, stack } => {
                    if let Some(space) = space_of(&mut self.targets, stack.slot) {
                        space.notice(&stack);
                    }
                    self.ledger.take(id, check, stack);
                }
                Message::Libraries(slot) => libraries.push(slot),
                Message::Exec(exec) => execs.push(exec),
                Message::Mapping(record) => self.mappings.known.take(&record),
            }
        }
        if !libraries.is_empty() && !self.ending {
            self.begin_awaited_lineages()?;
        }
        for exec in execs {
            self.execed(exec)?;
        }
        for slot in libraries {
            if let Some(space) = space_of(&mut self.targets, slot) {
                space.libraries_changed();
            } else if let Some(follow) = &mut self.follow {
                follow.libraries_changed(slot);
            }
        }
        let more_tables = self.unwinding.take_built();
        for target in self.targets.iter_mut().filter(|t| !t.ended && !t.awaits_probes) {
            if more_tables {
                target.space.retell();
            }
            // What was mapped since must be looked at while it is mapped.
            target.space.look_if_stale();
            if let Some(said) = target.pick_up(&self.maps, &self.terms, self.started.elapsed())
                && !self.outputs.is_quiet()
            {
                say(format_args!("leaktrace: {said}"));
            }
            target.tell(&mut self.maps, &mut self.unwinding, false);
        }
        Ok(())
    }

    fn sample(&mut self) -> Result<()> {
        self.messages()?;
        self.begin_awaited_lineages()?;
        self.begin_changed_lineages()?;
        self.bury(false)?;
        self.take_up_newcomers()?;
        for index in 0..self.targets.len() {
            if self.targets.get(index).is_some_and(|t| t.awaits_probes && !t.ended) {
                self.plan_anew(index, false, false)?;
            }
        }
        for target in &mut self.targets {
            target.check_main_thread(&self.terms);
            target.spare_children(&self.terms);
            target.check_governing();
            target.look_at_memory();
            target.look_at_cpu();
        }
        super::trust::look(self, Duration::ZERO)?;
        let (at, took) = self.last_sample;
        if at.elapsed() < took * SAMPLE_SHARE {
            return Ok(());
        }
        // No longer than its CPU time: a busy machine must not make the looks rare.
        let (started, used, looked) = (Instant::now(), clock::thread_cpu(), self.looking());
        let counted = self.counted()?;
        let news = self.follow_windows(&counted, false)?;
        let snapshot = self.estimated(counted);
        if news {
            self.history.add(&snapshot, false);
        }
        let looking = self.looking().saturating_sub(looked);
        let took = clock::thread_cpu().saturating_sub(used);
        let took = took.min(started.elapsed().saturating_sub(looking));
        self.last_sample = (started, took);
        self.show_progress(&snapshot)
    }

    fn refresh(&mut self) -> Result<()> {
        self.messages()?;
        self.targets.iter_mut().for_each(Traced::look_again);
        if !self.outputs.is_live() {
            return Ok(());
        }
        self.bury(true)?;
        let snapshot = self.present()?;
        let report = assemble::report(self, &snapshot, self.outputs.live_stacks(), None)?;
        self.outputs.refresh(&report)
    }

    fn report_now(&mut self) -> Result<()> {
        self.messages()?;
        self.targets.iter_mut().for_each(Traced::look_again);
        self.bury(true)?;
        let snapshot = self.present()?;
        let report = assemble::report(self, &snapshot, self.outputs.final_stacks(), None)?;
        self.outputs.write_files(&report)?;
        if self.outputs.is_live() {
            self.outputs.refresh(&report)?;
        }
        Ok(())
    }

    fn count_afresh(&mut self) -> Result<()> {
        for target in &mut self.targets {
            if target.ended {
                target.windowed = None;
                continue;
            }
            target.ungovern(&self.terms);
            (target.known.from_first, target.known.was_out) = (false, false);
            self.maps.close_target(target.slot)?;
        }
        self.messages()?;
        self.maps.clear()?;
        self.follow.iter_mut().for_each(Follow::clear);
        self.ledger.collisions = 0;
        self.clear_mappings();
        self.history = History::default();
        self.last_scan = assemble::LastScan::default();
        self.begin()
    }

    fn exited(&mut self, pid: Pid) -> Result<ControlFlow<()>> {
        for target in self.targets.iter_mut().filter(|t| t.process.pid == pid) {
            target.look_at_cpu();
            target.ended = true;
            self.maps.unwatch(pid);
            if self.follow.is_none()
                && let Some(probes) = target.take_probes()
            {
                // Nobody has to wait for that; where no thread is to be had, they are dropped here.
                let _ = std::thread::Builder::new().spawn(move || drop(probes));
            }
        }
        if let Some(follow) = &mut self.follow {
            // Its children go on with what they inherited, as long as another is there that was asked for.
            follow.roots.remove(&pid);
            let over = follow.roots.is_empty();
            return Ok(if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
        }
        self.retire()?;
        let goes_on = self.targets.iter().any(|t| !t.ended) || self.take_up_newcomers()?;
        Ok(if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }
}
