//! A report, put together from what every room knows.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::Result;
use leaktrace_ebpf::records::Counter;

use super::args::TraceArgs;
use super::estimates;
use super::own_use;
use super::session::Session;
use super::stack_quality;
use super::trust;
use super::windowed::Windowed;
use super::wrong_frees;
use crate::analyse::merge::{self, Drawn};
use crate::analyse::trust::doubted;
use crate::analyse::{rank, verdict};
use crate::collect::ledger::{self, BlockAges};
use crate::collect::maps::CounterValues;
use crate::model::{
    CodeAddr, Cost, EndedBy, Ending, Frame, Health, Report, Snapshot, StackId, StackReport, Target,
    Totals, Trace, WrongFree, WrongFreeKind,
};
use crate::report::units;
use crate::symbolize::culprit;

/// The last look at every live block, and what it cost.
#[derive(Default)]
pub struct LastScan {
    ages: HashMap<StackId, BlockAges>,
    at: Option<Instant>,
    took: Duration,
}

impl LastScan {
    /// What a stack's blocks look like.
    pub fn of(&self, id: StackId) -> BlockAges {
        self.ages.get(&id).copied().unwrap_or_default()
    }
}

/// So many more stacks are named than shown, to be merged with those that are.
const SPARE_STACKS: usize = 2000;
/// The same, while tracing.
const SPARE_STACKS_LIVE: usize = 200;
/// Scanning blocks takes at most this share of leaktrace's time: one part in so many.
const SCAN_SHARE: u32 = 20;

/// Puts a report together; `limit` is the most stacks in it, `ended_by` is set for the last one.
///
/// # Errors
///
/// When the kernel refuses.
pub fn report(
    session: &mut Session,
    snapshot: &Snapshot,
    limit: usize,
    ended_by: Option<EndedBy>,
) -> Result<Report> {
    let counters = session.maps.counters()?.since(&session.counters_before);
    trust::look_for_report(session, ended_by.is_some())?;
    let scan_age_s = scan(session, ended_by.is_some())?;
    let wrong_frees = wrong_frees::find(session)?;
    let health = health(session, snapshot, &counters, &wrong_frees);
    let mut totals = Totals::default();
    snapshot.stacks.values().for_each(|stack| totals += *stack);

    let mut ranked: Vec<rank::Ranked> = Vec::new();
    for (id, stack) in &snapshot.stacks {
        let (bytes, blocks) = outstanding(session, *id, stack);
        if blocks != 0 {
            let growth = verdict::growth_bytes_per_s(&session.history.series(&[*id]));
            let is_doubtful = estimates::is_doubtful(session, &[*id], stack);
            ranked.push(rank::Ranked { id: *id, bytes, blocks, growth, is_doubtful });
        }
    }
    let key = session.args.sort.into();
    rank::sort(&mut ranked, key);
    let outstanding_in_all = ranked.len();
    // Some of them look the same and will become one.
    let spare = if ended_by.is_some() { SPARE_STACKS } else { SPARE_STACKS_LIVE };
    ranked.truncate(limit.saturating_add(spare));

    let drawn = draw(session, &ranked);
    let mut groups = merge::same_looking(drawn);
    let stacks_outstanding = outstanding_in_all - (ranked.len() - groups.len());
    for group in &mut groups {
        group.ranked.growth = verdict::growth_bytes_per_s(&session.history.series(&group.ids));
        let totals = totals_of(snapshot, &group.ids);
        group.ranked.is_doubtful = estimates::is_doubtful(session, &group.ids, &totals);
    }
    groups.sort_by(|a, b| rank::order(&a.ranked, &b.ranked, key));
    groups.truncate(limit);
    let stacks = groups
        .into_iter()
        .map(|group| stack_report(session, snapshot, group, scan_age_s))
        .map(|stack| match health.trust.is_enough() {
            true => stack,
            false => StackReport { verdict: doubted(stack.verdict), ..stack },
        })
        .collect();
    let duration_s = snapshot.at_s;
    let smallest_leak = estimates::smallest_leak_bytes_per_s(session, duration_s, &totals);
    Ok(Report {
        targets: roots(session),
        trace: Trace {
            started_at: session.started_at.clone(),
            duration_s: snapshot.at_s,
            mode: estimates::mode(session),
            sample_bytes: session.sampling().mean_bytes,
            ended_by,
        },
        probes: session.targets.iter().flat_map(|t| t.probes.iter().cloned()).collect(),
        health,
        cost: cost(session, &counters, ended_by.is_some())?,
        totals,
        stacks,
        stacks_outstanding,
        smallest_leak_bytes_per_s: smallest_leak,
        wrong_frees,
    })
}

