//! Was enough seen to say what leaks? The thresholds, and why they are what they are.
//!
//! A report can be wrong in two ways: a free that was not seen makes a block look leaked, and an
//! allocation that was not seen makes a leak invisible. What shows either is asked here, and
//! nothing that an honest trace shows as well: one that attached to a running process sees frees
//! of blocks from before, as long as there are any, and one in windows sees blocks vanish and
//! come back between them.

use crate::model::{Distrust, Trust, TrustEvidence, TrustVerdict, Verdict, VerdictKind};

/// More lost events than so many in a hundred allocations prove nothing.
const MOST_LOST_PERCENT: u64 = 5;

/// A block that is handed out again was freed, and nobody saw it. That never happens where all
/// frees are seen. But one or two may be an accident (a handler that jumped out of `free`), which
/// says nothing of others.
const FEW_REAPPEARED: u64 = 3;
/// So many in a hundred allocations are a path that frees unseen.
const MOST_REAPPEARED_PERCENT: u64 = 1;
/// And so are fewer, if they are as many as so many in a hundred of the blocks outstanding: each
/// of those may be one that was freed and waits for its place to be handed out.
const MOST_REAPPEARED_OF_OUTSTANDING_PERCENT: u64 = 10;

/// A program traced from its first allocation on has no blocks from before. But the dynamic loader
/// has some, which it takes from its own `malloc` first.
const FEW_UNKNOWN: u64 = 16;
/// So many in a hundred frees come from allocations that nobody saw.
const MOST_UNKNOWN_PERCENT: u64 = 1;

/// What a process had before is looked at while it runs: so many blocks, and one in so many, may
/// have come between that and the first event.
const CAME_MEANWHILE: u64 = 10_000;
const CAME_MEANWHILE_SHARE: u64 = 10;

/// Judges what was seen.
pub fn judge(evidence: TrustEvidence) -> Trust {
    let reasons = reasons(&evidence);
    let verdict = if reasons.is_empty() { TrustVerdict::Enough } else { TrustVerdict::NotEnough };
    Trust { verdict, reasons, evidence }
}

fn reasons(seen: &TrustEvidence) -> Vec<Distrust> {
    let mut reasons = Vec::new();
    reasons.extend(seen.probes_out.iter().cloned().map(Distrust::ProbesOut));
    if exceeds(seen.lost, MOST_LOST_PERCENT, seen.allocs) {
        reasons.push(Distrust::Lost { events: seen.lost, allocs: seen.allocs });
    }
    if !seen.entry_points.unprobed_frees.is_empty() {
        reasons.push(Distrust::UnprobedFrees(seen.entry_points.unprobed_frees.clone()));
    }
    // In windows, blocks go and come unseen by design.
    if !seen.in_windows {
        reasons.extend(reappeared(seen));
        reasons.extend(unknown_frees(seen));
    }
    reasons
}

fn reappeared(seen: &TrustEvidence) -> Option<Distrust> {
    let TrustEvidence { reappeared, allocs, outstanding_blocks, .. } = *seen;
    let many = exceeds(reappeared, MOST_REAPPEARED_PERCENT, allocs)
        || exceeds(reappeared, MOST_REAPPEARED_OF_OUTSTANDING_PERCENT, outstanding_blocks);
    (many && reappeared >= FEW_REAPPEARED)
        .then_some(Distrust::Reappeared { blocks: reappeared, allocs })
}

fn unknown_frees(seen: &TrustEvidence) -> Option<Distrust> {
    // The allocations of these were seen.
    let unknown = seen.unknown_frees.saturating_sub(seen.left_out);
    let frees = seen.matched_frees.saturating_add(seen.unknown_frees);
    if seen.from_first {
        let many = unknown > FEW_UNKNOWN && exceeds(unknown, MOST_UNKNOWN_PERCENT, frees);
        return many.then_some(Distrust::UnknownFrees { blocks: unknown, frees });
    }
    let before = seen.before?.most_blocks;
    let spare = (before / CAME_MEANWHILE_SHARE).max(CAME_MEANWHILE);
    (unknown > before.saturating_add(spare))
        .then_some(Distrust::MoreThanBefore { blocks: unknown, before })
}

/// Whether `n` is more than so many in a hundred of `all`.
fn exceeds(n: u64, percent: u64, all: u64) -> bool {
    u128::from(n) * 100 > u128::from(all) * u128::from(percent)
}

/// A verdict of a report that says too little: whatever it looks like is told, and nothing is
/// blamed or cleared by it.
pub fn doubted(verdict: Verdict) -> Verdict {
    if verdict.kind == VerdictKind::Undecided {
        return verdict;
    }
    Verdict {
        kind: VerdictKind::Undecided,
        evidence: format!(
            "looks {}, but too little was seen for a verdict; {}",
            verdict.kind.name(),
            verdict.evidence
        ),
    }
}

#[cfg(test)]
mod tests;
