//! What would tracing a process cost? Counts the calls of its allocator for a moment, with probes
//! that do nothing else, and never puts in any that trace.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use leaktrace_ebpf::records::Counter;

use super::calibration::PracticeKernel;
use crate::collect::clock;
use crate::collect::gauge::Hits;
use crate::collect::maps::CounterValues;
use crate::model::{Pid, Prediction};
use crate::probe::Attached;
use crate::probe::features;
use crate::probe::practice::ProbeCost;
use crate::target::{Plan, Process};

/// The longest that is counted.
const LONGEST: Duration = Duration::from_millis(100);
/// So many calls say enough.
const ENOUGH_CALLS: u64 = 20_000;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// A sample size to tell of when none was asked for.
pub const USUAL_SAMPLE_BYTES: u64 = 512 << 10;

/// Of a process that allocates in a tight loop, no more than that part of its CPU time is known to
/// be its own: the rest is what a probe's cost may be off by.
const LEAST_OWN_PART: f64 = 0.05;
/// Whoever uses less than this many CPUs is granted the budget of that: such a process can be
/// traced all the time.
const LEAST_CPUS: f64 = 0.02;

/// What was counted.
#[derive(Clone, Copy, Debug)]
struct Count {
    seconds: f64,
    cpu_s: f64,
    allocations: u64,
    frees: u64,
    /// Those of both on instructions that the kernel single-steps.
    stepped: u64,
}

/// Counts, and tells what tracing would cost. `budget_share` is from 0 to 1.
///
/// # Errors
///
/// When this host or this process cannot be probed.
pub fn predict(
    process: &Process,
    plan: &Plan,
    budget_share: Option<f64>,
    sample_bytes: u64,
) -> Result<Prediction> {
    features::require()?;
    let mut practice = PracticeKernel::load(false)?;
    ensure!(
        process.seccomp == 0 || !practice.return_probe_kills_under_seccomp()?,
        "its seccomp filter may not let probes pass"
    );
    let cost = practice.measure()?;
    let count = count(&mut practice, plan, process.pid)?;
    ensure!(process.lives(), "process {} is gone", process.pid);
    Ok(told_by(&count, &cost, budget_share, sample_bytes))
}

/// The one place that attaches: probes that only count, for a moment.
fn count(practice: &mut PracticeKernel, plan: &Plan, pid: Pid) -> Result<Count> {
    let attached = Attached::attach_counting(&mut practice.kernel, plan, pid)?;
    let look = || -> Result<(CounterValues, Hits, f64)> {
        Ok((practice.counters()?, practice.hits()?, clock::process_cpu_s(pid).unwrap_or(0.0)))
    };
    let (before, hits_before, cpu_before) = look()?;
    let started = Instant::now();
    let count = loop {
        std::thread::sleep(BETWEEN_LOOKS);
        let (now, hits, cpu_now) = look()?;
        let since = now.since(&before);
        let (allocations, frees) = (since.get(Counter::Allocs), since.get(Counter::UnknownFrees));
        if started.elapsed() >= LONGEST || allocations + frees >= ENOUGH_CALLS {
            break Count {
                seconds: started.elapsed().as_secs_f64(),
                cpu_s: (cpu_now - cpu_before).max(0.0),
                allocations,
                frees,
                stepped: hits.since(&hits_before).stepped,
            };
        }
    };
    attached.detach();
    Ok(count)
}

