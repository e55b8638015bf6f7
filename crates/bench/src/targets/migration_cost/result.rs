//! What a calibration leaves: `migration_cost.json`. `docs/artifacts.md` describes its keys.

use serde::{Deserialize, Serialize};

use dualpool_kv::{ClassCost, CopyClass, CopyCosts, LinkCost, MeasuredLink};
use dualpool_machine::Machine;
use dualpool_types::Bytes;

use super::sweep::Point;

/// The version of the file's keys.
pub const MIGRATION_COST_SCHEMA: u32 = 2;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationCost {
    pub schema_version: u32,
    pub target: String,
    pub id: String,
    /// UTC, RFC 3339.
    pub started_at: String,
    pub command: Vec<String>,
    pub dualpool: String,
    pub machine: Machine,
    pub memory_bytes: Bytes,
    pub repeats: u32,
    pub seed: u64,
    pub links: Vec<Link>,
}

/// One ordered pair of memories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub from: String,
    pub to: String,
    pub transport: String,
    /// The one large copy, by class; the fastest repeat of the fastest class is the ceiling.
    pub large: Vec<Point>,
    pub ceiling_bytes_per_s: f64,
    pub points: Vec<Point>,
    pub held_out: Vec<HeldOut>,
    pub classes: Vec<Class>,
    pub choices: Vec<Choice>,
    /// Over the held-out plans of all classes: |predicted - measured| / measured.
    pub held_out_error_median: f64,
}

/// A class of copy on this link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    pub class: CopyClass,
    pub cost: ClassCost,
    /// Planning and copying the smallest plan there is: what submission costs, measured.
    pub smallest_us: f64,
    pub fit_error_median: f64,
    pub held_out_error_median: f64,
    pub held_out_error_p90: f64,
}

/// A plan that the fit has not seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    pub measured: Point,
    pub predicted_us: f64,
}

/// Which class a plan of this shape is given, and which one was measured to be fastest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    pub range_bytes: Bytes,
    pub ranges: u32,
    pub chosen: CopyClass,
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
