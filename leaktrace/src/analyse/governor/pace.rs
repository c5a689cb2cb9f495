//! How fast does a target earn and spend, and how long do probes take to go?

use super::Phase;

/// Rates follow the target with this time constant.
const MEMORY_S: f64 = 1.0;
/// What is taken for the time that probes take to go, before it was seen.
const LEAVING_AT_FIRST_S: f64 = 0.03;
const LEAVING_S: std::ops::RangeInclusive<f64> = 0.005..=0.15;

/// Rates of late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// CPUs that the target uses for itself.
    own_cpus: f64,
    /// The same while probes hinder it.
    own_of_late: f64,
    /// CPUs that the probes use, in this phase.
    burn: f64,
    /// The same of the last window while it was open, and what the target used for itself then.
    open_burn: f64,
    open_own_cpus: f64,
    /// How long probes that were told to go are hit on.
    leaving_s: f64,
    /// The same for those that see allocations, before a drain; frees are hit meanwhile.
    switching_s: f64,
    /// The burn when they were told, until they are seen to be gone.
    leaving: Option<f64>,
    known: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            own_cpus: 0.0,
            own_of_late: 0.0,
            burn: 0.0,
            open_burn: 0.0,
            open_own_cpus: 0.0,
            leaving_s: LEAVING_AT_FIRST_S,
            switching_s: LEAVING_AT_FIRST_S,
            leaving: None,
            known: false,
        }
    }
}

impl Pace {
    /// Takes what happened in `seconds` of `phase`.
    pub(super) fn take(
        &mut self,
        phase: Phase,
        seconds: f64,
        own_s: f64,
        cpu_s: f64,
        spent_s: f64,
    ) {
        let weight = 1.0 - (-seconds / MEMORY_S).exp();
        // While probes take nearly all of the CPU time, the rest does not say what the target
        // would use.
        let hindered = spent_s > 0.5 * cpu_s;
        let soon = 1.0 - (-10.0 * seconds).exp();
        let own_rate = own_s / seconds;
        self.own_of_late += if self.known { soon } else { 1.0 } * (own_rate - self.own_of_late);
        let first_rest = phase == Phase::Closed && self.open_own_cpus <= 0.0 && !hindered;
        if !self.known || first_rest {
            self.known = true;
            self.own_cpus = if hindered { cpu_s } else { own_s } / seconds;
            // The first window had nothing before it: what it burns goes with what comes after.
            self.open_own_cpus = if first_rest { self.own_cpus.max(1e-6) } else { 0.0 };
        } else if !hindered {
            self.own_cpus += weight * (own_s / seconds - self.own_cpus);
        }
        let burn = spent_s / seconds;
        // Up at once, down slowly.
        self.burn = burn.max(self.burn + soon * (burn - self.burn));
        if phase == Phase::Open {
            self.open_burn = self.burn;
        }
        let burn_then = if phase == Phase::Open { None } else { self.leaving.take() };
        match (phase, burn_then) {
            (Phase::Closed, Some(burn)) => self.leaving_s = took(self.leaving_s, spent_s, burn),
            (Phase::Draining, Some(burn)) => {
                self.switching_s = took(self.switching_s, spent_s, burn);
            }
            _ => {}
        }
    }

    /// The window is about to open: what it will burn is what the last one did.
    pub(super) fn window_begins(&mut self) {
        self.burn = self.expected_burn();
        self.open_own_cpus = self.own_cpus;
    }

    /// The probes are told to go.
    pub(super) fn probes_go(&mut self) {
        self.leaving = Some(self.burn);
    }

    /// CPUs that the target uses for itself.
    pub(super) fn own_cpus(&self) -> f64 {
        self.own_cpus
    }

    /// The same while probes hinder it.
    pub(super) fn own_of_late(&self) -> f64 {
        self.own_of_late
    }

    /// CPUs that the probes use at present.
    pub(super) fn burn(&self) -> f64 {
        self.burn
    }

    /// CPUs that the probes would use if a window opened now.
    pub(super) fn expected_burn(&self) -> f64 {
        let busier = self.own_cpus / self.open_own_cpus.max(1e-9);
        self.open_burn * if self.open_own_cpus > 0.0 { busier.clamp(0.0, 4.0) } else { 1.0 }
    }

    /// What a window takes at the least, beside the time that it is open.
    pub(super) fn ending_s(&self) -> f64 {
        self.switching_s + self.leaving_s
    }

    /// How long it takes to begin a drain.
    pub(super) fn switching_s(&self) -> f64 {
        self.switching_s
    }

    /// How long probes that were told to go are hit on.
    pub(super) fn leaving_s(&self) -> f64 {
        self.leaving_s
    }
}

/// How long probes took to go, by what they cost meanwhile; what was learnt before fades.
fn took(before_s: f64, spent_s: f64, burn: f64) -> f64 {
    let took_s = if burn > 1e-6 { (spent_s / burn).max(0.8 * before_s) } else { before_s };
    took_s.clamp(*LEAVING_S.start(), *LEAVING_S.end())
}