fn told_by(
    count: &Count,
    cost: &ProbeCost,
    budget_share: Option<f64>,
    sample_bytes: u64,
) -> Prediction {
    let calls = (count.allocations + count.frees) as f64;
    // An allocation is probed where it begins and where it returns.
    let hits = calls + count.allocations as f64;
    let stepping_s = count.stepped as f64 * (cost.stepped_ns - cost.empty_ns).max(0.0) / 1e9;
    let counting_s = calls * cost.empty_ns / 1e9 + stepping_s;
    let least_own_s = LEAST_OWN_PART * count.cpu_s;
    let own_s = (count.cpu_s - counting_s).max(least_own_s);
    let exact_s = hits * cost.traced_ns / 1e9 + stepping_s;
    // What is not chosen costs no less than its traps.
    let sampled_s = hits * cost.empty_ns / 1e9 + stepping_s;
    let share = |spent_s: f64| match own_s {
        _ if calls == 0.0 => Some(0.0),
        own_s if own_s > 0.0 => Some(spent_s / (spent_s + own_s)),
        _ => None,
    };
    let earned_s = own_s.max(LEAST_CPUS * count.seconds);
    let per_second = |n: u64| if count.seconds > 0.0 { n as f64 / count.seconds } else { 0.0 };
    Prediction {
        counted_s: count.seconds,
        allocations_per_s: per_second(count.allocations),
        frees_per_s: per_second(count.frees),
        ns_per_hit: if hits > 0.0 { exact_s * 1e9 / hits } else { cost.traced_ns },
        exact_share: share(exact_s),
        is_lower_bound: calls > 0.0 && own_s <= least_own_s,
        budget_share,
        work_seen: budget_share.map(|budget| match exact_s {
            spent_s if spent_s > 0.0 => (budget * earned_s / spent_s).min(1.0),
            _ => 1.0,
        }),
        sample_bytes,
        sampled_share: share(sampled_s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: ProbeCost = ProbeCost {
        empty_ns: 500.0,
        stepped_ns: 10_500.0,
        return_ns: 400.0,
        traced_ns: 1000.0,
        handler_ns: 500.0,
    };

    fn told(count: Count, budget: Option<f64>) -> Prediction {
        told_by(&count, &COST, budget, 1 << 19)
    }

    fn near(told: Option<f64>, value: f64) {
        assert!(told.is_some_and(|told| (told - value).abs() < 1e-9), "{told:?} is not {value}");
    }

    #[test]
    fn a_server_that_uses_a_whole_cpu() {
        // 10,000 counting hits take 5 of 100 ms: 95 ms are its own. Traced, 15,000 take 15 ms.
        let count = Count { seconds: 0.1, cpu_s: 0.1, allocations: 5000, frees: 5000, stepped: 0 };
        let prediction = told(count, Some(0.05));
        assert_eq!((prediction.allocations_per_s, prediction.frees_per_s), (50_000.0, 50_000.0));
        near(prediction.exact_share, 0.015 / 0.110);
        near(prediction.work_seen, 0.05 * 0.095 / 0.015);
        near(prediction.sampled_share, 0.0075 / 0.1025);
        assert!(!prediction.is_lower_bound && !prediction.is_idle());
        near(told(count, Some(0.5)).work_seen, 1.0);
        assert_eq!(told(count, None).work_seen, None);
    }

    #[test]
    fn a_loop_that_only_allocates_is_told_a_lower_bound() {
        let count =
            Count { seconds: 0.01, cpu_s: 0.01, allocations: 10_000, frees: 10_000, stepped: 0 };
        let prediction = told(count, Some(0.05));
        assert!(prediction.is_lower_bound);
        near(prediction.exact_share, 0.03 / 0.0305);
        near(prediction.work_seen, 0.05 * 0.0005 / 0.03);
    }

    #[test]
    fn a_slow_instruction_costs_by_itself() {
        let count = Count { seconds: 0.1, cpu_s: 0.1, allocations: 0, frees: 1000, stepped: 1000 };
        let prediction = told(count, None);
        // 1,000 empty hits and what stepping adds: 10.5 ms of the count.
        near(prediction.exact_share, 0.011 / (0.011 + 0.0895));
        assert_eq!(prediction.ns_per_hit, 11_000.0);
    }

    #[test]
    fn one_that_sleeps_is_traced_all_the_time() {
        let idle = Count { seconds: 0.1, cpu_s: 0.0, allocations: 0, frees: 0, stepped: 0 };
        let prediction = told(idle, Some(0.05));
        assert!(prediction.is_idle() && !prediction.is_lower_bound);
        near(prediction.exact_share, 0.0);
        near(prediction.work_seen, 1.0);
        // 60 µs of probes in 0.1 s, of the 100 µs that are granted.
        let drowsy = Count { cpu_s: 0.0001, allocations: 20, frees: 20, ..idle };
        near(told(drowsy, Some(0.05)).work_seen, 1.0);
        let nothing = Count { seconds: 0.0, cpu_s: 0.0, allocations: 1, frees: 0, stepped: 0 };
        assert_eq!(told(nothing, Some(0.05)).exact_share, None);
    }
}
