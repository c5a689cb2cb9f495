//! Does every `leaktrace` command in the README work as written?

use crate::processes::Target;
use crate::programs::program;
use crate::trace::Trace;

/// The lines of the README's shell blocks that start `leaktrace`, without `sudo`.
fn commands() -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("sudo leaktrace ")).collect()
}

/// With a real process for PID, a real program for CMD, and two seconds for thirty.
#[test]
fn the_commands_of_the_readme_work_as_written() {
    let commands = commands();
    assert!(commands.len() >= 4, "{commands:?}");
    for line in commands {
        let target = Target::start::<&str>(&program("leak_three.c"), &[]);
        let pid = target.pid().to_string();
        let program = program("leak_three.c");
        let args: Vec<&str> = line
            .split(' ')
            .flat_map(|word| match word {
                "PID" => vec![pid.as_str()],
                "CMD" => vec![program.to_str().unwrap(), "0"],
                "30s" => vec!["2s"],
                word => vec![word],
            })
            .collect();
        let mut trace = Trace::start(&args);
        let goes_on =
            line.starts_with("-p") && !line.contains("-d ") && !line.contains("--dry-run");
        if goes_on {
            trace.wait_for_tracing();
            trace.signal(libc::SIGINT);
        }
        let ended = trace.ended();
        ended.assert_code(0);
        assert!(!ended.stdout.is_empty(), "{line}: {}", ended.stderr);
        drop(target);
    }
}