/// The processes that were asked for, each as it is since its last exec.
fn roots(session: &Session) -> Vec<Target> {
    let mut roots: Vec<Target> = Vec::new();
    for target in session.targets.iter().filter(|target| target.is_root) {
        let target = target.target();
        match roots.iter_mut().find(|known| known.pid == target.pid) {
            Some(known) => *known = target,
            None => roots.push(target),
        }
    }
    roots
}

/// Looks at the live blocks, unless that was just done; returns how old the look is, in seconds.
fn scan(session: &mut Session, now: bool) -> Result<f64> {
    let due = match session.last_scan.at {
        Some(at) => at.elapsed() >= session.last_scan.took * SCAN_SHARE,
        None => true,
    };
    if now || due {
        let min_age = session.args.min_age.unwrap_or_default();
        let min_age_ns = u64::try_from(min_age.as_nanos()).unwrap_or(u64::MAX);
        let started = Instant::now();
        let targets = &session.targets;
        let weight = |slot, born_ns| {
            let target = targets.iter().find(|target| target.slot == slot);
            target.and_then(|t| t.windowed.as_ref()).map_or(1.0, |w| w.weight_of(born_ns))
        };
        let mut ages = ledger::scan_ages(&session.maps, min_age_ns, weight)?;
        session.add_mapping_ages(min_age_ns, &mut ages);
        session.last_scan = LastScan { ages, at: Some(Instant::now()), took: started.elapsed() };
    }
    Ok(session.last_scan.at.map_or(0.0, |at| at.elapsed().as_secs_f64()))
}

/// Outstanding bytes and blocks: by the totals, or by the blocks' ages with `--min-age`.
fn outstanding(session: &Session, id: StackId, totals: &Totals) -> (u64, u64) {
    if session.args.min_age.is_none() {
        return (totals.outstanding_bytes(), totals.outstanding_blocks());
    }
    session.last_scan.ages.get(&id).map_or((0, 0), |ages| (ages.bytes, ages.blocks))
}

/// Where a frame is: a target, by its index, and an address in it.
type Place = (usize, CodeAddr);

/// Names the frames of stacks, a target at a time.
pub(super) fn draw(session: &mut Session, ranked: &[rank::Ranked]) -> Vec<Drawn> {
    let mut by_target: BTreeMap<usize, Vec<CodeAddr>> = BTreeMap::new();
    for stack in ranked {
        let Some(frames) = session.ledger.frames(stack.id) else { continue };
        let Some(target) = session.targets.iter().position(|t| t.slot == frames.slot) else {
            continue;
        };
        by_target.entry(target).or_default().extend(frames.frames.iter());
    }
    let mut names = HashMap::new();
    for (index, mut addresses) in by_target {
        addresses.sort_unstable();
        addresses.dedup();
        let Some(target) = session.targets.get(index) else { continue };
        let named = session.symbolizer.symbolize(&target.space.image, &addresses);
        names.extend(addresses.iter().map(|a| (index, *a)).zip(named));
    }
    ranked.iter().map(|stack| draw_stack(session, *stack, &names)).collect()
}

