//! Reports to test the formats with.

use std::collections::BTreeMap;

use crate::model::{
    Addr, Before, Cost, Distrust, EndedBy, Ending, EntryPoints, Frame, Health, Interval, LostAt,
    LostReason, MappedMemory, Mode, Pid, Prediction, ProbeFailure, ProbeInfo, Report, StackId,
    StackQuality, StackReport, Target, Totals, Trace, Trust, TrustEvidence, TrustVerdict, Unprobed,
    Verdict, VerdictKind, Windows,
};

pub(super) fn target(pid: u32, comm: &str) -> Target {
    Target {
        pid: Pid::new(pid).unwrap(),
        comm: comm.to_owned(),
        exe: format!("/srv/shop/bin/{comm}"),
        start_time: 8_675_309,
    }
}

pub(super) fn frame(ip: u64, function: &str, file: &str, line: u32) -> Frame {
    Frame {
        ip: Addr(0x5555_5555_0000 + ip),
        function: Some(function.to_owned()),
        module: Some("/srv/shop/bin/receipt-server".to_owned()),
        module_offset: Some(ip),
        build_id: Some("8f4c1d2e".to_owned()),
        file: (!file.is_empty()).then(|| file.to_owned()),
        line: (!file.is_empty()).then_some(line),
        column: None,
        inlined: false,
    }
}

fn unnamed(ip: u64, module: &str) -> Frame {
    Frame {
        ip: Addr(0x7fff_f7c0_0000 + ip),
        module: Some(module.to_owned()),
        module_offset: Some(ip),
        ..Frame::default()
    }
}

fn stack(id: u64, verdict: VerdictKind, evidence: &str, frames: Vec<Frame>) -> StackReport {
    StackReport {
        id: StackId(id),
        pid: Pid::new(4242),
        totals: Totals::default(),
        outstanding_bytes: 0,
        outstanding_blocks: 0,
        growth_bytes_per_s: 0.0,
        interval: None,
        oldest_age_s: None,
        verdict: Verdict { kind: verdict, evidence: evidence.to_owned() },
        frames,
        culprit: None,
        ending: Ending::Complete,
    }
}

fn holding(mut stack: StackReport, bytes: u64, blocks: u64, freed: (u64, u64)) -> StackReport {
    stack.outstanding_bytes = bytes;
    stack.outstanding_blocks = blocks;
    stack.totals = Totals {
        allocated_bytes: bytes + freed.0,
        allocated_blocks: blocks + freed.1,
        freed_bytes: freed.0,
        freed_blocks: freed.1,
    };
    stack
}

fn thread_start() -> [Frame; 3] {
    [
        frame(
            0x9410,
            "std::thread::_State_impl<std::thread::_Invoker<std::tuple<shop::Worker::start()::{lambda()#1}>>>::_M_run()",
            "/usr/include/c++/12/bits/std_thread.h",
            210,
        ),
        unnamed(0xd44a3, "/usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.30"),
        Frame {
            module: Some("/usr/lib/x86_64-linux-gnu/libc.so.6".to_owned()),
            ..frame(0x8936d, "start_thread", "", 0)
        },
    ]
}

fn leak() -> StackReport {
    let mut frames = vec![
        Frame {
            inlined: true,
            ..frame(
                0x3a12,
                "std::__new_allocator<char>::allocate(unsigned long, void const*)",
                "/usr/include/c++/12/bits/new_allocator.h",
                137,
            )
        },
        Frame {
            inlined: true,
            ..frame(
                0x3a12,
                "std::vector<char, std::allocator<char>>::reserve(unsigned long)",
                "/usr/include/c++/12/bits/vector.tcc",
                79,
            )
        },
        frame(0x3a12, "render_receipt(Order const&)", "/home/build/shop/src/receipt.cpp", 88),
        frame(
            0x4b00,
            "shop::Router::dispatch(shop::Request const&, shop::Response&)",
            "/home/build/shop/src/router.cpp",
            141,
        ),
        frame(0x5c41, "shop::Worker::run()", "/home/build/shop/src/worker.cpp", 57),
    ];
    frames.extend(thread_start());
    let evidence = "outstanding bytes grew in 9 of 9 intervals, by 1.2 MiB/s on average; \
                    none of the blocks of the first interval was freed";
    StackReport {
        growth_bytes_per_s: 1_258_291.2,
        oldest_age_s: Some(9.84),
        culprit: Some(2),
        ..holding(
            stack(0x9d1f_22ab_0c34_5e67, VerdictKind::Growing, evidence, frames),
            12_582_912,
            345,
            (1_048_576, 29),
        )
    }
}

