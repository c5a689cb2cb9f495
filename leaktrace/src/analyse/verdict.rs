//! What a stack looks like: a leak grows and goes on growing, a cache fills and stays, a request
//! path allocates and frees.

use super::trend::{slope, trend_score};
use super::windows::{Evidence, OLD_S};
use crate::model::{Totals, Verdict, VerdictKind};

/// Fewer samples than this say nothing.
pub const LEAST_SAMPLES: usize = 6;
/// One-sided 1 % level of the normal distribution.
const SIGNIFICANT: f64 = 2.33;
/// A buffer that doubles once or twice is no leak.
const LEAST_RISES: usize = 3;
/// Growth over the second half of less than this share of what is outstanding is no growth.
const LEAST_GROWTH: f64 = 0.01;
/// Seen in windows, a leak left old blocks in so many of them at least.
const LEAST_COHORTS: u64 = 3;
/// And so many blocks.
const LEAST_OLD_BLOCKS: f64 = 5.0;
/// A path of whose old blocks more than this share goes after all frees them: there it is rather
/// what died unseen between windows that piles up.
const MOST_GONE: f64 = 0.1;

/// The growth of a stack at present, in bytes a second: the slope over the second half of the
/// trace, in which what filled up at its beginning no longer counts.
pub fn growth_bytes_per_s(series: &[(f64, f64)]) -> f64 {
    slope(second_half(series))
}

/// Judges a stack by how its outstanding bytes developed.
pub fn judge(series: &[(f64, f64)], totals: &Totals) -> Verdict {
    let freed = freed_share(totals);
    let recent = second_half(series);
    if series.len() < LEAST_SAMPLES {
        return Verdict {
            kind: VerdictKind::Undecided,
            evidence: format!("only {} looks at it so far; {freed}", series.len()),
        };
    }
    let first = recent.first().map_or(0.0, |(_, bytes)| *bytes);
    let last = recent.last().map_or(0.0, |(_, bytes)| *bytes);
    let steps = recent.windows(2).count();
    let rises = recent
        .windows(2)
        .filter(|pair| matches!(pair, [(_, before), (_, after)] if after > before))
        .count();
    let grows = trend_score(recent) > SIGNIFICANT
        && last - first > LEAST_GROWTH * last
        && rises >= LEAST_RISES;
    let rose = format!("it rose in {rises} of the last {steps} looks; {freed}");
    if grows {
        return Verdict { kind: VerdictKind::Growing, evidence: rose };
    }
    let outstanding = totals.outstanding_bytes() as f64;
    if outstanding < 0.01 * totals.allocated_bytes as f64 || outstanding == 0.0 {
        return Verdict { kind: VerdictKind::Churning, evidence: rose };
    }
    Verdict { kind: VerdictKind::Steady, evidence: rose }
}

/// Judges a stack that was seen in windows. Blocks that die between windows pile up until
/// something speaks against them, which looks like growth. But they go when they are old: what
/// leaks does not.
pub fn judge_windowed(series: &[(f64, f64)], totals: &Totals, old: &Evidence) -> Verdict {
    let verdict = judge(series, totals);
    if verdict.kind != VerdictKind::Growing {
        return verdict;
    }
    let evidence = format!(
        "of {:.0} blocks seen in windows older than {OLD_S:.0} s, {:.0} were freed or handed out \
         again since; {}",
        old.old_blocks, old.gone_since, verdict.evidence
    );
    let few = old.cohorts < LEAST_COHORTS || old.old_blocks < LEAST_OLD_BLOCKS;
    let kind = if old.gone_since > MOST_GONE * old.old_blocks {
        VerdictKind::Steady
    } else if few {
        VerdictKind::Undecided
    } else {
        VerdictKind::Growing
    };
    Verdict { kind, evidence }
}

fn second_half(series: &[(f64, f64)]) -> &[(f64, f64)] {
    let half = series.len() / 2;
    // Too few points in the half are worse than old ones.
    let from = half.min(series.len().saturating_sub(LEAST_SAMPLES));
    series.get(from..).unwrap_or(series)
}

fn freed_share(totals: &Totals) -> String {
    let share = 100.0 * totals.freed_blocks as f64 / totals.allocated_blocks.max(1) as f64;
    format!("{share:.1} % of its {} blocks were freed", totals.allocated_blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(outstanding: impl Fn(f64) -> f64, freed: u64, kind: VerdictKind, growth: f64) {
        let series: Vec<(f64, f64)> =
            (1..=20).map(|i| f64::from(i) * 0.5).map(|t| (t, outstanding(t))).collect();
        let allocated = 1_000_000 + freed;
        let totals = Totals {
            allocated_bytes: allocated,
            allocated_blocks: 1000,
            freed_bytes: freed,
            freed_blocks: 10,
        };
        let verdict = judge(&series, &totals);
        assert_eq!(verdict.kind, kind, "{}", verdict.evidence);
        let measured = growth_bytes_per_s(&series);
        assert!((measured - growth).abs() < 1e-6 + 0.02 * growth.abs(), "{measured} {growth}");
    }

    #[test]
    fn a_leak_grows() {
        check(|t| 1000.0 * t, 0, VerdictKind::Growing, 1000.0);
    }

    #[test]
    fn a_cache_that_filled_up_stays() {
        check(|t| (3000.0 * t).min(9000.0), 0, VerdictKind::Steady, 0.0);
    }

    #[test]
    fn a_table_that_doubled_once_is_no_leak() {
        check(|t| if t > 7.0 { 2048.0 } else { 1024.0 }, 0, VerdictKind::Steady, 256.0);
    }

    #[test]
    fn a_path_that_frees_churns() {
        let noise = |t: f64| if ((t * 2.0) as u64).is_multiple_of(2) { 500.0 } else { 700.0 };
        check(noise, 1_000_000_000, VerdictKind::Churning, 0.0);
    }

    #[test]
    fn in_windows_only_blocks_that_stay_are_a_leak() {
        let series: Vec<(f64, f64)> = (1..=20).map(|i| (f64::from(i), f64::from(i))).collect();
        let check = |old_blocks, gone_since, cohorts, kind| {
            let old = Evidence { old_blocks, gone_since, cohorts };
            let verdict = judge_windowed(&series, &Totals::default(), &old);
            assert_eq!(verdict.kind, kind, "{}", verdict.evidence);
        };
        check(412.0, 3.0, 8, VerdictKind::Growing);
        check(412.0, 60.0, 8, VerdictKind::Steady);
        check(412.0, 3.0, 2, VerdictKind::Undecided);
        check(4.0, 0.0, 4, VerdictKind::Undecided);
    }

    #[test]
    fn a_moment_decides_nothing() {
        let verdict = judge(&[(0.5, 1.0), (1.0, 2.0)], &Totals::default());
        assert_eq!(verdict.kind, VerdictKind::Undecided);
    }
}
