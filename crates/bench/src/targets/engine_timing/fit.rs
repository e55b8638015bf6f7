//! From recorded steps to the timing of virtual engines:
//!
//! ```text
//! step = step_us + decode_step_us (when something decodes) + decode_us * decodes + context_us * context
//!      + prefill_us * prompt tokens + attention_us * attention          none of them negative
//! ```

use dualpool_model::{StepWork, Timing};

use super::trace::TracedStep;
use crate::fit::{self, Point};

/// Steps of one kind that take part in the fit, at most: engines make thousands of the commonest kind, and it must not drown the rest.
const OF_A_KIND_MAX: usize = 24;
/// Context and attention are fitted in units of this many tokens, so that the sums stay of one size.
const CONTEXT_UNIT: f64 = 1e3;
const ATTENTION_UNIT: f64 = 1e5;

/// None when there are no steps to fit to.
pub(super) fn fit(steps: &[TracedStep]) -> Option<Timing> {
    let points: Vec<Point<6>> = spread(steps).into_iter().map(point).collect();
    let [step_us, decode_step_us, decode_us, context, prefill_us, attention] = fit::fit(&points)?;
    Some(Timing {
        step_us,
        decode_step_us,
        decode_us,
        prefill_us,
        context_us: context / CONTEXT_UNIT,
        attention_us: attention / ATTENTION_UNIT,
        ..Timing::default()
    })
}

/// Shares by which the timing is off, ascending; over as many steps of each kind as the fit looks at.
pub(super) fn errors(timing: &Timing, steps: &[TracedStep]) -> Vec<f64> {
    let off = |step: &TracedStep| (timing.step(&step.work).0 as f64 / step.took_us - 1.0).abs();
    let mut errors: Vec<f64> = spread(steps).into_iter().filter(|step| step.took_us > 0.0).map(off).collect();
    errors.sort_by(f64::total_cmp);
    errors
}

fn point(step: &TracedStep) -> Point<6> {
    let StepWork { prompt_tokens, decodes, context, attention } = step.work;
    let decoding = if decodes > 0 { 1.0 } else { 0.0 };
    let (context, attention) = (context as f64 / CONTEXT_UNIT, attention as f64 / ATTENTION_UNIT);
    ([1.0, decoding, decodes.into(), context, prompt_tokens.into(), attention], step.took_us)
}

/// Some steps of every kind: those whose sizes have the same powers of two, evenly taken from all that there are.
fn spread(steps: &[TracedStep]) -> Vec<&TracedStep> {
    let size = |n: u64| n.checked_ilog2().map_or(0, |log| log + 1);
    let kind = |step: &TracedStep| {
        let StepWork { prompt_tokens, decodes, context, attention } = step.work;
        (size(prompt_tokens.into()), size(decodes.into()), size(context), size(attention))
    };
    let mut steps: Vec<&TracedStep> = steps.iter().collect();
    // Stable: within a kind the steps stay in the order of time.
    steps.sort_by_key(|step| kind(step));
    let kinds = steps.chunk_by(|a, b| kind(a) == kind(b));
    kinds.flat_map(|alike| alike.iter().step_by(alike.len().div_ceil(OF_A_KIND_MAX)).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng as _;

    #[test]
    fn finds_the_engine_behind_its_steps() {
        let truth = Timing {
            step_us: 2_000.0,
            decode_step_us: 9_000.0,
            decode_us: 500.0,
            prefill_us: 400.0,
            context_us: 0.4,
            attention_us: 0.05,
            ..Timing::default()
        };
        let mut rng = dualpool_types::seeded(5, "steps");
        let mut step = |_| {
            let decodes = if rng.random_bool(0.8) { rng.random_range(0..48u32) } else { 0 };
            let prompt_tokens = if decodes == 0 || rng.random_bool(0.3) { rng.random_range(1..2048u32) } else { 0 };
            let before = rng.random_range(0..2048u64);
            let context = u64::from(decodes) * rng.random_range(16..3000u64);
            let attention = u64::from(prompt_tokens) * (before + u64::from(prompt_tokens) / 2);
            let work = StepWork { prompt_tokens, decodes, context, attention };
            let stall = if rng.random_bool(0.03) { 5.0 } else { 1.0 };
            TracedStep { work, took_us: truth.step(&work).0 as f64 * rng.random_range(0.95..1.05) * stall }
        };
        let steps: Vec<TracedStep> = (0..20_000).map(&mut step).collect();
        let found = fit(&steps).unwrap();
        for (found, made) in [
            (found.decode_us, truth.decode_us),
            (found.prefill_us, truth.prefill_us),
            (found.context_us, truth.context_us),
            (found.attention_us, truth.attention_us),
            (found.step_us + found.decode_step_us, truth.step_us + truth.decode_step_us),
        ] {
            assert!((found / made - 1.0).abs() < 0.1, "{found} for {made}: {found:?}");
        }
        let errors = errors(&found, &steps);
        assert!(errors[errors.len() / 2] < 0.05, "{}", errors[errors.len() / 2]);
    }

    #[test]
    fn the_commonest_kind_of_step_does_not_drown_the_rest() {
        let of = |prompt_tokens, decodes, took_us| {
            let work = StepWork { prompt_tokens, decodes, context: u64::from(decodes) * 64, attention: 0 };
            TracedStep { work, took_us }
        };
        let mut steps = vec![of(0, 4, 15_000.0); 10_000];
        steps.extend(vec![of(1024, 0, 700_000.0); 5]);
        let chosen = spread(&steps);
        assert_eq!(chosen.iter().filter(|step| step.work.prompt_tokens > 0).count(), 5);
        assert!(chosen.len() <= 5 + OF_A_KIND_MAX);
        assert_eq!(fit(&[]), None);
    }
}