fn cache() -> StackReport {
    let mut frames = vec![
        frame(
            0x6d10,
            "shop::LruCache<std::basic_string<char, std::char_traits<char>, std::allocator<char>>, shop::Product>::insert(std::basic_string<char, std::char_traits<char>, std::allocator<char>> const&, shop::Product)",
            "/home/build/shop/src/cache.hpp",
            203,
        ),
        frame(
            0x6e42,
            "shop::lookup_product(unsigned long)",
            "/home/build/shop/src/catalogue.cpp",
            31,
        ),
        frame(0x5c41, "shop::Worker::run()", "/home/build/shop/src/worker.cpp", 61),
    ];
    frames.extend(thread_start());
    StackReport {
        oldest_age_s: Some(9.99),
        culprit: Some(0),
        ..holding(
            stack(
                0x11aa,
                VerdictKind::Steady,
                "filled in 3.0 s and stayed at 31.7 MiB since",
                frames,
            ),
            33_239_859,
            8_123,
            (4096, 1),
        )
    }
}

fn churn() -> StackReport {
    let mut frames = vec![
        frame(
            0x7e00,
            "parse_request(char const*, unsigned long)",
            "/home/build/shop/src/http.cpp",
            12,
        ),
        frame(0x5c41, "shop::Worker::run()", "/home/build/shop/src/worker.cpp", 49),
    ];
    frames.extend(thread_start());
    StackReport {
        growth_bytes_per_s: -3072.0,
        oldest_age_s: Some(0.012),
        culprit: Some(0),
        ..holding(
            stack(
                0x22bb,
                VerdictKind::Churning,
                "half of its blocks are freed within 2 ms",
                frames,
            ),
            512,
            2,
            (1 << 30, 1_500_000),
        )
    }
}

pub(super) fn probes() -> Vec<ProbeInfo> {
    let probe = |function: &str, file_offset, function_offset, role, instruction: &str| ProbeInfo {
        function: function.to_owned(),
        module: "/usr/lib/x86_64-linux-gnu/libc.so.6".to_owned(),
        file_offset,
        function_offset,
        role,
        instruction: instruction.to_owned(),
        emulated: true,
    };
    vec![
        probe("malloc", 0x97e50, 0, "alloc-entry", "push r12"),
        probe("malloc", 0x97e50, 0, "alloc-return", "push r12"),
        probe("free", 0x98393, 3, "free", "je 0x98430"),
        ProbeInfo {
            function: "operator new(unsigned long, std::align_val_t)".to_owned(),
            module: "/opt/shop/lib/libjemalloc-with-a-long-name.so.2".to_owned(),
            emulated: false,
            ..probe("", 0x1_2345_6789, 0, "alloc-entry", "sub rsp, 0x1234567")
        },
    ]
}

fn evidence() -> TrustEvidence {
    TrustEvidence {
        entry_points: EntryPoints { found: 11, covered: 11, unprobed_frees: Vec::new() },
        allocs: 1_509_200,
        matched_frees: 1_500_030,
        unknown_frees: 3_010,
        outstanding_blocks: 9_170,
        before: Some(Before { bytes: 1_288_490_189, in_use: true, most_blocks: 4_000_000 }),
        bytes_tracked: 47_078_965,
        ..TrustEvidence::default()
    }
}

/// The same server, had it freed in ways that nobody saw.
pub(super) fn doubted() -> Report {
    let mut report = server();
    let trust = &mut report.health.trust;
    trust.verdict = TrustVerdict::NotEnough;
    trust.reasons = vec![
        Distrust::UnprobedFrees(vec!["free in /opt/shop/lib/libpool.so".to_owned()]),
        Distrust::Reappeared { blocks: 412_003, allocs: 1_509_200 },
    ];
    trust.evidence.reappeared = 412_003;
    trust.evidence.entry_points.covered = 10;
    report.health.reappeared = 412_003;
    for stack in &mut report.stacks {
        let looks = stack.verdict.kind.name();
        stack.verdict.kind = VerdictKind::Undecided;
        stack.verdict.evidence = format!(
            "looks {looks}, but too little was seen for a verdict; {}",
            stack.verdict.evidence
        );
    }
    report
}

