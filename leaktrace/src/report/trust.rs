//! How far a report can be trusted, in words.

use super::units;
use crate::model::{Distrust, Trust, TrustEvidence, printable};

/// So many functions are named.
const MOST_NAMED: usize = 3;

/// The one line that every report has.
pub(super) fn summary(trust: &Trust) -> String {
    let seen = &trust.evidence;
    let entry_points = &seen.entry_points;
    let mut parts = vec![format!(
        "{} of {}",
        units::count(entry_points.covered),
        units::counted(entry_points.found, "entry point")
    )];
    parts.push(match seen.matched_share() {
        // Windows see blocks go that were allocated between them: that says nothing of the trace.
        _ if seen.in_windows => "frees between windows are not seen".to_owned(),
        _ if seen.is_sample => "frees outside the sample say nothing".to_owned(),
        None => "no frees seen".to_owned(),
        Some(share) => format!("{} of frees matched", share_of(share)),
    });
    if !seen.in_windows {
        parts.push(format!("{} reappeared", units::count(seen.reappeared)));
    }
    parts.push(memory(seen));
    let lead = if trust.is_enough() { "" } else { "NOT ENOUGH for a verdict; " };
    format!("{lead}{}", parts.join("; "))
}

fn memory(seen: &TrustEvidence) -> String {
    let tracked = units::bytes(seen.bytes_tracked);
    match seen.before {
        _ if seen.from_first => format!("{tracked} tracked, from the first allocation on"),
        Some(before) if before.in_use => {
            format!("{} in use before, {tracked} tracked since", units::bytes(before.bytes))
        }
        Some(before) => {
            format!("{} there before, {tracked} tracked since", units::bytes(before.bytes))
        }
        None => format!("{tracked} tracked; what was there before is not known"),
    }
}

/// With two decimals, and never rounded up to all.
fn share_of(share: f64) -> String {
    let hundredths = (share * 1e4 + 1e-7).floor();
    if hundredths >= 1e4 { "100 %".to_owned() } else { format!("{:.2} %", hundredths / 100.0) }
}

/// Why a report says too little, one sentence for each reason.
pub fn reasons(trust: &Trust) -> Vec<String> {
    trust.reasons.iter().map(reason).collect()
}

fn reason(reason: &Distrust) -> String {
    match reason {
        Distrust::Lost { events, allocs } => format!(
            "{} were lost, of {}",
            units::counted(*events, "event"),
            units::counted(*allocs, "allocation")
        ),
        Distrust::Reappeared { blocks, allocs } => format!(
            "{} handed out again without a free seen, of {}: they are freed in a way that \
             leaktrace does not see, and others that were look leaked",
            was_were(*blocks, "block"),
            units::counted(*allocs, "allocation"),
        ),
        Distrust::UnprobedFrees(functions) => {
            format!("calls of {} are not seen, and what they free looks leaked", listed(functions))
        }
        Distrust::UnknownFrees { blocks, frees } => format!(
            "{} freed whose allocation was not seen, of {}: something allocates in a way that \
             leaktrace does not see, and may leak there",
            was_were(*blocks, "block"),
            units::counted(*frees, "free"),
        ),
        Distrust::MoreThanBefore { blocks, before } => format!(
            "{} freed whose allocation was not seen, where there were {} at most before: something \
             allocates in a way that leaktrace does not see, and may leak there",
            was_were(*blocks, "block"),
            units::count(*before),
        ),
        Distrust::ProbesOut(why) => printable(why),
    }
}

fn was_were(n: u64, noun: &str) -> String {
    format!("{} {}", units::counted(n, noun), if n == 1 { "was" } else { "were" })
}

fn listed(functions: &[String]) -> String {
    let named: Vec<String> = functions.iter().take(MOST_NAMED).map(|f| printable(f)).collect();
    match functions.len().saturating_sub(named.len()) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
