//! The arrangements that `auto` chooses from, most plain first. Their scheduler settings come from the requests at hand: from the length
//! of short prompts, because a step with room for a few of them and a slice of a long one keeps both TTFT and ITL low, and from the ITL
//! objective, because no step may take longer than the gap that it makes.

use crate::core::{EngineId, Micros, PolicyKind, Role, Tuning};
use crate::router::{Arrangement, CostModel, EngineState};

use super::rehearsal::Part;

/// A step that is to keep the ITL objective is sized for this share of it.
const STEP_SHARE_OF_ITL: f64 = 0.9;
/// Sizes of the prefill pool that are looked at, spread over what is possible.
const SPLITS_MAX: usize = 7;

/// What the requests at hand say about sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Prompt tokens of the middle one of the short prompts.
    pub short_prompt_tokens: u32,
    /// Tokens of the longest step that is within the tightest ITL objective.
    pub step_tokens: u32,
}

impl Sizes {
    /// None without a request.
    pub fn of(parts: &[Part], long_prompt_tokens_min: u32, costs: &CostModel) -> Option<Sizes> {
        let mut shorts: Vec<u32> = parts.iter().map(|part| part.prompt_tokens).filter(|&t| t < long_prompt_tokens_min).collect();
        let middle = shorts.len() / 2;
        let short = if shorts.is_empty() { long_prompt_tokens_min } else { *shorts.select_nth_unstable(middle).1 };
        let itl = parts.iter().map(|part| part.objectives.itl_us_max).min()?;
        let step_tokens = costs.batched_tokens_within(Micros((itl.0 as f64 * STEP_SHARE_OF_ITL) as u64));
        Some(Sizes { short_prompt_tokens: short.max(1), step_tokens })
    }
}

/// The one to begin with: it needs no two pools, breaks no ITL objective, and lets short prompts pass long ones.
pub fn cautious(engines: &[EngineState], sizes: Sizes, long_prompt_tokens_min: u32) -> Arrangement {
    let ceiling = engines.iter().map(|engine| engine.facts.max_num_batched_tokens).min().unwrap_or(1);
    let tokens = (sizes.step_tokens.saturating_mul(2) / 3).clamp(1, ceiling);
    let slice = sizes.short_prompt_tokens.min(tokens / 2).max(1);
    let tuning = Tuning { max_num_batched_tokens: Some(tokens), long_prefill_token_threshold: Some(slice) };
    let name = format!("{}{}", PolicyKind::Balanced.name(), point(tuning));
    Arrangement::shared(name, PolicyKind::Balanced, engines.len(), tuning).long_prompts_from(long_prompt_tokens_min)
}

/// All arrangements that are looked at. Splits only where every engine alive can move its KV: an engine in neither pool would idle.
pub fn candidates(engines: &[EngineState], sizes: Sizes, long_prompt_tokens_min: u32) -> Vec<Arrangement> {
    let Sizes { short_prompt_tokens: short, step_tokens: step } = sizes;
    let ceiling = engines.iter().map(|engine| engine.facts.max_num_batched_tokens).min().unwrap_or(1);
    let tuning = |batched: u32, slice: u32| Tuning {
        max_num_batched_tokens: Some(batched.clamp(1, ceiling)),
        long_prefill_token_threshold: Some(slice.min(ceiling)),
    };
    let start = Tuning::default();
    // A slice of half the step leaves the other half to requests that decode and to a second prompt. A slice of 0 would be no limit.
    let of_step = |tokens: u32| tuning(tokens, short.min(tokens / 2).max(1));
    let (objective, within, well_within) = (of_step(step), of_step(step.saturating_mul(2) / 3), of_step(step / 3));
    let balanced = tuning(short.saturating_mul(7) / 2, short);
    let sliced = tuning(short.saturating_mul(4), 0);
    let steady = tuning(short.saturating_mul(9) / 4, 0);

    let shared = |policy: PolicyKind, tuning| {
        let name = format!("{}{}", policy.name(), point(tuning));
        Arrangement::shared(name, policy, engines.len(), tuning).long_prompts_from(long_prompt_tokens_min)
    };
    let mut all = vec![
        shared(PolicyKind::LeastLoad, start),
        shared(PolicyKind::Balanced, balanced),
        shared(PolicyKind::Balanced, objective),
        shared(PolicyKind::Balanced, within),
        shared(PolicyKind::Balanced, well_within),
    ];
    let alive: Vec<&EngineState> = engines.iter().filter(|engine| engine.takes_work()).collect();
    if alive.len() >= 2 && alive.iter().all(|engine| engine.moves_kv()) {
        let sizes = alive.len() - 1;
        for prefill in (0..sizes.min(SPLITS_MAX)).map(|i| 1 + i * sizes / sizes.min(SPLITS_MAX)) {
            let roles = pools(&alive, engines.len(), prefill);
            let split = |policy: PolicyKind, of_prefill: Tuning, of_decode: Tuning| {
                let tunings = roles.iter().map(|role| match role {
                    Role::Prefill => of_prefill,
                    Role::Decode => of_decode,
                    Role::Shared => start,
                });
                let sizes = format!("{}+{}", prefill, alive.len() - prefill);
                let name = format!("{} {sizes} prefill{} decode{}", policy.name(), point(of_prefill), point(of_decode));
                Arrangement { name, policy, roles: roles.clone(), tunings: tunings.collect(), long_prompt_tokens_min }
            };
            all.push(split(PolicyKind::DualPool, sliced, steady));
            all.push(split(PolicyKind::DualPool, sliced, within));
            all.push(split(PolicyKind::DualPool, sliced, well_within));
            all.push(split(PolicyKind::FullDisaggregation, start, start));
        }
    }
    all
}

/// A role for each engine. Those that prefill go on with it as far as they are wanted there: a pool that grows keeps its engines. One that
/// takes no work now decodes if it comes to take some.
fn pools(alive: &[&EngineState], engines: usize, prefill: usize) -> Vec<Role> {
    let mut roles = vec![Role::Decode; engines];
    let mut order: Vec<&EngineState> = alive.to_vec();
    let last = |engine: &&EngineState| (engine.role == Role::Decode, engine.role == Role::Shared);
    order.sort_by(|a, b| last(a).cmp(&last(b)).then(b.backlog().total_cmp(&a.backlog())));
    order.into_iter().map(|engine| engine.id).enumerate().for_each(|(place, engine): (usize, EngineId)| {
        roles[engine.index()] = if place < prefill { Role::Prefill } else { Role::Decode };
    });
    roles
}

/// Such as ` 224/64`: tokens per step, tokens per slice.
fn point(tuning: Tuning) -> String {
    match (tuning.max_num_batched_tokens, tuning.long_prefill_token_threshold) {
        (Some(batched), Some(slice)) => format!(" {batched}/{slice}"),
        _ => " as started".to_string(),
    }
}