/// A server that leaks receipts, beside a cache and a churn path.
pub(crate) fn server() -> Report {
    let stacks = vec![leak(), cache(), churn()];
    let mut totals = Totals::default();
    for stack in &stacks {
        totals += stack.totals;
    }
    totals.allocated_bytes += 1_258_291;
    totals.allocated_blocks += 700;
    Report {
        targets: vec![target(4242, "receipt-server")],
        trace: Trace {
            started_at: "2026-03-04T10:20:00Z".to_owned(),
            duration_s: 10.02,
            mode: Mode::Exact,
            sample_bytes: 0,
            ended_by: Some(EndedBy::Duration),
        },
        probes: probes().into_iter().take(3).collect(),
        health: Health {
            allocs: 1_509_200,
            frees: 1_503_040,
            matched_frees: 1_500_030,
            unknown_frees: 3_010,
            lost: BTreeMap::from([
                ("blocks_full", 0),
                ("blocks_full_bytes", 0),
                ("stacks_full", 0),
            ]),
            stacks: StackQuality { complete: 1_509_200, ..StackQuality::default() },
            mappings: MappedMemory {
                traced: true,
                mapped: 3,
                unmapped: 2,
                allocator_bytes: 1 << 20,
                missed: 0,
            },
            trust: Trust { evidence: evidence(), ..Trust::default() },
            ..Health::default()
        },
        cost: Cost {
            probe_hits: 4_521_440,
            ns_per_hit: Some(702.4),
            target_cpu_share: Some(0.154),
            target_cpu_s: Some(20.62),
            probe_s: Some(3.176),
            own_cpu_s: Some(0.412),
            own_memory_bytes: Some(40_055_603),
            kernel_memory_bytes: Some(88_080_384),
            ..Cost::default()
        },
        totals,
        stacks,
        stacks_outstanding: 10,
        smallest_leak_bytes_per_s: None,
        wrong_frees: Vec::new(),
    }
}

/// The same server under a budget, which it is traced in windows for.
pub(super) fn windowed() -> Report {
    let mut report = server();
    report.trace =
        Trace { mode: Mode::Windowed, duration_s: 60.1, sample_bytes: 512 << 10, ..report.trace };
    report.cost = Cost {
        probe_hits: 612_440,
        target_cpu_share: Some(0.0473),
        budget_share: Some(0.05),
        target_cpu_s: Some(9.1),
        probe_s: Some(0.43),
        windows: Some(Windows {
            opened: 29,
            open_s: 3.91,
            draining_s: 2.2,
            closed_s: 53.99,
            work_seen: 0.0683,
        }),
        ..report.cost
    };
    report.smallest_leak_bytes_per_s = Some(2.0 * 1_048_576.0 / 3600.0);
    report.health.trust.evidence.in_windows = true;
    report.health.sampled_out = 98_200;
    report.health.refuted_blocks = 410;
    report.health.unjudged_blocks = 1;
    let intervals = [(11_534_336, 13_631_488), (0, 34_000_000), (100, 4096)];
    for (stack, (low_bytes, high_bytes)) in report.stacks.iter_mut().zip(intervals) {
        stack.interval = Some(Interval { low_bytes, high_bytes });
    }
    report
}

/// What the server would cost.
pub(super) fn prediction() -> Prediction {
    Prediction {
        counted_s: 0.1002,
        allocations_per_s: 49_980.3,
        frees_per_s: 49_712.0,
        ns_per_hit: 702.4,
        exact_share: Some(0.131),
        is_lower_bound: false,
        budget_share: Some(0.05),
        work_seen: Some(0.332),
        sample_bytes: 512 << 10,
        sampled_share: Some(0.0871),
    }
}

/// Two processes, losses, probes that failed, unknown costs.
pub(super) fn troubled() -> Report {
    let mut report = server();
    report.targets.push(target(4343, "receipt-worker"));
    report.trace.ended_by = None;
    report.probes = probes();
    report.cost = Cost { probe_hits: 1, ..Cost::default() };
    report.stacks_outstanding = 4;
    let health = &mut report.health;
    let evidence = &mut health.trust.evidence;
    (evidence.entry_points.found, evidence.reappeared, evidence.lost) = (12, 1, 1_113);
    evidence.before = evidence.before.map(|before| Before { in_use: false, ..before });
    health.lost = BTreeMap::from([
        ("blocks_full", 1_100),
        ("blocks_full_bytes", 1_300_000),
        ("stacks_full", 12),
        ("too_deep", 0),
        ("gremlins", 1),
    ]);
    health.truncated_stacks = 17;
    let lost_at = |module: &str, reason, allocations| LostAt {
        module: module.to_owned(),
        reason,
        allocations,
    };
    health.stacks = StackQuality {
        complete: 1_490_000,
        cut_short: 17,
        lost_at: vec![
            lost_at("[anonymous]", LostReason::GeneratedCode, 12_000),
            lost_at("/opt/shop/lib/libfast.so", LostReason::NoUnwindData, 7_000),
            lost_at("/usr/lib/libplugin.so", LostReason::NotMapped, 180),
            lost_at("/usr/bin/shop", LostReason::Inconsistent, 3),
        ],
    };
    health.reappeared = 1;
    health.abandoned_calls = 4;
    health.probe_failures = vec![ProbeFailure {
        function: "posix_memalign".to_owned(),
        module: "/opt/shop/lib/libjemalloc-with-a-long-name.so.2".to_owned(),
        error: "the kernel refuses a probe on `66 90`".to_owned(),
        about: Unprobed::Function { frees: false },
    }];
    health.notes = vec![
        "process 4343 replaced its program after 3.0 s; its earlier blocks are not shown"
            .to_owned(),
    ];
    let mut unknown = stack(0, VerdictKind::Undecided, "", Vec::new());
    unknown.pid = Pid::new(4343);
    report.stacks.push(holding(unknown, 4096, 1, (0, 0)));
    for stack in report.stacks.iter_mut().take(2) {
        stack.pid = Pid::new(4343);
        stack.ending = Ending::Depth;
    }
    report
}

