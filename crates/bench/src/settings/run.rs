//! How much a run measures.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::budget::REQUESTS_MIN;
use dualpool_types::Arm;
use dualpool_types::arm::UnknownArm;
use dualpool_types::settings::{Rule, Section, count, described, each_once, rule};

/// A week.
const BUDGET_S_MAX: u64 = 604_800;

/// `--quick`: at most this many repetitions.
const QUICK_REPETITIONS: u32 = 2;

/// What stands for every arm that can be named.
const ALL_ARMS: &str = "all";

/// How much a run measures, and where it leaves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// Arms of `dual_pool`, in order, or `all`. `shared_tuned` if it is among them, else the first one, is the reference: it runs a second
    /// time as the A/A control, and the other arms' output tokens are compared with its own.
    pub arms: Vec<String>,
    /// Seconds that a run may take once its engines are up: warm-up, calibration, search and measurement. Too little time leaves out
    /// arms first, then requests. Not a bound where `run.repetitions` says how many there are to be.
    #[serde(deserialize_with = "seconds")]
    pub budget_s: u64,
    /// How often each arm runs, each time with requests of its own; 0 = until what the run was planned for is decided, or the time is
    /// over. `run.quick` makes it 2 at most, `run.exact` 1.
    pub repetitions: u32,
    /// The requests of a repetition, at most: as many of the workload's, in the same proportions.
    pub repetition_requests: u32,
    /// Make a repetition again, twice at most, when other programs, the hypervisor or held-down clocks disturbed it; it does not count then.
    /// false = every repetition counts, whatever happened on the machine meanwhile.
    pub repeat_disturbed: bool,
    /// Shorter run: two repetitions of a third of the requests, which decide nothing, and a search with a third of its time.
    /// Calibrations take fewer measurements.
    pub quick: bool,
    /// Check that all arms give the same tokens: a quarter of the requests, one at a time, each with empty caches. Any difference,
    /// and any hand-off whose KV was computed again, fails the run. Nothing is compared for speed.
    pub exact: bool,
    /// Folder for the artifacts; it may not hold a run yet. Empty = `artifacts/<target>/<UTC time>-<id>`.
    pub out: PathBuf,
    /// Seconds that the search may take on the engines to tune the arms that are to be tuned. With less time it tries fewer
    /// candidates.
    pub search_budget_s: u64,
    /// Folder of accepted ratios, one file per kind of machine, that a run is compared with. `none` = no comparison.
    pub expectations: PathBuf,
    /// Accept this run's ratios, in place of those of the same target, workload and settings: later runs on such a machine are
    /// compared with them.
    pub update_expectations: bool,
}

impl RunSettings {
    /// The arms that were asked for.
    pub fn chosen_arms(&self) -> Result<Vec<Arm>, UnknownArm> {
        match &self.arms[..] {
            [all] if all == ALL_ARMS => Ok(Arm::nameable().collect()),
            names => names.iter().map(|name| Arm::find(name)).collect(),
        }
    }

    /// How many repetitions are made, where their number is given: time is no bound then.
    pub fn repetitions_fixed(&self) -> Option<u32> {
        let given = Some(self.repetitions).filter(|&repetitions| repetitions > 0);
        match (self.exact, self.quick) {
            (true, _) => Some(1),
            (false, true) => Some(given.unwrap_or(QUICK_REPETITIONS).min(QUICK_REPETITIONS)),
            (false, false) => given,
        }
    }

    /// The folder of expectations; none where the run is held against nothing.
    pub fn expectations_folder(&self) -> Option<&Path> {
        (self.expectations.as_path() != Path::new("none")).then_some(&self.expectations)
    }
}

/// A number of seconds, or a number with a unit: `90s`, `4m`, `1h`.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Seconds(u64),
        WithUnit(String),
    }
    let text = match Given::deserialize(deserializer)? {
        Given::Seconds(seconds) => return Ok(seconds),
        Given::WithUnit(text) => text,
    };
    let unit = [("s", 1), ("m", 60), ("h", 3_600)].into_iter().find_map(|(unit, each)| Some((text.strip_suffix(unit)?, each)));
    let seconds = unit.and_then(|(number, each)| number.trim().parse::<u64>().ok()?.checked_mul(each));
    seconds.ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no time; write seconds, or such as 90s, 4m or 1h")))
}

impl Default for RunSettings {
    fn default() -> Self {
        RunSettings {
            arms: Arm::by_default().map(|arm| arm.name().to_string()).collect(),
            budget_s: 600,
            repetitions: 0,
            repetition_requests: 36,
            repeat_disturbed: true,
            quick: false,
            exact: false,
            out: PathBuf::new(),
            search_budget_s: 90,
            expectations: "expectations".into(),
            update_expectations: false,
        }
    }
}

impl Section for RunSettings {
    fn rules(&self) -> Vec<Rule> {
        let names: Vec<&str> = Arm::nameable().map(Arm::name).collect();
        let known = self.chosen_arms().is_ok();
        let renamed =
            self.arms.iter().filter_map(|arm| Arm::find(arm).err()).find(|error| matches!(error, UnknownArm::Renamed { .. }));
        let allowed = format!("`all`, or at least one of {}, each once", names.join(", "));
        vec![
            rule(
                "run.arms",
                renamed.map_or(allowed.clone(), |why| format!("{allowed}; {why}")),
                !self.arms.is_empty() && known && each_once(&self.arms),
            ),
            rule(
                "run.budget_s",
                "a number of seconds from 1 to 604800, or a time such as 90s, 4m or 1h",
                (1..=BUDGET_S_MAX).contains(&self.budget_s),
            ),
            described("run.repetitions", "a whole number of at least 0"),
            rule(
                "run.repetition_requests",
                format!("a whole number of at least {REQUESTS_MIN}"),
                self.repetition_requests >= REQUESTS_MIN,
            ),
            described("run.out", "the path of a folder, or empty for a new one"),
            count("run.search_budget_s", self.search_budget_s),
            rule("run.expectations", "the path of a folder, or `none`", !self.expectations.as_os_str().is_empty()),
        ]
    }
}
