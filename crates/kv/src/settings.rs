//! How KV is copied.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MigrateSettings {
    /// How long an engine keeps blocks that no leg fetched.
    pub lease_ms: u64,
    /// Compare checksums of source and destination blocks of every copy plan.
    pub verify_kv: bool,
    /// Where the control socket lives; a folder of its own, made with mode 0700. Empty = a fresh one in the system's temporary folder.
    pub run_dir: PathBuf,
    /// Where `dualpool calibrate` leaves what copies cost here, and where runs read it. Empty = `artifacts/migration_cost/calibration.json`,
    /// `none` = runs do without.
    pub calibration: PathBuf,
    /// Blocks that a copy kernel on a GPU has at most: more copy faster, and take more of the GPU from the engine.
    pub copy_grid_blocks_max: u32,
}

/// 16 blocks keep half a megabyte of loads under way (2 KiB for each of their 256 warps), which by Little's law is some 700 GB/s at 700 ns:
/// more than a link between GPUs carries, with most multiprocessors left to the engine. An estimate: `scripts/gpu_check` measures both on
/// the GPU at hand.
pub const COPY_GRID_BLOCKS: u32 = 16;

/// Where a calibration of copies lies when the settings name no other place.
const CALIBRATION_FILE: &str = "artifacts/migration_cost/calibration.json";

impl MigrateSettings {
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

impl Default for MigrateSettings {
    fn default() -> Self {
        MigrateSettings {
            lease_ms: 30_000,
            verify_kv: false,
            run_dir: PathBuf::new(),
            calibration: PathBuf::new(),
            copy_grid_blocks_max: COPY_GRID_BLOCKS,
        }
    }
}
