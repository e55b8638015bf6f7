//! How much a run measures.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::Arm;
use dualpool_types::arm::UnknownArm;
use dualpool_types::settings::{Rule, Section, count, described, each_once, rule};

/// How much a run measures, and where it leaves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// Arms of `dual_pool`, in order. `shared_tuned` if it is among them, else the first one, is the reference: it runs a second
    /// time as the A/A control, and the other arms' output tokens are compared with its own.
    pub arms: Vec<String>,
    /// How often each arm runs, each time with requests of its own. `run.quick` lowers it to 2 at most, `run.exact` to 1.
    pub repetitions: u32,
    /// Shorter run: at most two repetitions of a quarter of the requests and a search with a third of its time. Intervals are
    /// wider. Calibrations take fewer measurements.
    pub quick: bool,
    /// Check that all arms give the same tokens: a quarter of the requests, one at a time, each with empty caches. Any difference,
    /// and any hand-off whose KV was computed again, fails the run. Nothing is compared for speed.
    pub exact: bool,
    /// Folder for the artifacts; it may not hold a run yet. Empty = `artifacts/<target>/<UTC time>-<id>`.
    pub out: PathBuf,
    /// Resamples behind each bootstrap interval.
    pub bootstrap_resamples: u32,
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
    /// The folder of expectations; none where the run is held against nothing.
    pub fn expectations_folder(&self) -> Option<&Path> {
        (self.expectations.as_path() != Path::new("none")).then_some(&self.expectations)
    }
}

impl Default for RunSettings {
    fn default() -> Self {
        RunSettings {
            arms: Arm::by_default().map(|arm| arm.name().to_string()).collect(),
            repetitions: 3,
            quick: false,
            exact: false,
            out: PathBuf::new(),
            bootstrap_resamples: 2000,
            search_budget_s: 90,
            expectations: "expectations".into(),
            update_expectations: false,
        }
    }
}

impl Section for RunSettings {
    fn rules(&self) -> Vec<Rule> {
        let names: Vec<&str> = Arm::nameable().map(Arm::name).collect();
        let known = self.arms.iter().all(|arm| Arm::find(arm).is_ok());
        let renamed =
            self.arms.iter().filter_map(|arm| Arm::find(arm).err()).find(|error| matches!(error, UnknownArm::Renamed { .. }));
        let allowed = format!("at least one of {}, each once", names.join(", "));
        vec![
            rule(
                "run.arms",
                renamed.map_or(allowed.clone(), |why| format!("{allowed}; {why}")),
                !self.arms.is_empty() && known && each_once(&self.arms),
            ),
            count("run.repetitions", self.repetitions),
            described("run.out", "the path of a folder, or empty for a new one"),
            rule("run.bootstrap_resamples", "a whole number of at least 100", self.bootstrap_resamples >= 100),
            count("run.search_budget_s", self.search_budget_s),
            rule("run.expectations", "the path of a folder, or `none`", !self.expectations.as_os_str().is_empty()),
        ]
    }
}
