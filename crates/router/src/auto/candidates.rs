//! The arrangements that `auto` chooses from, most plain first. Their scheduler settings come from the requests at hand: from the length
//! of short prompts, because a step with room for a few of them and a slice of a long one keeps both TTFT and ITL low, and from the ITL
//! objective, because no step may take longer than the gap that it makes.

use dualpool_types::{Arrangement, EngineId, Micros, PolicyKind, Role, Tuning};

use crate::costs::CostModel;
use crate::fleet::EngineState;

use super::requests::Expected;

/// A step that is to keep the ITL objective is sized for this share of it.
const STEP_SHARE_OF_ITL: f64 = 0.9;
/// Sizes of the prefill pool that are looked at, spread over what is possible.
const SPLITS_MAX: usize = 7;

/// A short prompt is taken to have at least this part of what makes a long one, as long as few have been seen.
const FIRST_SHORT_SHARE: u32 = 4;

/// What the requests at hand say about sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Prompt tokens of the middle one of the short prompts.
    pub short_prompt_tokens: u32,
    /// Tokens of the longest step that is within the tightest ITL objective.
    pub step_tokens: u32,
}

impl Sizes {
    /// None without a request.
    pub(super) fn of(requests: &[Expected], long_prompt_tokens_min: u32, costs: &CostModel) -> Option<Sizes> {
        let mut shorts: Vec<u32> =
            requests.iter().map(|request| request.prompt_tokens).filter(|&t| t < long_prompt_tokens_min).collect();
        let middle = shorts.len() / 2;
        let short = if shorts.is_empty() { long_prompt_tokens_min } else { *shorts.select_nth_unstable(middle).1 };
        let itl = requests.iter().map(|request| request.objectives.itl_us_max).min()?;
        let step_tokens = costs.batched_tokens_within(Micros((itl.0 as f64 * STEP_SHARE_OF_ITL) as u64));
        Some(Sizes { short_prompt_tokens: short.max(1), step_tokens })
    }
}

/// The one to begin with, when there is nothing to forecast from yet. Pools, where KV can move: long prompts that come unannounced then wait
/// behind each other, and not in front of the short ones, and a queue once mixed stays mixed whatever is chosen next. Elsewhere all alike,
/// in steps that break no ITL objective and let short prompts pass long ones.
pub(super) fn first(engines: &[EngineState], sizes: Sizes, long_prompt_tokens_min: u32) -> Arrangement {
    // The one request there is may be a single word: steps of a few tokens would be for all that come after it.
    let short_prompt_tokens = sizes.short_prompt_tokens.max(long_prompt_tokens_min / FIRST_SHORT_SHARE);
    let menu = Menu::new(engines, Sizes { short_prompt_tokens, ..sizes }, long_prompt_tokens_min);
    let within = menu.of_step(sizes.step_tokens.saturating_mul(2) / 3);
    match menu.splits_max() {
        0 => menu.shared(PolicyKind::Balanced, within),
        splits => menu.split(PolicyKind::DualPool, splits.div_ceil(2), menu.sliced(), within),
    }
}

/// All arrangements that are looked at.
pub(super) fn candidates(engines: &[EngineState], sizes: Sizes, long_prompt_tokens_min: u32) -> Vec<Arrangement> {
    let menu = Menu::new(engines, sizes, long_prompt_tokens_min);
    let Sizes { short_prompt_tokens: short, step_tokens: step } = sizes;
    let start = Tuning::default();
    // Two short prompts fit into one step wherever the objective allows that: chats that come at once would queue for smaller ones.
    let two_thirds = step.saturating_mul(2) / 3;
    let third = (step / 3).max(short.saturating_mul(2).min(two_thirds));
    let (objective, within, well_within) = (menu.of_step(step), menu.of_step(two_thirds), menu.of_step(third));
    let steady = menu.tuning(short.saturating_mul(9) / 4, 0);
    let mut all = vec![
        menu.shared(PolicyKind::LeastLoad, start),
        menu.shared(PolicyKind::Balanced, menu.tuning(short.saturating_mul(7) / 2, short)),
        menu.shared(PolicyKind::Balanced, objective),
        menu.shared(PolicyKind::Balanced, within),
        menu.shared(PolicyKind::Balanced, well_within),
    ];
    let most = menu.splits_max();
    for prefill in (0..most.min(SPLITS_MAX)).map(|i| 1 + i * most / most.min(SPLITS_MAX)) {
        for of_decode in [steady, within, well_within] {
            all.push(menu.split(PolicyKind::DualPool, prefill, menu.sliced(), of_decode));
        }
        all.push(menu.split(PolicyKind::FullDisaggregation, prefill, start, start));
    }
    all
}

/// What arrangements are made from.
struct Menu<'a> {
    engines: &'a [EngineState],
    /// Those that take work.
    alive: Vec<&'a EngineState>,
    short_prompt_tokens: u32,
    /// Tokens per step that every engine can be set to.
    ceiling: u32,
    long_prompt_tokens_min: u32,
}

impl<'a> Menu<'a> {
    fn new(engines: &'a [EngineState], sizes: Sizes, long_prompt_tokens_min: u32) -> Menu<'a> {
        let alive = engines.iter().filter(|engine| engine.takes_work()).collect();
        let ceiling = engines.iter().map(|engine| engine.facts.max_num_batched_tokens).min().unwrap_or(1);
        Menu { engines, alive, short_prompt_tokens: sizes.short_prompt_tokens, ceiling, long_prompt_tokens_min }
    }

    fn tuning(&self, batched: u32, slice: u32) -> Tuning {
        Tuning {
            max_num_batched_tokens: Some(batched.clamp(1, self.ceiling)),
            long_prefill_token_threshold: Some(slice.min(self.ceiling)),
        }
    }

    /// Steps of this many tokens. A slice of half the step leaves the other half to requests that decode and to a second prompt.
    fn of_step(&self, tokens: u32) -> Tuning {
        // A slice of 0 would be no limit.
        self.tuning(tokens, self.short_prompt_tokens.min(tokens / 2).max(1))
    }

    /// Of a prefill pool: steps that a short prompt does not wait long for.
    fn sliced(&self) -> Tuning {
        self.tuning(self.short_prompt_tokens.saturating_mul(4), 0)
    }

    /// How large a prefill pool can be; 0 where there are no pools. Only where every engine alive can move its KV: an engine in neither
    /// pool would idle.
    fn splits_max(&self) -> usize {
        if self.alive.iter().all(|engine| engine.moves_kv()) { self.alive.len().saturating_sub(1) } else { 0 }
    }

    fn shared(&self, policy: PolicyKind, tuning: Tuning) -> Arrangement {
        let name = format!("{}{}", policy.name(), point(tuning));
        Arrangement::shared(name, policy, self.engines.len(), tuning).long_prompts_from(self.long_prompt_tokens_min)
    }

    fn split(&self, policy: PolicyKind, prefill: usize, of_prefill: Tuning, of_decode: Tuning) -> Arrangement {
        let roles = pools(&self.alive, self.engines.len(), prefill);
        let of = |role: &Role| if *role == Role::Prefill { of_prefill } else { of_decode };
        let tunings = roles.iter().map(of).collect();
        let sizes = format!("{}+{}", prefill, self.alive.len() - prefill);
        let name = format!("{} {sizes} prefill{} decode{}", policy.name(), point(of_prefill), point(of_decode));
        Arrangement { name, policy, roles, tunings, long_prompt_tokens_min: self.long_prompt_tokens_min }
    }
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
