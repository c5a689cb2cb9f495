use proptest::prelude::*;

use super::*;

/// A target by numbers, and what probes do to it.
#[derive(Clone, Copy, Debug)]
struct Target {
    /// Pairs of allocation and free a second that one thread would do untraced.
    pairs_per_s: f64,
    threads: f64,
    /// What a hit costs, and what it is taken for.
    hit_s: f64,
    /// CPUs that it uses untraced, if its requests come at their own rate: it never falls behind
    /// them. Else each thread computes without pause.
    served_by: Option<f64>,
}

#[derive(Default, Debug)]
struct Seen {
    now_s: f64,
    cpu_s: f64,
    spent_s: f64,
    open_s: Vec<f64>,
    closed_at: Vec<f64>,
}

impl Target {
    fn runs(&self, seconds: f64, hits_a_pair: f64, seen: &mut Seen) {
        let (cpu, spent) = match self.served_by {
            Some(cpus) => {
                let asked = self.pairs_per_s * self.threads * hits_a_pair * self.hit_s;
                let spent = asked.min(self.threads - cpus);
                (cpus + spent, spent)
            }
            None if self.pairs_per_s > 0.0 => {
                let pair_s = 1.0 / self.pairs_per_s + hits_a_pair * self.hit_s;
                (self.threads, self.threads * hits_a_pair * self.hit_s / pair_s)
            }
            None => (self.threads, 0.0),
        };
        seen.now_s += seconds;
        seen.cpu_s += cpu * seconds;
        seen.spent_s += spent * seconds;
    }
}

fn hits(phase: Phase) -> f64 {
    match phase {
        Phase::Open => 3.0,
        Phase::Draining => 1.0,
        Phase::Closed => 0.0,
    }
}

/// Drives a governor over a target that changes with time, for so many seconds.
fn drive(
    governor: &mut Governor,
    seen: &mut Seen,
    seconds: f64,
    leaving_s: f64,
    target: impl Fn(f64) -> Target,
) {
    let until = seen.now_s + seconds;
    let mut window_began = seen.now_s;
    while seen.now_s < until {
        let now = target(seen.now_s);
        let before = governor.phase();
        let decision = governor.look(&Reading {
            now_s: seen.now_s,
            target_cpu_s: seen.cpu_s,
            spent_s: seen.spent_s,
            most_cpus: now.threads.max(now.served_by.unwrap_or(0.0)),
            frees_of_window: (seen.spent_s * 1e6) as u64,
            survivors: 10_000,
        });
        assert!((SOONEST_LOOK_S..=LATEST_LOOK_S).contains(&decision.look_again_in_s));
        match (before, decision.phase) {
            (Phase::Closed, Phase::Open) => {
                now.runs(0.02, 2.0, seen);
                window_began = seen.now_s;
            }
            (Phase::Open, Phase::Draining) => {
                seen.open_s.push(seen.now_s - window_began);
                // The breakpoints go early, the call returns late.
                now.runs(leaving_s / 4.0, 3.0, seen);
                now.runs(leaving_s * 0.75, 1.0, seen);
            }
            (Phase::Open, Phase::Closed) => {
                seen.open_s.push(seen.now_s - window_began);
                seen.closed_at.push(seen.now_s);
                now.runs(leaving_s / 4.0, 3.0, seen);
                now.runs(leaving_s * 0.75, 0.0, seen);
            }
            (Phase::Draining, Phase::Closed) => {
                seen.closed_at.push(seen.now_s);
                now.runs(leaving_s / 4.0, 1.0, seen);
                now.runs(leaving_s * 0.75, 0.0, seen);
            }
            _ => {}
        }
        now.runs(decision.look_again_in_s, hits(decision.phase), seen);
    }
}

fn slowdown_over_budget(seen: &Seen, budget: f64) -> f64 {
    let own = (seen.cpu_s - seen.spent_s).max(LEAST_CPUS * seen.now_s);
    seen.spent_s - budget * own
}

fn steady(target: Target, budget: f64, leaving_s: f64) -> (Governor, Seen) {
    let (mut governor, mut seen) = (Governor::new(budget), Seen::default());
    drive(&mut governor, &mut seen, 30.0, leaving_s, |_| target);
    (governor, seen)
}

const LOOP: Target = Target { pairs_per_s: 50e6, threads: 1.0, hit_s: 0.9e-6, served_by: None };

