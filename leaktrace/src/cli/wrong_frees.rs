//! What `--check-frees` found, named.

use std::collections::{HashMap, HashSet};

use super::assemble;
use super::session::Session;
use super::traced::Traced;
use crate::analyse::merge::Drawn;
use crate::analyse::rank::Ranked;
use crate::collect::WrongFrees;
use crate::collect::maps::CounterValues;
use crate::model::{CallSite, Ending, StackId, WrongFree, WrongFreeKind};
use crate::report::units;
use crate::symbolize::culprit;
use leaktrace_ebpf::family::{MAX_WRONG_FREES, REMEMBERED_FREES};
use leaktrace_ebpf::records::Counter;

/// The wrong frees so far, most frequent first.
///
/// # Errors
///
/// When the kernel refuses.
pub fn find(session: &mut Session) -> anyhow::Result<Vec<WrongFree>> {
    if !session.args.check_frees {
        return Ok(Vec::new());
    }
    let mut noted = session.maps.wrong_frees()?;
    noted.retain(|wrong| is_sure(session, wrong));
    let ids: HashSet<StackId> = noted
        .iter()
        .flat_map(|wrong| {
            let again = wrong.freed_again.map_or(StackId::UNKNOWN, |(id, _)| id);
            [wrong.allocated, wrong.freed.0, again]
        })
        .filter(|id| *id != StackId::UNKNOWN)
        .collect();
    let stacks: Vec<Ranked> = ids
        .into_iter()
        .map(|id| Ranked { id, bytes: 0, blocks: 0, growth: 0.0, is_doubtful: false })
        .collect();
    let drawn = assemble::draw(session, &stacks);
    let drawn: HashMap<StackId, &Drawn> =
        drawn.iter().map(|drawn| (drawn.ranked.id, drawn)).collect();
    let mut found: Vec<WrongFree> = Vec::new();
    noted.sort_by_key(|wrong| (wrong.freed_again.is_none(), wrong.allocated, wrong.freed));
    for wrong in &noted {
        let Some(target) = target_of(session, wrong) else { continue };
        let named = name(target, wrong, &drawn);
        // Stacks may differ where nobody sees it.
        match found.iter_mut().find(|other| looks_like(other, &named)) {
            Some(other) => {
                other.count += named.count;
                other.bytes = other.bytes.saturating_add(named.bytes);
            }
            None => found.push(named),
        }
    }
    found.sort_by_key(|wrong| (wrong.kind, std::cmp::Reverse(wrong.count)));
    Ok(found)
}

fn target_of<'a>(session: &'a Session, wrong: &WrongFrees) -> Option<&'a Traced> {
    session.targets.iter().find(|target| target.slot == wrong.slot)
}

/// Where some allocations are not seen, an address may have been handed out between two frees; and
/// where an operator has no probe, its blocks look like those of `malloc`.
fn is_sure(session: &Session, wrong: &WrongFrees) -> bool {
    let Some(target) = target_of(session, wrong) else { return false };
    if wrong.freed_again.is_some() {
        target.failures.is_empty() && target.known.elsewhere.is_empty()
    } else {
        !lacks_operators(target)
    }
}

fn lacks_operators(target: &Traced) -> bool {
    target.failures.iter().any(|failure| failure.function.starts_with("operator"))
}

fn looks_like(one: &WrongFree, other: &WrongFree) -> bool {
    let same = |one: &CallSite, other: &CallSite| {
        one.function == other.function && one.module == other.module && one.frames == other.frames
    };
    one.kind == other.kind
        && one.pid == other.pid
        && same(&one.allocated, &other.allocated)
        && same(&one.freed, &other.freed)
        && match (&one.freed_again, &other.freed_again) {
            (Some(one), Some(other)) => same(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
}

fn name(target: &Traced, wrong: &WrongFrees, drawn: &HashMap<StackId, &Drawn>) -> WrongFree {
    let families = &target.families;
    let site = |id: StackId, function: Option<(&str, &str)>| {
        let drawn = drawn.get(&id).copied();
        let frames = drawn.map_or_else(Vec::new, |drawn| drawn.frames.clone());
        CallSite {
            function: function.map(|(name, _)| name.to_owned()),
            module: function.map(|(_, module)| module.to_owned()),
            culprit: culprit(&frames),
            frames,
            ending: drawn.map_or(Ending::Lost, |drawn| drawn.ending),
        }
    };
    let seen = wrong.allocated != StackId::UNKNOWN;
    let by = families.allocator(wrong.family).filter(|_| seen);
    let allocated = site(wrong.allocated, by);
    let freed = site(wrong.freed.0, families.function(wrong.freed.1));
    let again = wrong.freed_again.map(|(id, by)| site(id, families.function(by)));
    WrongFree {
        kind: if again.is_some() { WrongFreeKind::Double } else { WrongFreeKind::Mismatched },
        pid: Some(target.process.pid),
        count: wrong.count,
        bytes: wrong.bytes,
        verdict: verdict(&allocated, &freed, again.as_ref()),
        allocated,
        freed,
        freed_again: again,
    }
}

/// What happened, in a sentence.
fn verdict(allocated: &CallSite, freed: &CallSite, again: Option<&CallSite>) -> String {
    let function = |site: &CallSite| match &site.function {
        Some(name) => name.split('(').next().unwrap_or(name).to_owned(),
        None => "a call that was not seen".to_owned(),
    };
    if let Some(again) = again {
        return format!(
            "freed by {}, and freed again by {} before it was handed out anew",
            function(freed),
            function(again)
        );
    }
    let (by, freed_by) = (function(allocated), function(freed));
    let own_file = |site: &CallSite| {
        let path = site.module.as_deref().unwrap_or_default();
        path.rsplit('/').next().unwrap_or(path).to_owned()
    };
    let (of, freed_of) = (own_file(allocated), own_file(freed));
    if of == freed_of || by.starts_with("operator") || freed_by.starts_with("operator") {
        format!("allocated by {by}, but freed by {freed_by}")
    } else {
        format!("allocated by {by} of {of}, but freed by {freed_by} of {freed_of}")
    }
}

/// How many frees of a kind there were.
pub fn count(found: &[WrongFree], kind: WrongFreeKind) -> u64 {
    found.iter().filter(|wrong| wrong.kind == kind).map(|wrong| wrong.count).sum()
}

/// What the reader has to know of the checks.
pub fn notes(session: &Session, counters: &CounterValues) -> Vec<String> {
    let mut notes = Vec::new();
    if !session.args.check_frees {
        return notes;
    }
    if counters.frees() > u64::from(REMEMBERED_FREES) {
        notes.push(format!(
            "a double free is told if the first was among the last {} or so",
            units::count(u64::from(REMEMBERED_FREES))
        ));
    }
    let forgotten = counters.get(Counter::UnrememberedFrees);
    if forgotten > 0 {
        notes.push(format!(
            "{} could not be remembered: a second free of those blocks is not told",
            units::counted(forgotten, "free")
        ));
    }
    for target in session.targets.iter().filter(|target| !target.failures.is_empty()) {
        let what = if lacks_operators(target) { "wrong" } else { "double" };
        notes.push(format!(
            "{what} frees of process {} are not told, since some of its functions have no probe",
            target.process.pid
        ));
    }
    if counters.get(Counter::LostWrongFrees) > 0 {
        notes.push(format!(
            "there were more kinds of wrong frees than the {} that are told apart",
            units::count(u64::from(MAX_WRONG_FREES))
        ));
    }
    notes
}
