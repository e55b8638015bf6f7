//! `dualpool run --dry-run`: the plan of a run in words.

use std::path::Path;

use thiserror::Error;

use dualpool_bench::Settings;
use dualpool_bench::plan::{Plan, PlannedWorkload};
use dualpool_bench::target::Target;
use dualpool_bench::targets::TARGETS;
use dualpool_machine::{DeviceKind, Gpus, Placement};
use dualpool_types::{Class, Failure, UserError};

use super::session;
use crate::config::Loaded;

/// Only runs that compare arms have a plan.
#[derive(Debug, Error)]
#[error("{target} compares no arms, so it has no plan to print; --dry-run is for {}", with_plan.join(" and "))]
struct NoPlan {
    target: &'static str,
    with_plan: Vec<&'static str>,
}

impl UserError for NoPlan {
    fn hint(&self) -> &'static str {
        "`dualpool list-targets` says what each target does"
    }
}

/// What a run of this target by these settings would do on this machine.
pub(super) fn told(target: &dyn Target, loaded: &Loaded, gpus: &Gpus) -> Result<String, Failure> {
    let Some(planner) = target.plan() else {
        let with_plan = TARGETS.into_iter().filter(|target| target.plan().is_some()).map(Target::name).collect();
        return Err(NoPlan { target: target.name(), with_plan }.into());
    };
    let settings = &loaded.settings;
    let plan = planner(settings)?;
    let (placements, _) = session::place(settings, gpus)?;
    let mut rows = vec![("target", target.name().to_string()), ("engines", engines(&placements, plan.pools))];
    rows.push(("model", model(settings, loaded.device)));
    rows.extend(plan.workloads.iter().map(|workload| ("workload", workload_in_words(workload))));
    rows.extend([
        ("arms", plan.arms.join(", ")),
        ("objectives", objectives(settings)),
        ("length", length(settings, &plan)),
        ("time", time(settings, loaded.device)),
        ("artifacts", artifacts(settings, &plan)),
    ]);
    let lines: String = rows.into_iter().map(|(name, value)| format!("{name:12}{value}\n")).collect();
    Ok(format!("{lines}\nnothing was started; the same command without --dry-run runs it\n"))
}

fn engines(placements: &[Placement], pools: bool) -> String {
    let engine = |(i, placement): (usize, &Placement)| {
        let pool = if pools { format!(" ({})", placement.pool.name()) } else { String::new() };
        format!("engine-{i} on {}{pool}", placement.device)
    };
    placements.iter().enumerate().map(engine).collect::<Vec<_>>().join(", ")
}

fn model(settings: &Settings, device: DeviceKind) -> String {
    match device {
        DeviceKind::Virtual => "none: virtual engines keep a timing model's times and compute nothing".to_string(),
        _ => settings.engine.model.display().to_string(),
    }
}

fn workload_in_words(PlannedWorkload { name, requests, arrivals }: &PlannedWorkload) -> String {
    format!("{name}: {requests}; {arrivals}")
}

fn objectives(settings: &Settings) -> String {
    if settings.run.exact {
        return "none: tokens are compared, and no times".to_string();
    }
    let given = &settings.objectives;
    let told = |ms: f64, slack: f64| if ms > 0.0 { format!("{ms} ms") } else { format!("{slack} x idle") };
    let ttft = |class: Class| told(given.ttft_ms_of(class), given.ttft_slack);
    let (short, long, itl) = (ttft(Class::Short), ttft(Class::Long), told(given.itl_ms, given.itl_slack));
    let measured = if given.is_open() { "; what idle engines take is measured first" } else { "" };
    format!("TTFT {short} after short prompts and {long} after long ones, ITL {itl}{measured}")
}

fn length(settings: &Settings, plan: &Plan) -> String {
    let run = &settings.run;
    let each = match plan.workloads.len() {
        0 | 1 => String::new(),
        workloads => format!(", a part of it for each of {workloads} workloads"),
    };
    match run.repetitions_fixed() {
        Some(1) => "one repetition of every arm".to_string(),
        Some(repetitions) => format!("{repetitions} repetitions of every arm"),
        None => format!(
            "a budget of {} s{each}; it ends sooner when all that was planned is decided, and what does not fit is left out: arms, then requests",
            run.budget_s
        ),
    }
}

fn time(settings: &Settings, device: DeviceKind) -> String {
    let start = match device {
        DeviceKind::Virtual => "virtual engines start at once".to_string(),
        _ => format!("their start is not in it, and is given up after {} s", settings.engine.start_timeout_s),
    };
    match settings.run.repetitions_fixed() {
        None => format!("at most {} s once the engines are up; {start}", settings.run.budget_s),
        Some(_) => {
            format!("as long as it takes once the engines are up: only --budget without a number of repetitions bounds it; {start}")
        }
    }
}

fn artifacts(settings: &Settings, plan: &Plan) -> String {
    match settings.run.out.as_os_str().is_empty() {
        false => plan.dir.display().to_string(),
        // Its name is the time at which a run starts.
        true => plan.dir.parent().unwrap_or(Path::new("")).join("<UTC time>-<id>").display().to_string(),
    }
}
