//! The requests of a simulation, made or read one by one.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use dualpool_report::simulated::Replayed;
use dualpool_sim::scenario::Scenario;
use dualpool_types::{Failure, Objectives, Request, Time};
use dualpool_workload::WorkItem;
use dualpool_workload::trace::{Replay, ReplayOptions, TraceError, open};

/// Where requests come from; every arm opens it anew and gets the same ones.
pub(super) enum Source {
    /// From the scenario's traffic.
    Made,
    Trace {
        file: PathBuf,
        speed: f64,
        limit: Option<u32>,
    },
}

impl Source {
    pub(super) fn open(&self, scenario: &Scenario, seed: u64) -> Result<Requests, Failure> {
        let objectives = scenario.objectives.objectives();
        let items = match self {
            Source::Made => Items::Made(Box::new(scenario.traffic.items(scenario, seed)?)),
            Source::Trace { file, speed, limit } => {
                let options = ReplayOptions {
                    speed: *speed,
                    limit: *limit,
                    long_prompt_tokens_min: scenario.long_prompt_tokens_min,
                    seed,
                    ..ReplayOptions::new(scenario.limits())
                };
                let replay = Replay::new(open(file)?, options)?;
                Items::Trace { file: file.display().to_string(), replay: Box::new(replay) }
            }
        };
        Ok(Requests { items, objectives, failed: None })
    }

    pub(super) fn words(&self, scenario: &Scenario) -> String {
        match self {
            Source::Made => scenario.traffic.words(),
            Source::Trace { file, speed, .. } if *speed == 1.0 => format!("trace {}", file.display()),
            Source::Trace { file, speed, .. } => format!("trace {} at {speed} times its speed", file.display()),
        }
    }
}

enum Items {
    Made(Box<dyn Iterator<Item = WorkItem>>),
    Trace { file: String, replay: Box<Replay<BufReader<File>>> },
}

/// The requests of one arm. Ends with the first error, which `end` returns.
pub(super) struct Requests {
    items: Items,
    objectives: Objectives,
    failed: Option<TraceError>,
}

impl Requests {
    /// What became of a trace's rows, once all requests were taken.
    pub(super) fn end(self) -> Result<Option<Replayed>, TraceError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let Items::Trace { file, replay } = self.items else { return Ok(None) };
        let report = replay.report();
        let named = report.bad_rows.named.iter().map(|row| format!("line {}: {}", row.line, row.reason));
        Ok(Some(Replayed {
            file,
            format: report.format.to_string(),
            requests: report.requests,
            clipped_requests: report.clipped.requests,
            bad_rows: report.bad_rows.count,
            named: named.collect(),
        }))
    }
}

impl Iterator for Requests {
    type Item = (Time, Request);

    fn next(&mut self) -> Option<Self::Item> {
        let item = match &mut self.items {
            Items::Made(items) => items.next()?,
            Items::Trace { replay, .. } => match replay.next()? {
                Ok(item) => item,
                Err(error) => {
                    self.failed = Some(error);
                    return None;
                }
            },
        };
        Some(item.asked(self.objectives))
    }
}
