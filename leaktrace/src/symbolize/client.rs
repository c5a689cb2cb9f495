//! leaktrace's side of the worker: starts it, asks it, and does away with it when it does not
//! answer in time, grows too large, dies or talks nonsense.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::memory;
use super::protocol::{Answer, Request};

/// A longer answer is cut off, and the worker with it.
const LONGEST_ANSWER: u64 = 64 << 20;
/// How often the worker's memory is looked at while it works.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How to run the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The program: one that calls [`super::worker_main`].
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// How long an answer may take.
    pub answer_time: Duration,
    /// How long one call of [`super::Symbolizer::symbolize`] may take in all.
    pub call_time: Duration,
    /// How much memory of its own the worker may take, in bytes.
    pub memory_bytes: u64,
}

impl Default for Options {
    /// This very program with the argument `__symbolize`, 10 s for an answer and 60 s for a call,
    /// 4 GiB of memory or a quarter of what there is.
    fn default() -> Self {
        const MOST_MEMORY: u64 = 4 << 30;
        Self {
            program: PathBuf::from("/proc/self/exe"),
            args: vec![OsString::from("__symbolize")],
            answer_time: Duration::from_secs(10),
            call_time: Duration::from_secs(60),
            memory_bytes: memory::total_bytes().map_or(MOST_MEMORY, |all| MOST_MEMORY.min(all / 4)),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// The worker cannot be started.
    #[error("the symbol worker {program} cannot be started: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// No answer in time.
    #[error("reading them took longer than {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// Too much memory.
    #[error("reading them took more than {} MiB of memory", .0 >> 20)]
    Memory(u64),
    /// It is gone.
    #[error("reading them crashed the symbol worker ({0})")]
    Died(String),
    /// It answered something else.
    #[error("the symbol worker gave no proper answer ({0})")]
    Nonsense(String),
}

/// A worker that is started when it is needed.
#[derive(Debug)]
pub(super) struct Client {
    options: Options,
    worker: Option<Worker>,
}

impl Client {
    /// A worker to be started as `options` say.
    pub(super) fn new(options: Options) -> Self {
        Self { options, worker: None }
    }

    /// Asks the worker. If it fails it is ended; the next question starts a new one.
    ///
    /// # Errors
    ///
    /// [`Failure`]; but for [`Failure::Start`] it is this request that made the worker fail.
    pub(super) fn ask(&mut self, request: &Request, time: Duration) -> Result<Answer, Failure> {
        let time = time.min(self.options.answer_time);
        let begun = Instant::now();
        let was_running = self.worker.is_some();
        match self.ask_once(request, time) {
            // What it has read for other requests may be to blame: ask one that has read nothing.
            Err(Failure::Memory(_) | Failure::Died(_)) if was_running => {
                self.ask_once(request, time.saturating_sub(begun.elapsed()))
            }
            result => result,
        }
    }

    fn ask_once(&mut self, request: &Request, time: Duration) -> Result<Answer, Failure> {
        let worker = match &mut self.worker {
            Some(worker) => worker,
            none => none.insert(Worker::start(&self.options)?),
        };
        let answer = worker.ask(request, time, self.options.memory_bytes);
        if answer.is_err() {
            self.worker = None;
        }
        answer
    }

    /// The worker's process id, if there is one.
    pub(super) fn worker_pid(&self) -> Option<u32> {
        self.worker.as_ref().map(|worker| worker.child.id())
    }
}

/// A running worker.
#[derive(Debug)]
struct Worker {
    child: Child,
    requests: Sender<Vec<u8>>,
    answers: Receiver<io::Result<Vec<u8>>>,
}

impl Worker {
    fn start(options: &Options) -> Result<Self, Failure> {
        let failed =
            |source| Failure::Start { program: options.program.display().to_string(), source };
        let mut child = Command::new(&options.program)
            .args(&options.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A Ctrl-C at the terminal is for leaktrace, which still has a report to write.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let (requests, to_write) = mpsc::channel();
        let (to_answer, answers) = mpsc::sync_channel(1);
        let (input, output) = (child.stdin.take(), child.stdout.take());
        // From here on dropping it ends the child. The threads end with the child's pipes.
        let worker = Self { child, requests, answers };
        if let (Some(input), Some(output)) = (input, output) {
            let name = |what: &str| std::thread::Builder::new().name(format!("symbols-{what}"));
            name("write").spawn(move || write_requests(input, &to_write)).map_err(failed)?;
            name("read").spawn(move || read_answers(output, &to_answer)).map_err(failed)?;
        }
        Ok(worker)
    }

    fn ask(&mut self, request: &Request, time: Duration, memory: u64) -> Result<Answer, Failure> {
        let nonsense = |e: serde_json::Error| Failure::Nonsense(e.to_string());
        let mut line = serde_json::to_vec(request).map_err(nonsense)?;
        line.push(b'\n');
        if self.requests.send(line).is_err() {
            return Err(self.died());
        }
        let line = self.wait(time, memory)?;
        let answer: Answer = serde_json::from_slice(&line).map_err(nonsense)?;
        if answer.symbols.len() != request.places() {
            let counts = format!("{} for {} places", answer.symbols.len(), request.places());
            return Err(Failure::Nonsense(counts));
        }
        Ok(answer)
    }

    fn wait(&mut self, time: Duration, memory: u64) -> Result<Vec<u8>, Failure> {
        let begun = Instant::now();
        loop {
            let left = time.saturating_sub(begun.elapsed());
            match self.answers.recv_timeout(left.min(LOOK_EVERY)) {
                Ok(Ok(line)) => return Ok(line),
                Ok(Err(e)) if e.kind() == io::ErrorKind::InvalidData => {
                    return Err(Failure::Nonsense(e.to_string()));
                }
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => return Err(self.died()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if memory::own_bytes(self.child.id()).is_some_and(|used| used > memory) {
                return Err(Failure::Memory(memory));
            }
            if begun.elapsed() >= time {
                return Err(Failure::Timeout(time));
            }
        }
    }

    /// Closed its pipes: it is dead, or as good as.
    fn died(&mut self) -> Failure {
        let _ = self.child.kill();
        let how = self.child.wait().map_or_else(|e| e.to_string(), |status| status_text(&status));
        Failure::Died(how)
    }
}

fn status_text(status: &ExitStatus) -> String {
    // `exit status: 1`, `signal: 6 (SIGABRT) (core dumped)`
    status.to_string()
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both can only fail if it is gone and waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A worker that does not read must not block leaktrace: requests wait in this thread.
fn write_requests(mut input: ChildStdin, requests: &Receiver<Vec<u8>>) {
    for request in requests {
        if input.write_all(&request).and_then(|()| input.flush()).is_err() {
            return;
        }
    }
}

fn read_answers(output: ChildStdout, answers: &mpsc::SyncSender<io::Result<Vec<u8>>>) {
    let mut output = BufReader::new(output);
    loop {
        let line = read_line(&mut output, LONGEST_ANSWER);
        let last = line.is_err();
        if answers.send(line).is_err() || last {
            return;
        }
    }
}

/// A line without its end.
fn read_line(input: &mut impl BufRead, longest: u64) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    input.by_ref().take(longest).read_until(b'\n', &mut line)?;
    if line.pop() == Some(b'\n') {
        return Ok(line);
    }
    Err(if line.len() as u64 + 1 >= longest {
        io::Error::new(io::ErrorKind::InvalidData, "it does not end")
    } else {
        io::ErrorKind::UnexpectedEof.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(script: &str) -> Client {
        Client::new(Options {
            program: PathBuf::from("/bin/sh"),
            args: vec!["-c".into(), script.into()],
            answer_time: Duration::from_secs(20),
            call_time: Duration::from_secs(60),
            memory_bytes: 64 << 20,
        })
    }

    fn request(places: u64) -> Request {
        Request::PerfMap { path: String::new(), uid: 0, addresses: (0..places).collect() }
    }

    const LONG: Duration = Duration::from_secs(20);

    fn is_gone(pid: u32) -> bool {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_worker_that_answers_is_kept_and_ends_with_its_client() {
        let mut client =
            client(r#"while read x; do echo '{"symbols":[[{"function":"f"}]]}'; done"#);
        let answer = client.ask(&request(1), LONG).unwrap();
        assert_eq!(answer.symbols[0][0].function, "f");
        let pid = client.worker_pid().unwrap();
        client.ask(&request(1), LONG).unwrap();
        assert_eq!(client.worker_pid(), Some(pid));
        drop(client);
        assert!(is_gone(pid), "left behind, or as a zombie");
    }

    #[test]
    fn misbehaving_workers_are_survived() {
        let check = |script: &str, time: Duration, expected: &str| {
            let mut client = client(script);
            for _ in 0..2 {
                let failure = client.ask(&request(1), time).unwrap_err().to_string();
                assert!(failure.contains(expected), "{script}: {failure}");
                assert_eq!(client.worker_pid(), None, "{script}");
            }
        };
        check("exec sleep 100", Duration::from_millis(200), "took longer than 0.2 s");
        check("exit 1", LONG, "exit status: 1");
        check("kill -ABRT $$", LONG, "signal: 6");
        check("exec >&-; exec sleep 100", LONG, "signal: 9");
        check("read x; echo garbage", LONG, "no proper answer");
        check("read x; echo '{\"symbols\":[]}'", LONG, "0 for 1 places");
        check("echo; echo; echo; read x", LONG, "no proper answer");
        check("printf '{\"symb'", LONG, "crashed");
        check("x=aaaaaaaa; while :; do x=$x$x; done", LONG, "more than 64 MiB");
    }

    #[test]
    fn an_answer_without_end_is_cut_off() {
        let mut client = client("exec tr '\\000' a </dev/zero");
        let failure = client.ask(&request(1), LONG).unwrap_err().to_string();
        assert!(failure.contains("it does not end"), "{failure}");
    }

    #[test]
    fn a_worker_that_does_not_read_blocks_nobody() {
        let mut client = client("exec sleep 100");
        let failure = client.ask(&request(1 << 20), Duration::from_millis(200)).unwrap_err();
        assert!(matches!(failure, Failure::Timeout(_)), "{failure}");
    }

    #[test]
    fn what_kills_an_old_worker_is_asked_again_of_a_new_one() {
        let script = r#"read x; echo '{"symbols":[[]]}'; read x; exit 3"#;
        let mut client = client(script);
        for _ in 0..3 {
            client.ask(&request(1), LONG).unwrap();
        }
    }

    #[test]
    fn a_program_that_is_not_there() {
        let options = Options { program: PathBuf::from("/none"), ..Options::default() };
        let failure = Client::new(options).ask(&request(1), LONG).unwrap_err().to_string();
        assert!(failure.contains("/none cannot be started"), "{failure}");
    }
}
