//! An arrangement: how the fleet is split, what decides where a request goes, and how each engine's scheduler is set. It is what a
//! benchmark arm runs and what a user would serve with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{EngineId, Role, Tuning};

/// Prompts from here on count as long, unless an arrangement says otherwise.
pub const LONG_PROMPT_TOKENS_MIN: u32 = 256;

/// The policies, by the names users give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// All engines alike, in turn.
    RoundRobin,
    /// All engines alike; the one with the least work, counting what was dispatched and not yet reported.
    LeastLoad,
    /// All engines alike; the less loaded one of two that are drawn.
    PowerOfTwo,
    /// All engines alike; the one whose prefix cache holds most of the prompt, unless that one is overloaded.
    CacheAware,
    /// The best weighted sum of signals, each between 0 and 1. In two pools, prefill and decode are scored apart.
    Score,
    /// The least predicted time that the request takes and takes from others. In two pools, staying is weighed against moving.
    PredictedLatency,
    /// All engines alike; long prompts to the engine with the fewest of them in prefill, short ones by a weighted count.
    Balanced,
    /// Long prompts to the prefill pool, short ones to the decode pool, each for its whole life; KV never moves.
    Dedicated,
    /// Long prompts prefill in the prefill pool and move to the decode pool when that is predicted to be better; short ones stay.
    DualPool,
    /// Every prompt prefills in the prefill pool and moves.
    FullDisaggregation,
    /// Whichever of these is forecast to serve the requests at hand best, changed while it serves.
    Auto,
}

impl PolicyKind {
    pub const ALL: [PolicyKind; 11] = [
        PolicyKind::RoundRobin,
        PolicyKind::LeastLoad,
        PolicyKind::PowerOfTwo,
        PolicyKind::CacheAware,
        PolicyKind::Score,
        PolicyKind::PredictedLatency,
        PolicyKind::Balanced,
        PolicyKind::Dedicated,
        PolicyKind::DualPool,
        PolicyKind::FullDisaggregation,
        PolicyKind::Auto,
    ];

    /// The name users give it, which is also its serde form.
    pub fn name(self) -> &'static str {
        match self {
            PolicyKind::RoundRobin => "round_robin",
            PolicyKind::LeastLoad => "least_load",
            PolicyKind::PowerOfTwo => "power_of_two",
            PolicyKind::CacheAware => "cache_aware",
            PolicyKind::Score => "score",
            PolicyKind::PredictedLatency => "predicted_latency",
            PolicyKind::Balanced => "balanced",
            PolicyKind::Dedicated => "dedicated",
            PolicyKind::DualPool => "dual_pool",
            PolicyKind::FullDisaggregation => "full_disaggregation",
            PolicyKind::Auto => "auto",
        }
    }

    /// Orders policies from simple to involved: where two serve as well, the simpler one is to be preferred.
    pub fn plainness(self) -> u8 {
        match self {
            PolicyKind::LeastLoad => 0,
            PolicyKind::RoundRobin => 1,
            PolicyKind::PowerOfTwo => 2,
            PolicyKind::Balanced => 3,
            PolicyKind::CacheAware => 4,
            PolicyKind::Score => 5,
            PolicyKind::PredictedLatency => 6,
            PolicyKind::Dedicated => 7,
            PolicyKind::FullDisaggregation => 8,
            PolicyKind::DualPool => 9,
            PolicyKind::Auto => 10,
        }
    }

    /// Whether it tells a prefill pool from a decode pool, and so needs both.
    pub fn needs_pools(self) -> bool {
        matches!(self, PolicyKind::Dedicated | PolicyKind::DualPool | PolicyKind::FullDisaggregation)
    }

    /// Whether requests change engines with their KV, and cannot do without.
    pub fn moves_kv(self) -> bool {
        matches!(self, PolicyKind::DualPool | PolicyKind::FullDisaggregation)
    }
}

/// How the fleet is divided, what decides where a request goes, and how each engine's scheduler is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Arrangement {
    /// The name of the arm, such as `dual_pool`.
    pub name: String,
    /// The policy that places requests.
    pub policy: PolicyKind,
    /// The role of each engine, by engine id.
    pub roles: Vec<Role>,
    /// The scheduler settings of each engine, by engine id.
    pub tunings: Vec<Tuning>,
    /// Prompts of at least this many tokens count as long to the policies that tell them apart.
    pub long_prompt_tokens_min: u32,
}

/// Why the fleet cannot be served by an arrangement.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ArrangementError {
    #[error("arrangement `{name}` has {given} {what} for {engines} engines; give one per engine")]
    Length { name: String, what: &'static str, given: usize, engines: usize },
    #[error("arrangement `{name}` names {engine}, but the fleet ends at engine-{last}; name engines of the fleet")]
    UnknownEngine { name: String, engine: EngineId, last: usize },
    #[error("arrangement `{name}` puts {engine} into both pools; give each pool engines of its own")]
    InBothPools { name: String, engine: EngineId },
    #[error(
        "arrangement `{name}`: policy `{policy}` needs a {pool} pool and has none; add an engine to it, or choose a shared policy"
    )]
    EmptyPool { name: String, policy: &'static str, pool: &'static str },
    #[error(
        "arrangement `{name}` sets max_num_batched_tokens of {engine} to {value}; allowed are 1 to {max}, what the engine was started with"
    )]
    BatchedTokens { name: String, engine: EngineId, value: u32, max: u32 },
    #[error(
        "arrangement `{name}`: policy `{policy}` moves KV, and {engine} cannot; start it with KV transfer, or choose `dedicated`"
    )]
    NoKvTransfer { name: String, policy: &'static str, engine: EngineId },
    #[error("{in_flight} requests are in flight; arrange the fleet when none is")]
    Busy { in_flight: usize },
}

