//! Engines that are there for as long as a target works on them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use dualpool_bench::target::{Done, OnFleet, Session};
use dualpool_bench::{Cancel, Settings, environment};
use dualpool_fleet::{FleetSpec, Links, Progress, admin};
use dualpool_machine::{Device, Gpus, Placement};
use dualpool_types::{Clock, Failure, MonotonicClock};

use super::interrupt;
use super::progress::Bars;
use super::terminal::Terminal;

/// How long tasks that wait for nothing may keep the program from ending.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// Starts the engines that a target wants, hands them over, and ends them whatever came of it. None when the user stopped it before they
/// were up.
pub(super) fn run(work: Box<dyn OnFleet>, gpus: &Gpus, terminal: &Terminal) -> Result<Option<Done>, Failure> {
    let settings = work.settings().clone();
    let (placements, links) = match place(&settings, gpus) {
        Ok(placed) => placed,
        Err(why) => {
            work.abandon();
            return Err(why);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the tokio runtime")?;
    let done = runtime.block_on(on_fleet(work, &settings, &placements, links, terminal));
    // What is left are tasks that wait for nothing; none may keep the program from ending.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    done
}

/// Which engine gets which device, and what copies between them are known to cost.
pub(super) fn place(settings: &Settings, gpus: &Gpus) -> Result<(Vec<Placement>, Links), Failure> {
    let placements = dualpool_machine::choose(&settings.pools, gpus)?;
    let links = dualpool_fleet::links(&settings.kv, &settings.virtual_engines, &placements, gpus)?;
    Ok((placements, links))
}

async fn on_fleet(
    work: Box<dyn OnFleet>,
    settings: &Settings,
    placements: &[Placement],
    Links { links, note }: Links,
    terminal: &Terminal,
) -> Result<Option<Done>, Failure> {
    let cancel = Cancel::new();
    interrupt::watch(cancel.clone(), terminal.clone()).context("cannot listen for Ctrl-C")?;
    let bars = Arc::new(Bars::new(terminal));
    if placements.iter().any(shares_cores) {
        bars.note("there are fewer cores than engines: engines share a core's hardware threads and slow each other down");
    }
    let clock = MonotonicClock::new();
    let began = clock.now();
    bars.phase("engine start", 0);
    let folder = admin::folder();
    let spec = FleetSpec { admin: Some(&folder), ..settings.fleet(placements, links) };
    let started = tokio::select! {
        started = dualpool_fleet::start(spec, bars.clone()) => started.map(Some),
        // Dropping the start ends the engines that were on their way.
        () = cancel.cancelled() => Ok(None),
    };
    let fleet = match started {
        Ok(Some(fleet)) => fleet,
        not_started => {
            work.abandon();
            return Ok(not_started.map(|_| None)?);
        }
    };
    let start = clock.now().since(began).into();

    let environment = environment::gather(&fleet, settings);
    let (progress, cancel) = (bars.as_ref(), &cancel);
    let done = work.run(Session { fleet: &fleet, environment, start, note, progress, cancel }).await;
    bars.phase("engine stop", 0);
    fleet.shutdown().await;
    bars.finish();
    done.map(Some)
}

fn shares_cores(placement: &Placement) -> bool {
    matches!(&placement.device, Device::Cores(set) if set.shares_cores)
}
