//! Every setting, with its default. The key of a field is its path: `engine.max_model_len` (TOML table `[engine]`, environment
//! variable `DUALPOOL_ENGINE__MAX_MODEL_LEN`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use dualpool_engine::{EngineSettings, VirtualEngineSettings};
use dualpool_fleet::{FleetSpec, TelemetrySettings};
use dualpool_kv::{EngineLinks, MigrateSettings};
use dualpool_machine::{Placement, PoolSettings};
use dualpool_router::RouterSettings;
use dualpool_types::Arm;
use dualpool_workload::{ObjectiveSettings, WorkloadSettings};

mod dynamic_router;

pub use dynamic_router::{DynamicRouterSettings, WorkloadKind};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub engine: EngineSettings,
    pub pools: PoolSettings,
    pub router: RouterSettings,
    pub migrate: MigrateSettings,
    pub workload: WorkloadSettings,
    pub objectives: ObjectiveSettings,
    pub run: RunSettings,
    pub dynamic_router: DynamicRouterSettings,
    pub telemetry: TelemetrySettings,
    #[serde(rename = "virtual")]
    pub virtual_engines: VirtualEngineSettings,
}

impl Settings {
    /// The fleet of these engines.
    pub fn fleet<'a>(&'a self, placements: &'a [Placement], links: EngineLinks) -> FleetSpec<'a> {
        FleetSpec {
            placements,
            engine: &self.engine,
            virtual_engines: &self.virtual_engines,
            migrate: &self.migrate,
            router: &self.router,
            telemetry: &self.telemetry,
            links,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// The arms to run, in order. `shared_tuned`, or else the first one, is the reference: it runs twice (the A/A control), and output
    /// tokens are compared with its own.
    pub arms: Vec<String>,
    pub repetitions: u32,
    pub quick: bool,
    pub exact: bool,
    /// Empty = `artifacts/<target>/<UTC time>-<id>`.
    pub out: PathBuf,
    pub bootstrap_resamples: u32,
    /// Time for the search that tunes `shared_tuned`, `dual_pool` and `auto`.
    pub search_budget_s: u64,
    /// The folder of what was accepted of earlier runs, a file per kind of machine, that a run is held against; `none` = no such thing.
    pub expectations: PathBuf,
    /// Whether this run's ratios are what later ones are held against.
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
