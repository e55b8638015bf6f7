//! What the arms of a benchmark are on a fleet: the arrangement that each stands for.

use std::collections::BTreeMap;

use thiserror::Error;

use dualpool_machine::PoolSettings;
use dualpool_router::RouterSettings;
use dualpool_types::arm::{Arm, Layout, control_of, controlled};
use dualpool_types::{Arrangement, EngineId, Failure, PolicyKind, RouterArm, Tuning};

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ArmsError {
    #[error("{prefill} prefill and {decode} decode devices are configured, but {engines} engines were started")]
    Engines { prefill: usize, decode: usize, engines: usize },
    #[error("a pool is empty; give pools.prefill_gpus and pools.decode_gpus at least one device each")]
    EmptyPool,
    #[error("run.arms names only arms that move KV ({}), which these engines cannot; name one that does not", names(arms))]
    NoneLeft { arms: Vec<Arm> },
}

impl From<ArmsError> for Failure {
    fn from(error: ArmsError) -> Failure {
        anyhow::Error::from(error).into()
    }
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

    /// What the search found for the arm, else its arrangement with all engines as they were started.
    pub fn arm(&self, arm: Arm, found: &BTreeMap<Arm, Arrangement>) -> Arrangement {
        let (name, policy, untuned) = (arm.name(), arm.policy(), Tuning::default());
        match (found.get(&arm), arm.layout()) {
            (Some(found), _) => Arrangement { name: name.to_string(), ..found.clone() },
            (None, Layout::Shared) => self.shared(name, policy, untuned),
            (None, Layout::Pools) => self.split(name, policy, untuned, untuned),
            // Every prompt counts as short, so the decode pool serves each request whole and no KV ever moves.
            (None, Layout::DecodePool) => {
                Arrangement { long_prompt_tokens_min: u32::MAX, ..self.split(name, policy, untuned, untuned) }
            }
        }
    }
}

/// The arms that these engines can serve, and those that they cannot because they do not move KV.
pub fn servable(pools: &Pools, arms: &[Arm], kv_transfer: bool) -> Result<(Vec<Arm>, Vec<Arm>), ArmsError> {
    let moves = |arm: Arm| pools.arm(arm, &BTreeMap::new()).policy.moves_kv();
    let (dropped, kept): (Vec<Arm>, Vec<Arm>) = arms.iter().partition(|&&arm| !kv_transfer && moves(arm));
    if kept.is_empty() { Err(ArmsError::NoneLeft { arms: dropped }) } else { Ok((kept, dropped)) }
}

/// As a list in a message.
pub(crate) fn names(arms: &[Arm]) -> String {
    arms.iter().map(|arm| arm.name()).collect::<Vec<_>>().join(", ")
}

/// What a run is about, before what it is good to know.
fn importance(name: &str) -> usize {
    let first = [
        Arm::OneEngine.name(),
        Arm::SharedTuned.name(),
        Arm::DualPool.name(),
        RouterArm::Configured.name(),
        PolicyKind::LeastLoad.name(),
        Arm::Auto.name(),
    ];
    first.iter().position(|arm| *arm == name).unwrap_or(first.len())
}

/// Leaves so many of the arms, those that matter most; the others' names are returned. A control goes before any arm.
pub(crate) fn least_important(arms: &mut Vec<Arrangement>, left: usize) -> Vec<String> {
    let mut ranked: Vec<String> = arms.iter().map(|arm| arm.name.clone()).collect();
    ranked.sort_by_key(|name| (controlled(name).is_some(), importance(name)));
    let left_out = ranked.split_off(left.min(ranked.len()));
    arms.retain(|arm| !left_out.contains(&arm.name));
    left_out
}

/// Leaves of the arms that are the very same arrangement the one that matters most, and returns by its name those that it stands for. A
/// control is the same as its arm on purpose: it comes behind this.
pub(crate) fn merge(arms: &mut Vec<Arrangement>) -> BTreeMap<String, Vec<String>> {
    let all = std::mem::take(arms);
    let mut stands_for: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for arm in &all {
        let same = |other: &&Arrangement| Arrangement { name: arm.name.clone(), ..(*other).clone() } == *arm;
        match all.iter().filter(same).min_by_key(|other| importance(&other.name)) {
            Some(first) if first.name != arm.name => stands_for.entry(first.name.clone()).or_default().push(arm.name.clone()),
            _ => arms.push(arm.clone()),
        }
    }
    stands_for
}

