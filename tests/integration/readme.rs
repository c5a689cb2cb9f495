//! Does every `leaktrace` command in the README work as written?

use crate::processes::Target;
use crate::programs::program;
use crate::trace::{Trace, command};

/// The lines of the README's shell blocks that start `leaktrace`, without `sudo`.
fn commands() -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("sudo leaktrace ")).collect()
}

/// `--help` once said of exit code 4 that too much was lost, and nothing of 126 and 127.
#[test]
fn the_help_tells_the_same_exit_codes_as_the_readme() {
    let rows =
        include_str!("../../README.md").lines().skip_while(|line| !line.starts_with("| exit"));
    let rows: Vec<(&str, &str)> = rows
        .skip(2)
        .map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .collect();
    assert_eq!(rows.len(), 6, "{rows:?}");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let help = words(&command(&["--help"]).stdout);
    for (codes, meaning) in rows {
        let meaning = meaning.split([':', ';']).next().unwrap();
        assert!(help.contains(&format!("{codes} {meaning}")), "{codes} {meaning}: {help}");
    }
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
