//! What things cost, in time: one linear model of an engine's step and of a hand-off.
//!
//! ```text
//! step     = step_us (when something decodes) + decode_us * decodes + prefill_us * prompt tokens
//! hand-off = handoff_us + handoff_us_per_token * tokens          (without the decode step that follows it)
//! ```
//! Small on purpose: it ranks engines, so a bias that all engines share does no harm, and five numbers can be learned while serving.

use serde::{Deserialize, Serialize};

use dualpool_types::Micros;

/// All figures in microseconds. The defaults are a 135M-parameter model on one x86 core; the router fits them to what it observes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CostModel {
    /// One prompt token.
    pub prefill_us: f64,
    /// The part of a step that does not depend on its size, paid when the step decodes anything.
    pub step_us: f64,
    /// One more request decoding in a step.
    pub decode_us: f64,
    /// From the last output of the prefill leg to the decode leg being ready for a step, without the bytes.
    pub handoff_us: f64,
    /// One more token of KV to copy.
    pub handoff_us_per_token: f64,
}

impl Default for CostModel {
    fn default() -> Self {
        CostModel { prefill_us: 690.0, step_us: 14_200.0, decode_us: 850.0, handoff_us: 6_000.0, handoff_us_per_token: 4.0 }
    }
}

/// How far one observation moves the model towards itself.
const LEARNING_RATE: f64 = 0.05;
/// An observation is taken to be at most this far off the prediction, as a share of it: a page fault is not a trend.
const SURPRISE_MAX: f64 = 0.5;
/// ... or by this much, so that a model set to zero can still learn.
const SURPRISE_MIN_US: f64 = 100.0;
/// A step of this many decodes, and of this many prompt tokens, weighs as much in the fit as the constant term does.
const DECODES_UNIT: f64 = 16.0;
const PROMPT_UNIT: f64 = 64.0;

impl CostModel {
    /// One step that computes `prompt_tokens` beside `decodes` requests.
    pub fn step(&self, prompt_tokens: f64, decodes: f64) -> f64 {
        let fixed = if decodes > 0.0 { self.step_us } else { 0.0 };
        fixed + self.decode_us * decodes + self.prefill_us * prompt_tokens
    }

    /// Computing `prompt_tokens` in chunks of `chunk`, while `decodes` requests go on decoding in the same steps.
    pub fn prefill(&self, prompt_tokens: f64, chunk: f64, decodes: f64) -> f64 {
        let steps = (prompt_tokens / chunk.max(1.0)).ceil();
        steps * self.step(0.0, decodes) + prompt_tokens * self.prefill_us
    }

    /// An idle engine's time to the first token of a prompt.
    pub fn alone(&self, prompt_tokens: f64) -> f64 {
        self.step_us + self.prefill_us * prompt_tokens
    }

    /// Tokens that a step of a decoding engine may process so that it takes about `step_max`; at least 1. All count as prompt tokens,
    /// for how many decodes there will be is not known here: look on both sides of this for what an ITL objective needs.
    pub fn batched_tokens_within(&self, step_max: Micros) -> u32 {
        let per_token = self.prefill_us.max(f64::MIN_POSITIVE);
        ((step_max.0 as f64 - self.step_us) / per_token).max(1.0) as u32
    }

    /// Learns from a step that took `took` (normalised least mean squares, so no history is kept and no direction that was not
    /// exercised is touched).
    pub fn observe_step(&mut self, took: Micros, prompt_tokens: f64, decodes: f64) {
        let features = [if decodes > 0.0 { 1.0 } else { 0.0 }, decodes / DECODES_UNIT, prompt_tokens / PROMPT_UNIT];
        let norm: f64 = features.iter().map(|x| x * x).sum();
        let expected = self.step(prompt_tokens, decodes);
        if norm == 0.0 || took == Micros::ZERO || !expected.is_finite() {
            return;
        }
        let error = surprise(took.0 as f64, expected);
        let shift = |feature: f64| LEARNING_RATE * error * feature / norm;
        self.step_us = (self.step_us + shift(features[0])).max(0.0);
        self.decode_us = (self.decode_us + shift(features[1]) / DECODES_UNIT).max(0.0);
        self.prefill_us = (self.prefill_us + shift(features[2]) / PROMPT_UNIT).max(0.0);
    }

    /// Learns from a hand-off: `copy` is the mover's part of the `total`, for `tokens` (0 when nothing had to be copied), and
    /// `joining` is what the steps until the next token were predicted to take.
    pub fn observe_handoff(&mut self, tokens: u32, copy: Micros, total: Micros, joining: f64) {
        if !joining.is_finite() {
            return;
        }
        if tokens > 0 {
            let expected = self.handoff_us_per_token * f64::from(tokens);
            let shift = LEARNING_RATE * surprise(copy.0 as f64, expected) / f64::from(tokens);
            self.handoff_us_per_token = (self.handoff_us_per_token + shift).max(0.0);
        }
        let rest = total.0 as f64 - copy.0 as f64 - joining;
        self.handoff_us = (self.handoff_us + LEARNING_RATE * surprise(rest, self.handoff_us)).max(0.0);
    }

