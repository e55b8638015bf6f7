//! `profile.json`: copies, their overlap with kernels, and idle gaps, from whatever saw them best.
//!
//! `nsys` and `ncu` read what these tools print as CSV; `in_process` knows only what this program timed itself.

pub mod in_process;
mod intervals;
pub mod ncu;
pub mod nsys;
mod table;

use serde::{Deserialize, Serialize};

use dualpool_fleet::ProfileKind;

pub use table::ExtractError;

/// Of the document; raised when a key changes its meaning or goes.
pub const VERSION: u32 = 1;

/// Kernels listed by name, at most: those that took the longest.
pub const KERNELS_MAX: usize = 32;

/// The program that measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// This program: the hand-offs in `requests.jsonl`.
    InProcess,
    Nsys,
    Ncu,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    #[serde(alias = "version")]
    pub schema_version: u32,
    pub asked: ProfileKind,
    pub source: Source,
    /// Why the source is not what was asked for, or what a reader must know of it.
    pub note: Option<String>,
    /// The tool's own report, beside this file.
    pub report: Option<String>,
    pub copies: Vec<Copies>,
    pub devices: Vec<DeviceUse>,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copies {
    /// `hand-off`, or the tool's name for it.
    pub kind: String,
    /// Engine, or kind of memory.
    pub from: String,
    pub to: String,
    /// The device that copied; none where the source does not say.
    pub device: Option<String>,
    pub count: u64,
    pub bytes: u64,
    /// Sum over the copies, also where they ran at the same time.
    pub time_us: f64,
    /// `bytes / time_us`; none when no time was measured.
    pub gb_per_s: Option<f64>,
}

/// What one device, or engine, did over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceUse {
    pub device: String,
    /// From the first activity to the last one's end.
    pub span_us: f64,
    /// Any activity.
    pub busy_us: f64,
    pub kernel_us: Option<f64>,
    pub copy_us: Option<f64>,
    /// Copies and kernels at the same time.
    pub overlap_us: Option<f64>,
    /// `overlap_us / copy_us`.
    pub overlap_share: Option<f64>,
    pub idle: Idle,
}

/// Stretches of the span without any activity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    /// Shorter ones are not counted as gaps; `total_us` has them.
    pub gap_us_min: f64,
    pub gaps: u64,
    pub total_us: f64,
    pub longest_us: f64,
}

/// All launches of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernels {
    pub name: String,
    pub device: String,
    pub launches: u64,
    /// Over all launches; none when that of one was not measured.
    pub time_us: Option<f64>,
    /// Read from and written to the device's memory.
    pub dram_bytes: Option<u64>,
    pub dram_gb_per_s: Option<f64>,
    /// Share of the memory's peak, 0 to 1; the mean over launches, weighted by their time.
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
