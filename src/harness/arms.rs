//! The arms of a benchmark: names that stand for an arrangement of the fleet.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::config::{PoolSettings, RouterSettings};
use crate::core::{EngineId, Role, Tuning};
use crate::router::{Arrangement, PolicyKind};

/// Every arm by name, in the order users see them.
pub const ARMS: [&str; 7] =
    ["shared_round_robin", "shared_least_load", "shared_tuned", "dedicated", "full_disaggregation", "dual_pool", "auto"];

/// The arm that serves every request whole on the decode engines, one at a time: what `--exact` compares with.
pub const ONE_ENGINE: &str = "one_engine";

/// The A/A control is named after the arm it repeats.
pub const CONTROL_SUFFIX: &str = "_control";

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ArmsError {
    #[error("run.arms names `{name}`; the arms are: {}", ARMS.join(", "))]
    Unknown { name: String },
    #[error("run.arms names `{name}` twice; name each arm once (the A/A control is added by itself)")]
    Twice { name: String },
    #[error("run.arms is empty; name at least one of: {}", ARMS.join(", "))]
    None,
    #[error("{prefill} prefill and {decode} decode devices are configured, but {engines} engines were started")]
    Engines { prefill: usize, decode: usize, engines: usize },
}

pub fn check(arms: &[String]) -> Result<(), ArmsError> {
    if arms.is_empty() {
        return Err(ArmsError::None);
    }
    for (i, name) in arms.iter().enumerate() {
        if !ARMS.contains(&name.as_str()) {
            return Err(ArmsError::Unknown { name: name.clone() });
        }
        if arms[..i].contains(name) {
            return Err(ArmsError::Twice { name: name.clone() });
        }
    }
    Ok(())
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
        let ids = |range: std::ops::Range<usize>| range.map(|i| EngineId(i as u16)).collect();
        Ok(Pools { prefill: ids(0..prefill), decode: ids(prefill..engines), long_prompt_tokens_min: router.prefill_ctx_thresh })
    }

    /// All engines alike.
    pub fn shared(&self, name: impl Into<String>, policy: PolicyKind, tuning: Tuning) -> Arrangement {
        let engines = self.prefill.len() + self.decode.len();
        Arrangement {
            name: name.into(),
            policy,
            roles: vec![Role::Shared; engines],
            tunings: vec![tuning; engines],
            long_prompt_tokens_min: self.long_prompt_tokens_min,
        }
    }

    /// Two pools. The prefill engines stay as they were started: nobody decodes there, so a large step delays no token.
    pub fn split(&self, name: impl Into<String>, policy: PolicyKind, decode: Tuning) -> Arrangement {
        let mut arrangement = self.shared(name, policy, Tuning::default());
        for id in &self.prefill {
            arrangement.roles[id.index()] = Role::Prefill;
        }
        for id in &self.decode {
            arrangement.roles[id.index()] = Role::Decode;
            arrangement.tunings[id.index()] = decode;
        }
        arrangement
    }

    /// The arm of this name: what the search found for it, else its arrangement with all engines as they were started.
    pub fn arm(&self, name: &str, found: &BTreeMap<String, Arrangement>) -> Arrangement {
        if let Some(found) = found.get(name) {
            return Arrangement { name: name.to_string(), ..found.clone() };
        }
        let untuned = Tuning::default();
        match name {
            "shared_round_robin" => self.shared(name, PolicyKind::SharedRoundRobin, untuned),
            "shared_least_load" => self.shared(name, PolicyKind::SharedLeastLoad, untuned),
            "shared_tuned" => self.shared(name, PolicyKind::SharedBalanced, untuned),
            "dedicated" => self.split(name, PolicyKind::Dedicated, untuned),
            "full_disaggregation" => self.split(name, PolicyKind::FullDisaggregation, untuned),
            ONE_ENGINE => self.one_engine(),
            // `dual_pool` and, where nothing was searched, `auto`. `check` has refused all other names.
            _ => self.split(name, PolicyKind::DualPool, untuned),
        }
    }

    /// Every prompt counts as short, so the decode pool serves each request whole and no KV ever moves.
    fn one_engine(&self) -> Arrangement {
        let dedicated = self.split(ONE_ENGINE, PolicyKind::Dedicated, Tuning::default());
        Arrangement { long_prompt_tokens_min: u32::MAX, ..dedicated }
    }
}

/// The same arrangement under the control's name.
pub fn control(arm: &Arrangement) -> Arrangement {
    Arrangement { name: format!("{}{CONTROL_SUFFIX}", arm.name), ..arm.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools() -> Pools {
        Pools::new(&PoolSettings::default(), &RouterSettings::default(), 2).unwrap()
    }

    #[test]
    fn unknown_arms_are_refused_with_the_list() {
        let arms = |names: &[&str]| check(&names.iter().map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(arms(&ARMS), Ok(()));
        let message = arms(&["dual_pol"]).unwrap_err().to_string();
        assert!(message.contains("`dual_pol`") && message.contains("shared_tuned, dedicated"), "{message}");
        assert!(arms(&["auto", "auto"]).unwrap_err().to_string().contains("twice"));
        assert!(arms(&[]).is_err());
    }

    #[test]
    fn a_split_has_one_role_and_one_tuning_per_engine() {
        let tuning = Tuning { max_num_batched_tokens: Some(224), long_prefill_token_threshold: Some(64) };
        let split = pools().split("dual_pool", PolicyKind::DualPool, tuning);
        assert_eq!(split.roles, [Role::Prefill, Role::Decode]);
        assert_eq!(split.tunings, [Tuning::default(), tuning]);
    }

    #[test]
    fn every_arm_has_an_arrangement_under_its_own_name_and_what_was_found_wins() {
        let found = BTreeMap::from([("auto".to_string(), pools().shared("any", PolicyKind::SharedLeastLoad, Tuning::default()))]);
        for name in ARMS {
            assert_eq!(pools().arm(name, &found).name, name);
        }
        assert_eq!(pools().arm("auto", &found).policy, PolicyKind::SharedLeastLoad);
        assert_eq!(pools().arm("auto", &BTreeMap::new()).policy, PolicyKind::DualPool);
        assert_eq!(pools().arm(ONE_ENGINE, &found).policy, PolicyKind::Dedicated);
    }

    #[test]
    fn a_fleet_of_another_size_is_refused() {
        let error = Pools::new(&PoolSettings::default(), &RouterSettings::default(), 3).unwrap_err();
        assert!(error.to_string().contains("but 3 engines were started"));
    }
}
