//! The arms of a benchmark: names that stand for an arrangement of the fleet.

use std::collections::BTreeMap;

use thiserror::Error;

use dualpool_machine::PoolSettings;
use dualpool_router::RouterSettings;
use dualpool_types::{Arrangement, EngineId, PolicyKind, Tuning};

/// The arm that serves every request whole on the decode engines, one at a time: what `--exact` compares with.
pub const ONE_ENGINE: &str = "one_engine";

/// The A/A control is named after the arm it repeats.
pub const CONTROL_SUFFIX: &str = "_control";

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ArmsError {
    #[error("{prefill} prefill and {decode} decode devices are configured, but {engines} engines were started")]
    Engines { prefill: usize, decode: usize, engines: usize },
    #[error("a pool is empty; give pools.prefill_gpus and pools.decode_gpus at least one device each")]
    EmptyPool,
    #[error("run.arms names only arms that move KV ({}), which these engines cannot; name one that does not", arms.join(", "))]
    NoneLeft { arms: Vec<String> },
}

/// How the fleet's engines are divided into pools. Engines are numbered in the order of the configuration: prefill devices first.
#[derive(Clone, Debug, PartialEq)]
pub struct Pools {
    prefill: Vec<EngineId>,
    decode: Vec<EngineId>,
    long_prompt_tokens_min: u32,
}

impl Pools {
    pub fn new(pools: &PoolSettings, router: &RouterSettings, engines: usize) -> Result<Pools, ArmsError> {
        let (prefill, decode) = (pools.prefill_gpus.len(), pools.decode_gpus.len());
        if prefill + decode != engines {
            return Err(ArmsError::Engines { prefill, decode, engines });
        }
        if prefill == 0 || decode == 0 {
            return Err(ArmsError::EmptyPool);
        }
        let ids = |range: std::ops::Range<usize>| range.map(|i| EngineId(i as u16)).collect();
        Ok(Pools { prefill: ids(0..prefill), decode: ids(prefill..engines), long_prompt_tokens_min: router.prefill_ctx_thresh })
    }

    /// All engines alike.
    pub fn shared(&self, name: impl Into<String>, policy: PolicyKind, tuning: Tuning) -> Arrangement {
        Arrangement::shared(name, policy, self.engines(), tuning).long_prompts_from(self.long_prompt_tokens_min)
    }

    /// Two pools.
    pub fn split(&self, name: impl Into<String>, policy: PolicyKind, prefill: Tuning, decode: Tuning) -> Arrangement {
        let (engines, long_from) = (self.engines(), self.long_prompt_tokens_min);
        Arrangement::pools(name, policy, &self.prefill, &self.decode, engines, prefill, decode, long_from)
            .expect("`new` made two pools that are not empty and share no engine")
    }

    fn engines(&self) -> usize {
        self.prefill.len() + self.decode.len()
    }

    /// The arm of this name: what the search found for it, else its arrangement with all engines as they were started.
    pub fn arm(&self, name: &str, found: &BTreeMap<String, Arrangement>) -> Arrangement {
        if let Some(found) = found.get(name) {
            return Arrangement { name: name.to_string(), ..found.clone() };
        }
        let untuned = Tuning::default();
        match name {
            "shared_round_robin" => self.shared(name, PolicyKind::RoundRobin, untuned),
            // Where nothing was searched, `auto` has no ground to split.
            "shared_least_load" | "auto" => self.shared(name, PolicyKind::LeastLoad, untuned),
            // It chooses while it serves, and begins with nothing known.
            "auto_online" => self.shared(name, PolicyKind::Auto, untuned),
            "shared_tuned" => self.shared(name, PolicyKind::Balanced, untuned),
            "dedicated" => self.split(name, PolicyKind::Dedicated, untuned, untuned),
            "full_disaggregation" => self.split(name, PolicyKind::FullDisaggregation, untuned, untuned),
            ONE_ENGINE => self.one_engine(),
            // `dual_pool`; `Settings::check` has refused names that are no arm's.
            _ => self.split(name, PolicyKind::DualPool, untuned, untuned),
        }
    }

