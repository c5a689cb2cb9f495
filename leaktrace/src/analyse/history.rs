//! How each stack's outstanding bytes developed, in bounded memory.

use std::collections::HashMap;

use crate::model::{Snapshot, StackId};

/// The most samples that are kept; when there are more, every second is dropped, so that the
/// whole trace stays in view at half the resolution.
const MOST_SAMPLES: usize = 64;

/// Outstanding bytes over time, for each stack.
#[derive(Clone, Debug, Default)]
pub struct History {
    times_s: Vec<f64>,
    outstanding: HashMap<StackId, Vec<u64>>,
    /// Only every how many-th sample is kept, and how many were left out since the last.
    keep_every: usize,
    left_out: usize,
}

impl History {
    /// Adds a snapshot. `last` is kept whatever its turn: it is what the report says.
    pub fn add(&mut self, snapshot: &Snapshot, last: bool) {
        self.left_out += 1;
        if !last && self.left_out < self.keep_every {
            return;
        }
        self.left_out = 0;
        for (id, totals) in &snapshot.stacks {
            let series = self.outstanding.entry(*id).or_default();
            // A stack that is new had nothing outstanding before.
            series.resize(self.times_s.len(), 0);
            series.push(totals.outstanding_bytes());
        }
        self.times_s.push(snapshot.at_s);
        let samples = self.times_s.len();
        self.outstanding.retain(|_, series| series.len() == samples);
        if samples >= MOST_SAMPLES {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.keep_every = self.keep_every.max(1) * 2;
        thin(&mut self.times_s);
        self.outstanding.values_mut().for_each(thin);
    }

    /// Outstanding bytes of these stacks together at each sample, as (seconds, bytes); empty if
    /// none of them is known.
    pub fn series(&self, ids: &[StackId]) -> Vec<(f64, f64)> {
        let mut sums = Vec::new();
        for series in ids.iter().filter_map(|id| self.outstanding.get(id)) {
            sums.resize(series.len(), 0.0);
            for (sum, bytes) in sums.iter_mut().zip(series) {
                *sum += *bytes as f64;
            }
        }
        self.times_s.iter().copied().zip(sums).collect()
    }

    /// How many samples there are.
    pub fn samples(&self) -> usize {
        self.times_s.len()
    }
}

/// Drops every second entry, counted from the end: the latest stays.
fn thin<T>(series: &mut Vec<T>) {
    let parity = series.len() % 2;
    let mut index = 0;
    series.retain(|_| {
        index += 1;
        index % 2 == parity
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Totals;

    fn snapshot(at_s: f64, stacks: &[(u64, u64)]) -> Snapshot {
        let totals =
            |bytes| Totals { allocated_bytes: bytes, allocated_blocks: 1, ..Totals::default() };
        Snapshot {
            at_s,
            stacks: stacks.iter().map(|(id, bytes)| (StackId(*id), totals(*bytes))).collect(),
        }
    }

    #[test]
    fn a_late_stack_starts_at_nothing() {
        let mut history = History::default();
        history.add(&snapshot(1.0, &[(1, 10)]), false);
        history.add(&snapshot(2.0, &[(1, 20), (2, 7)]), false);
        assert_eq!(history.series(&[StackId(1)]), [(1.0, 10.0), (2.0, 20.0)]);
        assert_eq!(history.series(&[StackId(2)]), [(1.0, 0.0), (2.0, 7.0)]);
        assert_eq!(history.series(&[StackId(1), StackId(2)]), [(1.0, 10.0), (2.0, 27.0)]);
        assert_eq!(history.series(&[StackId(3)]), []);
    }

    #[test]
    fn a_long_trace_keeps_its_length_and_its_end_at_less_resolution() {
        let mut history = History::default();
        for second in 0..10_000u64 {
            history.add(&snapshot(second as f64, &[(1, second)]), false);
        }
        history.add(&snapshot(10_000.0, &[(1, 10_000)]), true);
        let series = history.series(&[StackId(1)]);
        assert!(history.samples() <= MOST_SAMPLES, "{}", history.samples());
        assert!(series.first().unwrap().0 < 600.0, "the beginning is in view: {series:?}");
        assert_eq!(series.last(), Some(&(10_000.0, 10_000.0)));
        assert!(series.iter().all(|(time, bytes)| time == bytes));
    }
}
