//! What a reader has to know about what was missed, and what to do about it.

use super::units;
use crate::model::{Health, LostReason, Mode, StackQuality};

/// What is missing, in a few words: `123 events lost, 2 probes not placed`.
pub(super) fn shortcomings(health: &Health) -> String {
    let mut parts = Vec::new();
    if health.lost_events() > 0 {
        parts.push(format!("{} lost", units::counted(health.lost_events(), "event")));
    }
    if !health.probe_failures.is_empty() {
        let probes = units::counted(health.probe_failures.len() as u64, "probe");
        parts.push(format!("{probes} not placed"));
    }
    if !health.trust.is_enough() {
        parts.push("not enough for a verdict".to_owned());
    }
    parts.join(", ")
}

/// The one line that every report has.
pub(super) fn summary(health: &Health, mode: Mode) -> String {
    let seen = health.allocs.saturating_add(health.frees);
    let place = if mode == Mode::Windowed { " in windows" } else { "" };
    let seen = units::counted(seen, "event");
    let whole = whole_stacks(&health.stacks);
    if health.complete() {
        format!("nothing lost, {seen} seen{place}{whole}")
    } else {
        format!("INCOMPLETE, {}; {seen} seen{place}{whole}", shortcomings(health))
    }
}

/// How many stacks are whole, in a few words.
fn whole_stacks(stacks: &StackQuality) -> String {
    let all = stacks.all();
    if all == 0 {
        String::new()
    } else if stacks.complete == all {
        "; all stacks whole".to_owned()
    } else {
        format!("; {} of stacks whole", units::percent(stacks.complete as f64 / all as f64))
    }
}

/// The rest: one item for each loss, each probe that failed, each note.
pub(super) fn details(health: &Health) -> Vec<String> {
    let mut items = Vec::new();
    for (&reason, &n) in &health.lost {
        // Bytes are told with the events they belong to.
        if n == 0 || reason.ends_with("_bytes") {
            continue;
        }
        let bytes = match health.lost.get(format!("{reason}_bytes").as_str()) {
            Some(&bytes) if bytes > 0 => format!(" ({})", units::bytes(bytes)),
            _ => String::new(),
        };
        items.push(format!("lost {}{bytes}: {}", units::count(n), reason_and_advice(reason)));
    }
    for failure in &health.probe_failures {
        items.push(format!(
            "no probe on {} in {}: {}",
            failure.function, failure.module, failure.error
        ));
    }
    items.extend(lost_stacks(&health.stacks));
    if health.truncated_stacks > 0 {
        items.push(format!(
            "{} had more frames than are kept: the outermost callers are missing, and paths that \
             differ only there are counted as one",
            units::counted(health.truncated_stacks, "allocation")
        ));
    }
    let asides: Vec<String> = [
        (health.double_frees, "block freed twice", "blocks freed twice"),
        (
            health.mismatched_frees,
            "block freed by another family than it was allocated by",
            "blocks freed by another family than they were allocated by",
        ),
        (
            health.reappeared,
            "block handed out again without a free seen",
            "blocks handed out again without a free seen",
        ),
        (
            health.abandoned_calls,
            "call left by longjmp, an exception or its thread's end",
            "calls left by longjmp, an exception or their thread's end",
        ),
        (health.failed_allocs, "failed allocation", "failed allocations"),
        (
            health.filtered,
            "allocation outside --min-size and --max-size",
            "allocations outside --min-size and --max-size",
        ),
        (
            health.sampled_out,
            "allocation not chosen for the sample",
            "allocations not chosen for the sample",
        ),
        (
            health.refuted_blocks,
            "block of an earlier window found dead without a free seen",
            "blocks of earlier windows found dead without a free seen",
        ),
        (
            health.unjudged_blocks,
            "block of an earlier window counts as live since nothing speaks against it",
            "blocks of earlier windows count as live since nothing speaks against them",
        ),
    ]
    .into_iter()
    .filter(|(n, _, _)| *n > 0)
    .map(|(n, one, many)| format!("{} {}", units::count(n), if n == 1 { one } else { many }))
    .collect();
    if health.mappings.missed > 0 {
        items.push(format!(
            "the kernel left out {} of mmap and its like, of any process here: mappings may be \
             missing",
            units::counted(health.mappings.missed, "call")
        ));
    }
    if !asides.is_empty() {
        items.push(asides.join("; "));
    }
    items.extend(children(health));
    items.extend(health.notes.iter().cloned());
    items
}