fn draw_stack(
    session: &Session,
    ranked: rank::Ranked,
    names: &HashMap<Place, Vec<Frame>>,
) -> Drawn {
    let known = session.ledger.frames(ranked.id);
    let target = known.and_then(|k| session.targets.iter().position(|t| t.slot == k.slot));
    let mut frames = Vec::new();
    let mut ending = Ending::Lost;
    if let (Some(known), Some(index)) = (known, target) {
        ending = known.ending;
        // What led out of all code was no return address: the stack ends before that.
        let code = known.frames.iter().rposition(|address| is_code(session, index, *address));
        for address in known.frames.iter().take(code.map_or(0, |last| last + 1)) {
            frames.extend(names.get(&(index, *address)).into_iter().flatten().cloned());
        }
    } else {
        frames.push(Frame { function: Some(UNKNOWN_STACK.to_owned()), ..Frame::default() });
    }
    let pid = target.and_then(|index| session.targets.get(index)).map(|t| t.process.pid);
    Drawn { ids: vec![ranked.id], ranked, pid, frames, ending }
}

fn stack_report(
    session: &Session,
    snapshot: &Snapshot,
    stack: Drawn,
    scan_age_s: f64,
) -> StackReport {
    let totals = totals_of(snapshot, &stack.ids);
    let mut oldest_ns = None;
    for id in &stack.ids {
        oldest_ns = oldest_ns.max(session.last_scan.ages.get(id).map(|ages| ages.oldest_ns));
    }
    StackReport {
        id: stack.ranked.id,
        pid: stack.pid,
        totals,
        outstanding_bytes: stack.ranked.bytes,
        outstanding_blocks: stack.ranked.blocks,
        growth_bytes_per_s: stack.ranked.growth,
        interval: estimates::interval(session, &stack.ids),
        oldest_age_s: oldest_ns.map(|age| age as f64 / 1e9 + scan_age_s),
        verdict: estimates::judge(session, &stack.ids, &totals),
        culprit: culprit(&stack.frames),
        frames: stack.frames,
        ending: stack.ending,
    }
}

/// The totals of stacks that are shown as one.
fn totals_of(snapshot: &Snapshot, ids: &[StackId]) -> Totals {
    let mut totals = Totals::default();
    ids.iter().filter_map(|id| snapshot.stacks.get(id)).for_each(|stack| totals += *stack);
    totals
}

/// What stands for the frames of a stack that could not be kept.
pub const UNKNOWN_STACK: &str = "[stack not kept]";

fn is_code(session: &Session, target: usize, address: CodeAddr) -> bool {
    session
        .targets
        .get(target)
        .and_then(|t| t.space.image.locate(address.instruction()))
        .is_some_and(|located| located.mapping.executable)
}

fn health(
    session: &mut Session,
    snapshot: &Snapshot,
    counters: &CounterValues,
    wrong_frees: &[WrongFree],
) -> Health {
    let mut lost = lost(counters, session.ledger.collisions);
    // Frames that found no room in the ring buffer, of stacks that never came again.
    let nameless = snapshot
        .stacks
        .iter()
        .filter(|(id, _)| **id != StackId::UNKNOWN && session.ledger.frames(**id).is_none());
    lost.insert("frames", nameless.map(|(_, totals)| totals.outstanding_blocks()).sum());
    *lost.entry("mappings").or_default() += session.mappings.known.lost;
    let warnings = session.symbolizer.warnings();
    session.notes.extend(warnings);
    let mut notes = session.notes.clone();
    notes.extend(rounding(&session.args));
    notes.extend(session.unwinding.notes().iter().cloned());
    notes.extend(estimates::too_much(session, snapshot));
    notes.extend(estimates::doubtful(session));
    notes.extend(wrong_frees::notes(session, counters));
    notes.extend(session.newcomers.beyond());
    notes.extend(session.retired.note());
    let mut probe_failures = session.newcomers.failures().to_vec();
    for target in &session.targets {
        notes.extend(target.notes.iter().cloned());
        probe_failures.extend(target.failures.iter().cloned());
    }
    notes.extend(trust::notes(session));
    notes.dedup();
    let windowed = || session.targets.iter().filter_map(|target| target.windowed.as_ref());
    let mut health = Health {
        allocs: counters.get(Counter::Allocs),
        frees: counters.frees(),
        matched_frees: counters.get(Counter::MatchedFrees),
        unknown_frees: counters.get(Counter::UnknownFrees),
        failed_allocs: counters.get(Counter::FailedAllocs),
        reappeared: counters.get(Counter::Reappeared),
        abandoned_calls: counters.get(Counter::AbandonedCalls),
        filtered: counters.get(Counter::Filtered) + session.mappings.known.filtered,
        sampled_out: counters.get(Counter::SampledOut),
        refuted_blocks: windowed().map(Windowed::refuted).sum(),
        unjudged_blocks: windowed().map(Windowed::unjudged).sum(),
        lost,
        truncated_stacks: counters.get(Counter::TruncatedStacks),
        stacks: stack_quality::of(session, snapshot),
        probe_failures,
        notes,
        double_frees: wrong_frees::count(wrong_frees, WrongFreeKind::Double),
        mismatched_frees: wrong_frees::count(wrong_frees, WrongFreeKind::Mismatched),
        inherited_frees: counters.get(Counter::InheritedFrees),
        children: session
            .children_seen(counters.get(Counter::Children), counters.get(Counter::LostChildren)),
        mappings: session.mapped_memory(),
        ..Health::default()
    };
    health.trust = trust::judge(session, snapshot, counters, &health, estimates::mode(session));
    health
}

