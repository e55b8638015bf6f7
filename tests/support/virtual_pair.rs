//! Two virtual engines behind a real controller: a whole run of the target in seconds.

use std::path::Path;
use std::sync::Arc;

use dualpool_bench::Settings;
use dualpool_engine::virtual_engine::VirtualFleet;
use dualpool_fleet::controller::Controller;
use dualpool_model::VirtualSettings;
use dualpool_types::MonotonicClock;

use super::faults::{Fault, Faults};

/// Model time per real time. Faster, and the timers' granularity of a millisecond would be a good part of a step.
pub const SPEED: f64 = 20.0;

/// A controller over two engines.
pub fn controller(fleet: VirtualFleet, settings: &Settings) -> Controller {
    let moves = Some((Box::new(fleet.mover) as _, fleet.moves));
    Controller::start(fleet.fleet, fleet.events, moves, &settings.router, &settings.telemetry, Arc::new(MonotonicClock::new()))
}

pub fn fleet() -> VirtualFleet {
    fleet_with(Fault::None)
}

/// With this fault in every copy.
pub fn fleet_with(fault: Fault) -> VirtualFleet {
    let settings = VirtualSettings { speed: SPEED, ..VirtualSettings::default() };
    VirtualFleet::start_over(Arc::new(Faults::new(fault)), 2, &settings, Arc::new(MonotonicClock::new()))
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