impl Arrangement {
    /// All engines alike.
    pub fn shared(name: impl Into<String>, policy: PolicyKind, engines: usize, tuning: Tuning) -> Arrangement {
        Arrangement {
            name: name.into(),
            policy,
            roles: vec![Role::Shared; engines],
            tunings: vec![tuning; engines],
            long_prompt_tokens_min: LONG_PROMPT_TOKENS_MIN,
        }
    }

    /// A prefill pool and a decode pool. Engines in neither keep the role `shared`: they only serve when a pool has no engine alive.
    #[expect(clippy::too_many_arguments, reason = "two pools, each with members and a tuning; a struct would only rename them")]
    pub fn pools(
        name: impl Into<String>,
        policy: PolicyKind,
        prefill: &[EngineId],
        decode: &[EngineId],
        engines: usize,
        prefill_tuning: Tuning,
        decode_tuning: Tuning,
        long_prompt_tokens_min: u32,
    ) -> Result<Arrangement, ArrangementError> {
        let mut arrangement =
            Arrangement::shared(name, policy, engines, Tuning::default()).long_prompts_from(long_prompt_tokens_min);
        for (role, members, tuning) in [(Role::Prefill, prefill, prefill_tuning), (Role::Decode, decode, decode_tuning)] {
            for &engine in members {
                let name = || arrangement.name.clone();
                match arrangement.roles.get(engine.index()) {
                    None => return Err(ArrangementError::UnknownEngine { name: name(), engine, last: engines.saturating_sub(1) }),
                    Some(&taken) if taken != Role::Shared && taken != role => {
                        return Err(ArrangementError::InBothPools { name: name(), engine });
                    }
                    Some(_) => {
                        arrangement.roles[engine.index()] = role;
                        arrangement.tunings[engine.index()] = tuning;
                    }
                }
            }
        }
        arrangement.validate(engines)?;
        Ok(arrangement)
    }

    /// The same with another border between short and long prompts.
    pub fn long_prompts_from(mut self, tokens: u32) -> Arrangement {
        self.long_prompt_tokens_min = tokens;
        self
    }

    /// Whether both serve alike, whatever they are called.
    pub fn is_same_as(&self, other: &Arrangement) -> bool {
        Arrangement { name: self.name.clone(), ..other.clone() } == *self
    }

    /// Checks all that can be checked without knowing the engines; `Router::arrange` checks the rest.
    pub fn validate(&self, engines: usize) -> Result<(), ArrangementError> {
        for (what, given) in [("roles", self.roles.len()), ("tunings", self.tunings.len())] {
            if given != engines {
                return Err(ArrangementError::Length { name: self.name.clone(), what, given, engines });
            }
        }
        if self.policy.needs_pools() {
            for pool in [Role::Prefill, Role::Decode] {
                if !self.roles.contains(&pool) {
                    return Err(ArrangementError::EmptyPool {
                        name: self.name.clone(),
                        policy: self.policy.name(),
                        pool: pool.name(),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Tuning = Tuning { max_num_batched_tokens: None, long_prefill_token_threshold: None };

    fn pools(prefill: &[u16], decode: &[u16], engines: usize) -> Result<Arrangement, ArrangementError> {
        let ids = |ids: &[u16]| ids.iter().copied().map(EngineId).collect::<Vec<_>>();
        Arrangement::pools("split", PolicyKind::DualPool, &ids(prefill), &ids(decode), engines, NONE, NONE, 256)
    }

    #[test]
    fn pools_are_checked_and_each_error_names_the_mend() {
        assert_eq!(pools(&[0], &[1], 2).unwrap().roles, [Role::Prefill, Role::Decode]);
        let text = |result: Result<Arrangement, ArrangementError>| result.unwrap_err().to_string();
        assert!(text(pools(&[0], &[], 2)).contains("needs a decode pool"));
        assert!(text(pools(&[], &[0], 2)).contains("needs a prefill pool"));
        assert!(text(pools(&[0, 1], &[1], 2)).contains("engine-1 into both pools"));
        assert!(text(pools(&[0], &[5], 2)).contains("engine-5"));
    }

    #[test]
    fn one_role_and_one_tuning_per_engine() {
        let arrangement = Arrangement::shared("ll", PolicyKind::LeastLoad, 2, NONE);
        assert_eq!(arrangement.validate(2), Ok(()));
        assert!(arrangement.validate(3).unwrap_err().to_string().contains("2 roles for 3 engines"));
    }

    #[test]
    fn a_name_does_not_make_an_arrangement_another_one() {
        let first = Arrangement::shared("first", PolicyKind::LeastLoad, 2, NONE);
        assert!(first.is_same_as(&Arrangement { name: "second".into(), ..first.clone() }));
        assert!(!first.is_same_as(&Arrangement { policy: PolicyKind::Auto, ..first.clone() }));
    }

    #[test]
    fn names_are_the_serde_form() {
        for kind in PolicyKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
        }
    }
}
