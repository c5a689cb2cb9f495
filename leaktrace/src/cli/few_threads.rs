//! Work that takes time and that nobody waits for at once, done by a few threads in turn, however much
//! of it there is. Nothing that was given is dropped.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// So many at a time.
const MOST_THREADS: usize = 4;

type Work = Box<dyn FnOnce() + Send>;

/// What waits for its turn.
pub struct FewThreads(Mutex<State>);

struct State {
    waiting: VecDeque<Work>,
    threads: usize,
}

impl FewThreads {
    /// Nothing to do yet.
    pub const fn idle() -> Self {
        Self(Mutex::new(State { waiting: VecDeque::new(), threads: 0 }))
    }

    /// Has something done as soon as it is its turn. Where not one thread is to be had, it is left
    /// undone.
    pub fn give(&'static self, work: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.push_back(Box::new(work));
        if state.threads >= MOST_THREADS {
            return;
        }
        let thread = std::thread::Builder::new().name("before".to_owned());
        match thread.spawn(move || Turn(self).work()) {
            Ok(_) => state.threads += 1,
            Err(_) if state.threads == 0 => state.waiting.clear(),
            Err(_) => {}
        }
    }

    /// What is next; `None` ends a thread.
    fn next(&self) -> Option<Work> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.threads -= 1;
        }
        next
    }
}

/// One of the threads.
struct Turn(&'static FewThreads);

impl Turn {
    fn work(self) {
        while let Some(work) = self.0.next() {
            work();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // It leaves its place to another.
            let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.threads -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Barrier};
    use std::time::Duration;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn any_number_of_targets_is_looked_at_by_a_few_threads_and_none_is_dropped() {
        static WORK: FewThreads = FewThreads::idle();
        // Each waits until as many as may are at work.
        let together = Arc::new(Barrier::new(MOST_THREADS));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (sender, receiver) = channel();
        let all = 25 * MOST_THREADS;
        for n in 0..all {
            let (together, sender) = (Arc::clone(&together), sender.clone());
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            WORK.give(move || {
                let at_work = now.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(at_work, Ordering::SeqCst);
                together.wait();
                now.fetch_sub(1, Ordering::SeqCst);
                sender.send(n).unwrap();
            });
        }
        let mut done: Vec<usize> =
            (0..all).map(|_| receiver.recv_timeout(DEADLINE).unwrap()).collect();
        done.sort_unstable();
        assert!(done.into_iter().eq(0..all));
        assert!(most.load(Ordering::SeqCst) <= MOST_THREADS);
    }

    #[test]
    fn work_that_panics_takes_no_place_from_what_comes_after() {
        static WORK: FewThreads = FewThreads::idle();
        for _ in 0..3 * MOST_THREADS {
            WORK.give(|| std::panic::resume_unwind(Box::new(())));
        }
        let (sender, receiver) = channel();
        // Those that panicked may have taken their threads with them just now.
        let done = || {
            let sender = sender.clone();
            WORK.give(move || sender.send(()).unwrap());
            receiver.recv_timeout(Duration::from_millis(100)).is_ok()
        };
        let started = std::time::Instant::now();
        while !done() {
            assert!(started.elapsed() < DEADLINE);
        }
    }
}
