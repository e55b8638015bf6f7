//! What lies beyond a quantile: by few requests there, no verdict on it can be had, and how many there are is a matter of repetitions.

use std::collections::BTreeSet;

use dualpool_types::Micros;
use dualpool_types::artifact::{Comparison, Verdict};
use dualpool_types::records::RequestRecord;

use super::arms::Arm;
use super::choose::REPETITIONS_MIN;
use super::measure::{quantile, sorted};
use super::metric::{Metric, Series, Taken};
use super::verdicts::label;

/// A verdict on a quantile takes so many requests beyond it (engine steps, for gaps between tokens), from so many repetitions.
const BEYOND_MIN: usize = 10;
const BEYOND_REPETITIONS_MIN: usize = 3;

/// Of one arm and one quantile.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Beyond {
    /// Values beyond the quantile, in all repetitions together.
    values: f64,
    /// Engine steps that they come from; none where each is of a request of its own.
    steps: Option<usize>,
    /// Repetitions that have a value.
    repetitions: usize,
}

impl Beyond {
    /// None of what is no quantile.
    pub fn of(metric: &Metric, repetitions: &[Vec<&RequestRecord>]) -> Option<Beyond> {
        let Taken::Quantile(series, q) = metric.taken else { return None };
        let mut beyond = Beyond { steps: (series == Series::Itl).then_some(0), ..Beyond::default() };
        for requests in repetitions {
            let values = sorted(requests.iter().flat_map(|request| series.of(request)));
            let Some(at) = quantile(&values, q) else { continue };
            beyond.repetitions += 1;
            beyond.values += values.len() as f64 * (1.0 - q);
            if let Some(steps) = &mut beyond.steps {
                // Requests that get a token at the same moment get it from the same step.
                let gaps = requests.iter().flat_map(|request| request.token_us.windows(2));
                let ends = gaps.filter(|gap| (gap[1] - gap[0]).as_ms() >= at).map(|gap| gap[1]);
                *steps += ends.collect::<BTreeSet<Micros>>().len();
            }
        }
        Some(beyond)
    }

    /// Whether it is enough to tell the quantile by.
    pub fn suffices(&self) -> bool {
        // Half of a value: what 200 times 0.05 is short of 10 in binary does not count.
        let values = self.values.round() as usize >= BEYOND_MIN;
        values && self.steps.is_none_or(|steps| steps >= BEYOND_MIN) && self.repetitions >= BEYOND_REPETITIONS_MIN
    }

    /// After how many repetitions like these it is enough; none where they have nothing.
    fn repetitions_needed(&self) -> Option<u32> {
        let of = |least: f64, found: f64| (found > 0.0).then(|| (least * self.repetitions as f64 / found).ceil() as u32);
        let by_values = of(BEYOND_MIN as f64 - 0.5, self.values)?;
        let by_steps = self.steps.map_or(Some(0), |steps| of(BEYOND_MIN as f64, steps as f64))?;
        Some(by_values.max(by_steps).max(BEYOND_REPETITIONS_MIN as u32).max(REPETITIONS_MIN))
    }
}

/// What planned comparisons of quantiles lack, where there are too few values.
pub(crate) fn lacking(comparisons: &[Comparison], arms: &[Arm]) -> Vec<String> {
    let few = comparisons.iter().filter(|c| c.planned && c.verdict == Verdict::TooFew);
    few.filter_map(|c| {
        let needed = needed(c, arms)?;
        let (name, candidate, baseline) = (label(&c.metric), &c.candidate, &c.baseline);
        Some(format!("{name} of {candidate} against {baseline} cannot be judged before {needed} repetitions of this size."))
    })
    .collect()
}

/// After how many repetitions both sides have enough.
fn needed(c: &Comparison, arms: &[Arm]) -> Option<u32> {
    let metric = Metric::find(&c.metric)?;
    let sides = [&c.candidate, &c.baseline].map(|name| arms.iter().find(|arm| arm.name == name));
    let needed = sides.map(|arm| Beyond::of(metric, &repetitions(arm?))?.repetitions_needed());
    Some(needed[0]?.max(needed[1]?))
}

fn repetitions<'a>(arm: &Arm<'a>) -> Vec<Vec<&'a RequestRecord>> {
    let numbers: BTreeSet<u32> = arm.requests.iter().map(|r| r.repetition).collect();
    numbers.into_iter().map(|n| arm.requests.iter().copied().filter(|r| r.repetition == n).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arms::arms;
    use crate::{fixture, metric};

    #[test]
    fn it_suffices_after_as_many_repetitions_as_it_is_said_to_take() {
        let artifacts = fixture::by_default();
        let all = arms(&artifacts);
        let arm = all.iter().find(|arm| arm.name == "dual_pool").unwrap();
        let once = repetitions(arm).swap_remove(0);
        for metric in [metric::SHORT_TTFT_P95, metric::LONG_TTFT_P95, metric::ITL_P99] {
            let of = |n: u32| Beyond::of(&metric, &vec![once.clone(); n as usize]).unwrap();
            let needed = of(1).repetitions_needed().unwrap();
            assert!(of(needed).suffices(), "{} after {needed}", metric.key);
            assert!(needed == REPETITIONS_MIN || !of(needed - 1).suffices(), "{} before {needed}", metric.key);
        }
        // 32 short prompts in each: 1.6 beyond the 95th percentile, of which 9.5 read as 10.
        assert_eq!(Beyond::of(&metric::SHORT_TTFT_P95, std::slice::from_ref(&once)).unwrap().repetitions_needed(), Some(6));
        assert_eq!(Beyond::of(&metric::LONG_TTFT_P95, std::slice::from_ref(&once)).unwrap().repetitions_needed(), Some(48));
        assert_eq!(Beyond::of(&metric::GOODPUT, &[]), None);
        assert_eq!(Beyond::default().repetitions_needed(), None);
    }

    #[test]
    fn what_is_lacking_is_said_of_planned_comparisons_alone() {
        let mut artifacts = fixture::by_default();
        let comparisons = &mut artifacts.summary.as_mut().unwrap().comparisons;
        comparisons.iter_mut().filter(|c| c.metric == "ttft_ms.short.p95").for_each(|c| c.verdict = Verdict::TooFew);
        let summary = artifacts.summary.as_ref().unwrap();
        let said = lacking(&summary.comparisons, &arms(&artifacts));
        let expected =
            |arm: &str| format!("short TTFT p95 of {arm} against shared_tuned cannot be judged before 6 repetitions of this size.");
        assert_eq!(said, [expected("dual_pool"), expected("auto")]);
    }
}
