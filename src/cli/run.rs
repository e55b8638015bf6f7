//! `dualpool run TARGET`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;

use dualpool_bench::target::{self, Target};
use dualpool_bench::{Cancel, Outcome, Settings, dual_pool, dynamic_router, environment};
use dualpool_fleet::admin::{self, Admin};
use dualpool_fleet::{Links, Progress, program};
use dualpool_machine::{Gpus, Placement};
use dualpool_report::{Overview, settle};
use dualpool_types::{Clock, MonotonicClock};

use super::failure::{FAILED, INTERRUPTED};
use super::flags::SettingFlags;
use super::profile::Watched;
use super::progress::Bars;
use super::terminal::{Terminal, columns, print};
use super::{Cli, calibrate, interrupt, log, session, sim_fidelity, topology};

#[derive(clap::Args)]
pub struct Args {
    /// What to run; `dualpool list-targets` lists them.
    target: String,
    /// Print the target's JSON (`dual_pool`: summary.json; `dynamic_router`: an array of one per workload) instead of its table.
    #[arg(long)]
    json: bool,
    /// Print also how TTFT and TPOT settled in the course of a repetition, arm by arm.
    #[arg(long, conflicts_with = "json")]
    settle: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

impl Args {
    pub fn of(target: Target, json: bool, settings: SettingFlags) -> Args {
        Args { target: target.name.to_owned(), json, settle: false, settings }
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
            serving(target, args, settings, &gpus, terminal)
        }
    })
}

/// The targets that serve requests.
fn serving(target: Target, args: &Args, settings: &Settings, gpus: &Gpus, terminal: &Terminal) -> anyhow::Result<ExitCode> {
    let placements = dualpool_machine::choose(&settings.pools, gpus)?;
    let links = dualpool_fleet::links(&settings.kv, &settings.virtual_engines, &placements, gpus)?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the tokio runtime")?;
    let outcomes = runtime.block_on(measure(target, settings, &placements, links, terminal));
    // What is left are tasks that wait for nothing; none may keep the program from ending.
    runtime.shutdown_timeout(session::SHUTDOWN_MAX);
    let Some((dir, outcomes)) = outcomes? else {
        terminal.line("stopped before the engines were ready; nothing was measured");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    show(&dir, args)?;
    Ok(verdict(&outcomes, terminal))
}

/// None when the user stopped it before there was anything to keep.
async fn measure(
    target: Target,
    settings: &Settings,
    placements: &[Placement],
    links: Links,
    terminal: &Terminal,
) -> anyhow::Result<Option<(PathBuf, Vec<Outcome>)>> {
    let cancel = Cancel::new();
    interrupt::watch(cancel.clone(), terminal.clone()).context("cannot listen for Ctrl-C")?;
    let bars = Arc::new(Bars::new(terminal));
    for note in session::notes(placements) {
        bars.note(&note);
    }
    let command = program::command_line();
    let mut prepared = match target == target::DYNAMIC_ROUTER {
        true => dynamic_router::prepare(settings, command)?,
        false => dual_pool::prepare(settings, command)?,
    };
    let dir = prepared.dir().to_path_buf();
    prepared.noted(links.note);

    let clock = MonotonicClock::new();
    let started = clock.now();
    bars.phase("engine start", 0);
    let controller = tokio::select! {
        controller = dualpool_fleet::start(settings.fleet(placements, links.links), bars.clone()) => controller.map(Some),
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

    let admin = match Admin::open(&admin::folder(), controller.clone()) {
        Ok(admin) => Some(admin),
        Err(why) => {
            bars.note(&format!("`dualpool drain` cannot reach this run: {why:#}"));
            None
        }
    };
    let environment = environment::gather(controller.engines(), settings, session::gpu_names(placements));
    let outcomes = prepared.run(&controller, environment, bars.as_ref(), &cancel).await;
    bars.phase("engine stop", 0);
    drop(admin);
    controller.shutdown().await;
    bars.finish();
    outcomes.map(|outcomes| Some((dir, outcomes)))
}

fn show(dir: &Path, args: &Args) -> anyhow::Result<()> {
    if args.json {
        return print(&summaries(dir)?);
    }
    for (i, artifacts) in dualpool_report::load_parts(dir)?.iter().enumerate() {
        let gap = if i > 0 { "\n\n" } else { "" };
        let table = dualpool_report::print(artifacts, columns());
        let settled = if args.settle { format!("\n{}", settle::table(artifacts)) } else { String::new() };
        let dir = &artifacts.dir;
        print(&format!("{gap}{table}{settled}\nartifacts: {}\nreport:    {}\n", dir.display(), dir.join("report.html").display()))?;
    }
    Ok(())
}

/// The summary of a run; of one in parts, an array with that of each part.
fn summaries(dir: &Path) -> anyhow::Result<String> {
    let read = |dir: &Path| {
        let path = dir.join("summary.json");
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    match Overview::read(dir)? {
        None => read(dir),
        Some(Overview { parts }) => {
            let parts = parts.iter().map(|part| dir.join(part)).filter(|dir| dir.is_dir());
            Ok(format!("[{}]\n", parts.map(|dir| read(&dir)).collect::<anyhow::Result<Vec<_>>>()?.join(",")))
        }
    }
}

fn verdict(outcomes: &[Outcome], terminal: &Terminal) -> ExitCode {
    let faults: Vec<&String> = outcomes.iter().flat_map(|outcome| &outcome.faults).collect();
    for fault in &faults {
        terminal.line(&format!("error: {fault}; see requests.jsonl in the run folder"));
    }
    ExitCode::from(match (outcomes.iter().any(|outcome| outcome.interrupted), faults.is_empty()) {
        // Its requests were cut short, so what they say of faults says nothing.
        (true, _) => INTERRUPTED,
        (false, false) => FAILED,
        (false, true) => 0,
    })
}