/// What became of the children, where they are followed.
fn children(health: &Health) -> Option<String> {
    let children = health.children?;
    let many = if children.seen == 1 { "process" } else { "processes" };
    let forked = format!("{} child {many}", units::count(children.seen));
    let mut line = format!("{forked} followed, {} of them live", units::count(children.live));
    if children.execed > 0 {
        line += &format!("; {}", units::counted(children.execed, "exec"));
    }
    if children.missed > 0 {
        line += &format!("; {} MISSED, with all that they did", units::count(children.missed));
    }
    if health.inherited_frees > 0 {
        let frees = units::counted(health.inherited_frees, "free");
        line += &format!("; {frees} of blocks that they began with, their parents' copies");
    }
    Some(line)
}

/// So many modules are named at which stacks are lost.
const MODULES: usize = 5;

/// Where stacks end before the thread's start, and what to do about it.
fn lost_stacks(stacks: &StackQuality) -> Vec<String> {
    let share = |n: u64| units::percent(n as f64 / stacks.all().max(1) as f64);
    let mut items: Vec<String> = stacks
        .lost_at
        .iter()
        .take(MODULES)
        .map(|at| {
            format!(
                "the stacks of {} ({}) end in {}: {}",
                units::counted(at.allocations, "allocation"),
                share(at.allocations),
                at.module,
                why_lost(at.reason)
            )
        })
        .collect();
    let rest: u64 = stacks.lost_at.iter().skip(MODULES).map(|at| at.allocations).sum();
    if rest > 0 {
        let modules = units::counted((stacks.lost_at.len() - MODULES) as u64, "more place");
        items.push(format!(
            "the stacks of {} ({}) end in {modules}",
            units::counted(rest, "allocation"),
            share(rest)
        ));
    }
    items
}

fn why_lost(reason: LostReason) -> &'static str {
    match reason {
        LostReason::NoUnwindData => {
            "it has no unwind data there (.eh_frame) and keeps no frame pointers; a build with \
             -fasynchronous-unwind-tables or -fno-omit-frame-pointer has whole stacks"
        }
        LostReason::GeneratedCode => {
            "generated code without frame pointers; runtimes keep them on request (Java: \
             -XX:+PreserveFramePointer)"
        }
        LostReason::Inconsistent => "its unwind data led nowhere from there",
        LostReason::NotMapped => {
            "code that was mapped only while tracing, or none at all; a trace that begins later \
             knows it"
        }
        LostReason::ReturnProbe => {
            "a return probe, of leaktrace's or another tracer's, hides the caller there"
        }
        LostReason::NotKept => "they found no room, see above",
    }
}

fn reason_and_advice(reason: &str) -> String {
    let known = match reason {
        "blocks_full" => {
            "the table of live blocks was full, so these blocks are in no figure; rerun with a \
             larger --max-blocks"
        }
        "stacks_full" => {
            "the table of stacks was full, so these blocks count under an unknown stack; rerun \
             with a larger --max-stacks"
        }
        "stack_collisions" => {
            "two stacks had the same id; the second one's blocks count under an unknown stack"
        }
        "no_thread_state" => "the kernel had no memory to remember a thread's call",
        "too_deep" => "allocation calls nested deeper than is remembered",
        "unreadable" => "the new block's address could not be read from the process",
        "frames" => {
            "the frames of their stacks found no room on their way to leaktrace, so these blocks have\
                     no stack; trace again, on a machine with less load"
        }
        "wrong_frees" => "wrong frees that are not told: there were too many different ones",
        "children" => {
            "child processes that are in no figure: no slot was left (1,024 can live at once), or \
             they were forked before their parent's program had its probes"
        }
        "mappings" => {
            "memory was mapped or unmapped and it could not be told, or not be kept: mappings are \
             missing, or shown and gone since"
        }
        "exec" => "calls between an exec and the new program's probes",
        _ => return format!("reason `{reason}`"),
    };
    known.to_owned()
}
