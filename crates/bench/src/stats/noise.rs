//! What identical arms make of the rule of verdicts on this machine.
//!
//! The two arms of a pair are the same, so each repetition's differences could as well have had the other sign. Runs are drawn from the
//! repetitions that were measured, without replacement and with signs at random, and judged as runs are: the share of them in which any planned
//! comparison is called different is what the rule gets wrong here, whatever the noise of this machine is like.

use rand::Rng as _;
use rand::seq::SliceRandom as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_report::metric::{Metric, Unit};
use dualpool_types::arm::control_of;
use dualpool_types::artifact::RunInfo;
use dualpool_types::records::RequestRecord;
use dualpool_types::seeded;

use super::compare::{Arm, PLANNED, apart};
use super::estimate::Estimate;
use super::looks::{ERROR, looks_within, seen_at};
use super::summary::arms_of;

/// The runs that are drawn, and their repetitions at most.
const DRAWN: u32 = 2_000;
const DRAWN_REPETITIONS: usize = 12;

/// The numbers of repetitions for which the smallest visible effect is stated.
const VISIBLE_AFTER: [u32; 3] = [6, 12, 24];

/// How much identical arms differ from repetition to repetition, and what the rule of verdicts makes of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoiseFigures {
    /// The paired repetitions that count.
    pub repetitions: u32,
    /// The runs that were drawn from them, and the repetitions of each.
    pub drawn: u32,
    /// The repetitions of a run that was drawn.
    pub drawn_repetitions: u32,
    /// The share of these runs in which any planned comparison was called different, 0 to 1. The rule allows 0.05.
    pub wrong_share: f64,
    /// The planned metrics.
    pub metrics: Vec<MetricNoise>,
}

/// What one metric of identical arms does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricNoise {
    /// The metric, as in `summary.json`.
    pub metric: String,
    /// The repetitions in which both arms have a value.
    pub repetitions: u32,
    /// The standard deviation of one repetition's difference: of the logarithm of the ratio, or of the difference of shares.
    pub scatter: Option<f64>,
    /// The smallest effects that runs show in four of five cases.
    pub visible: Vec<Visible>,
}

/// The smallest effect that a run of so many repetitions shows in four of five cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Visible {
    /// The repetitions of the run.
    pub repetitions: u32,
    /// A ratio over 1, or a difference of shares.
    pub effect: f64,
}

/// From the records of an arm and its control. None where the run has no such pair, or not two repetitions of it.
pub fn noise(run: &RunInfo, requests: &[RequestRecord]) -> Option<NoiseFigures> {
    let arms = arms_of(run, requests);
    let (arm, control) = arms.iter().find_map(|arm| Some((arm, arms.iter().find(|other| other.name == control_of(arm.name))?)))?;
    let values = PLANNED.map(|metric| differences(&metric, arm, control));
    let repetitions = arm.repetitions.len();
    if repetitions < 2 {
        return None;
    }
    let drawn_repetitions = repetitions.min(DRAWN_REPETITIONS);
    let mut rng = seeded(0, "noise");
    let wrong = (0..DRAWN).filter(|_| {
        let mut order: Vec<usize> = (0..repetitions).collect();
        order.shuffle(&mut rng);
        order.truncate(drawn_repetitions);
        let signs: Vec<f64> = order.iter().map(|_| if rng.random() { 1.0 } else { -1.0 }).collect();
        let drawn = values.each_ref().map(|values| {
            let signed = order.iter().zip(&signs).map(|(&at, sign)| values[at].map(|value| value * sign));
            signed.collect::<Vec<Option<f64>>>()
        });
        any_called_different(&drawn)
    });
    let wrong_share = wrong.count() as f64 / f64::from(DRAWN);
    let metrics = PLANNED.iter().zip(&values).map(|(metric, values)| metric_noise(metric, values)).collect();
    Some(NoiseFigures {
        repetitions: repetitions as u32,
        drawn: DRAWN,
        drawn_repetitions: drawn_repetitions as u32,
        wrong_share,
        metrics,
    })
}

