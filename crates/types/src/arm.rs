//! The arms of benchmarks. One table says of each arm what it is called, what it runs, what it is compared as and when it runs; nothing else
//! tells arms apart by name.

use thiserror::Error;

use crate::PolicyKind;

/// An arm of the target `dual_pool`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arm {
    SharedRoundRobin,
    SharedLeastLoad,
    SharedTuned,
    Dedicated,
    FullDisaggregation,
    DualPool,
    /// The best of everything that was searched.
    BestFound,
    /// Chooses its arrangement while it serves.
    Auto,
    /// Serves every request whole on the decode engines: what an exact run compares with.
    OneEngine,
}

/// How an arm divides the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// All engines alike.
    Shared,
    /// A prefill and a decode pool.
    Pools,
    /// Two pools, of which the decode pool serves every request whole.
    DecodePool,
}

/// When an arm runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runs {
    ByDefault,
    /// When it is named.
    OnRequest,
    /// When a run needs it to compare with, without being named.
    AsReference,
}

/// What is fixed of an arm.
struct Row {
    arm: Arm,
    name: &'static str,
    /// As it runs where nothing was found for it. How plain an arm is, is a matter of its policy: `PolicyKind::plainness`.
    policy: PolicyKind,
    layout: Layout,
    /// Whether other arms are compared with it.
    is_baseline: bool,
    runs: Runs,
    /// Of an arm that is searched for: the policies that it may come to.
    searched: Option<fn(PolicyKind) -> bool>,
}

const fn row(arm: Arm, name: &'static str, policy: PolicyKind, layout: Layout) -> Row {
    Row { arm, name, policy, layout, is_baseline: false, runs: Runs::ByDefault, searched: None }
}

const fn baseline(row: Row) -> Row {
    Row { is_baseline: true, ..row }
}

const fn on_request(row: Row) -> Row {
    Row { runs: Runs::OnRequest, ..row }
}

const fn searched(row: Row, accepts: fn(PolicyKind) -> bool) -> Row {
    Row { searched: Some(accepts), ..row }
}

/// In the order in which arms run.
#[rustfmt::skip]
const TABLE: [Row; 9] = [
    baseline(row(Arm::SharedRoundRobin, "shared_round_robin", PolicyKind::RoundRobin, Layout::Shared)),
    on_request(baseline(row(Arm::SharedLeastLoad, "shared_least_load", PolicyKind::LeastLoad, Layout::Shared))),
    baseline(searched(row(Arm::SharedTuned, "shared_tuned", PolicyKind::Balanced, Layout::Shared),
        |policy| matches!(policy, PolicyKind::RoundRobin | PolicyKind::LeastLoad | PolicyKind::Balanced))),
    row(Arm::Dedicated, "dedicated", PolicyKind::Dedicated, Layout::Pools),
    on_request(row(Arm::FullDisaggregation, "full_disaggregation", PolicyKind::FullDisaggregation, Layout::Pools)),
    searched(row(Arm::DualPool, "dual_pool", PolicyKind::DualPool, Layout::Pools), |policy| matches!(policy, PolicyKind::DualPool)),
    // Where nothing was searched, it has no ground to split.
    on_request(searched(row(Arm::BestFound, "best_found", PolicyKind::LeastLoad, Layout::Shared), |_| true)),
    row(Arm::Auto, "auto", PolicyKind::Auto, Layout::Shared),
    Row { runs: Runs::AsReference, ..row(Arm::OneEngine, "one_engine", PolicyKind::Dedicated, Layout::DecodePool) },
];

/// What arms were called in artifacts of schema version 1, and are called since. `auto` names another arm now, so an old name is translated
/// where it is read, and refused where a user gives it.
const RENAMED: [(&str, &str); 2] = [("auto", "best_found"), ("auto_online", "auto")];

/// A name that is none of an arm which can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnknownArm {
    #[error("there is no arm `{name}`; it is called `{new}` now")]
    Renamed { name: String, new: &'static str },
    #[error("there is no arm `{name}`; the arms are: {}", names().join(", "))]
    Unknown { name: String },
}

