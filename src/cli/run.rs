//! `dualpool run TARGET`

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;

use super::failure::{FAILED, INTERRUPTED};
use super::flags::SettingFlags;
use super::fleet::Links;
use super::profile::Watched;
use super::progress::Bars;
use super::terminal::{Terminal, columns, print};
use super::{Cli, calibrate, fleet, interrupt, log, program, session, sim_fidelity, topology};
use crate::config::Settings;
use crate::core::{Clock, MonotonicClock};
use crate::device::{self, Gpus, Placement};
use crate::harness::target::{self, Target};
use crate::harness::{Cancel, Outcome, Progress, dual_pool, environment};
use crate::report;

#[derive(clap::Args)]
pub struct Args {
    /// What to run; `dualpool list-targets` lists them.
    target: String,
    /// Print the target's JSON (`dual_pool`: summary.json) instead of its table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

impl Args {
    pub fn of(target: Target, json: bool, settings: SettingFlags) -> Args {
        Args { target: target.name.to_owned(), json, settings }
    }
}

pub fn run(args: &Args, cli: &Cli, terminal: &Terminal) -> anyhow::Result<ExitCode> {
    let target = target::find(&args.target)?;
    let gpus = Gpus::detect();
    let settings = cli.settings(&args.settings, &gpus)?.settings;
    log::init(&settings.telemetry.log, terminal);
    let watched = Watched { settings: &settings, target, arguments: &cli.arguments, quiet: args.json, terminal };
    watched.run(|settings| {
        if target == target::TOPOLOGY_PROBE {
            topology::probe(&settings.run.out, args.json)
        } else if target == target::MIGRATION_COST {
            calibrate::measure(settings, &gpus, args.json, terminal)
        } else if target == target::SIM_FIDELITY {
            sim_fidelity::run(settings, &gpus, args.json, terminal)
        } else if target == target::ENGINE_TIMING {
            calibrate::engines(settings, &gpus, args.json, terminal)
        } else {
            dual_pool(args, settings, &gpus, terminal)
        }
    })
}

fn dual_pool(args: &Args, settings: &Settings, gpus: &Gpus, terminal: &Terminal) -> anyhow::Result<ExitCode> {
    let placements = device::choose(&settings.pools, gpus)?;
    let links = fleet::links(settings, &placements, gpus)?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the tokio runtime")?;
    let outcome = runtime.block_on(measure(settings, &placements, links, terminal));
    // What is left are tasks that wait for nothing; none may keep the program from ending.
    runtime.shutdown_timeout(session::SHUTDOWN_MAX);
    let Some(outcome) = outcome? else {
        terminal.line("stopped before the engines were ready; nothing was measured");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    show(&outcome.dir, args.json)?;
    Ok(verdict(&outcome, terminal))
}

/// None when the user stopped it before there was anything to keep.
async fn measure(
    settings: &Settings,
    placements: &[Placement],
    links: Links,
    terminal: &Terminal,
) -> anyhow::Result<Option<Outcome>> {
    let cancel = Cancel::new();
    interrupt::watch(cancel.clone(), terminal.clone()).context("cannot listen for Ctrl-C")?;
    let bars = Arc::new(Bars::new(terminal));
    for note in session::notes(placements) {
        bars.note(&note);
    }
    let mut prepared = dual_pool::prepare(settings, program::command_line())?;
    prepared.noted(links.note);

    let clock = MonotonicClock::new();
    let started = clock.now();
    bars.phase("engine start", 0);
    let controller = tokio::select! {
        controller = fleet::start(settings, placements, links.links, bars.clone()) => controller.map(Some),
        // Dropping the start ends the engines that were on their way.
        () = cancel.cancelled() => Ok(None),
    };
    let controller = match controller {
        Ok(Some(controller)) => controller,
        not_started => {
            prepared.abandon();
            return not_started.map(|_| None);
        }
    };
    prepared.took("engine start", clock.now().since(started).into());

    let environment = environment::gather(controller.engines(), settings, session::gpu_names(placements));
    let outcome = prepared.run(&controller, environment, bars.as_ref(), &cancel).await;
    bars.phase("engine stop", 0);
    controller.shutdown().await;
    bars.finish();
    outcome.map(Some)
}

fn show(dir: &Path, json: bool) -> anyhow::Result<()> {
    if json {
        let path = dir.join("summary.json");
        return print(&std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    let table = report::print(&report::load(dir)?, columns());
    print(&format!("{table}\nartifacts: {}\nreport:    {}\n", dir.display(), dir.join("report.html").display()))
}

fn verdict(outcome: &Outcome, terminal: &Terminal) -> ExitCode {
    for fault in &outcome.faults {
        terminal.line(&format!("error: {fault}; see requests.jsonl in the run folder"));
    }
    ExitCode::from(match (outcome.interrupted, outcome.faults.is_empty()) {
        // Its requests were cut short, so what they say of faults says nothing.
        (true, _) => INTERRUPTED,
        (false, false) => FAILED,
        (false, true) => 0,
    })
}
