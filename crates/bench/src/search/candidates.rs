//! What the search tries: policies with scheduler settings, most promising first.
//!
//! The settings come from two sides. From the short prompt's length, because a step that takes a few short prompts and one slice of
//! a long one keeps both TTFT and ITL low: with 64-token prompts that is 224 tokens per step in slices of 64, a strong setting for
//! two shared engines. And from the ITL objective, because a step must not take longer than the gap it makes: the cost model, fitted
//! on these engines just before, says how many tokens that is. Shared engines and pools get the same points.
//!
//! A prefill engine mostly stays as it was started: no request decodes there, so a large step delays no token. Where short prompts
//! prefill there too, slices let them pass the long ones.
//!
//! The arms that are not tuned are all among them, as they run: what is chosen of everything must have had the chance to be any of them.
//! A grid around these points follows, for the forecast to pick from.

use dualpool_types::{Arrangement, EngineInfo, PolicyKind, Tuning};

use crate::arms::Pools;

/// Every arrangement that is looked at, the known good ones first.
pub fn candidates(pools: &Pools, engine: &EngineInfo, short_prompt_tokens: u32, step_tokens: u32) -> Vec<Arrangement> {
    let tuning = |batched, slice| tuning(engine, batched, slice);
    let short = short_prompt_tokens;
    let start = Tuning::default();
    // A slice of half the step leaves the other half to the requests that decode and to a second prompt. A slice of 0 would be no limit.
    let objective = tuning(step_tokens, short.min(step_tokens / 2).max(1));
    let within = tuning(step_tokens / 2, short.min(step_tokens / 4).max(1));
    let steady = tuning(short.saturating_mul(9) / 4, 0);
    let sliced = tuning(short.saturating_mul(4), 0);
    let balanced = tuning(short.saturating_mul(7) / 2, short);
    let tight = tuning(short.saturating_mul(2), short);
    let wide = tuning(short.saturating_mul(8), short.saturating_mul(2));

    let shared = |policy: PolicyKind, tuning| pools.shared(format!("{}{}", policy.name(), point(tuning)), policy, tuning);
    let split = |policy: PolicyKind, prefill, decode| {
        let name = format!("{} prefill{} decode{}", policy.name(), point(prefill), point(decode));
        pools.split(name, policy, prefill, decode)
    };
    let mut all = vec![
        shared(PolicyKind::Balanced, balanced),
        split(PolicyKind::DualPool, start, balanced),
        shared(PolicyKind::LeastLoad, start),
        split(PolicyKind::DualPool, sliced, objective),
        split(PolicyKind::Dedicated, start, start),
        shared(PolicyKind::Balanced, objective),
        split(PolicyKind::FullDisaggregation, start, start),
        split(PolicyKind::DualPool, sliced, steady),
        shared(PolicyKind::RoundRobin, start),
        shared(PolicyKind::Balanced, within),
        split(PolicyKind::DualPool, sliced, within),
        split(PolicyKind::DualPool, start, tight),
        shared(PolicyKind::LeastLoad, tight),
        shared(PolicyKind::Balanced, wide),
    ];
    let around = [(1, 3), (1, 2), (2, 3), (1, 1), (4, 3), (2, 1)].map(|(up, down)| step_tokens.saturating_mul(up) / down);
    for tokens in around.into_iter().chain([short.saturating_mul(3) / 2]) {
        for slice in [short, tokens / 2, tokens / 4].map(|slice| slice.min(tokens).min(short).max(1)) {
            all.push(shared(PolicyKind::Balanced, tuning(tokens, slice)));
            all.push(split(PolicyKind::DualPool, sliced, tuning(tokens, slice)));
        }
        all.push(split(PolicyKind::DualPool, start, tuning(tokens, 0)));
        all.push(split(PolicyKind::DualPool, sliced, tuning(tokens, 0)));
        all.push(shared(PolicyKind::LeastLoad, tuning(tokens, 0)));
    }
    all.push(split(PolicyKind::FullDisaggregation, sliced, start));
    let mut seen: Vec<(PolicyKind, Vec<Tuning>)> = Vec::new();
    all.retain(|a| {
        let point = (a.policy, a.tunings.clone());
        let new = !seen.contains(&point);
        seen.push(point);
        new
    });
    all
}