fn differences(metric: &Metric, arm: &Arm<'_>, control: &Arm<'_>) -> Vec<Option<f64>> {
    let pairs = arm.values(metric).into_iter().zip(control.values(metric));
    pairs.map(|(one, other)| apart(metric, one?, other?)).collect()
}

/// Whether a look at these repetitions, one value per planned metric in each, calls anything different.
fn any_called_different(values: &[Vec<Option<f64>>]) -> bool {
    let all = values.first().map_or(0, Vec::len) as u32;
    let p_value = |values: &Vec<Option<f64>>, look: u32| {
        let measured: Vec<f64> = values.iter().take(look as usize).flatten().copied().collect();
        Estimate::of(&measured).map_or(1.0, |estimate| estimate.p_value())
    };
    let p_values = |look: u32| values.iter().map(|values| p_value(values, look)).collect();
    seen_at(looks_within(all), p_values).any(|(_, different)| different.contains(&true))
}

fn metric_noise(metric: &Metric, values: &[Option<f64>]) -> MetricNoise {
    let measured: Vec<f64> = values.iter().flatten().copied().collect();
    // Of identical arms the mean is known: 0.
    let scatter = (measured.len() >= 2).then(|| (measured.iter().map(|v| v * v).sum::<f64>() / measured.len() as f64).sqrt());
    let written = |effect: f64| if metric.unit == Unit::Share { effect } else { effect.exp() };
    let visible = |scatter: f64| {
        VISIBLE_AFTER.into_iter().filter_map(move |repetitions| {
            Some(Visible { repetitions, effect: written(Estimate::scattered(scatter, repetitions)?.visible(ERROR)) })
        })
    };
    MetricNoise {
        metric: metric.key.to_string(),
        repetitions: measured.len() as u32,
        scatter,
        visible: scatter.into_iter().flat_map(visible).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::synthetic;
    use dualpool_types::artifact::Environment;

    fn run(names: &[&str]) -> RunInfo {
        let environment = Environment {
            dualpool: String::new(),
            backend: String::new(),
            model: String::new(),
            dtype: String::new(),
            os: String::new(),
            cpu: String::new(),
            cores: None,
            memory_bytes: None,
            gpus: vec![],
            engines: vec![],
        };
        let arms = names.iter().map(|name| dualpool_types::Arrangement {
            name: name.to_string(),
            policy: dualpool_types::PolicyKind::LeastLoad,
            roles: vec![],
            tunings: vec![],
            long_prompt_tokens_min: 256,
        });
        RunInfo { arms: arms.collect(), ..RunInfo::begun("noise", "id", "2026-01-05T10:30:00Z", environment) }
    }

    #[test]
    fn the_rule_holds_on_noise_of_any_size_and_little_noise_shows_more() {
        let figures = |runs_differ_by: f64| {
            let queue = |name, seed| synthetic::queue(name, 20, 36, 0.4, runs_differ_by, seed);
            let records = [queue("shared_least_load", 1), queue("shared_least_load_control", 2)].concat();
            noise(&run(&["shared_least_load", "shared_least_load_control"]), &records).unwrap()
        };
        let (quiet, loud) = (figures(0.02), figures(0.3));
        assert!(quiet.wrong_share <= 0.05 && loud.wrong_share <= 0.05, "{quiet:?} {loud:?}");
        let ttft = |figures: &NoiseFigures| figures.metrics.iter().find(|of| of.metric == "ttft_ms.short.p95").unwrap().clone();
        let [after_6, after_12, after_24] = ttft(&quiet).visible.try_into().unwrap();
        assert!(after_6.effect > after_12.effect && after_12.effect > after_24.effect && after_24.effect > 1.0);
        assert!(ttft(&loud).visible[1].effect > 1.5 * (after_12.effect - 1.0) + 1.0, "{quiet:?} {loud:?}");
    }

    #[test]
    fn a_run_without_a_control_says_nothing_of_noise() {
        assert_eq!(noise(&run(&["dual_pool"]), &synthetic::arm("dual_pool", 8, 36, 1.0)), None);
    }
}
