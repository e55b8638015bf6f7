//! The paired hierarchical bootstrap: draws repetitions with replacement, then within each drawn one its requests, and hands every
//! arm the same draw. What moved all arms alike (a noisy minute, a hard workload) then cancels in their ratio.
//!
//! Requests are drawn within their class and wave: the mix is fixed by design, so its share of long prompts is not left to chance.

use std::collections::BTreeMap;

use rand::Rng as _;

use dualpool_types::{Class, Rng, Wave};

/// Requests that are drawn among each other.
pub(super) type Stratum = (Class, Option<Wave>);

/// The requests of a benchmark, as the bootstrap sees them: the strata of the requests of each repetition, by index.
#[derive(Clone, Debug)]
pub(super) struct Population {
    /// For each repetition, the slots of each stratum.
    strata: Vec<Vec<Vec<u32>>>,
    slots: usize,
}

impl Population {
    /// `requests[repetition][index]`. A request's slot is its place in the concatenation of all repetitions.
    pub(super) fn new(requests: &[Vec<Stratum>]) -> Population {
        let mut slots = 0u32;
        let strata = requests
            .iter()
            .map(|repetition| {
                let mut strata: BTreeMap<Stratum, Vec<u32>> = BTreeMap::new();
                for stratum in repetition {
                    strata.entry(*stratum).or_default().push(slots);
                    slots += 1;
                }
                strata.into_values().collect()
            })
            .collect();
        Population { strata, slots: slots as usize }
    }

    /// Everything once: the draw that gives the figures themselves.
    pub(super) fn once(&self) -> Draw {
        Draw { slots: vec![1; self.slots] }
    }

    /// Refills `draw` with a random one.
    pub(super) fn redraw(&self, draw: &mut Draw, rng: &mut Rng) {
        draw.slots.fill(0);
        for _ in 0..self.strata.len() {
            let repetition = rng.random_range(0..self.strata.len());
            for stratum in &self.strata[repetition] {
                for _ in 0..stratum.len() {
                    draw.slots[stratum[rng.random_range(0..stratum.len())] as usize] += 1;
                }
            }
        }
    }
}

/// How often each request was drawn, by slot.
#[derive(Clone, Debug)]
pub(super) struct Draw {
    pub slots: Vec<u32>,
}

/// Values with the slots they belong to, sorted once, so that a quantile under any draw is one walk along them.
#[derive(Clone, Debug, Default)]
pub(super) struct Sorted {
    values: Vec<f64>,
    slots: Vec<u32>,
    /// Values per slot.
    per_slot: Vec<u32>,
}

impl Sorted {
    pub(super) fn new(mut pairs: Vec<(f64, u32)>, slots: usize) -> Sorted {
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut per_slot = vec![0; slots];
        for (_, slot) in &pairs {
            per_slot[*slot as usize] += 1;
        }
        let (values, slots) = pairs.into_iter().unzip();
        Sorted { values, slots, per_slot }
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Takes the nearest-rank quantile of the drawn values for each of the shares, which are in rising order, by its place among them.
    /// None are taken where nothing was drawn.
    pub(super) fn quantiles(&self, draw: &Draw, shares: &[f64], mut take: impl FnMut(usize, f64)) {
        let total: u64 = self.per_slot.iter().zip(&draw.slots).map(|(n, w)| u64::from(*n) * u64::from(*w)).sum();
        let mut next = 0;
        let mut seen = 0u64;
        for (value, slot) in self.values.iter().zip(&self.slots) {
            seen += u64::from(draw.slots[*slot as usize]);
            while next < shares.len() && seen > 0 && seen >= rank(shares[next], total) {
                take(next, *value);
                next += 1;
            }
            if next == shares.len() {
                break;
            }
        }
    }
}

fn rank(share: f64, total: u64) -> u64 {
    ((share * total as f64).ceil() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_report::measure::{quantile, sorted};
    use dualpool_types::seeded;
    use proptest::prelude::*;

    fn population() -> Population {
        let repetition =
            |longs: usize, shorts: usize| [vec![(Class::Long, None); longs], vec![(Class::Short, None); shorts]].concat();
        Population::new(&[repetition(2, 5), repetition(2, 5), repetition(2, 5)])
    }

    #[test]
    fn a_draw_keeps_the_mix() {
        let population = population();
        let mut draw = population.once();
        let mut rng = seeded(1, "test");
        for _ in 0..100 {
            population.redraw(&mut draw, &mut rng);
            // Each repetition is drawn n times as a whole: 2n long and 5n short requests of it.
            let drawn: Vec<(u32, u32)> =
                draw.slots.chunks(7).map(|slots| (slots[..2].iter().sum(), slots[2..].iter().sum())).collect();
            assert!(drawn.iter().all(|(longs, shorts)| longs * 5 == shorts * 2), "{drawn:?}");
            assert_eq!(drawn.iter().map(|(longs, shorts)| longs + shorts).sum::<u32>(), 21);
        }
    }

    fn quantiles<const N: usize>(values: Vec<(f64, u32)>, slots: usize, draw: &Draw, shares: [f64; N]) -> [Option<f64>; N] {
        let mut found = [None; N];
        Sorted::new(values, slots).quantiles(draw, &shares, |i, value| found[i] = Some(value));
        found
    }

    #[test]
    fn nothing_drawn_has_no_quantile() {
        let draw = Draw { slots: vec![0, 1] };
        assert_eq!(quantiles(vec![(3.0, 0)], 2, &draw, [0.5]), [None]);
        assert_eq!(quantiles(vec![], 2, &draw, [0.5]), [None]);
    }

    proptest! {
        /// The walk along weights gives what writing every drawn value out and taking the plain quantile gives.
        #[test]
        fn quantiles_equal_those_of_the_values_written_out(
            values in prop::collection::vec((-10.0..10.0f64, 0..6u32), 1..60),
            slots in prop::collection::vec(0..4u32, 6),
        ) {
            let draw = Draw { slots };
            let written_out =
                sorted(values.iter().flat_map(|(v, s)| std::iter::repeat_n(*v, draw.slots[*s as usize] as usize)));
            let shares = [0.0, 0.5, 0.95, 0.99, 1.0];
            let expected = shares.map(|q| quantile(&written_out, q));
            prop_assert_eq!(quantiles(values, 6, &draw, shares), expected);
        }
    }
}
