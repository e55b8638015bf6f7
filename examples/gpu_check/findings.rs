//! What was found, as `scripts/gpu_check` reads it.

use serde::Serialize;

use dualpool_cuda::Context;

#[derive(Serialize)]
pub struct Findings {
    pub gpus: Vec<Gpu>,
    /// The CUDA version that the driver supports.
    pub driver: String,
    /// Where the kernels' machine code came from.
    pub kernels: String,
    pub grid_blocks_default: u32,
    pub seed: u64,
    pub rows: Vec<Row>,
}

#[derive(Serialize)]
pub struct Gpu {
    uuid: String,
    name: String,
    compute_capability: String,
    multiprocessors: u32,
    memory_bytes: u64,
}

impl Gpu {
    pub fn of(context: &Context) -> Gpu {
        let device = context.device();
        Gpu {
            uuid: device.uuid.to_string(),
            name: device.name.clone(),
            compute_capability: device.compute_capability.to_string(),
            multiprocessors: device.multiprocessors,
            memory_bytes: device.memory.0,
        }
    }
}

/// One line of the table: right or wrong, a figure with or without a target, or the reason why there is none.
#[derive(Serialize)]
pub struct Row {
    group: &'static str,
    what: String,
    #[serde(flatten)]
    result: Outcome,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Outcome {
    Correct { right: bool, detail: String },
    Figure { value: f64, unit: &'static str, target: Option<Target>, met: Option<bool> },
    NotRun { why: String },
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Findings {
    pub fn correct(&mut self, group: &'static str, what: impl Into<String>, outcome: Result<String, String>) {
        let (right, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        self.row(group, what.into(), Outcome::Correct { right, detail });
    }

    pub fn figure(&mut self, group: &'static str, what: impl Into<String>, value: f64, unit: &'static str, target: Option<Target>) {
        let met = target.map(|target| match target {
            Target::AtLeast(least) => value >= least,
            Target::AtMost(most) => value <= most,
        });
        self.row(group, what.into(), Outcome::Figure { value, unit, target, met });
    }

    /// A part that could not go on is as bad as a wrong copy.
    pub fn went_through(&mut self, group: &'static str, done: anyhow::Result<()>) {
        if let Err(error) = done {
            eprintln!("error: {group}: {error:#}");
            self.correct(group, "could go on to its end", Err(format!("{error:#}")));
        }
    }

    pub fn not_run(&mut self, group: &'static str, what: impl Into<String>, why: impl Into<String>) {
        self.row(group, what.into(), Outcome::NotRun { why: why.into() });
    }

    /// No copy was wrong. A target that is missed is a finding and not a fault.
    pub fn all_right(&self) -> bool {
        !self.rows.iter().any(|row| matches!(row.result, Outcome::Correct { right: false, .. }))
    }

    fn row(&mut self, group: &'static str, what: String, result: Outcome) {
        // So that a user who waits sees that it goes on; the table comes at the end.
        eprintln!("{group}: {what}");
        self.rows.push(Row { group, what, result });
    }
}
