//! What a probe costs on this host, measured beside the trace on a child of leaktrace's own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result};

use super::address_space::AddressSpace;
use super::hit_cost::HitCost;
use super::unwinding::Unwinding;
use crate::collect::gauge::Hits;
use crate::collect::maps::CounterValues;
use crate::collect::{KernelMaps, UnwindTables};
use crate::probe::practice::{self, PRACTICE_SLOT, ProbeCost};
use crate::probe::{Kernel, Settings};
use crate::target::Image;

/// A measurement under way.
pub struct Calibration {
    result: Receiver<Option<ProbeCost>>,
    cost: Option<ProbeCost>,
}

impl Calibration {
    /// Starts to measure, in a thread of its own: it takes about a second, most of it waiting.
    /// `perf_links` as in [`Settings`].
    pub fn start(perf_links: bool, hit_cost: Arc<HitCost>) -> Self {
        let (sender, result) = channel();
        let measured = std::thread::Builder::new().spawn(move || {
            let cost = PracticeKernel::load(perf_links)
                .and_then(|mut practice| practice.measure())
                .inspect_err(|error| log::info!("a probe's cost was not measured: {error:#}"));
            if let Ok(cost) = &cost {
                hit_cost.measured(*cost);
            }
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
pub struct PracticeKernel {
    /// The object.
    pub kernel: Kernel,
    maps: KernelMaps,
    unwinding: Unwinding,
}

impl PracticeKernel {
    /// Loads it; `perf_links` as in [`Settings`].
    ///
    /// # Errors
    ///
    /// What the kernel refuses.
    pub fn load(perf_links: bool) -> Result<Self> {
        let (max_blocks, max_stacks) = (4096, 64);
        let settings = Settings { max_blocks, max_stacks, perf_links, ..Settings::default() };
        let mut kernel = Kernel::load(&settings)?;
        // Nobody reads the messages.
        let (mut maps, _messages) = KernelMaps::take(kernel.ebpf(), settings.terms())?;
        let unwinding = Unwinding::new(UnwindTables::take(kernel.ebpf())?);
        maps.open_target(PRACTICE_SLOT, &[], false).context("cannot open the practice target")?;
        Ok(Self { kernel, maps, unwinding })
    }

    /// See [`practice::return_probe_kills_under_seccomp`].
    ///
    /// # Errors
    ///
    /// When it cannot be tried.
    pub fn return_probe_kills_under_seccomp(&mut self) -> Result<bool> {
        practice::return_probe_kills_under_seccomp(&mut self.kernel)
    }

    /// What its programs counted so far.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn counters(&self) -> Result<CounterValues> {
        self.maps.counters()
    }

    /// How often its probes were hit so far.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn hits(&self) -> Result<Hits> {
        self.maps.hits()
    }

    /// Measures what probes cost here.
    ///
    /// # Errors
    ///
    /// When a probe cannot be placed.
    pub fn measure(&mut self) -> Result<ProbeCost> {
        let Self { kernel, maps, unwinding } = self;
        // Its stacks are walked as any other's.
        let unwind = |pid| {
            let image = Image::capture(pid)?;
            AddressSpace::new(image, unwinding).tell(PRACTICE_SLOT, unwinding, maps, true)
        };
        practice::measure(kernel, unwind)
    }
}
