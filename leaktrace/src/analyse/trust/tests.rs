//! What is refused, and what must never be.

use proptest::prelude::*;

use super::*;
use crate::model::{Before, EntryPoints};

/// Attached to a process with a million blocks, ten seconds ago.
fn attached() -> TrustEvidence {
    TrustEvidence {
        entry_points: EntryPoints { found: 11, covered: 11, unprobed_frees: Vec::new() },
        allocs: 100_000,
        matched_frees: 90_000,
        outstanding_blocks: 10_000,
        before: Some(Before { bytes: 64_000_000, in_use: true, most_blocks: 1_000_000 }),
        bytes_tracked: 640_000,
        ..TrustEvidence::default()
    }
}

/// A command, from its first allocation on.
fn run() -> TrustEvidence {
    TrustEvidence { from_first: true, before: Some(Before::default()), ..attached() }
}

#[track_caller]
fn check(evidence: TrustEvidence, expect: &[Distrust]) {
    let trust = judge(evidence.clone());
    assert_eq!(trust.reasons, expect);
    assert_eq!(trust.is_enough(), expect.is_empty());
    assert_eq!(trust.evidence, evidence);
}

#[test]
fn a_trace_that_missed_nothing_is_enough_and_so_is_one_that_saw_nothing() {
    check(attached(), &[]);
    check(run(), &[]);
    check(TrustEvidence::default(), &[]);
}

#[test]
fn frees_of_blocks_from_before_are_no_sign_as_long_as_there_were_so_many() {
    let freeing = |unknown_frees| TrustEvidence { unknown_frees, ..attached() };
    check(freeing(1_000_000), &[]);
    check(freeing(1_100_000), &[]);
    let more = Distrust::MoreThanBefore { blocks: 1_100_001, before: 1_000_000 };
    check(freeing(1_100_001), &[more]);
    // A small process may have grown between the look and the first event.
    let small = |unknown_frees| TrustEvidence {
        before: Some(Before { most_blocks: 5, ..Before::default() }),
        ..freeing(unknown_frees)
    };
    check(small(10_005), &[]);
    check(small(10_006), &[Distrust::MoreThanBefore { blocks: 10_006, before: 5 }]);
    // Where nobody knows what there was, nothing is too much.
    check(TrustEvidence { before: None, ..freeing(u64::MAX) }, &[]);
}

#[test]
fn from_the_first_allocation_on_there_are_no_unknown_blocks() {
    let freeing = |unknown_frees| TrustEvidence { unknown_frees, ..run() };
    check(freeing(909), &[]);
    check(freeing(910), &[Distrust::UnknownFrees { blocks: 910, frees: 90_910 }]);
    // The dynamic loader's own.
    let few = |unknown_frees| TrustEvidence { matched_frees: 0, ..freeing(unknown_frees) };
    check(few(16), &[]);
    check(few(17), &[Distrust::UnknownFrees { blocks: 17, frees: 17 }]);
}

#[test]
fn frees_of_what_was_left_out_are_known() {
    let filtered = TrustEvidence { unknown_frees: 50_000, left_out: 50_000, ..run() };
    check(filtered, &[]);
}

#[test]
fn blocks_that_come_again_are_frees_that_were_missed() {
    let of = |reappeared, outstanding_blocks| TrustEvidence {
        reappeared,
        outstanding_blocks,
        ..attached()
    };
    let refused = |blocks| [Distrust::Reappeared { blocks, allocs: 100_000 }];
    check(of(1000, 10_000), &[]);
    check(of(1001, 10_000), &refused(1001));
    // Few of the allocations, but as many as what is outstanding.
    check(of(40, 400), &[]);
    check(of(41, 400), &refused(41));
    check(of(3, 0), &refused(3));
    // An accident.
    check(of(2, 0), &[]);
}

#[test]
fn windows_see_blocks_go_and_come() {
    let windowed = TrustEvidence {
        in_windows: true,
        reappeared: 90_000,
        unknown_frees: 50_000_000,
        ..attached()
    };
    assert_eq!((windowed.matched_share(), windowed.reappeared_share()), (None, None));
    check(windowed.clone(), &[]);
    let lost = TrustEvidence { lost: 5_001, ..windowed };
    check(lost, &[Distrust::Lost { events: 5_001, allocs: 100_000 }]);
}

