use super::*;
use crate::analyse::interval;

const SLOT: StackId = StackId(1);

fn span(wall_s: f64, cpu_s: f64, spent_s: f64) -> Span {
    Span { wall_s, cpu_s, spent_s, ..Span::default() }
}

fn amount(bytes: f64, blocks: f64) -> HashMap<StackId, Amount> {
    HashMap::from([(SLOT, Amount { bytes, blocks })])
}

fn kept(bytes: f64, count: u64) -> Kept {
    Kept { bytes, blocks: count as f64, variance: 0.0, count }
}

#[test]
fn one_window_is_exact() {
    let mut windows = Windows::default();
    let inside = span(5.0, 1.0, 0.1);
    windows.show(&Window { to_ns: 1000, inside, ..Window::default() }, amount(500.0, 5.0));
    windows.take(&HashMap::from([((SLOT, 0), kept(300.0, 3))]), 2000);
    let estimate = windows.estimates()[&SLOT];
    let totals = estimate.totals;
    assert_eq!((totals.allocated_bytes, totals.allocated_blocks), (500, 5));
    assert_eq!((totals.freed_bytes, totals.freed_blocks), (200, 2));
    assert_eq!(estimate.outstanding, Interval { low: 300.0, high: 300.0 });
    assert_eq!(windows.share_seen(), 1.0);
}

fn weight(inside: Span, closed: Span) -> Weight {
    weight::of_window(&inside, &Span::default(), &closed, 1.0).0
}

#[test]
fn a_window_stands_for_the_work_of_its_gap() {
    // Half of the window's CPU time went into probes: it did a tenth of what the gap did.
    let halved = weight(span(0.2, 0.2, 0.1), span(0.9, 0.9, 0.0));
    assert!((halved.value - 10.0).abs() < 1e-9, "{halved:?}");
    assert!(halved.low > 9.0 && halved.high < 11.1 && !halved.is_doubtful(), "{halved:?}");
    // A server at 20 % that keeps up: its work goes by wall time.
    let served = weight(span(0.1, 0.05, 0.03), span(0.9, 0.18, 0.0));
    assert!((served.value - 10.0).abs() < 1e-9, "{served:?}");
    // Nothing happened in the gap.
    assert_eq!(weight(span(0.1, 0.05, 0.03), span(9.0, 0.0, 0.0)).value.round(), 1.0);
    // Nearly all of the window went into probes: nobody knows.
    let lost = weight(span(0.1, 0.1, 0.099), span(1.9, 1.9, 0.0));
    assert!(lost.is_doubtful() && lost.high.is_finite(), "{lost:?}");
}

#[test]
fn what_a_hit_costs_is_learnt_from_windows_and_drains() {
    // 0.3 us of own work a pair, three hits of 1.1 us that are taken for 0.9.
    let (own, real, taken) = (0.3e-6, 1.1e-6, 0.9e-6);
    let mut cost = HitCost::default();
    for _ in 0..10 {
        let stretch = |cpu_s: f64, hits: f64| {
            let pairs = cpu_s / (own + hits * real);
            Span { cpu_s, spent_s: pairs * hits * taken, frees: pairs as u64, ..Span::default() }
        };
        cost.learn(&stretch(0.07, 3.0), &stretch(0.03, 1.0));
    }
    assert!((cost.factor() - real / taken).abs() < 0.01, "{}", cost.factor());
}

/// Windows of a second each after gaps of nine, all alike.
fn steady(windows: &mut Windows, count: u64, amount_each: &HashMap<StackId, Amount>) {
    for index in 0..count {
        let closed = if index == 0 { Span::default() } else { span(9.0, 9.0, 0.0) };
        let to_ns = (index * 10 + 1) * 1_000_000_000;
        let window = Window { to_ns, inside: span(1.0, 1.0, 0.0), closed, ..Window::default() };
        windows.close(&window, amount_each.clone());
    }
}

#[test]
fn a_trace_of_days_keeps_its_figures_in_bounded_memory() {
    let mut windows = Windows::default();
    let count = 20_000;
    steady(&mut windows, count, &amount(100.0, 1.0));
    let mut live = Live::new();
    for index in 0..count {
        let cohort = windows.cohort_of((index * 10 + 1) * 1_000_000_000 - 5);
        let held = live.entry((SLOT, cohort)).or_default();
        held.bytes += 100.0;
        held.blocks += 1.0;
        held.count += 1;
    }
    windows.take(&live, count * 10_000_000_000);
    assert!(windows.cohorts.len() <= MOST_COHORTS, "{}", windows.cohorts.len());
    let estimate = windows.estimates()[&SLOT];
    let truth = (count * 10) as f64 * 100.0;
    let outstanding = estimate.totals.outstanding_bytes() as f64;
    assert!((outstanding / truth - 1.0).abs() < 0.02, "{outstanding} of {truth}");
    assert!(estimate.outstanding.low > 0.9 * truth && estimate.outstanding.high < 1.1 * truth);
}

#[test]
fn the_interval_covers_what_windows_can_miss() {
    // A stack that leaks a block in one second of five, at random: seen in one second of ten.
    let mut random = 7u64;
    let mut chance = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as f64 / (1u64 << 53) as f64
    };
    let (mut inside, rounds, count) = (0, 400, 50);
    for _ in 0..rounds {
        let mut windows = Windows::default();
        steady(&mut windows, count, &HashMap::new());
        let (mut live, mut truth) = (Live::new(), 0.0);
        for second in 0..count * 10 - 9 {
            if chance() < 0.2 {
                truth += 64.0;
                if second % 10 == 0 {
                    live.insert((SLOT, (second / 10) as usize), kept(64.0, 1));
                }
            }
        }
        windows.take(&live, count * 10_000_000_000);
        let none = interval::of_weighted(0.0, 0.0, 640.0);
        let outstanding = windows.estimates().get(&SLOT).map_or(none, |e| e.outstanding);
        inside += u32::from((outstanding.low..=outstanding.high).contains(&truth));
    }
    assert!(inside >= rounds * 93 / 100, "{inside} of {rounds}");
}

#[test]
fn blocks_that_go_when_they_are_old_are_counted() {
    let mut windows = Windows::default();
    steady(&mut windows, 2, &amount(100.0, 10.0));
    let look = |count| HashMap::from([((SLOT, 0), kept(100.0, count)), ((SLOT, 1), kept(1.0, 1))]);
    windows.take(&look(9), 12_000_000_000);
    windows.take(&look(4), 23_000_000_000);
    let evidence = windows.estimates()[&SLOT].evidence;
    assert_eq!((evidence.old_blocks, evidence.cohorts), (9.0, 1));
    // Five went in a window that stands for ten times its time: so nearly all are gone.
    assert!((8.9..9.0).contains(&evidence.gone_since), "{evidence:?}");
}
