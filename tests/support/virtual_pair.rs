//! A fleet of two virtual engines: a whole run of the target in seconds.

use std::path::Path;
use std::sync::Arc;

use dualpool_bench::Settings;
use dualpool_engine::virtual_engine::VirtualEngines;
use dualpool_fleet::Fleet;
use dualpool_model::VirtualSettings;
use dualpool_types::MonotonicClock;

use super::faults::{Fault, Faults};

/// Model time per real time. Faster, and the timers' granularity of a millisecond would be a good part of a step.
pub const SPEED: f64 = 20.0;

/// A fleet of these engines.
pub fn fleet(virtual_engines: VirtualEngines, settings: &Settings) -> Fleet {
    let moves = Some((Box::new(virtual_engines.mover) as _, virtual_engines.moves));
    Fleet::of(
        virtual_engines.engines,
        virtual_engines.events,
        moves,
        &settings.router,
        &settings.telemetry,
        Arc::new(MonotonicClock::new()),
    )
}

/// Two engines.
pub fn engines() -> VirtualEngines {
    engines_with(Fault::None)
}

/// With this fault in every copy.
pub fn engines_with(fault: Fault) -> VirtualEngines {
    let settings = VirtualSettings { speed: SPEED, ..VirtualSettings::default() };
    VirtualEngines::start_over(Arc::new(Faults::new(fault)), 2, &settings, Arc::new(MonotonicClock::new()))
}

/// A quick run into this folder, with the objectives in the engines' time.
pub fn settings(out: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.run.quick = true;
    // Other tests run beside it.
    settings.run.repeat_disturbed = false;
    settings.run.out = out.join("run");
    settings.run.search_budget_s = 6;
    settings.telemetry.sample_ms = 5;
    for objective in
        [&mut settings.objectives.ttft_short_ms, &mut settings.objectives.ttft_long_ms, &mut settings.objectives.itl_ms]
    {
        *objective /= SPEED;
    }
    settings
}