#[test]
fn functions_that_free_unseen_and_probes_that_are_out_are_too_much_and_others_not() {
    let names = vec!["free in /lib/a.so".to_owned()];
    let mut evidence = attached();
    evidence.entry_points.covered = 10;
    check(evidence.clone(), &[]);
    evidence.entry_points.unprobed_frees = names.clone();
    check(evidence.clone(), &[Distrust::UnprobedFrees(names)]);
    let out = TrustEvidence { probes_out: vec!["why".to_owned()], ..attached() };
    check(out, &[Distrust::ProbesOut("why".to_owned())]);
}

#[test]
fn a_doubted_verdict_says_what_it_would_have_been() {
    let verdict = |kind| Verdict { kind, evidence: "it rose".to_owned() };
    for kind in [VerdictKind::Growing, VerdictKind::Steady, VerdictKind::Churning] {
        let doubted = doubted(verdict(kind));
        assert_eq!(doubted.kind, VerdictKind::Undecided);
        let said = format!("looks {}, but ", kind.name());
        assert!(doubted.evidence.starts_with(&said), "{}", doubted.evidence);
        assert!(doubted.evidence.ends_with("; it rose"), "{}", doubted.evidence);
    }
    let undecided = verdict(VerdictKind::Undecided);
    assert_eq!(doubted(undecided.clone()), undecided);
}

fn any_evidence() -> impl Strategy<Value = TrustEvidence> {
    let count = || prop_oneof![0..300u64, any::<u64>()];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (flags, [count(), count(), count(), count()], [count(), count(), count(), count()]).prop_map(
        |((in_windows, from_first, is_known), seen, missed)| {
            let [allocs, matched_frees, outstanding_blocks, most_blocks] = seen;
            let [unknown_frees, left_out, reappeared, lost] = missed;
            TrustEvidence {
                in_windows,
                from_first,
                allocs,
                matched_frees,
                unknown_frees,
                left_out,
                reappeared,
                outstanding_blocks,
                lost,
                before: is_known.then(|| Before { most_blocks, ..Before::default() }),
                ..TrustEvidence::default()
            }
        },
    )
}

proptest! {
    /// Nothing overflows, and it is refused for reasons only.
    #[test]
    fn a_refusal_has_a_reason(evidence in any_evidence()) {
        let trust = judge(evidence);
        prop_assert_eq!(trust.is_enough(), trust.reasons.is_empty());
        for share in [trust.evidence.matched_share(), trust.evidence.reappeared_share()] {
            prop_assert!(share.is_none_or(|share| share >= 0.0));
        }
    }

    /// What was enough is enough still when less was missed.
    #[test]
    fn to_miss_less_is_never_worse(evidence in any_evidence(), less in 0..4usize) {
        let mut better = evidence.clone();
        match less {
            0 => better.reappeared /= 2,
            1 => better.lost /= 2,
            2 => better.unknown_frees /= 2,
            _ => better.allocs = better.allocs.saturating_mul(2),
        }
        // Of fewer frees, the unknown ones may be a larger share, but for those that left out.
        prop_assert!(!judge(evidence).is_enough() || judge(better).is_enough());
    }

    /// A trace of a running process that sees every event is never refused, whatever the process
    /// frees of what it had, in whatever order.
    #[test]
    fn an_honest_trace_is_never_refused(
        before in 0..2_000_000u64,
        freed_of_before in 0.0..=1.0f64,
        allocs in 0..2_000_000u64,
        freed in 0.0..=1.0f64,
        filtered in 0..2_000_000u64,
    ) {
        let matched_frees = (allocs as f64 * freed) as u64;
        let honest = TrustEvidence {
            allocs,
            matched_frees,
            outstanding_blocks: allocs - matched_frees,
            left_out: filtered,
            unknown_frees: (before as f64 * freed_of_before) as u64 + filtered,
            before: Some(Before { most_blocks: before, ..Before::default() }),
            ..TrustEvidence::default()
        };
        prop_assert_eq!(judge(honest).reasons, vec![]);
    }
}
