//! What does gdb say the stacks of a target's calls of malloc are?
//!
//! gdb attaches to the very process that leaktrace has left. It takes what is in the files
//! themselves: not what separate debug packages on this machine add.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::processes::{Lines, Target, wait_for_exit};

/// Ahead of the script, so that nothing on the way to it reads what is configured here.
const QUIET: [&str; 5] = [
    "set auto-load off",
    "set debuginfod enabled off",
    "set debug-file-directory /nonexistent",
    "set backtrace past-main on",
    "set backtrace past-entry on",
];

/// A frame; inlined functions have frames of their own.
pub(super) struct Frame {
    pub(super) pc: u64,
    pub(super) kind: Kind,
    pub(super) function: Option<String>,
    pub(super) file: Option<String>,
    pub(super) line: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A frame that lies on the stack.
    Normal,
    /// A function inlined into the frame after it.
    Inline,
    /// A function that is gone: it left by a jump. gdb concludes it from debug information.
    TailCall,
    /// Where the kernel has a signal's handler return to.
    Signal,
}

/// The stack of a call of malloc, its caller first.
pub(super) struct Stack {
    pub(super) frames: Vec<Frame>,
    /// It reaches the start of its thread.
    pub(super) outermost: bool,
}

/// A running gdb, which goes with its test.
struct Gdb(Child);

impl Drop for Gdb {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Lets a program of shapes work once more, and gives the stacks of its allocations by their sizes.
/// It is left as it was.
pub(super) fn stacks(target: &mut Target) -> BTreeMap<u64, Stack> {
    let sizes: Vec<String> = target.ready.all().values().map(u64::to_string).collect();
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch"]);
    for quiet in QUIET {
        command.args(["-iex", quiet]);
    }
    command
        .args(["-p", &target.pid().to_string(), "-x"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/integration/stacks/gdb.py"))
        .env("SIZES", sizes.join(","))
        .env("END", target.ready.get("end").to_string())
        .env("DEBUGINFOD_URLS", "")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| panic!("gdb (Debian: gdb): {error}"));
    let mut gdb = Gdb(child);
    let mut lines = Lines::of("gdb", gdb.0.stdout.take().unwrap());
    let mut errors = Lines::of("gdb's errors", gdb.0.stderr.take().unwrap());
    lines.wait_for("ready");
    target.work();
    let status = wait_for_exit(&mut gdb.0, "gdb");
    let said = lines.all();
    assert!(status.success(), "gdb: {status}; it said:\n{said}{}", errors.all());
    said.lines().filter_map(|line| line.strip_prefix("stack ")).map(parse).collect()
}

fn parse(line: &str) -> (u64, Stack) {
    let stack: Value = serde_json::from_str(line).unwrap();
    let frames = stack["frames"].as_array().unwrap().iter().map(frame).collect();
    let outermost = stack["outermost"].as_bool().unwrap();
    (stack["size"].as_u64().unwrap(), Stack { frames, outermost })
}

fn frame(frame: &Value) -> Frame {
    let text = |key: &str| frame[key].as_str().map(str::to_owned);
    Frame {
        pc: frame["pc"].as_u64().unwrap(),
        kind: match frame["kind"].as_str() {
            Some("normal") => Kind::Normal,
            Some("inline") => Kind::Inline,
            Some("tailcall") => Kind::TailCall,
            Some("signal") => Kind::Signal,
            _ => panic!("a kind of frame that is not known: {frame}"),
        },
        function: text("function"),
        file: text("file"),
        line: frame["line"].as_u64().unwrap(),
    }
}
