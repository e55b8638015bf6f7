//! `profile.json`: copies, their overlap with kernels, and idle gaps, from whatever saw them best.
//!
//! `nsys` and `ncu` read what these tools print as CSV; `in_process` knows only what this program timed itself.

pub mod in_process;
mod intervals;
pub mod ncu;
pub mod nsys;
mod table;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_fleet::ProfileKind;

pub use table::ExtractError;

/// Of the document; raised when a key changes its meaning or goes.
pub const VERSION: u32 = 1;

/// Kernels listed by name, at most: those that took the longest.
pub const KERNELS_MAX: usize = 32;

/// The program that measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// This program did, by the hand-offs and legs in `requests.jsonl`.
    InProcess,
    /// NVIDIA Nsight Systems did.
    Nsys,
    /// NVIDIA Nsight Compute did.
    Ncu,
}

/// Copies, their overlap with kernels, and idle gaps. What the source cannot know is null or an empty list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Profile {
    /// The version of the document.
    #[serde(alias = "version")]
    pub schema_version: u32,
    /// The kind of profile that was asked for.
    pub asked: ProfileKind,
    /// What measured.
    pub source: Source,
    /// Why the source is not what was asked for, or what a reader must know of it.
    pub note: Option<String>,
    /// The tool's own report, beside this file.
    pub report: Option<String>,
    /// The copies, by kind and place.
    pub copies: Vec<Copies>,
    /// What each device or engine did over time.
    pub devices: Vec<DeviceUse>,
    /// The kernels that took the longest.
    pub kernels: Vec<Kernels>,
}

impl Profile {
    fn new(source: Source) -> Profile {
        let asked = match source {
            Source::InProcess => ProfileKind::Minimal,
            Source::Nsys => ProfileKind::Nsys,
            Source::Ncu => ProfileKind::Ncu,
        };
        let (copies, devices, kernels) = (Vec::new(), Vec::new(), Vec::new());
        Profile { schema_version: VERSION, asked, source, note: None, report: None, copies, devices, kernels }
    }
}

/// All copies of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Copies {
    /// The kind of copy: `hand-off`, or the tool's name for it.
    pub kind: String,
    /// The source engine, or kind of memory.
    pub from: String,
    /// The destination engine, or kind of memory.
    pub to: String,
    /// The device that copied; null where the source does not say.
    pub device: Option<String>,
    /// The number of copies.
    pub count: u64,
    /// The bytes of all copies.
    pub bytes: u64,
    /// The sum of the copies' times in microseconds, also where they ran at the same time.
    pub time_us: f64,
    /// The bytes per time, in 10^9 bytes per second; null when no time was measured.
    pub gb_per_s: Option<f64>,
}

/// What one device, or engine, did over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceUse {
    /// The device, or the engine.
    pub device: String,
    /// The time from the first activity to the last one's end in microseconds.
    pub span_us: f64,
    /// The time with any activity in microseconds.
    pub busy_us: f64,
    /// The time with kernels in microseconds.
    pub kernel_us: Option<f64>,
    /// The time with copies in microseconds.
    pub copy_us: Option<f64>,
    /// The time with copies and kernels at once in microseconds.
    pub overlap_us: Option<f64>,
    /// The share of the time with copies that had kernels at once, 0 to 1.
    pub overlap_share: Option<f64>,
    /// The time without any activity.
    pub idle: Idle,
}

/// Stretches of the span without any activity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Idle {
    /// Shorter stretches than this are not counted as gaps, in microseconds; `total_us` has them.
    pub gap_us_min: f64,
    /// The number of gaps.
    pub gaps: u64,
    /// The time without any activity in microseconds.
    pub total_us: f64,
    /// The longest gap in microseconds.
    pub longest_us: f64,
}

/// All launches of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Kernels {
    /// The name of the kernel.
    pub name: String,
    /// The device it ran on.
    pub device: String,
    /// The number of its launches.
    pub launches: u64,
    /// The time of all launches in microseconds; null when that of one was not measured.
    pub time_us: Option<f64>,
    /// The bytes read from and written to the device's memory.
    pub dram_bytes: Option<u64>,
    /// The same per time, in 10^9 bytes per second.
    pub dram_gb_per_s: Option<f64>,
    /// The share of the memory's peak, 0 to 1; the mean over launches, weighted by their time.
    pub dram_peak_share: Option<f64>,
}

/// Billions of bytes per second; none when no time was measured.
fn gb_per_s(bytes: u64, time_us: f64) -> Option<f64> {
    (time_us > 0.0).then(|| bytes as f64 / time_us / 1e3)
}

/// The kernels that took the longest, in that order; those of which it is not known come last.
fn longest(mut kernels: Vec<Kernels>) -> Vec<Kernels> {
    let time = |kernel: &Kernels| kernel.time_us.unwrap_or(-1.0);
    kernels.sort_by(|a, b| time(b).total_cmp(&time(a)));
    kernels.truncate(KERNELS_MAX);
    kernels
}
