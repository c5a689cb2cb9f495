//! The processes of a test: started, talked to, waited for with a deadline, and gone with it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take. The machine may be slow and shared; what never comes still fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);

/// Waits until `condition` holds; panics with `what` if it does not before the deadline.
pub(crate) fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(deadline, what, || condition().then_some(()));
}

/// Waits until `look` finds something.
pub(crate) fn wait_for<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        thread::sleep(Duration::from_millis(5)); // between two looks, never instead of one
    }
}

/// One of the tests that hold this at a time: each wants the processors for itself.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fails the test that cannot work without root; a skipped one would look like a passed one.
pub(crate) fn need_root() {
    let euid = std::fs::metadata("/proc/self").unwrap().uid();
    assert_eq!(euid, 0, "needs root: run the tests as root, `cargo xtask test` does");
}

/// Sends `signal` to a child of ours.
pub(crate) fn send_signal(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).unwrap();
    // SAFETY: kill takes two integers; the pid is that of a child that was not waited for yet.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "signal {signal} to {pid}: {}", std::io::Error::last_os_error());
}

/// Waits for a child to end.
pub(crate) fn wait_for_exit(child: &mut Child, what: &str) -> ExitStatus {
    wait_for(DEADLINE, &format!("{what} ends"), || child.try_wait().unwrap())
}

/// The lines that a process prints, as they come.
pub(crate) struct Lines {
    of: String,
    coming: Receiver<String>,
    seen: Vec<String>,
}

impl Lines {
    /// Reads `pipe` to its end on a thread of its own.
    pub(crate) fn of(what: &str, pipe: impl Read + Send + 'static) -> Self {
        let (sender, coming) = channel();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self { of: what.to_owned(), coming, seen: Vec::new() }
    }

    /// The next line that starts with `prefix`.
    pub(crate) fn wait_for(&mut self, prefix: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.coming.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.starts_with(prefix) {
                        return line.trim_end().to_owned();
                    }
                }
                Err(why) => {
                    let why = match why {
                        RecvTimeoutError::Timeout => "none in time",
                        RecvTimeoutError::Disconnected => "it closed",
                    };
                    panic!(
                        "{}: no line that starts with {prefix:?}: {why}; it said:\n{}",
                        self.of,
                        self.seen.concat()
                    );
                }
            }
        }
    }

    /// Everything printed, from the first line to the end of the pipe.
    pub(crate) fn all(&mut self) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.coming.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return self.seen.concat(),
                Err(RecvTimeoutError::Timeout) => panic!("{} is still open", self.of),
            }
        }
    }
}

/// What a program says of itself: `key=value` pairs.
pub(crate) struct Truth(BTreeMap<String, u64>);

impl Truth {
    pub(crate) fn parse(line: &str) -> Self {
        let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.parse().unwrap())).collect())
    }

    /// Everything it says.
    pub(crate) fn all(&self) -> &BTreeMap<String, u64> {
        &self.0
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &str) -> u64 {
        *self.0.get(key).unwrap_or_else(|| panic!("the program does not say {key}: {:?}", self.0))
    }
}

/// A running target program; see `programs/protocol.h` for how one talks to it.
pub(crate) struct Target {
    child: Child,
    stdin: ChildStdin,
    out: Lines,
    /// What it said when it was ready.
    pub(crate) ready: Truth,
}

impl Target {
    /// Starts `program` and waits until it is ready.
    pub(crate) fn start<A: AsRef<OsStr>>(program: &Path, args: &[A]) -> Self {
        Self::spawn(Command::new(program).args(args))
    }

    /// The same for a command that is set up already.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let what = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // A program that this process has written is open for writing still in a child that another test
        // begins just then; see `programs::copy`, too.
        let mut child = wait_for(DEADLINE, &what, || match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => None,
            spawned => Some(spawned.unwrap_or_else(|error| panic!("{what}: {error}"))),
        });
        let stdin = child.stdin.take().unwrap();
        let mut out = Lines::of(&what, child.stdout.take().unwrap());
        let ready = Truth::parse(&out.wait_for("ready"));
        Self { child, stdin, out, ready }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go on.
    pub(crate) fn go(&mut self) {
        self.tell("go\n");
    }

    /// Writes `text` to its standard input.
    pub(crate) fn tell(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).expect("the target reads its input");
    }

    /// Waits until its work is done.
    pub(crate) fn done(&mut self) -> Truth {
        Truth::parse(&self.out.wait_for("done"))
    }

    /// What it said so far that starts with `prefix`: the lines, without their ends.
    pub(crate) fn said<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.out.seen.iter().map(|line| line.trim_end());
        lines.filter(move |line| line.starts_with(prefix))
    }

    /// Lets it work, and waits until it has.
    pub(crate) fn work(&mut self) -> Truth {
        self.go();
        self.done()
    }

    /// Waits until it is ready once more: a new image has begun.
    pub(crate) fn ready_again(&mut self) {
        self.out.wait_for("ready");
    }

    /// Lets it end, and waits until it has.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.go();
        wait_for_exit(&mut self.child, "the target")
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait_for_exit(&mut self.child, "the target")
    }

    pub(crate) fn signal(&self, signal: i32) {
        send_signal(&self.child, signal);
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        send_signal(&self.child, libc::SIGKILL);
        self.child.wait().unwrap();
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The first bytes of its code at `address`, as they lie in its memory: probes included.
    pub(crate) fn code_at(&self, address: u64) -> [u8; 64] {
        code_of(self.pid(), address)
    }
}

/// The first bytes of a process's code at `address`, as they lie in its memory: probes included.
pub(crate) fn code_of(pid: u32, address: u64) -> [u8; 64] {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut code = [0; 64];
    memory.read_exact_at(&mut code, address).unwrap();
    code
}

impl Drop for Target {
    fn drop(&mut self) {
        // A child that was waited for is not signalled again: `kill` knows.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
