//! What figures are worth that were estimated: by a sample of the allocations, or by windows.

use super::session::Session;
use super::traced::Traced;
use super::windowed::Windowed;
use crate::analyse::interval::{self, Kept, Sampling, Sight};
use crate::analyse::verdict;
use crate::analyse::windows::Evidence;
use crate::model::{Interval, Mode, Snapshot, StackId, Totals, Verdict, VerdictKind, Windows};

/// What was recorded of the allocations.
pub fn mode(session: &Session) -> Mode {
    if session.targets.iter().any(Traced::was_out) {
        Mode::Windowed
    } else if session.sampling().mean_bytes > 0 {
        Mode::Sampled
    } else {
        Mode::Exact
    }
}

/// How long the probes were in, of all targets; `None` without a budget.
pub fn windows(session: &Session) -> Option<Windows> {
    let mut sum = Windows::default();
    let known = session.targets.iter().filter_map(|target| target.windowed.as_ref());
    let (mut seen, mut targets) = (0.0, 0.0);
    for windowed in known {
        let times = windowed.times();
        sum.opened += times.opened.max(1);
        sum.open_s += times.open_s;
        sum.draining_s += times.draining_s;
        sum.closed_s += times.closed_s;
        seen += windowed.share_seen();
        targets += 1.0;
    }
    sum.work_seen = seen / targets;
    (targets > 0.0).then_some(sum)
}

/// The 95 % interval of the outstanding bytes of stacks that are shown as one; `None` if they were
/// counted.
pub fn interval(session: &Session, ids: &[StackId]) -> Option<Interval> {
    if session.args.min_age.is_some() {
        // Of all blocks, whatever their age, is what is known.
        return None;
    }
    let (mut bytes, mut below, mut above) = (0.0, 0.0, 0.0);
    let mut is_estimate = false;
    for id in ids.iter().filter(|id| !session.is_mapping(**id)) {
        let (of_stack, ends) = match windowed_of(session, *id).and_then(|w| w.estimates().get(id)) {
            Some(estimate) => (estimate.totals.outstanding_bytes() as f64, estimate.outstanding),
            None => sampled(session, *id)?,
        };
        is_estimate = true;
        bytes += of_stack;
        // Stacks err independently of each other.
        below += (of_stack - ends.low).powi(2);
        above += (ends.high - of_stack).powi(2);
    }
    is_estimate.then(|| Interval {
        low_bytes: (bytes - below.sqrt()).max(0.0).round() as u64,
        high_bytes: (bytes + above.sqrt()).round() as u64,
    })
}

/// The bytes that the kept blocks of a stack stand for, and their interval.
fn sampled(session: &Session, id: StackId) -> Option<(f64, interval::Interval)> {
    let sampling = session.sampling();
    if sampling.mean_bytes == 0 {
        return None;
    }
    let ages = session.last_scan.of(id);
    let (mean, small) = (sampling.mean_bytes as f64, ages.small_samples as f64);
    let kept = Kept {
        bytes: ages.all_bytes as f64,
        blocks: 0.0,
        variance: mean * mean * small - mean * ages.small_bytes as f64,
        count: ages.samples,
    };
    Some((kept.bytes, kept.interval(sampling)))
}

/// What stacks that are shown as one look like.
pub fn judge(session: &Session, ids: &[StackId], totals: &Totals) -> Verdict {
    let series = session.history.series(ids);
    let known = ids.iter().filter_map(|id| windowed_of(session, *id)?.estimates().get(id));
    let mut evidence: Option<Evidence> = None;
    for estimate in known {
        let sum = evidence.get_or_insert_default();
        sum.old_blocks += estimate.evidence.old_blocks;
        sum.gone_since += estimate.evidence.gone_since;
        sum.cohorts = sum.cohorts.max(estimate.evidence.cohorts);
    }
    match evidence {
        Some(evidence) => verdict::judge_windowed(&series, totals, &evidence),
        None => verdict::judge(&series, totals),
    }
}

/// Whether stacks that are shown as one were seen in windows, and their blocks don't bear out that
/// they grow: their figures are no more than upper bounds then.
pub fn is_doubtful(session: &Session, ids: &[StackId], totals: &Totals) -> bool {
    ids.iter().any(|id| windowed_of(session, *id).is_some())
        && judge(session, ids, totals).kind != VerdictKind::Growing
}

/// What is to be said where probes took most of the time of windows.
pub fn doubtful(session: &Session) -> Option<String> {
    let windowed = session.targets.iter().filter_map(|target| target.windowed.as_ref());
    let share = windowed.map(Windowed::share_doubtful).fold(0.0, f64::max);
    (share > 0.1).then(|| {
        format!(
            "probes took most of the time in windows, so that {:.0} % of what is estimated is no \
             more than an order of magnitude",
            100.0 * share
        )
    })
}

/// What is to be said where estimates add up to more than the target's memory.
pub fn too_much(session: &Session, snapshot: &Snapshot) -> Option<String> {
    let targets = || session.targets.iter().filter(|target| target.is_estimate());
    let memory: u64 = targets().map(|target| target.anonymous_memory()).sum();
    let estimated: u64 = targets()
        .filter_map(|target| target.windowed.as_ref())
        .flat_map(|windowed| windowed.estimates().keys())
        .filter_map(|id| snapshot.stacks.get(id))
        .map(Totals::outstanding_bytes)
        .sum();
    (memory > 0 && estimated > memory + memory / 10).then(|| {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        format!(
            "the estimates add up to {} MiB, and the target has {} MiB of memory of its own: those \
             of stacks that are not growing are upper bounds, see doc/windows.md; trace longer, or \
             with a larger --max-overhead",
            mib(estimated),
            mib(memory)
        )
    })
}

/// The smallest leak that would have been seen, in bytes a second; `None` when all was seen.
pub fn smallest_leak_bytes_per_s(
    session: &Session,
    duration_s: f64,
    totals: &Totals,
) -> Option<f64> {
    if mode(session) == Mode::Exact {
        return None;
    }
    let windows = windows(session);
    let by_windows = windows.filter(|_| mode(session) == Mode::Windowed);
    let sight = Sight {
        duration_s,
        looks: by_windows.map_or(session.history.samples() as u64, |windows| windows.opened),
        sampling: session.sampling(),
        share_seen: by_windows.map_or(1.0, |windows| windows.work_seen),
        mean_block_bytes: totals.allocated_bytes as f64 / totals.allocated_blocks.max(1) as f64,
    };
    interval::smallest_leak_bytes_per_s(&sight, verdict::LEAST_SAMPLES as u64)
}

/// The windows of the target that a stack is of, if its figures are estimates.
fn windowed_of(session: &Session, id: StackId) -> Option<&Windowed> {
    if session.is_mapping(id) {
        return None;
    }
    let slot = session.ledger.frames(id)?.slot;
    let target = session.targets.iter().find(|target| target.slot == slot)?;
    target.windowed.as_ref().filter(|windowed| windowed.is_estimate())
}

impl Session {
    /// How allocations are sampled.
    pub(super) fn sampling(&self) -> Sampling {
        Sampling { mean_bytes: self.maps.terms().sampling.bytes }
    }
}