fn names() -> Vec<&'static str> {
    Arm::nameable().map(Arm::name).collect()
}

impl Arm {
    fn row(self) -> &'static Row {
        // The table has the arms in the order of the enum; a test says so.
        const ROWS: &[Row] = &TABLE;
        &ROWS[self as usize]
    }

    fn that_run(when: impl Fn(Runs) -> bool) -> impl Iterator<Item = Arm> {
        TABLE.iter().filter(move |row| when(row.runs)).map(|row| row.arm)
    }

    /// What a benchmark runs when no arms are named, in order.
    pub fn by_default() -> impl Iterator<Item = Arm> {
        Arm::that_run(|runs| runs == Runs::ByDefault)
    }

    /// What can be named.
    pub fn nameable() -> impl Iterator<Item = Arm> {
        Arm::that_run(|runs| runs != Runs::AsReference)
    }

    /// The arms that a search tunes.
    pub fn searched_for() -> impl Iterator<Item = Arm> {
        Arm::that_run(|_| true).filter(|arm| arm.row().searched.is_some())
    }

    /// The arm that a user calls by this name.
    pub fn find(name: &str) -> Result<Arm, UnknownArm> {
        Arm::nameable().find(|arm| arm.name() == name).ok_or_else(|| match RENAMED.iter().find(|(old, _)| *old == name) {
            Some(&(_, new)) => UnknownArm::Renamed { name: name.to_string(), new },
            None => UnknownArm::Unknown { name: name.to_string() },
        })
    }

    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What it runs where nothing was found for it.
    pub fn policy(self) -> PolicyKind {
        self.row().policy
    }

    pub fn layout(self) -> Layout {
        self.row().layout
    }

    /// Whether a search may give this arm an arrangement with this policy.
    pub fn takes(self, policy: PolicyKind) -> bool {
        self.row().searched.is_some_and(|accepts| accepts(policy))
    }
}

/// An arm of the target `dynamic_router`, whose engines are all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterArm {
    /// Routes by the policy of the settings, whichever that is.
    Configured,
    Policy(PolicyKind),
}

/// Policies that others are compared with.
const PLAIN: [PolicyKind; 2] = [PolicyKind::RoundRobin, PolicyKind::LeastLoad];

/// A name that is none of these arms.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no arm `{name}` of dynamic_router; its arms are: {}", router_names().join(", "))]
pub struct UnknownRouterArm {
    name: String,
}

fn router_names() -> Vec<&'static str> {
    RouterArm::all().map(RouterArm::name).collect()
}

impl RouterArm {
    pub fn all() -> impl Iterator<Item = RouterArm> {
        let policies = PolicyKind::ALL.into_iter().filter(|policy| !policy.needs_pools()).map(RouterArm::Policy);
        std::iter::once(RouterArm::Configured).chain(policies)
    }

    pub fn by_default() -> impl Iterator<Item = RouterArm> {
        PLAIN.into_iter().map(RouterArm::Policy).chain([RouterArm::Configured])
    }

    pub fn find(name: &str) -> Result<RouterArm, UnknownRouterArm> {
        RouterArm::all().find(|arm| arm.name() == name).ok_or_else(|| UnknownRouterArm { name: name.to_string() })
    }

    pub fn name(self) -> &'static str {
        match self {
            RouterArm::Configured => "dynamic_router",
            RouterArm::Policy(policy) => policy.name(),
        }
    }
}

/// The arms that others are compared with, of all targets.
pub fn baselines() -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(|row| row.is_baseline).map(|row| row.name).chain(PLAIN.into_iter().map(PolicyKind::name))
}

/// Of these arms, the place of the baseline that is hardest to beat.
pub fn strongest_baseline<'a>(arms: impl Iterator<Item = &'a str>) -> Option<usize> {
    let arms: Vec<&str> = arms.collect();
    let strongest = [Arm::SharedTuned.name(), Arm::SharedLeastLoad.name(), PolicyKind::LeastLoad.name()];
    strongest.into_iter().chain(baselines()).find_map(|name| arms.iter().position(|arm| *arm == name))
}

