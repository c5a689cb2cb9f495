//! The one event loop. A live trace, a replayed recording and a test differ in their source of
//! events only.

use std::ops::ControlFlow;

use anyhow::Result;

use crate::model::{EndedBy, Pid};

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The kernel half has sent messages.
    Messages,
    /// Time to look at the totals.
    Sample,
    /// Time to show a report.
    Refresh,
    /// The trace's time is up.
    Deadline,
    /// INT or TERM.
    Stop,
    /// USR1: write a report now.
    ReportNow,
    /// USR2: start counting afresh.
    CountAfresh,
    /// A target has ended.
    Exited(Pid),
}

/// Where events come from.
pub trait Source {
    /// The next event, when it happens.
    ///
    /// # Errors
    ///
    /// When events can no longer be had.
    fn next(&mut self) -> impl Future<Output = Result<Event>>;
}

/// What is done about events; each step says whether the trace goes on.
pub trait Step {
    /// Takes in what the kernel half has sent.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn messages(&mut self) -> Result<()>;
    /// Looks at the totals.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn sample(&mut self) -> Result<()>;
    /// Shows how things stand.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    fn refresh(&mut self) -> Result<()>;
    /// Writes the reports that were asked for.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    fn report_now(&mut self) -> Result<()>;
    /// Forgets what was counted.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn count_afresh(&mut self) -> Result<()>;
    /// A target has ended; breaks with the last one.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn exited(&mut self, pid: Pid) -> Result<ControlFlow<()>>;
}

/// Runs until the trace ends; returns why it ended.
///
/// # Errors
///
/// The first that a source or a step returns.
pub async fn run(source: &mut impl Source, step: &mut impl Step) -> Result<EndedBy> {
    loop {
        match source.next().await? {
            Event::Messages => step.messages()?,
            Event::Sample => step.sample()?,
            Event::Refresh => step.refresh()?,
            Event::ReportNow => step.report_now()?,
            Event::CountAfresh => step.count_afresh()?,
            Event::Exited(pid) => {
                if step.exited(pid)?.is_break() {
                    return Ok(EndedBy::TargetExit);
                }
            }
            Event::Deadline => return Ok(EndedBy::Duration),
            Event::Stop => return Ok(EndedBy::Signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script<'a>(std::slice::Iter<'a, Event>);

    impl Source for Script<'_> {
        async fn next(&mut self) -> Result<Event> {
            self.0.next().copied().ok_or_else(|| anyhow::anyhow!("the script is over"))
        }
    }

    #[derive(Default)]
    struct Log {
        said: Vec<&'static str>,
        targets: usize,
    }

    impl Step for Log {
        fn messages(&mut self) -> Result<()> {
            self.said.push("messages");
            Ok(())
        }
        fn sample(&mut self) -> Result<()> {
            self.said.push("sample");
            Ok(())
        }
        fn refresh(&mut self) -> Result<()> {
            self.said.push("refresh");
            Ok(())
        }
        fn report_now(&mut self) -> Result<()> {
            self.said.push("report");
            Ok(())
        }
        fn count_afresh(&mut self) -> Result<()> {
            self.said.push("afresh");
            Ok(())
        }
        fn exited(&mut self, _pid: Pid) -> Result<ControlFlow<()>> {
            self.targets -= 1;
            Ok(if self.targets == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        }
    }

    fn check(events: &[Event], said: &[&str], ended_by: EndedBy) {
        let mut log = Log { targets: 2, ..Log::default() };
        let mut script = Script(events.iter());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(run(&mut script, &mut log)).unwrap(), ended_by);
        assert_eq!(log.said, said);
    }

    #[test]
    fn each_end_has_its_reason() {
        let pid = |id| Pid::new(id).unwrap();
        check(&[Event::Messages, Event::Deadline], &["messages"], EndedBy::Duration);
        check(
            &[Event::Sample, Event::Refresh, Event::Stop],
            &["sample", "refresh"],
            EndedBy::Signal,
        );
        check(
            &[Event::Exited(pid(1)), Event::ReportNow, Event::CountAfresh, Event::Exited(pid(2))],
            &["report", "afresh"],
            EndedBy::TargetExit,
        );
    }
}
