//! `leaktrace` as a child of the test.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::processes::{
    DEADLINE, Lines, Target, need_root, send_signal, wait_for_exit, wait_until,
};
use crate::programs::leaktrace;
use crate::report::Report;

/// How the command ended, and everything it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// With exit code `code`; and never by a panic.
    pub(crate) fn assert_code(&self, code: i32) {
        assert_eq!(self.code, Some(code), "standard error:\n{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// A running command, in a directory of its own that goes with it.
pub(crate) struct Trace {
    child: Child,
    out: Lines,
    err: Lines,
    dir: TempDir,
}

impl Trace {
    /// Starts `leaktrace ARGS` and waits for nothing.
    pub(crate) fn start<A: AsRef<OsStr>>(args: &[A]) -> Self {
        need_root();
        Self::spawn(Command::new(leaktrace()).args(args))
    }

    /// The same for a command that is set up already; it gets a directory to work in.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self::spawn_with_input(command, Stdio::null())
    }

    /// The same with a standard input.
    pub(crate) fn spawn_with_input(command: &mut Command, input: impl Into<Stdio>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = command
            .current_dir(dir.path())
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = Lines::of("leaktrace's standard output", child.stdout.take().unwrap());
        let err = Lines::of("leaktrace's standard error", child.stderr.take().unwrap());
        Self { child, out, err, dir }
    }

    /// Attaches to `target`, with a JSON report of all stacks to come, and waits until its probes
    /// are in place.
    pub(crate) fn attach(target: &Target, options: &[&str]) -> Self {
        Self::attach_all(&[target], options)
    }

    /// The same for several targets.
    pub(crate) fn attach_all(targets: &[&Target], options: &[&str]) -> Self {
        let pids: Vec<u32> = targets.iter().map(|target| target.pid()).collect();
        Self::attach_pids(&pids, options)
    }

    /// The same for processes of any kind.
    pub(crate) fn attach_pids(pids: &[u32], options: &[&str]) -> Self {
        let all: Vec<String> = pids.iter().map(u32::to_string).collect();
        let all = all.join(",");
        let mut args = vec!["attach", "-p", &all, "-o", "report.json", "--top", "1000"];
        // Figures are exact to the byte where no budget is asked for.
        let asks = |option: &&str| option.starts_with("--max-overhead") || *option == "--exact";
        if !options.iter().any(asks) {
            args.push("--exact");
        }
        args.extend(options);
        let mut trace = Self::start(&args);
        for _ in pids {
            trace.wait_for_tracing();
        }
        trace
    }

    /// Waits until it says that probes are in place.
    pub(crate) fn wait_for_tracing(&mut self) -> String {
        self.err.wait_for("leaktrace: tracing ")
    }

    /// Waits until it says a line that begins so.
    pub(crate) fn wait_to_say(&mut self, prefix: &str) -> String {
        self.err.wait_for(prefix)
    }

    /// The same on its standard output.
    pub(crate) fn wait_to_print(&mut self, prefix: &str) -> String {
        self.out.wait_for(prefix)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: i32) {
        send_signal(&self.child, signal);
    }

    /// A file in its directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> Ended {
        let code = wait_for_exit(&mut self.child, "leaktrace").code();
        Ended { code, stdout: self.out.all(), stderr: self.err.all() }
    }

    /// Waits until it has ended by itself, without an error, and reads its report.
    pub(crate) fn report(&mut self) -> Report {
        self.ended().assert_code(0);
        Report::read(&self.file("report.json"))
    }

    /// Ends it by SIGINT, as Ctrl-C does, and reads its report.
    pub(crate) fn interrupt(&mut self) -> Report {
        self.signal(libc::SIGINT);
        self.report()
    }

    /// Has it write its report now, while it goes on, and reads that.
    pub(crate) fn report_now(&self) -> Report {
        let path = self.file("report.json");
        let _gone = std::fs::remove_file(&path);
        self.signal(libc::SIGUSR1);
        wait_until(DEADLINE, "a report", || path.exists());
        Report::read(&path)
    }

    /// Waits until it has measured what a hit costs, which it does while it goes on.
    pub(crate) fn wait_for_hit_cost(&self) {
        wait_until(DEADLINE, "a report that knows what a hit costs", || {
            self.report_now().at("/cost/ns_per_hit").is_number()
        });
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.child.wait().unwrap();
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Runs `leaktrace ARGS` to its end.
pub(crate) fn command<A: AsRef<OsStr>>(args: &[A]) -> Ended {
    Trace::start(args).ended()
}

/// Attaches to `program`, lets it do all its work, ends the trace, and gives the report: complete,
/// with the target alive at its end.
pub(crate) fn trace_program(program: &Path) -> Report {
    trace_program_with(program, &[])
}

/// What chooses how probes are held: a perf event each, and what this kernel does best.
pub(crate) const LINKS: [&[&str]; 2] = [&["--perf-links"], &[]];

/// As [`trace_program`], with more options.
pub(crate) fn trace_program_with(program: &Path, options: &[&str]) -> Report {
    let mut target = Target::start::<&str>(program, &[]);
    let mut trace = Trace::attach(&target, options);
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    assert!(target.end().success(), "tracing must not change how the target ends");
    report
}
