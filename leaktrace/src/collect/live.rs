//! Events of a live trace.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use super::event_loop::{Event, Source};
use super::readiness::readable;
use crate::model::Pid;

/// How often the totals are looked at.
pub const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// The signals, the clock, the ring buffer and the ends of the targets.
pub struct Live {
    messages: AsyncFd<OwnedFd>,
    sample: Interval,
    refresh: Interval,
    deadline: Option<Instant>,
    interrupt: Signal,
    terminate: Signal,
    report_now: Signal,
    count_afresh: Signal,
    exited: mpsc::UnboundedReceiver<Pid>,
    exit_sender: mpsc::UnboundedSender<Pid>,
}

impl Live {
    /// Begins to listen. Signals are caught from here on.
    ///
    /// # Errors
    ///
    /// When a signal cannot be caught, or the ring buffer not be waited for.
    pub fn new(messages: &RingBuf<MapData>, refresh: Duration) -> Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        let (exit_sender, exited) = mpsc::unbounded_channel();
        Ok(Self {
            messages: readable(messages).context("cannot wait for the kernel")?,
            sample: every(SAMPLE_EVERY),
            refresh: every(refresh),
            deadline: None,
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            report_now: catch(SignalKind::user_defined1())?,
            count_afresh: catch(SignalKind::user_defined2())?,
            exited,
            exit_sender,
        })
    }

    /// Begins the trace's time: ticks and the deadline count from now.
    pub fn start(&mut self, duration: Option<Duration>) {
        self.sample.reset();
        self.refresh.reset();
        self.deadline = duration.and_then(|duration| Instant::now().checked_add(duration));
    }

    /// What has the ends of processes reported here.
    pub fn exits(&self) -> Exits {
        Exits(self.exit_sender.clone())
    }
}

/// Where the ends of processes are reported to, also while events are waited for.
#[derive(Clone)]
pub struct Exits(mpsc::UnboundedSender<Pid>);

impl Exits {
    /// Has the end of a process reported.
    pub fn watch(&self, process: ProcessHandle) {
        let sender = self.0.clone();
        tokio::spawn(async move {
            let pid = process.pid;
            process.ended().await;
            // Nobody listens any more: the trace is over.
            let _ = sender.send(pid);
        });
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Source for Live {
    async fn next(&mut self) -> Result<Event> {
        let deadline = self.deadline;
        let deadline = async move {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let gone = || anyhow::anyhow!("no more signals can be received");
        tokio::select! {
            biased;
            got = self.interrupt.recv() => got.map(|()| Event::Stop).ok_or_else(gone),
            got = self.terminate.recv() => got.map(|()| Event::Stop).ok_or_else(gone),
            () = deadline => Ok(Event::Deadline),
            got = self.report_now.recv() => got.map(|()| Event::ReportNow).ok_or_else(gone),
            got = self.count_afresh.recv() => got.map(|()| Event::CountAfresh).ok_or_else(gone),
            Some(pid) = self.exited.recv() => Ok(Event::Exited(pid)),
            _ = self.refresh.tick() => Ok(Event::Refresh),
            _ = self.sample.tick() => Ok(Event::Sample),
            ready = self.messages.readable() => {
                ready.context("cannot wait for the kernel")?.clear_ready();
                Ok(Event::Messages)
            }
        }
    }
}

/// A process by a pidfd: never another one that was given the same id.
pub struct ProcessHandle {
    pid: Pid,
    fd: OwnedFd,
}

impl ProcessHandle {
    /// Opens a handle (Linux 5.3).
    ///
    /// # Errors
    ///
    /// The kernel's: `ESRCH` when there is no such process.
    #[expect(unsafe_code, reason = "pidfd_open has no safe wrapper here")]
    pub fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.get(), 0) };
        let fd = RawFd::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self { pid, fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Waits for the end of the process.
    async fn ended(self) {
        if let Ok(fd) = readable(&self.fd) {
            // A pidfd is readable once the process has ended; an error leaves nothing to wait for.
            let _ = fd.readable().await;
        }
    }
}