proptest! {
    #[test]
    fn a_target_is_never_slowed_down_more_than_promised(
        rate in prop_oneof![Just(0.0), (0.0f64..7.7).prop_map(|power| 10f64.powf(power))],
        threads in 1u32..=64,
        hit_ns in 500.0f64..25_000.0,
        budget in prop_oneof![Just(0.01), Just(0.05), Just(0.2)],
        leaving_s in 0.025f64..0.07,
        served in proptest::option::of(0.01f64..1.0),
    ) {
        let threads = f64::from(threads);
        // Requests that come at their own rate, however slow the answers, are at most so many.
        let rate = if served.is_some() { rate.min(200_000.0) } else { rate };
        let target = Target {
            pairs_per_s: rate,
            threads,
            hit_s: hit_ns * 1e-9,
            served_by: served.map(|share| share * threads),
        };
        let (_, seen) = steady(target, budget, leaving_s);
        let over = slowdown_over_budget(&seen, budget);
        // How long probes take to go must be learnt: the first windows may overspend by that, and
        // it is paid back before the next.
        let mut shortest = Seen::default();
        target.runs(0.02 + leaving_s / 4.0, 3.0, &mut shortest);
        target.runs(leaving_s + 2.0 * SOONEST_LOOK_S, 1.0, &mut shortest);
        let allowed = if seen.open_s.len() < 4 { shortest.spent_s } else { 0.0 };
        // Later ones are off by a look at most, until the next is due.
        let allowed = allowed.max(INITIAL_CREDIT_S + 2.0 * SOONEST_LOOK_S * threads);
        prop_assert!(over <= allowed, "{over} s too much: {target:?} {seen:?}");
    }

    #[test]
    fn what_costs_less_than_the_budget_is_seen_whole(
        share in 0.0f64..0.9,
        threads in 1u32..=64,
        hit_ns in 500.0f64..25_000.0,
        budget in prop_oneof![Just(0.01), Just(0.05), Just(0.2)],
    ) {
        let hit_s = hit_ns * 1e-9;
        let target = Target {
            pairs_per_s: share * budget / (3.0 * hit_s),
            threads: f64::from(threads),
            hit_s,
            served_by: None,
        };
        let (governor, _) = steady(target, budget, 0.05);
        prop_assert_eq!(governor.windows_closed(), 0);
    }
}

#[test]
fn a_loop_that_stands_still_in_windows_has_one_about_every_two_seconds() {
    for (budget, period) in [(0.05, 1.9..3.2), (0.2, 1.9..2.6), (0.01, 5.0..16.0)] {
        let (_, seen) = steady(LOOP, budget, 0.04);
        let periods: Vec<f64> = seen.closed_at.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(!periods.is_empty(), "{budget}: {seen:?}");
        let steady = &periods[periods.len() / 2..];
        assert!(steady.iter().all(|p| period.contains(p)), "{budget}: {periods:?}");
        let late = &seen.open_s[seen.open_s.len() / 2..];
        assert!(late.iter().all(|open| *open >= LEAST_OPEN_S * 0.75), "{budget}: {late:?}");
        // And the budget is used, not only kept.
        let own = seen.cpu_s - seen.spent_s;
        assert!(seen.spent_s > 0.6 * budget * own, "{budget}: {seen:?}");
    }
}

#[test]
fn idle_then_busy_then_idle_again() {
    let (mut governor, mut seen) = (Governor::new(0.05), Seen::default());
    let idle = Target { pairs_per_s: 100.0, served_by: Some(0.03), ..LOOP };
    drive(&mut governor, &mut seen, 600.0, 0.04, |_| idle);
    assert_eq!(governor.windows_closed(), 0, "ten quiet minutes are seen whole");
    let before = seen.spent_s;
    drive(&mut governor, &mut seen, 30.0, 0.04, |_| LOOP);
    let busy = seen.spent_s - before;
    assert!(governor.windows_closed() > 5);
    assert!(busy < 0.05 * 30.0 + 2.0 * INITIAL_CREDIT_S, "{busy} s: nothing was saved up");
    drive(&mut governor, &mut seen, 30.0, 0.04, |_| idle);
    let closed = governor.windows_closed();
    drive(&mut governor, &mut seen, 60.0, 0.04, |_| idle);
    assert_eq!((governor.phase(), governor.windows_closed()), (Phase::Open, closed));
}

#[test]
fn a_rate_that_jumps_every_second_is_kept_up_with() {
    let (mut governor, mut seen) = (Governor::new(0.05), Seen::default());
    let quiet = Target { pairs_per_s: 1000.0, ..LOOP };
    drive(&mut governor, &mut seen, 120.0, 0.04, |now| {
        if (now as u64).is_multiple_of(3) { LOOP } else { quiet }
    });
    let over = slowdown_over_budget(&seen, 0.05);
    assert!(over <= INITIAL_CREDIT_S + 0.1, "{over} {seen:?}");
}

#[test]
fn a_drain_ends_when_nothing_dies_any_more() {
    let mut governor = Governor::new(0.05);
    let mut reading = Reading { most_cpus: 1.0, survivors: 1000, ..Reading::default() };
    governor.look(&reading);
    // 45 ms of the first 50 were spent within a second of which 900 ms are the target's own.
    reading = Reading { now_s: 1.0, target_cpu_s: 0.95, spent_s: 0.09, ..reading };
    assert_eq!(governor.look(&reading).phase, Phase::Draining);
    reading = Reading { now_s: 1.02, target_cpu_s: 0.97, frees_of_window: 500, ..reading };
    reading.survivors = 500;
    assert_eq!(governor.look(&reading).phase, Phase::Draining, "half of them were freed");
    reading = Reading { now_s: 1.05, target_cpu_s: 1.0, frees_of_window: 502, ..reading };
    reading.survivors = 498;
    assert_eq!(governor.look(&reading).phase, Phase::Closed, "two of 500 were");
}

#[test]
fn readings_that_make_no_sense_change_nothing() {
    let mut governor = Governor::new(0.05);
    for now_s in [1.0, 0.5, f64::NAN, f64::INFINITY, 1.0] {
        let reading = Reading { now_s, target_cpu_s: -1.0, spent_s: 0.0, ..Reading::default() };
        assert!(governor.look(&reading).look_again_in_s.is_finite());
    }
}
