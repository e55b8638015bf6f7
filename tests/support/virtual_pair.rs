//! Two virtual engines behind a real controller: a whole run of the target in seconds.

use std::path::Path;
use std::sync::Arc;

use dualpool_bench::Settings;
use dualpool_engine::virtual_engine::VirtualFleet;
use dualpool_fleet::controller::Controller;
use dualpool_model::VirtualSettings;
use dualpool_types::MonotonicClock;

/// Model time per real time. Faster, and the timers' granularity of a millisecond would be a good part of a step.
pub const SPEED: f64 = 20.0;

/// A controller over two engines.
pub fn controller(fleet: VirtualFleet, settings: &Settings) -> Controller {
    let moves = Some((Box::new(fleet.mover) as _, fleet.moves));
    Controller::start(fleet.fleet, fleet.events, moves, &settings.router, &settings.telemetry, Arc::new(MonotonicClock::new()))
}

pub fn fleet() -> VirtualFleet {
    VirtualFleet::start(2, &VirtualSettings { speed: SPEED, ..VirtualSettings::default() }, Arc::new(MonotonicClock::new()))
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