/// What is to be said of a `--sample` that is no power of two.
fn rounding(args: &TraceArgs) -> Option<String> {
    let sample = args.sample?;
    let asked = sample.rounded_from()?;
    Some(match sample.bytes() {
        0 => format!("--sample {asked} is every allocation"),
        bytes => format!(
            "--sample {asked} is rounded to a power of two: {bytes} bytes, {}",
            units::bytes(bytes)
        ),
    })
}

/// The events among what was lost.
pub fn lost_events(counters: &CounterValues, collisions: u64) -> u64 {
    Health { lost: lost(counters, collisions), ..Health::default() }.lost_events()
}

/// What was lost, by reason.
pub fn lost(counters: &CounterValues, collisions: u64) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("blocks_full", counters.get(Counter::LostBlocksFull)),
        ("blocks_full_bytes", counters.get(Counter::LostBlocksFullBytes)),
        ("stacks_full", counters.get(Counter::LostStacksFull)),
        ("stack_collisions", counters.get(Counter::LostStackCollisions) + collisions),
        ("no_thread_state", counters.get(Counter::LostNoThreadState)),
        ("too_deep", counters.get(Counter::LostTooDeep)),
        ("unreadable", counters.get(Counter::LostUnreadable)),
        ("exec", counters.get(Counter::LostExec)),
        ("wrong_frees", counters.get(Counter::LostWrongFrees)),
        ("children", counters.get(Counter::LostChildren)),
        ("mappings", counters.get(Counter::LostMappings)),
    ])
}

fn cost(session: &mut Session, counters: &CounterValues, last: bool) -> Result<Cost> {
    let cpu_s: f64 = session.targets.iter().map(super::traced::Traced::cpu_s).sum();
    let cpu_s = cpu_s + session.retired.cpu_s();
    let own = own_use::so_far(session.symbolizer.worker());
    let hits = session.maps.hits()?.since(&session.hits_before);
    let cost = Cost {
        probe_hits: hits.all,
        target_cpu_s: (cpu_s > 0.0).then_some(cpu_s),
        own_cpu_s: own.cpu_s,
        own_memory_bytes: own.memory_bytes,
        kernel_memory_bytes: own.kernel_memory_bytes,
        budget_share: session.terms.budget,
        windows: estimates::windows(session),
        ..Cost::default()
    };
    // The last report waits for the measurement, if it is still under way.
    let patience = if last { Duration::from_secs(3) } else { Duration::ZERO };
    let Some(measured) = session.calibration.wait(patience) else {
        return Ok(cost);
    };
    let spent_ns = 1e9 * session.terms.hit_cost.seconds(&hits, counters.handler_ns());
    // The practice is not the target: a loop of nothing but hits may do better.
    let probe_s = if cpu_s > 0.0 { (spent_ns / 1e9).min(cpu_s) } else { spent_ns / 1e9 };
    Ok(Cost {
        ns_per_hit: Some(if hits.all == 0 {
            measured.traced_ns
        } else {
            spent_ns / hits.all as f64
        }),
        target_cpu_share: (cpu_s > 0.0).then(|| probe_s / cpu_s),
        probe_s: Some(probe_s),
        ..cost
    })
}
