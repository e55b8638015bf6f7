//! What `dualpool run` can run. A target says what it is called, which flags it has, what it checks before anything is started, and whether
//! it wants engines; it is handed what it wants, and says what came of it. Each has a folder of its own here, and a line in `TARGETS`.

pub mod dual_pool;
pub mod dynamic_router;
pub mod engine_timing;
pub mod migration_cost;
pub mod sim_fidelity;
pub mod simulation;
pub mod topology_probe;

use std::time::Duration;

use async_trait::async_trait;
use clap::{ArgMatches, Command};
use serde::Serialize;
use thiserror::Error;

use dualpool_fleet::Progress;
use dualpool_fleet::controller::Controller;
use dualpool_machine::Gpus;
use dualpool_types::artifact::Environment;
use dualpool_types::{Failure, Program, UserError};

use crate::config::FlagValue;
use crate::flags::SettingFlag;
use crate::{Cancel, Settings};

/// All targets, in the order in which they are listed.
pub const TARGETS: [&dyn Target; 7] = [
    &dual_pool::DualPool,
    &dynamic_router::DynamicRouter,
    &topology_probe::TopologyProbe,
    &migration_cost::CopyCalibration,
    &engine_timing::EngineCalibration,
    &sim_fidelity::FidelityCheck,
    &simulation::FleetSimulation,
];

/// Something that can be run.
pub trait Target: Sync {
    fn name(&self) -> &'static str;

    /// One line of help.
    fn about(&self) -> &'static str;

    /// What a run leaves in its folder as soon as it has anything to leave. None where nothing of this machine is measured: such a run need
    /// not have a folder, is not profiled, and is the same on every machine.
    fn file(&self) -> Option<&'static str>;

    fn flags(&self) -> Flags {
        Flags::Settings(&[])
    }

    /// The settings that its own flags come to, above all others.
    fn set(&self, _flags: &ArgMatches) -> Result<Vec<FlagValue>, Failure> {
        Ok(Vec::new())
    }

    /// Checks everything that needs no engine, and makes the run's folder.
    fn prepare(&self, call: &Call) -> Result<Prepared, Failure>;
}

/// The flags of a target.
pub enum Flags {
    /// Those of all settings, and these, of settings that no other target reads.
    Settings(&'static [SettingFlag]),
    /// Its own altogether.
    Own(fn(Command) -> Command),
}

/// How a target is called.
pub struct Call<'a> {
    pub settings: &'a Settings,
    /// Of a target whose flags are its own altogether.
    pub flags: &'a ArgMatches,
    /// Of this machine; none for a target that is the same on every machine.
    pub gpus: &'a Gpus,
    /// This program, to be started once more.
    pub program: &'a Program,
    /// What it was called with, for whoever reads the artifacts.
    pub command: &'a [String],
}

/// A run that passed all checks, and what it wants.
pub enum Prepared {
    /// Nothing: it does its work by itself.
    Alone(Box<dyn Alone>),
    /// Engines.
    OnFleet(Box<dyn OnFleet>),
}

pub trait Alone {
    fn run(self: Box<Self>, progress: &dyn Progress) -> Result<Done, Failure>;
}

#[async_trait(?Send)]
pub trait OnFleet {
    /// The settings that engines are to be brought up with.
    fn settings(&self) -> &Settings;

    async fn run(self: Box<Self>, fleet: Handed<'_>) -> Result<Done, Failure>;

    /// Gives the run up before it began, because no engine came up for it. Its folder is removed.
    fn abandon(self: Box<Self>);
}

/// A fleet that is up, as a target gets it handed.
pub struct Handed<'a> {
    pub controller: &'a Controller,
    /// The machine and the engines.
    pub environment: Environment,
    /// How long the engines took to start.
    pub start: Duration,
    /// What the reader of the figures should know of how they were brought up.
    pub note: Option<String>,
    pub progress: &'a dyn Progress,
    pub cancel: &'a Cancel,
}

/// Puts a result into words, or JSON.
pub type Show = Box<dyn FnOnce(&View) -> Result<String, Failure>>;

/// What a run came to.
pub struct Done {
    /// What is printed of it.
    pub show: Show,
    /// It was stopped by the user, and is about what was finished by then.
    pub interrupted: bool,
    /// What makes it a failed one, whatever its figures say.
    pub faults: Vec<String>,
}

impl Done {
    /// A run that cannot be half of one.
    pub fn whole(show: impl FnOnce(&View) -> Result<String, Failure> + 'static) -> Done {
        Done { show: Box::new(show), interrupted: false, faults: Vec::new() }
    }
}

/// How results are shown.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// As JSON, and nothing else.
    pub json: bool,
    /// With how latencies settled in the course of a repetition.
    pub settle: bool,
    /// The width of the terminal.
    pub columns: u16,
}

/// An artifact as `--json` prints it.
fn json(artifact: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(artifact).map_err(anyhow::Error::from)? + "\n")
}

/// The target of this name, or an error that lists them.
pub fn find(name: &str) -> Result<&'static dyn Target, UnknownTarget> {
    TARGETS.into_iter().find(|target| target.name() == name).ok_or_else(|| UnknownTarget { name: name.to_string() })
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no target `{name}`; the targets are: {}", TARGETS.map(|target| target.name()).join(", "))]
pub struct UnknownTarget {
    name: String,
}

impl UserError for UnknownTarget {
    fn hint(&self) -> &'static str {
        "`dualpool list-targets` says what each target does"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_by_name() {
        assert_eq!(find("dual_pool").map(Target::name), Ok("dual_pool"));
        assert_eq!(
            find("dualpool").map(Target::name).unwrap_err().to_string(),
            "there is no target `dualpool`; the targets are: dual_pool, dynamic_router, topology_probe, migration_cost, engine_timing, \
             sim_fidelity, simulation"
        );
    }

    #[test]
    fn no_two_targets_have_one_name_or_flag() {
        let mut flags: Vec<&str> = Vec::new();
        for (i, target) in TARGETS.into_iter().enumerate() {
            assert!(TARGETS[..i].iter().all(|other| other.name() != target.name()), "{}", target.name());
            if let Flags::Settings(own) = target.flags() {
                flags.extend(own.iter().map(|flag| flag.flag));
            }
        }
        let all = flags.len();
        flags.sort_unstable();
        flags.dedup();
        assert_eq!(flags.len(), all);
    }
}
