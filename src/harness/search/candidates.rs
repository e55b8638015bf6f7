//! What the search tries: policies with scheduler settings, most promising first.
//!
//! The settings follow from the short prompt's length, because that is what a step should just fit: a step that takes a few short
//! prompts and one slice of a long one keeps both TTFT and ITL low. A slice (`long_prefill_token_threshold`) below a short prompt
//! would cut the short ones too. With 64-token prompts the first point is 224 tokens per step in slices of 64, which is a strong
//! setting for two shared engines.

use crate::core::Tuning;
use crate::engine::EngineInfo;
use crate::harness::arms::Pools;
use crate::router::{Arrangement, PolicyKind};

/// Every arrangement that is tried, in order of promise: when time runs short, the last ones stay untried.
pub fn candidates(pools: &Pools, engine: &EngineInfo, short_prompt_tokens: u32) -> Vec<Arrangement> {
    let tuning = |batched, slice| tuning(engine, batched, slice);
    let short = short_prompt_tokens;
    let start = Tuning::default();
    let balanced = tuning(short.saturating_mul(7) / 2, short);
    let tight = tuning(short.saturating_mul(2), short);
    let wide = tuning(short.saturating_mul(8), short.saturating_mul(2));
    let quarter = tuning(engine.max_num_batched_tokens / 4, 0);

    let shared = |policy, tuning| pools.shared(name(policy, tuning), policy, tuning);
    let split = |policy, tuning| pools.split(name(policy, tuning), policy, tuning);
    let mut all = vec![
        shared(PolicyKind::SharedBalanced, balanced),
        split(PolicyKind::DualPool, balanced),
        shared(PolicyKind::SharedLeastLoad, start),
        split(PolicyKind::DualPool, tight),
        shared(PolicyKind::SharedLeastLoad, tight),
        split(PolicyKind::FullDisaggregation, start),
        split(PolicyKind::DualPool, start),
        shared(PolicyKind::SharedBalanced, wide),
        split(PolicyKind::Dedicated, balanced),
        shared(PolicyKind::SharedLeastLoad, quarter),
    ];
    let mut seen: Vec<(PolicyKind, Vec<Tuning>)> = Vec::new();
    all.retain(|a| {
        let point = (a.policy, a.tunings.clone());
        let new = !seen.contains(&point);
        seen.push(point);
        new
    });
    all
}

/// A budget that every running request fits into, and that the engine was started for.
fn tuning(engine: &EngineInfo, batched: u32, slice: u32) -> Tuning {
    let ceiling = engine.max_num_batched_tokens;
    let batched = batched.max(engine.max_num_seqs).min(ceiling);
    Tuning { max_num_batched_tokens: Some(batched), long_prefill_token_threshold: Some(slice.min(ceiling)) }
}

/// Such as `shared_balanced 224/64`: the policy, tokens per step, tokens per slice.
fn name(policy: PolicyKind, tuning: Tuning) -> String {
    let policy = match policy {
        PolicyKind::SharedRoundRobin => "shared_round_robin",
        PolicyKind::SharedLeastLoad => "shared_least_load",
        PolicyKind::SharedBalanced => "shared_balanced",
        PolicyKind::Dedicated => "dedicated",
        PolicyKind::DualPool => "dual_pool",
        PolicyKind::FullDisaggregation => "full_disaggregation",
    };
    match (tuning.max_num_batched_tokens, tuning.long_prefill_token_threshold) {
        (Some(batched), Some(slice)) => format!("{policy} {batched}/{slice}"),
        _ => policy.to_string(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{PoolSettings, RouterSettings};
    use crate::core::EngineId;

    pub fn engine(max_num_batched_tokens: u32) -> EngineInfo {
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
            pid: None,
        }
    }

    pub fn pools() -> Pools {
        Pools::new(&PoolSettings::default(), &RouterSettings::default(), 2).expect("two default pools for two engines")
    }

    fn names(max_num_batched_tokens: u32, short: u32) -> Vec<String> {
        candidates(&pools(), &engine(max_num_batched_tokens), short).into_iter().map(|a| a.name).collect()
    }

    #[test]
    fn short_prompts_of_64_tokens_give_the_known_strong_points() {
        let names = names(2048, 64);
        for expected in
            ["shared_balanced 224/64", "dual_pool 224/64", "shared_least_load", "shared_least_load 128/64", "full_disaggregation"]
        {
            assert!(names.iter().any(|n| n == expected), "{expected} is not among {names:?}");
        }
    }

    #[test]
    fn budgets_stay_between_the_running_requests_and_the_start_value() {
        for short in [1, 64, 5000, u32::MAX] {
            for candidate in candidates(&pools(), &engine(2048), short) {
                for batched in candidate.tunings.iter().filter_map(|t| t.max_num_batched_tokens) {
                    assert!((64..=2048).contains(&batched), "{} with short prompts of {short}", candidate.name);
                }
            }
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