/// A budget that the engine was started for.
fn tuning(engine: &EngineInfo, batched: u32, slice: u32) -> Tuning {
    let ceiling = engine.max_num_batched_tokens;
    let batched = batched.clamp(1, ceiling);
    Tuning { max_num_batched_tokens: Some(batched), long_prefill_token_threshold: Some(slice.min(ceiling)) }
}

/// Such as ` 224/64`: tokens per step, tokens per slice.
fn point(tuning: Tuning) -> String {
    match (tuning.max_num_batched_tokens, tuning.long_prefill_token_threshold) {
        (Some(batched), Some(slice)) => format!(" {batched}/{slice}"),
        _ => " as started".to_string(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use dualpool_machine::PoolSettings;
    use dualpool_router::RouterSettings;
    use dualpool_types::{Arm, EngineId};

    pub(crate) fn engine(max_num_batched_tokens: u32) -> EngineInfo {
        EngineInfo {
            id: EngineId(0),
            device: "cores 0".into(),
            model: "tiny".into(),
            backend: "virtual".into(),
            max_model_len: 4608,
            vocab_size: 1000,
            block_size: 128,
            kv_blocks: 100,
            max_num_batched_tokens,
            max_num_seqs: 64,
            kv_transfer: true,
            prefix_caching: true,
            pid: None,
        }
    }

    pub(crate) fn pools() -> Pools {
        Pools::new(&PoolSettings::default(), &RouterSettings::default(), 2).expect("two default pools for two engines")
    }

    fn names(max_num_batched_tokens: u32, short: u32) -> Vec<String> {
        candidates(&pools(), &engine(max_num_batched_tokens), short, 240).into_iter().map(|a| a.name).collect()
    }

    #[test]
    fn short_prompts_of_64_tokens_give_the_known_strong_points() {
        let names = names(2048, 64);
        let known = ["balanced 224/64", "dual_pool prefill as started decode 224/64", "least_load as started"];
        for expected in known {
            assert!(names.iter().any(|n| n == expected), "{expected} is not among {names:?}");
        }
    }

    #[test]
    fn budgets_stay_within_the_start_value() {
        for short in [1, 64, 5000, u32::MAX] {
            for candidate in candidates(&pools(), &engine(2048), short, short) {
                for batched in candidate.tunings.iter().filter_map(|t| t.max_num_batched_tokens) {
                    assert!((1..=2048).contains(&batched), "{} with short prompts of {short}", candidate.name);
                }
            }
        }
    }

    #[test]
    fn every_arm_that_is_not_tuned_is_among_them() {
        let tried = candidates(&pools(), &engine(2048), 64, 240);
        for arm in [Arm::SharedRoundRobin, Arm::SharedLeastLoad, Arm::Dedicated, Arm::FullDisaggregation] {
            let arm = pools().arm(arm, &Default::default());
            assert!(tried.iter().any(|t| t.policy == arm.policy && t.tunings == arm.tunings), "{}", arm.name);
        }
    }

    #[test]
    fn a_step_of_few_tokens_still_has_slices() {
        let shared = |a: &Arrangement| a.policy == PolicyKind::Balanced;
        for candidate in candidates(&pools(), &engine(2048), 64, 1).into_iter().filter(shared) {
            let slices = candidate.tunings.iter().filter_map(|t| t.long_prefill_token_threshold);
            assert!(slices.into_iter().all(|slice| slice > 0), "{}", candidate.name);
        }
    }

    #[test]
    fn no_point_is_tried_twice() {
        for short in [1, 64, 5000] {
            let mut all = names(2048, short);
            let tried = all.len();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), tried);
        }
    }
}
