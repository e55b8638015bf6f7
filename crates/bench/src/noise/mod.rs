//! What a calibration of noise leaves: `noise.json`. `docs/artifacts.md` describes its keys.

mod stored;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::expectations::MachineKind;
use crate::stats::NoiseFigures;

pub(crate) use stored::{keep, known};

/// The version of the file's keys.
pub(crate) const NOISE_SCHEMA: u32 = 1;

/// How much identical arms differ on a kind of machine, and what the rule of verdicts makes of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Noise {
    /// The version of the document.
    pub schema_version: u32,
    /// The kind of machine.
    pub machine: MachineKind,
    /// The id of the run: its start in UTC and a suffix.
    pub run: String,
    /// When the run started: UTC, RFC 3339.
    pub started_at: String,
    /// The share of saturation that was offered; null where a rate was given.
    pub load: Option<f64>,
    /// The requests of a repetition.
    pub requests: u32,
    #[serde(flatten)]
    pub figures: NoiseFigures,
}
