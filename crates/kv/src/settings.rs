//! How KV is copied.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::settings::{Rule, Section, count, described};

/// How KV gets from engine to engine: the control socket, leases and copies. docs/kv-protocol.md has the protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KvSettings {
    /// Milliseconds for which an engine keeps the KV blocks of a leg that ended and that no other engine has fetched. When they are
    /// over, the blocks are released; a benchmark run reports that as a fault.
    pub lease_ms: u64,
    /// Compare checksums of the source and the destination blocks after every copy. A copy that differs fails, and the engine
    /// computes the prompt. It reads all copied bytes once more at both ends.
    pub verify: bool,
    /// Folder of the control socket and of the files that engines of this run share; it must be yours alone (mode 0700) or not
    /// exist yet. Empty = a new folder in the system's temporary folder, removed at the end.
    pub run_dir: PathBuf,
    /// File with what copies of KV cost on this machine: written by `dualpool calibrate`, read by runs. Empty =
    /// `artifacts/migration_cost/calibration.json`, if it fits this machine; a file that you name must exist and fit. `none` = runs
    /// have no calibration and learn the costs while they serve.
    pub calibration: PathBuf,
    /// CUDA thread blocks that one copy kernel uses at most. More blocks copy faster and leave fewer multiprocessors to the engine.
    pub copy_grid_blocks_max: u32,
}

/// 16 blocks keep half a megabyte of loads under way (2 KiB for each of their 256 warps), which by Little's law is some 700 GB/s at 700 ns:
/// more than a link between GPUs carries, with most multiprocessors left to the engine. An estimate: `scripts/gpu_check` measures both on
/// the GPU at hand.
pub const COPY_GRID_BLOCKS: u32 = 16;

/// Where a calibration of copies lies when the settings name no other place.
const CALIBRATION_FILE: &str = "artifacts/migration_cost/calibration.json";

impl KvSettings {
    /// Where the calibration of copies lies; none when runs are to do without.
    pub fn calibration_file(&self) -> Option<PathBuf> {
        match self.calibration.to_str() {
            Some("none") => None,
            Some("") => Some(CALIBRATION_FILE.into()),
            _ => Some(self.calibration.clone()),
        }
    }

    /// Whether the user named the file, and so relies on it.
    pub fn names_calibration(&self) -> bool {
        !self.calibration.as_os_str().is_empty()
    }
}

impl Default for KvSettings {
    fn default() -> Self {
        KvSettings {
            lease_ms: 30_000,
            verify: false,
            run_dir: PathBuf::new(),
            calibration: PathBuf::new(),
            copy_grid_blocks_max: COPY_GRID_BLOCKS,
        }
    }
}

impl Section for KvSettings {
    fn rules(&self) -> Vec<Rule> {
        vec![
            count("kv.lease_ms", self.lease_ms),
            described("kv.run_dir", "the path of a folder, or empty for a new one"),
            described("kv.calibration", "the path of a file, `none`, or empty for the default"),
            count("kv.copy_grid_blocks_max", self.copy_grid_blocks_max),
        ]
    }
}
