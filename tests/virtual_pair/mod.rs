//! Two virtual engines behind a real controller: a whole run of the target in seconds.

use std::path::Path;
use std::sync::Arc;

use dualpool::config::Settings;
use dualpool::controller::Controller;
use dualpool::core::MonotonicClock;
use dualpool::engine::virtual_engine::{VirtualFleet, VirtualSettings};
use dualpool::harness::environment;
use dualpool::migrate::Fault;
use dualpool::report::Environment;

/// Model time per real time. Faster, and the timers' granularity of a millisecond would be a good part of a step.
pub const SPEED: f64 = 20.0;

pub struct Pair {
    pub controller: Controller,
    pub environment: Environment,
}

/// Every KV move has this fault.
pub fn start(settings: &Settings, fault: Fault) -> Pair {
    let clock = Arc::new(MonotonicClock::new());
    let fleet = VirtualFleet::start(2, &VirtualSettings { speed: SPEED, ..VirtualSettings::default() }, clock.clone());
    fleet.mover.inject(fault);
    let moves = Some((Box::new(fleet.mover) as _, fleet.moves));
    let controller = Controller::start(fleet.fleet, fleet.events, moves, &settings.router, &settings.telemetry, clock);
    let environment = environment::gather(controller.engines(), settings, vec![]);
    Pair { controller, environment }
}

/// A quick run into this folder, with the objectives in the engines' time.
pub fn settings(out: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.run.quick = true;
    settings.run.out = out.join("run");
    settings.run.bootstrap_resamples = 200;
    settings.run.search_budget_s = 6;
    settings.telemetry.sample_ms = 5;
    for objective in
        [&mut settings.objectives.ttft_short_ms, &mut settings.objectives.ttft_long_ms, &mut settings.objectives.itl_ms]
    {
        *objective /= SPEED;
    }
    settings
}