/// Nothing was seen.
pub(super) fn empty() -> Report {
    Report {
        targets: vec![target(1, "idle")],
        probes: Vec::new(),
        health: Health::default(),
        cost: Cost::default(),
        totals: Totals::default(),
        stacks: Vec::new(),
        stacks_outstanding: 0,
        ..server()
    }
}

/// What no sane trace gives.
pub(super) fn weird() -> Report {
    let mut report = troubled();
    report.trace.duration_s = f64::NAN;
    report.cost = Cost {
        probe_hits: u64::MAX,
        ns_per_hit: Some(f64::NAN),
        target_cpu_share: Some(f64::INFINITY),
        budget_share: Some(f64::NAN),
        target_cpu_s: Some(f64::NEG_INFINITY),
        probe_s: Some(1e300),
        windows: Some(Windows {
            opened: u64::MAX,
            open_s: f64::NAN,
            draining_s: f64::INFINITY,
            closed_s: -1.0,
            work_seen: f64::MAX,
        }),
        own_cpu_s: Some(f64::MAX),
        own_memory_bytes: Some(u64::MAX),
        kernel_memory_bytes: Some(u64::MAX),
    };
    report.trace.mode = Mode::Windowed;
    report.trace.sample_bytes = u64::MAX;
    report.smallest_leak_bytes_per_s = Some(f64::NAN);
    report.totals.allocated_bytes = u64::MAX;
    report.totals.allocated_blocks = u64::MAX;
    report.health.frees = u64::MAX;
    let trust = &mut report.health.trust;
    trust.verdict = TrustVerdict::NotEnough;
    trust.reasons = vec![
        Distrust::ProbesOut("\x1b[31m\u{9b}why\n".repeat(50)),
        Distrust::UnprobedFrees(vec!["\x1b[2J;\n".repeat(100); 9]),
        Distrust::UnknownFrees { blocks: u64::MAX, frees: 0 },
        Distrust::MoreThanBefore { blocks: u64::MAX, before: u64::MAX },
        Distrust::Lost { events: u64::MAX, allocs: 0 },
    ];
    trust.evidence.matched_frees = u64::MAX;
    trust.evidence.reappeared = u64::MAX;
    trust.evidence.bytes_tracked = u64::MAX;
    trust.evidence.entry_points.found = u64::MAX;
    report.health.allocs = u64::MAX;
    for target in &mut report.targets {
        target.comm = "\x1b[31m;\n".to_owned();
        target.exe = "/".repeat(300);
    }
    for (i, stack) in report.stacks.iter_mut().enumerate() {
        stack.outstanding_bytes = u64::MAX;
        stack.outstanding_blocks = u64::MAX;
        stack.growth_bytes_per_s = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX][i % 4];
        stack.oldest_age_s = Some([f64::NAN, f64::INFINITY, -1.0, 1e300][i % 4]);
        stack.culprit = Some(usize::MAX);
        stack.interval = Some(Interval { low_bytes: u64::MAX, high_bytes: 0 });
        stack.verdict.evidence = "\u{9b}x".repeat(500);
    }
    let names = ["", " ", ";", "#", "f 12", "a\nb\x07", "<<<", "operator<", "\u{202e}", "日本語"];
    let frames = names.iter().map(|name| frame(1, name, "", 0));
    report.stacks[0].frames.extend(frames);
    report.stacks[1].frames.push(frame(2, &"x<".repeat(5000), &"y".repeat(5000), u32::MAX));
    report.stacks[2].frames.push(Frame::default());
    report
}