    /// The same model without what could spoil a score: every figure finite and not negative, others as by default.
    pub fn sanitised(self) -> CostModel {
        let default = CostModel::default();
        let pick = |value: f64, default: f64| if value.is_finite() && value >= 0.0 { value } else { default };
        CostModel {
            prefill_us: pick(self.prefill_us, default.prefill_us),
            step_us: pick(self.step_us, default.step_us),
            decode_us: pick(self.decode_us, default.decode_us),
            handoff_us: pick(self.handoff_us, default.handoff_us),
            handoff_us_per_token: pick(self.handoff_us_per_token, default.handoff_us_per_token),
        }
    }
}

/// How far an observation is off, as far as it is believed.
fn surprise(observed: f64, expected: f64) -> f64 {
    let bound = (expected * SURPRISE_MAX).max(SURPRISE_MIN_US);
    (observed - expected).clamp(-bound, bound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng as _;

    #[test]
    fn learns_an_engine_twenty_times_faster() {
        let truth = CostModel { prefill_us: 30.0, step_us: 900.0, decode_us: 40.0, ..CostModel::default() };
        let (mut model, mut rng) = (CostModel::default(), dualpool_types::seeded(7, "steps"));
        for _ in 0..5_000 {
            let decodes = f64::from(rng.random_range(0..48u32));
            let prompt = if rng.random_bool(0.3) { f64::from(rng.random_range(32..512u32)) } else { 0.0 };
            model.observe_step(Micros(truth.step(prompt, decodes) as u64), prompt, decodes);
        }
        for (learnt, true_value) in
            [(model.prefill_us, truth.prefill_us), (model.step_us, truth.step_us), (model.decode_us, truth.decode_us)]
        {
            assert!((learnt / true_value - 1.0).abs() < 0.1, "learnt {learnt}, true {true_value}");
        }
    }

    #[test]
    fn one_stall_hardly_moves_the_model() {
        let mut model = CostModel::default();
        model.observe_step(Micros(60_000_000), 0.0, 16.0);
        let (before, after) = (CostModel::default().step(0.0, 16.0), model.step(0.0, 16.0));
        assert!(after > before && after < before * 1.05, "{before} -> {after}");
    }

    #[test]
    fn learns_what_a_handoff_costs_beside_the_steps_around_it() {
        let (mut model, joining) = (CostModel::default(), 40_000.0);
        for _ in 0..2_000 {
            model.observe_handoff(1_000, Micros(12_000), Micros(12_000 + 2_500 + joining as u64), joining);
        }
        assert!((model.handoff_us - 2_500.0).abs() < 50.0 && (model.handoff_us_per_token - 12.0).abs() < 0.1, "{model:?}");
    }

    #[test]
    fn one_stalled_handoff_hardly_moves_the_model_and_a_cached_one_says_nothing_of_copies() {
        let before = CostModel::default();
        let mut model = before;
        model.observe_handoff(1_000, Micros(60_000_000), Micros(120_000_000), 20_000.0);
        let handoff = |model: &CostModel| model.handoff_us + 1_000.0 * model.handoff_us_per_token;
        assert!(handoff(&model) > handoff(&before) && handoff(&model) < handoff(&before) * 1.05, "{model:?}");
        let mut model = before;
        model.observe_handoff(0, Micros::ZERO, Micros(26_000), 20_000.0);
        assert_eq!(model, before, "as long as predicted, and without a copy");
    }

    #[test]
    fn impossible_figures_fall_back_to_the_defaults() {
        let spoiled = CostModel { prefill_us: f64::NAN, decode_us: -1.0, step_us: f64::INFINITY, ..CostModel::default() };
        assert_eq!(spoiled.sanitised(), CostModel::default());
    }

    #[test]
    fn a_step_can_be_sized_for_an_objective() {
        let model = CostModel::default();
        let tokens = model.batched_tokens_within(Micros::from_ms(45.0));
        assert_eq!(tokens, 44);
        assert!((model.step(f64::from(tokens), 1.0) - model.decode_us) <= 45_000.0);
        assert_eq!(model.batched_tokens_within(Micros::from_ms(1.0)), 1, "no step is that short");
    }

    #[test]
    fn a_calibration_can_be_stored() {
        let model = CostModel { prefill_us: 12.5, ..CostModel::default() };
        assert_eq!(serde_json::from_str::<CostModel>(&serde_json::to_string(&model).unwrap()).unwrap(), model);
    }
}
