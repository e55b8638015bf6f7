//! A target: what `dualpool run` can run. It says what it is called, which flags it has, what it checks before anything is started, and
//! whether it wants engines; it is handed what it wants, and says what came of it.

use std::time::Duration;

use async_trait::async_trait;
use clap::{ArgMatches, Command};
use serde::Serialize;

use dualpool_fleet::Fleet;
use dualpool_fleet::Progress;
use dualpool_machine::Gpus;
use dualpool_types::artifact::Environment;
use dualpool_types::{Failure, Program};

use crate::flags::{FlagValue, SettingFlag};
use crate::plan::Plan;
use crate::{Begin, Cancel, Settings};

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

    /// Whether a run of it can be gone on with after its end.
    fn goes_on(&self) -> bool {
        false
    }

    /// What a run would do, with the checks of `prepare` and without its folder. None for a target that compares no arms.
    fn plan(&self) -> Option<Planner> {
        None
    }

    /// Checks everything that needs no engine, and makes the run's folder.
    fn prepare(&self, call: &Call) -> Result<Prepared, Failure>;
}

/// Says what a run by these settings would do.
pub type Planner = fn(&Settings) -> Result<Plan, Failure>;

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
    /// Its command line, for readers of the artifacts.
    pub command: &'a [String],
    /// Whether the run goes on in the folder that it left; only of a target that can.
    pub begin: Begin,
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

    async fn run(self: Box<Self>, session: Session<'_>) -> Result<Done, Failure>;

    /// Gives the run up before it began, because no engine came up for it. Its folder is removed.
    fn abandon(self: Box<Self>);
}

/// A fleet that is up, as a target gets it handed.
pub struct Session<'a> {
    pub fleet: &'a Fleet,
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
pub(crate) fn json(artifact: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(artifact).map_err(anyhow::Error::from)? + "\n")
}