    /// Every prompt counts as short, so the decode pool serves each request whole and no KV ever moves.
    fn one_engine(&self) -> Arrangement {
        let dedicated = self.split(ONE_ENGINE, PolicyKind::Dedicated, Tuning::default(), Tuning::default());
        Arrangement { long_prompt_tokens_min: u32::MAX, ..dedicated }
    }
}

/// The arms that these engines can serve, and those that they cannot because they do not move KV.
pub fn servable(pools: &Pools, arms: &[String], kv_transfer: bool) -> Result<(Vec<String>, Vec<String>), ArmsError> {
    let moves = |name: &&String| pools.arm(name, &BTreeMap::new()).policy.moves_kv();
    let (dropped, kept): (Vec<&String>, Vec<&String>) = arms.iter().partition(|name| !kv_transfer && moves(name));
    let named = |arms: Vec<&String>| arms.into_iter().cloned().collect::<Vec<_>>();
    if kept.is_empty() {
        return Err(ArmsError::NoneLeft { arms: named(dropped) });
    }
    Ok((named(kept), named(dropped)))
}

/// The name of an arm's control.
pub fn control_name(arm: &str) -> String {
    format!("{arm}{CONTROL_SUFFIX}")
}

/// The same arrangement under the control's name.
pub fn control(arm: &Arrangement) -> Arrangement {
    Arrangement { name: control_name(&arm.name), ..arm.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ARMS;
    use dualpool_types::Role;

    fn pools() -> Pools {
        Pools::new(&PoolSettings::default(), &RouterSettings::default(), 2).unwrap()
    }

    #[test]
    fn engines_that_cannot_move_kv_drop_the_arms_that_need_it() {
        let arms = ARMS.map(String::from).to_vec();
        assert_eq!(servable(&pools(), &arms, true).unwrap(), (arms.clone(), vec![]));
        let (kept, dropped) = servable(&pools(), &arms, false).unwrap();
        assert_eq!(dropped, ["full_disaggregation", "dual_pool"]);
        assert_eq!(kept, ["shared_round_robin", "shared_least_load", "shared_tuned", "dedicated", "auto"]);
        let error = servable(&pools(), &["dual_pool".to_string()], false).unwrap_err().to_string();
        assert!(error.contains("(dual_pool)"), "{error}");
    }

    #[test]
    fn a_split_has_one_role_and_one_tuning_per_engine() {
        let tuning = Tuning { max_num_batched_tokens: Some(224), long_prefill_token_threshold: Some(64) };
        let split = pools().split("dual_pool", PolicyKind::DualPool, Tuning::default(), tuning);
        assert_eq!(split.roles, [Role::Prefill, Role::Decode]);
        assert_eq!(split.tunings, [Tuning::default(), tuning]);
    }

    #[test]
    fn every_arm_has_an_arrangement_under_its_own_name_and_what_was_found_wins() {
        let found = BTreeMap::from([("auto".to_string(), pools().shared("any", PolicyKind::Balanced, Tuning::default()))]);
        for name in ARMS {
            assert_eq!(pools().arm(name, &found).name, name);
        }
        assert_eq!(pools().arm("auto", &found).policy, PolicyKind::Balanced);
        assert_eq!(pools().arm("auto", &BTreeMap::new()).policy, PolicyKind::LeastLoad);
        assert_eq!(pools().arm("dual_pool", &BTreeMap::new()).policy, PolicyKind::DualPool);
        assert_eq!(pools().arm(ONE_ENGINE, &found).policy, PolicyKind::Dedicated);
    }

    #[test]
    fn a_fleet_of_another_size_is_refused() {
        let error = Pools::new(&PoolSettings::default(), &RouterSettings::default(), 3).unwrap_err();
        assert!(error.to_string().contains("but 3 engines were started"));
        let one_pool = PoolSettings { decode_gpus: vec![], ..PoolSettings::default() };
        assert_eq!(Pools::new(&one_pool, &RouterSettings::default(), 1), Err(ArmsError::EmptyPool));
    }
}