/// The arms that a user would serve with if they win.
pub fn tried_candidates() -> impl Iterator<Item = &'static str> {
    [Arm::DualPool.name(), Arm::Auto.name(), RouterArm::Configured.name()].into_iter()
}

const CONTROL_SUFFIX: &str = "_control";

/// What an arm of an artifact of schema version 1 is called now; a control is named after its arm, as ever.
pub fn name_since_version_1(name: &str) -> String {
    let (arm, suffix) = controlled(name).map_or((name, ""), |arm| (arm, CONTROL_SUFFIX));
    let new = RENAMED.iter().find(|(old, _)| *old == arm).map_or(arm, |(_, new)| new);
    format!("{new}{suffix}")
}

/// The name of an arm's A/A control: an arm like any other, named after the one that it repeats.
pub fn control_of(arm: &str) -> String {
    format!("{arm}{CONTROL_SUFFIX}")
}

/// The arm that a control repeats; none of an arm that is no control.
pub fn controlled(name: &str) -> Option<&str> {
    name.strip_suffix(CONTROL_SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_has_its_row_and_a_name_of_its_own() {
        for (place, row) in TABLE.iter().enumerate() {
            assert_eq!((row.arm as usize, row.arm.name()), (place, row.name));
            assert!(TABLE[..place].iter().all(|other| other.name != row.name), "{}", row.name);
            assert_eq!(row.policy.needs_pools(), row.layout != Layout::Shared, "{}", row.name);
            assert_eq!(controlled(&control_of(row.name)), Some(row.name));
        }
    }

    #[test]
    fn a_name_that_is_no_arm_is_refused_with_those_that_are() {
        assert_eq!(Arm::find("dual_pool"), Ok(Arm::DualPool));
        let refused = |name: &str| Arm::find(name).unwrap_err().to_string();
        let all = "the arms are: shared_round_robin, shared_least_load, shared_tuned, dedicated, full_disaggregation, dual_pool, \
                   best_found, auto";
        for name in ["dual_poll", "shared_tuned_control", "one_engine"] {
            assert_eq!(refused(name), format!("there is no arm `{name}`; {all}"));
        }
        assert_eq!(RouterArm::find("least_load"), Ok(RouterArm::Policy(PolicyKind::LeastLoad)));
        let refused = RouterArm::find("dual_pool").unwrap_err().to_string();
        assert!(refused.contains("`dual_pool`") && refused.contains("dynamic_router, round_robin, least_load"), "{refused}");
    }

    #[test]
    fn an_old_name_is_refused_with_the_new_one_and_translated_in_old_artifacts() {
        assert_eq!(Arm::find("auto_online").unwrap_err().to_string(), "there is no arm `auto_online`; it is called `auto` now");
        assert_eq!((Arm::find("auto"), Arm::find("best_found")), (Ok(Arm::Auto), Ok(Arm::BestFound)));
        let names = ["auto", "auto_online", "auto_control", "dual_pool", "shared_tuned_control"].map(name_since_version_1);
        assert_eq!(names, ["best_found", "auto", "best_found_control", "dual_pool", "shared_tuned_control"]);
    }

    #[test]
    fn what_a_search_may_choose_is_of_the_arms_own_kind() {
        let chosen: Vec<Arm> = Arm::searched_for().collect();
        assert_eq!(chosen, [Arm::SharedTuned, Arm::DualPool, Arm::BestFound]);
        assert!(PolicyKind::ALL.into_iter().all(|policy| !(Arm::SharedTuned.takes(policy) && policy.needs_pools())));
        assert!(!Arm::Dedicated.takes(PolicyKind::Dedicated), "it is not searched for");
    }

    #[test]
    fn baselines_are_the_shared_arms_and_the_plain_policies() {
        let expected = ["shared_round_robin", "shared_least_load", "shared_tuned", "round_robin", "least_load"];
        assert_eq!(baselines().collect::<Vec<_>>(), expected);
    }
}
