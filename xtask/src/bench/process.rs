//! The processes of a benchmark: started, talked to, and gone when it ends, by their id.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::run;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at something that cannot be waited for.
pub(crate) const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// A process, with the lines that it prints on either output. Killed when dropped.
pub(crate) struct Process {
    what: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    /// What it printed so far, for whoever wants to know why it failed.
    pub(crate) said: Vec<String>,
}

impl Process {
    /// Starts a command.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let what = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {what}"))?;
        let input = child.stdin.take();
        let (sender, lines) = channel();
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            forward(stdout, sender.clone());
            forward(stderr, sender);
        }
        Ok(Self { what, child, input, lines, said: Vec::new() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that `wanted` makes something of.
    pub(crate) fn wait_for<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let found = wanted(&line);
                    self.said.push(line);
                    if let Some(found) = found {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} is silent; it said:\n{}", self.what, self.said.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{} has ended; it said:\n{}", self.what, self.said.join("\n"))
                }
            }
        }
    }

    /// Waits for a line that begins with `prefix`, and gives the rest of it.
    pub(crate) fn wait_for_line(&mut self, prefix: &str) -> Result<String> {
        self.wait_for(|line| line.strip_prefix(prefix).map(str::to_owned))
    }

    /// Writes a line to its standard input.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        writeln!(input, "{line}").with_context(|| format!("{} listens no more", self.what))
    }

    /// Writes all of this to its standard input, and ends that.
    pub(crate) fn feed(&mut self, text: &[u8]) -> Result<()> {
        let mut input = self.input.take().context("its input is closed")?;
        input.write_all(text).with_context(|| format!("{} listens no more", self.what))
    }

    /// Ends its standard input, and waits for its end.
    pub(crate) fn close_and_wait(&mut self) -> Result<ExitStatus> {
        self.input = None;
        self.wait()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        run(Command::new("kill").args(["-s", name, &self.pid().to_string()]))
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                self.said.extend(self.lines.try_iter());
                return Ok(status);
            }
            thread::sleep(BETWEEN_LOOKS);
        }
        bail!("{} does not end", self.what)
    }

    /// Waits for its end, and gives the CPU seconds that it took.
    pub(crate) fn wait_and_account(&mut self) -> Result<f64> {
        let deadline = Instant::now() + PATIENCE;
        // What has ended but was not waited for still has its account.
        while !self.stat()?.starts_with('Z') {
            if Instant::now() > deadline {
                bail!("{} does not end", self.what);
            }
            thread::sleep(BETWEEN_LOOKS);
        }
        let seconds = self.cpu_seconds()?;
        let status = self.wait()?;
        ensure!(
            status.success(),
            "{} failed: {status}; it said:\n{}",
            self.what,
            self.said.join("\n")
        );
        Ok(seconds)
    }

    /// Ends it as Ctrl-C does, if it did not end by itself.
    pub(crate) fn interrupt(&mut self) -> Result<()> {
        if !self.has_ended()? {
            self.signal("INT")?;
        }
        self.wait()?;
        Ok(())
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// A number of kibibytes in `/proc/PID/status`.
    pub(crate) fn status_kib(&self, field: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        kib_of(&status, field)
    }

    /// User and system seconds of it and of its children that have ended.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        /// `utime`, in the fields behind the command's name.
        const UTIME: usize = 11;
        /// `USER_HZ`, the same on every architecture that leaktrace runs on.
        const TICKS_PER_SECOND: f64 = 100.0;
        let stat = self.stat()?;
        let ticks = stat.split_whitespace().skip(UTIME).take(4);
        Ok(ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND)
    }

    /// The fields of `/proc/PID/stat` behind the command's name: first the state.
    fn stat(&self) -> Result<String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let (_, fields) = stat.rsplit_once(") ").context("a stat without a name")?;
        Ok(fields.to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that was waited for is not signalled again: the standard library knows.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number of kibibytes in a file like `/proc/meminfo`.
pub(crate) fn kib_of(file: &str, field: &str) -> Result<f64> {
    file.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no field {field}"))
}

fn forward(pipe: impl Read + Send + 'static, to: Sender<String>) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        // A pipe that breaks has ended, and nobody listens when the process was dropped.
        while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if to.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
}
