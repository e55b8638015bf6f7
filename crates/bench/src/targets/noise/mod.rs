//! The target `noise`: how much identical arms differ on this machine, and how often the rule of verdicts calls them different. It validates the
//! rule here; it decides no verdict.

mod table;

use anyhow::Context;
use async_trait::async_trait;
use thiserror::Error;

use dualpool_report::load;
use dualpool_types::artifact::RunInfo;
use dualpool_types::records::{RequestRecord, replace_json};
use dualpool_types::{Arm, Failure, UserError};

use crate::expectations::MachineKind;
use crate::folder::REQUESTS;
use crate::noise::{NOISE_SCHEMA, Noise, keep};
use crate::run::Paired;
use crate::target::{Call, Done, OnFleet, Prepared, Session, Target, View, json};
use crate::targets::dual_pool;
use crate::{Settings, stats};

/// What identical arms do, fewer repetitions do not tell.
const REPETITIONS_MIN: u32 = 20;

/// The file in the run's folder.
const FILE: &str = "noise.json";

#[derive(Debug, Error)]
#[error("run.repetitions (--repetitions) is {given}; a calibration of noise takes at least {REPETITIONS_MIN}")]
struct TooFew {
    given: u32,
}

impl UserError for TooFew {
    fn hint(&self) -> &'static str {
        "without --repetitions it makes as many as it takes"
    }
}

pub struct NoiseCalibration;

impl Target for NoiseCalibration {
    fn name(&self) -> &'static str {
        "noise"
    }

    fn about(&self) -> &'static str {
        "how much identical arms differ on this machine, how often the rule of verdicts is wrong about it, and the smallest effect that shows"
    }

    fn file(&self) -> Option<&'static str> {
        Some(REQUESTS)
    }

    fn prepare(&self, call: &Call) -> Result<Prepared, Failure> {
        let mut settings = call.settings.clone();
        let repetitions = &mut settings.run.repetitions;
        *repetitions = match *repetitions {
            0 => REPETITIONS_MIN,
            given if given < REPETITIONS_MIN => return Err(TooFew { given }.into()),
            given => given,
        };
        // An arm that needs no search; its control repeats it.
        settings.run.arms = vec![Arm::SharedLeastLoad.name().to_string()];
        let paired = dual_pool::prepare_as(self.name(), &settings, call.command, call.begin)?;
        Ok(Prepared::OnFleet(Box::new(Calibration(paired))))
    }
}

struct Calibration(Paired);

#[async_trait(?Send)]
impl OnFleet for Calibration {
    fn settings(&self) -> &Settings {
        self.0.settings()
    }

    async fn run(self: Box<Self>, session: Session<'_>) -> Result<Done, Failure> {
        let settings = self.0.settings().clone();
        let outcome = self.0.outcomes(session).await?.pop().context("a run without parts")?;
        let artifacts = load(&outcome.dir)?;
        let noise = of(&artifacts.run, &artifacts.requests, &settings)?;
        replace_json(&outcome.dir.join(FILE), &noise).context("cannot write noise.json")?;
        // A run that was cut short, or disturbed, says less than it was to, and is none to go by.
        let whole = !outcome.interrupted && outcome.faults.is_empty() && noise.figures.repetitions >= REPETITIONS_MIN;
        let kept = if whole { keep(&settings.run, &noise)? } else { None };
        let (interrupted, faults, dir) = (outcome.interrupted, outcome.faults, outcome.dir);
        let show = move |view: &View| {
            if view.json { json(&noise) } else { Ok(table::table(&noise, kept.as_deref(), &dir, view.columns)) }
        };
        Ok(Done { show: Box::new(show), interrupted, faults })
    }

    fn abandon(self: Box<Self>) {
        self.0.abandon();
    }
}

fn of(run: &RunInfo, requests: &[RequestRecord], settings: &Settings) -> anyhow::Result<Noise> {
    let figures = stats::noise(run, requests)
        .context("fewer than two repetitions count, which say nothing of noise; the notes in run.json say why")?;
    Ok(Noise {
        schema_version: NOISE_SCHEMA,
        machine: MachineKind::of(&run.environment),
        run: run.id.clone(),
        started_at: run.started_at.clone(),
        load: (settings.workload.rate <= 0.0).then_some(settings.workload.load),
        requests: run.repetition.map_or(0, |repetition| repetition.requests),
        figures,
    })
}
