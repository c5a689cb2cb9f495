//! A process that works all the time, and says how far it got when asked.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::process::{BETWEEN_LOOKS, Process};
use super::programs::Programs;
use super::tracing::Tracing;
use crate::workspace::output;

/// Until caches are warm and files are read.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long redis may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process did between two looks, or since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// In its own unit: pairs, requests, rounds.
    pub(crate) units: f64,
    pub(crate) wall_s: f64,
    /// Of the threads that work.
    pub(crate) cpu_s: f64,
    pub(crate) leaked_bytes: f64,
}

impl Progress {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            units: self.units - before.units,
            wall_s: self.wall_s - before.wall_s,
            cpu_s: self.cpu_s - before.cpu_s,
            leaked_bytes: self.leaked_bytes - before.leaked_bytes,
        }
    }

    /// CPU nanoseconds of a unit.
    pub(crate) fn cpu_ns(self) -> f64 {
        self.cpu_s * 1e9 / self.units
    }
}

/// The running process. Killed when dropped.
pub(crate) struct Steady {
    process: Process,
    /// Who is asked and who makes the load, when it is not the process itself.
    redis: Option<Redis>,
}

struct Redis {
    socket: String,
    /// Gives the server its work; dropped, it is killed.
    _client: Process,
    started: Instant,
}

impl Drop for Redis {
    fn drop(&mut self) {
        // A server that ended in good order has taken it along.
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Steady {
    /// Starts a program that answers each line with its progress.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut process = Process::start(command)?;
        process.wait_for_line("ready")?;
        thread::sleep(WARM_UP);
        Ok(Self { process, redis: None })
    }

    /// Starts `load` with these arguments.
    pub(crate) fn load(programs: &Programs, arguments: &[String]) -> Result<Self> {
        Self::start(Command::new(&programs.load).args(arguments))
    }

    /// Starts redis and `redis-benchmark` on it. Debian's package of the tools has the server too:
    /// its checker is the same program under another name.
    pub(crate) fn redis(programs: &Programs, under: &[&str]) -> Result<Self> {
        let server = programs.directory.join("redis-server");
        let checker = output(Command::new("which").arg("redis-check-rdb"))?;
        if server.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(checker.trim(), &server)?;
        }
        let socket = programs.directory.join(format!("redis-{}.sock", std::process::id()));
        let socket = socket.to_string_lossy().into_owned();
        let process = Process::start(wrapped(under, Command::new(server)).args([
            "--port",
            "0",
            "--unixsocket",
            &socket,
            "--save",
            "",
            "--appendonly",
            "no",
        ]))?;
        let deadline = Instant::now() + PATIENCE;
        while info(&socket).is_err() {
            anyhow::ensure!(Instant::now() < deadline, "redis does not listen");
            thread::sleep(20 * BETWEEN_LOOKS);
        }
        // Few keys, all of them there soon: from then on their number is constant.
        let client = Process::start(Command::new("redis-benchmark").args([
            "-s", &socket, "-q", "-l", "-t", "set,get", "-r", "1000", "-d", "200", "-c", "20",
            "-n", "50000",
        ]))?;
        let redis = Redis { socket, _client: client, started: Instant::now() };
        thread::sleep(2 * WARM_UP);
        Ok(Self { process, redis: Some(redis) })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How far it got.
    pub(crate) fn progress(&mut self) -> Result<Progress> {
        if let Some(redis) = &self.redis {
            let mut progress = info(&redis.socket)?;
            progress.wall_s = redis.started.elapsed().as_secs_f64();
            return Ok(progress);
        }
        self.process.say("?")?;
        self.process.wait_for(|line| {
            let mut numbers = line.split(' ').map(str::parse::<f64>);
            let mut next = || numbers.next()?.ok();
            let (units, wall, cpu, leaked_bytes) = (next()?, next()?, next()?, next()?);
            Some(Progress { units, wall_s: wall / 1e9, cpu_s: cpu / 1e9, leaked_bytes })
        })
    }

    /// What it does in some seconds.
    pub(crate) fn watch(&mut self, seconds: f64) -> Result<Progress> {
        let before = self.progress()?;
        thread::sleep(Duration::from_secs_f64(seconds));
        Ok(self.progress()?.since(before))
    }

    /// The same while it is traced.
    pub(crate) fn watch_traced(
        &mut self,
        programs: &Programs,
        tracing: Tracing,
        seconds: f64,
    ) -> Result<Progress> {
        let tracer = tracing.start_settled(programs, self.pid())?;
        let progress = self.watch(seconds);
        tracing.stop(tracer)?;
        progress
    }

    /// Ends it, and what it was started under, in good order.
    pub(crate) fn end(mut self) -> Result<()> {
        if let Some(redis) = self.redis.take() {
            // It answers nothing, and a server that ends says no good-bye.
            let _ = redis_cli(&redis.socket, &["shutdown", "nosave"]);
            self.process.wait()?;
        } else {
            self.process.close_and_wait()?;
        }
        Ok(())
    }
}

/// `command` as the argument of another.
pub(crate) fn wrapped(under: &[&str], command: Command) -> Command {
    let [tool, options @ ..] = under else { return command };
    let mut whole = Command::new(tool);
    whole.args(options).arg(command.get_program()).args(command.get_args());
    whole
}

fn redis_cli(socket: &str, words: &[&str]) -> Result<String> {
    output(Command::new("redis-cli").args(["-s", socket]).args(words))
}

/// Commands and CPU time of a redis.
fn info(socket: &str) -> Result<Progress> {
    let said = redis_cli(socket, &["info", "stats", "cpu"])?;
    let number = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse::<f64>().ok())
            .with_context(|| format!("redis says no {name}"))
    };
    Ok(Progress {
        units: number("total_commands_processed")?,
        cpu_s: number("used_cpu_sys")? + number("used_cpu_user")?,
        ..Progress::default()
    })
}
