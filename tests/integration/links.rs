//! Do probes go where they should, and nowhere else, by whatever they are held?

use std::io::Write;
use std::process::{Command, Stdio};

use crate::processes::{DEADLINE, Lines, Target, code_of, wait_for_exit, wait_until};
use crate::programs::{leaktrace, program};
use crate::trace::{LINKS, Trace, command};

#[test]
fn doctor_says_what_holds_probes_here() {
    let ended = command(&["doctor"]);
    ended.assert_code(0);
    let line = ended.stdout.lines().find(|line| line.starts_with("ok  links ")).unwrap();
    assert!(line.contains("multi links (tried") || line.contains("perf links, one"), "{line}");
}

/// A child begins with its parent's code, breakpoints and all, and nobody traces it.
#[test]
fn a_child_that_a_target_forks_does_not_keep_the_probes() {
    for links in LINKS {
        let mut target = Target::start::<&str>(&program("forks.c"), &[]);
        let place = target.ready.get("malloc");
        let untouched = target.code_at(place);
        let mut trace = Trace::attach(&target, links);
        assert_ne!(target.code_at(place), untouched, "malloc has a probe");
        let child = u32::try_from(target.work().get("child")).unwrap();
        wait_until(DEADLINE, "the child's malloc has no probe", || {
            code_of(child, place) == untouched
        });
        assert_ne!(target.code_at(place), untouched, "the target keeps its own");
        trace.interrupt();
        assert!(target.end().success());
    }
}

#[test]
fn probes_come_out_for_a_while_and_go_back() {
    for links in LINKS {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut target = Target::start(&program("load.c"), &[file.path()]);
        let places = [target.ready.get("malloc"), target.ready.get("free")];
        let untouched = places.map(|place| target.code_at(place));
        let mut probes = Command::new(leaktrace())
            .args(["__empty-probes", "-p", &target.pid().to_string()])
            .args(links)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut orders = probes.stdin.take().unwrap();
        let mut told = Lines::of("the probes", probes.stderr.take().unwrap());
        let probed = |target: &Target| {
            let mut code = places.map(|place| target.code_at(place)).into_iter().zip(untouched);
            [(); 2].map(|()| code.next().is_some_and(|(now, before)| now != before))
        };
        told.wait_for("leaktrace: attached in ");
        assert_eq!(probed(&target), [true, true], "{links:?}");
        for _ in 0..3 {
            for (order, expect) in
                [("allocations out", [false, true]), ("out", [false, false]), ("in", [true, true])]
            {
                writeln!(orders, "{order}").unwrap();
                told.wait_for(&format!("leaktrace: {order} in "));
                assert_eq!(probed(&target), expect, "{order} {links:?}");
            }
        }
        // A target that is gone is said to be, when its probes should go back.
        writeln!(orders, "out").unwrap();
        told.wait_for("leaktrace: out in ");
        assert!(target.is_alive());
        target.kill();
        writeln!(orders, "in").unwrap();
        drop(orders);
        assert!(!wait_for_exit(&mut probes, "the probes").success(), "{links:?}");
        let said = told.all();
        assert!(!said.contains("panicked"), "{said}");
    }
}
