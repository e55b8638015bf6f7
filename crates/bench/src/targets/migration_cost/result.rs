//! What a calibration leaves: `migration_cost.json`. `docs/artifacts.md` describes its keys.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_kv::{ClassCost, CopyClass, CopyCosts, LinkCost, MeasuredLink};
use dualpool_machine::Machine;
use dualpool_types::Bytes;

use super::sweep::Point;

/// The version of the file's keys.
pub const MIGRATION_COST_SCHEMA: u32 = 2;

/// What copying KV costs between the memories of a machine, as it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrationCost {
    /// The version of the document.
    pub schema_version: u32,
    /// The target that was run.
    pub target: String,
    /// The id of the run: its start in UTC and a suffix.
    pub id: String,
    /// When the run started: UTC, RFC 3339.
    pub started_at: String,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// The version of dualpool.
    pub dualpool: String,
    /// The machine.
    pub machine: Machine,
    /// The memory at each end in bytes.
    pub memory_bytes: Bytes,
    /// The copies of each plan after the warm-up.
    pub repeats: u32,
    /// The seed of the plans and of the orders in which they were measured.
    pub seed: u64,
    /// The ordered pairs of memories.
    pub links: Vec<Link>,
}

/// One ordered pair of memories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The source memory: a NUMA node, or the UUID of a GPU.
    pub from: String,
    /// The destination memory.
    pub to: String,
    /// How bytes are copied: `shm` or `cuda`.
    pub transport: String,
    /// The one large copy, by class; the fastest repeat of the fastest class is the ceiling.
    pub large: Vec<Point>,
    /// The speed of the fastest large copy in bytes per second.
    pub ceiling_bytes_per_s: f64,
    /// The plans that the costs were fitted to, by class.
    pub points: Vec<Point>,
    /// The plans that the fit has not seen.
    pub held_out: Vec<HeldOut>,
    /// The fitted cost of each class of copy.
    pub classes: Vec<Class>,
    /// For each plan the class that the fit chooses.
    pub choices: Vec<Choice>,
    /// The median over the held-out plans of all classes: |predicted - measured| / measured.
    pub held_out_error_median: f64,
}

/// A class of copy on this link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// The class of copy.
    pub class: CopyClass,
    /// The cost that was fitted.
    pub cost: ClassCost,
    /// The time to plan and copy the smallest plan in microseconds: what submission costs, measured.
    pub smallest_us: f64,
    /// The median error over the plans that the cost was fitted to.
    pub fit_error_median: f64,
    /// The median error over the plans that the fit has not seen.
    pub held_out_error_median: f64,
    /// The 90th percentile of the errors over the plans that the fit has not seen.
    pub held_out_error_p90: f64,
}

/// A plan that the fit has not seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// The plan as it was measured.
    pub measured: Point,
    /// The time that the fit predicts in microseconds.
    pub predicted_us: f64,
}

/// Which class a plan is given, and which one was measured to be fastest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The bytes of each byte range.
    pub range_bytes: Bytes,
    /// The number of byte ranges.
    pub ranges: u32,
    /// The class that the fit chooses.
    pub chosen: CopyClass,
    /// The class that was measured to be fastest.
    pub fastest: CopyClass,
}

impl MigrationCost {
    /// What later runs read.
    pub fn copy_costs(&self) -> anyhow::Result<CopyCosts> {
        let link = |link: &Link| {
            Ok(MeasuredLink {
                from: link.from.clone(),
                to: link.to.clone(),
                ceiling_bytes_per_s: link.ceiling_bytes_per_s,
                held_out_error: link.held_out_error_median,
                classes: LinkCost::new(link.classes.iter().map(|class| (class.class, class.cost)).collect())?,
            })
        };
        Ok(CopyCosts {
            schema_version: dualpool_kv::COPY_COSTS_SCHEMA,
            layout: dualpool_kv::COPY_LAYOUT,
            dualpool: self.dualpool.clone(),
            measured_at: self.started_at.clone(),
            machine: self.machine.clone(),
            links: self.links.iter().map(link).collect::<anyhow::Result<_>>()?,
        })
    }
}
