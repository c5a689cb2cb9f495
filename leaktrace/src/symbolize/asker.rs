//! How long is the worker asked, and when is it given up? Says why in warnings, each only once.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::client::{Client, Failure, Options};
use super::protocol::{Answer, Request};
#[cfg(test)]
use super::worker;

/// After so many files that made the worker fail no further ones are tried: each costs seconds.
pub(super) const MOST_FAILURES: usize = 8;
/// More warnings than this are not given.
const MOST_WARNINGS: usize = 64;

/// Why a request was not answered.
#[derive(Debug)]
pub(super) enum Skipped {
    /// It must not be made again.
    Bad,
    /// There was no time for it.
    Later,
}

/// Who reads the files.
#[derive(Debug)]
pub(super) enum Backend {
    /// A worker process.
    Worker(Client),
    /// This process.
    #[cfg(test)]
    InProcess(Box<worker::Engine>),
}

impl Backend {
    fn ask(&mut self, request: &Request, time: Duration) -> Result<Answer, Failure> {
        match self {
            Self::Worker(client) => client.ask(request, time),
            #[cfg(test)]
            Self::InProcess(engine) => Ok(engine.answer(request)),
        }
    }
}

/// Asks a worker, and knows what came of it so far.
#[derive(Debug)]
pub(super) struct Asker {
    /// Who is asked.
    pub(super) backend: Backend,
    /// How long all that is asked for one call may take.
    pub(super) call_time: Duration,
    /// How often the worker failed.
    pub(super) failures: usize,
    given_up: bool,
    said: HashSet<String>,
    to_say: Vec<String>,
}

impl Asker {
    /// One that asks a worker process.
    pub(super) fn new(options: Options) -> Self {
        let call_time = options.call_time;
        Self::with_backend(Backend::Worker(Client::new(options)), call_time)
    }

    /// One that asks `backend`.
    pub(super) fn with_backend(backend: Backend, call_time: Duration) -> Self {
        Self {
            backend,
            call_time,
            failures: 0,
            given_up: false,
            said: HashSet::new(),
            to_say: Vec::new(),
        }
    }

    /// The worker's process, if there is one.
    pub(super) fn worker_pid(&self) -> Option<u32> {
        match &self.backend {
            Backend::Worker(client) => client.worker_pid(),
            #[cfg(test)]
            Backend::InProcess(_) => None,
        }
    }

    /// Asks; `what` is read, and its frames would have no `loss` without an answer.
    ///
    /// # Errors
    ///
    /// [`Skipped`]; a warning says why.
    pub(super) fn ask(
        &mut self,
        request: &Request,
        what: &str,
        loss: &str,
        until: Instant,
    ) -> Result<Answer, Skipped> {
        if self.given_up {
            return Err(Skipped::Later);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.warn(format!(
                "naming frames took longer than {} s, so some have no names yet",
                self.call_time.as_secs_f32()
            ));
            return Err(Skipped::Later);
        }
        self.backend.ask(request, left).map_err(|failure| {
            if let Failure::Start { .. } = failure {
                self.given_up = true;
                self.warn(format!("{failure}; frames have no names"));
                return Skipped::Later;
            }
            self.warn(format!("{what} could not be read: {failure}; its frames have no {loss}"));
            self.failures += 1;
            if self.failures >= MOST_FAILURES {
                self.given_up = true;
                self.warn(format!(
                    "reading names failed {MOST_FAILURES} times and was given up; what was not \
                     named before stays without a name"
                ));
            }
            Skipped::Bad
        })
    }

    /// Says a sentence, if it was not said before.
    pub(super) fn warn(&mut self, sentence: String) {
        if self.said.len() < MOST_WARNINGS && self.said.insert(sentence.clone()) {
            self.to_say.push(sentence);
        }
    }

    /// The warnings since the last time.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.to_say)
    }
}
