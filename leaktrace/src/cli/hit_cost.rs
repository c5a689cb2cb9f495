//! What the hits of a trace's probes cost its targets.
//!
//! The traps were measured on a child of leaktrace's own; what the handlers take is timed in the
//! targets themselves, since it depends on what their caches hold.

use std::sync::{Mutex, PoisonError};

use crate::collect::gauge::Hits;
use crate::probe::practice::ProbeCost;

/// Taken until it was measured.
const AT_FIRST: ProbeCost = ProbeCost {
    empty_ns: 700.0,
    stepped_ns: 10_000.0,
    return_ns: 500.0,
    traced_ns: 1100.0,
    handler_ns: 400.0,
};
/// A trap is as dear as this in a program whose caches and branch predictors it disturbs, beside
/// one in a loop of nothing else.
const TRAPS_IN_PLACE: f64 = 1.15;

/// The cost of hits, as known at present; shared between threads.
pub struct HitCost(Mutex<ProbeCost>);

impl Default for HitCost {
    fn default() -> Self {
        Self(Mutex::new(AT_FIRST))
    }
}

impl HitCost {
    /// Takes what was measured on this host.
    pub fn measured(&self, cost: ProbeCost) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cost;
    }

    /// Seconds that hits took, whose handlers took `handler_ns` in the mean (`None`: not timed
    /// yet).
    pub fn seconds(&self, hits: &Hits, handler_ns: Option<f64>) -> f64 {
        let cost = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seconds(&cost, hits, handler_ns)
    }
}

fn seconds(cost: &ProbeCost, hits: &Hits, handler_ns: Option<f64>) -> f64 {
    let handler_ns = handler_ns.unwrap_or(cost.handler_ns);
    let entries = hits.all.saturating_sub(hits.returns) as f64;
    let traps_ns = entries * cost.empty_ns + hits.returns as f64 * cost.return_ns;
    let stepping_ns = hits.stepped as f64 * (cost.stepped_ns - cost.empty_ns).max(0.0);
    (TRAPS_IN_PLACE * traps_ns + stepping_ns + hits.all as f64 * handler_ns) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_steps_and_handlers_have_their_price() {
        let cost = ProbeCost {
            empty_ns: 100.0,
            stepped_ns: 1100.0,
            return_ns: 200.0,
            traced_ns: 0.0,
            handler_ns: 50.0,
        };
        let hits = Hits { all: 4, stepped: 1, returns: 1 };
        let traps = TRAPS_IN_PLACE * (3.0 * 100.0 + 200.0);
        assert_eq!(seconds(&cost, &hits, None) * 1e9, traps + 1000.0 + 4.0 * 50.0);
        assert_eq!(seconds(&cost, &hits, Some(70.0)) * 1e9, traps + 1000.0 + 4.0 * 70.0);
    }
}
