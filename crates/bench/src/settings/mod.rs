//! Every setting, with its default: sections that belong to the crates they configure, and those of benchmarks. The key of a field is its path: `engine.max_model_len` (TOML table `[engine]`, environment
//! variable `DUALPOOL_ENGINE__MAX_MODEL_LEN`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_engine::{EngineSettings, VirtualEngineSettings};
use dualpool_fleet::{FleetSpec, TelemetrySettings};
use dualpool_kv::{EngineLinks, KvSettings};
use dualpool_machine::{Placement, PoolSettings};
use dualpool_router::RouterSettings;
use dualpool_workload::{ObjectiveSettings, WorkloadSettings};

mod check;
mod dynamic_router;
mod renamed;
mod run;

pub use check::SettingsError;
pub use dynamic_router::{DynamicRouterSettings, WorkloadKind};
pub(crate) use renamed::with_present_names;
pub use renamed::{renamed, renamed_table};
pub use run::RunSettings;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub engine: EngineSettings,
    pub pools: PoolSettings,
    pub router: RouterSettings,
    pub kv: KvSettings,
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
            kv: &self.kv,
            router: &self.router,
            telemetry: &self.telemetry,
            links,
            admin: None,
        }
    }
}