/// The arm whose output tokens the others' are compared with, and which a control repeats: what `--exact` compares with, else the baseline that
/// matters most, else the first arm.
pub(crate) fn reference(arms: &[Arrangement]) -> Option<&Arrangement> {
    let named = |arm: Arm| arms.iter().find(|a| a.name == arm.name());
    named(Arm::OneEngine).or_else(|| named(Arm::SharedTuned)).or(arms.first())
}

/// The same arrangement under the name of the arm's control.
pub fn control(arm: &Arrangement) -> Arrangement {
    Arrangement { name: control_of(&arm.name), ..arm.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::Role;

    fn pools() -> Pools {
        Pools::new(&PoolSettings::default(), &RouterSettings::default(), 2).unwrap()
    }

    #[test]
    fn engines_that_cannot_move_kv_drop_the_arms_that_need_it() {
        let arms: Vec<Arm> = Arm::nameable().collect();
        assert_eq!(servable(&pools(), &arms, true).unwrap(), (arms.clone(), vec![]));
        let (kept, dropped) = servable(&pools(), &arms, false).unwrap();
        assert_eq!(dropped, [Arm::FullDisaggregation, Arm::DualPool]);
        assert_eq!(
            kept,
            [Arm::SharedRoundRobin, Arm::SharedLeastLoad, Arm::SharedTuned, Arm::Dedicated, Arm::BestFound, Arm::Auto]
        );
        let error = servable(&pools(), &[Arm::DualPool], false).unwrap_err().to_string();
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
        let found = BTreeMap::from([(Arm::BestFound, pools().shared("any", PolicyKind::Balanced, Tuning::default()))]);
        for arm in Arm::nameable() {
            assert_eq!(pools().arm(arm, &found).name, arm.name());
        }
        assert_eq!(pools().arm(Arm::BestFound, &found).policy, PolicyKind::Balanced);
        assert_eq!(pools().arm(Arm::BestFound, &BTreeMap::new()).policy, PolicyKind::LeastLoad);
        assert_eq!(pools().arm(Arm::DualPool, &BTreeMap::new()).policy, PolicyKind::DualPool);
        assert_eq!(pools().arm(Arm::OneEngine, &found).policy, PolicyKind::Dedicated);
    }

    #[test]
    fn arms_that_are_the_same_arrangement_are_one_and_those_that_only_look_alike_are_not() {
        let tuning = Tuning { max_num_batched_tokens: Some(224), long_prefill_token_threshold: Some(64) };
        let split = |name: &str| pools().split(name, PolicyKind::DualPool, Tuning::default(), tuning);
        let shared = |name: &str, tuning| pools().shared(name, PolicyKind::LeastLoad, tuning);
        let mut arms = vec![
            shared("shared_least_load", Tuning::default()),
            shared("shared_tuned", Tuning::default()),
            shared("auto", tuning),
            split("best_found"),
            Arrangement { long_prompt_tokens_min: 7, ..split("dedicated") },
            split("dual_pool"),
        ];
        let stands_for = merge(&mut arms);
        assert_eq!(
            arms.iter().map(|arm| arm.name.as_str()).collect::<Vec<_>>(),
            ["shared_tuned", "auto", "dedicated", "dual_pool"]
        );
        let expected = [("shared_tuned", "shared_least_load"), ("dual_pool", "best_found")];
        assert_eq!(stands_for, BTreeMap::from(expected.map(|(arm, other)| (arm.to_string(), vec![other.to_string()]))));
    }

    #[test]
    fn a_router_and_the_baseline_that_goes_by_load_stay_when_time_is_short() {
        let shared = |name: &str| pools().shared(name, PolicyKind::RoundRobin, Tuning::default());
        let names = ["round_robin", "least_load", "score", "dynamic_router", "round_robin_control"];
        let mut arms: Vec<Arrangement> = names.map(shared).to_vec();
        assert_eq!(least_important(&mut arms, 2), ["round_robin", "score", "round_robin_control"]);
        assert_eq!(arms.iter().map(|arm| arm.name.as_str()).collect::<Vec<_>>(), ["least_load", "dynamic_router"]);
    }

    #[test]
    fn a_fleet_of_another_size_is_refused() {
        let error = Pools::new(&PoolSettings::default(), &RouterSettings::default(), 3).unwrap_err();
        assert!(error.to_string().contains("but 3 engines were started"));
        let one_pool = PoolSettings { decode_gpus: vec![], ..PoolSettings::default() };
        assert_eq!(Pools::new(&one_pool, &RouterSettings::default(), 1), Err(ArmsError::EmptyPool));
    }
}
