//! What a probe costs on this host, measured beside the trace on a child of leaktrace's own.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::collect::KernelMaps;
use crate::probe::practice::{self, PRACTICE_SLOT, ProbeCost};
use crate::probe::{Kernel, Settings};

/// A measurement under way.
pub struct Calibration {
    result: Receiver<Option<ProbeCost>>,
    cost: Option<ProbeCost>,
}

impl Calibration {
    /// Starts to measure, in a thread of its own: it takes about a second, most of it waiting.
    pub fn start() -> Self {
        let (sender, result) = channel();
        let measured = std::thread::Builder::new().spawn(move || {
            let cost = measure()
                .inspect_err(|error| log::info!("a probe's cost was not measured: {error:#}"));
            // Nobody waits for it when the trace is over already.
            let _ = sender.send(cost.ok());
        });
        if measured.is_err() {
            log::info!("a probe's cost was not measured: no thread to be had");
        }
        Self { result, cost: None }
    }

    /// The cost; waits for it for a moment.
    pub fn wait(&mut self, patience: Duration) -> Option<ProbeCost> {
        if self.cost.is_none()
            && let Ok(cost) = self.result.recv_timeout(patience)
        {
            self.cost = cost;
        }
        self.cost
    }
}

/// A loaded object for practice only, small, with its target open.
///
/// # Errors
///
/// What the kernel refuses.
pub fn practice_kernel() -> Result<Kernel> {
    let settings = Settings { max_blocks: 4096, max_stacks: 64, ..Settings::default() };
    let mut kernel = Kernel::load(&settings)?;
    let (mut maps, messages) = KernelMaps::take(kernel.ebpf())?;
    maps.open_target(PRACTICE_SLOT, &[]).context("cannot open the practice target")?;
    // The programs keep their maps.
    drop((maps, messages));
    Ok(kernel)
}

/// Measures now.
///
/// # Errors
///
/// When a probe cannot be placed.
pub fn measure() -> Result<ProbeCost> {
    practice::measure(&mut practice_kernel()?)
}
