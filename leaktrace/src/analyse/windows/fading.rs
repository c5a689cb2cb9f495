//! How many of the blocks that nothing speaks against are dead all the same?
//!
//! A free is only seen in a window. If, of a stack's blocks from earlier windows, one in a hundred
//! is freed in a window that is a hundredth of the time, then as good as all of them die in that
//! time. What leaks is never freed, in no window, and does not fade at all.

/// Ages are counted in looks; each bin is as long as all before it.
const BINS: usize = 10;

/// How a stack's blocks go, by their age.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fading {
    at_risk: [f64; BINS],
    /// Deaths, those between windows included by the weight of the windows.
    gone: [f64; BINS],
}

impl Fading {
    /// A cohort was looked at for the `looks`-th time: so many blocks there were at the look
    /// before, and for each that went since, `weight` went in all.
    pub(super) fn saw(&mut self, looks: u32, before: u64, gone: u64, weight: f64) {
        let bin = bin_of(looks);
        if let (Some(at_risk), Some(sum)) = (self.at_risk.get_mut(bin), self.gone.get_mut(bin)) {
            *at_risk += before as f64;
            *sum += gone as f64 * weight;
        }
    }

    /// The share that is live of what is presumed live after so many looks.
    pub(super) fn live(&self, looks: u32) -> f64 {
        let mut hazard = 0.0;
        for (bin, (at_risk, gone)) in self.at_risk.iter().zip(&self.gone).enumerate() {
            let from = (1u32 << bin).min(looks);
            let to =
                if bin + 1 == BINS { looks } else { (2u32 << bin).saturating_sub(1).min(looks) };
            // The first look only says what there was at the beginning.
            let looked = f64::from((to + 1).saturating_sub(from.max(2)));
            if *at_risk > 0.0 && from < 1 << (bin + 1) && looks >= 1 << bin {
                hazard += looked * gone / at_risk;
            }
        }
        (-hazard).exp()
    }
}

fn bin_of(looks: u32) -> usize {
    (looks.max(1).ilog2() as usize).min(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_freed_does_not_fade() {
        let mut fading = Fading::default();
        (2..40).for_each(|look| fading.saw(look, 100, 0, 50.0));
        assert_eq!(fading.live(40), 1.0);
    }

    #[test]
    fn a_free_in_a_window_stands_for_those_between_windows() {
        let mut fading = Fading::default();
        (2..40).for_each(|look| fading.saw(look, 1000, 1, 50.0));
        assert!((fading.live(21) - (-20.0f64 * 0.05).exp()).abs() < 1e-9, "{}", fading.live(21));
        assert_eq!(fading.live(1), 1.0);
    }

    #[test]
    fn what_goes_young_and_stays_when_old_is_told_apart() {
        let mut fading = Fading::default();
        fading.saw(2, 100, 10, 5.0);
        fading.saw(3, 100, 10, 5.0);
        (4..500).for_each(|look| fading.saw(look, 80, 0, 5.0));
        assert!((fading.live(500) - (-1.0f64).exp()).abs() < 1e-9, "{}", fading.live(500));
    }
}
