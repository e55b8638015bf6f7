//! What a fleet is made of.

use std::path::Path;

use dualpool_engine::{EngineSettings, VirtualEngineSettings};
use dualpool_kv::{EngineLinks, KvSettings};
use dualpool_machine::Placement;
use dualpool_router::RouterSettings;

use crate::TelemetrySettings;

/// One engine per placement, and by which settings they, the mover and the router work.
#[derive(Clone, Debug)]
pub struct FleetSpec<'a> {
    pub placements: &'a [Placement],
    pub engine: &'a EngineSettings,
    pub virtual_engines: &'a VirtualEngineSettings,
    pub kv: &'a KvSettings,
    pub router: &'a RouterSettings,
    pub telemetry: &'a TelemetrySettings,
    /// What copies between the engines are known to cost.
    pub links: EngineLinks,
    /// The folder of the socket at which the fleet takes orders from other processes; none = it takes none.
    pub admin: Option<&'a Path>,
}
