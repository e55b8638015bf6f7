//! Values that parse and still cannot work. `RULES` holds what concerns one setting alone, `relations` what concerns several.

use std::collections::BTreeMap;

use dualpool_machine::DeviceKind;
use dualpool_types::{Arm, RouterArm};

use super::keys::written;
use super::load::values;
use super::{ConfigError, Origin, Problem};
use crate::{Settings, WorkloadKind};

struct Rule {
    key: &'static str,
    allowed: &'static str,
    holds: fn(&Settings) -> bool,
}

const fn rule(key: &'static str, allowed: &'static str, holds: fn(&Settings) -> bool) -> Rule {
    Rule { key, allowed, holds }
}

const COUNT: &str = "a whole number of at least 1";
const COUNT_OR_NONE: &str = "a whole number of at least 0";
const SWITCH: &str = "true or false";
const POSITIVE: &str = "a number over 0";
const WEIGHT: &str = "a number of at least 0";
const PATH: &str = "a path";
const MARGIN: &str = "a share of at least 0 and below 1";

/// Requests of one repetition, at most: their records are kept in memory until the run is over.
const REQUESTS_MAX: u64 = 100_000;

/// An hour: who waits longer waits for nothing.
const PATIENCE_MS_MAX: u64 = 3_600_000;

/// Every setting whose type alone does not say what is allowed; the texts also explain values of the wrong type.
const RULES: &[Rule] = &[
    rule("engine.model", "the path of a model's folder", |s| !s.engine.model.as_os_str().is_empty()),
    rule("engine.dtype", "auto, bfloat16, float16 or float32", |s| {
        ["auto", "bfloat16", "float16", "float32"].contains(&s.engine.dtype.as_str())
    }),
    rule("engine.max_model_len", COUNT, |s| s.engine.max_model_len > 0),
    rule("engine.kv_cache_mib", COUNT, |s| s.engine.kv_cache_mib > 0),
    rule("engine.gpu_memory_utilization", "a share over 0, at most 1", |s| is_share(s.engine.gpu_memory_utilization)),
    rule("engine.max_num_seqs", COUNT, |s| s.engine.max_num_seqs > 0),
    rule("engine.max_num_batched_tokens", COUNT, |s| s.engine.max_num_batched_tokens > 0),
    rule("engine.block_size", "0 (the device's own) or a multiple of 16", |s| s.engine.block_size.is_multiple_of(16)),
    rule("engine.enable_prefix_caching", SWITCH, |_| true),
    rule("engine.venv", "the path of a virtual environment", |s| !s.engine.venv.as_os_str().is_empty()),
    rule("engine.start_timeout_s", COUNT, |s| s.engine.start_timeout_s > 0),
    rule("engine.step_trace", "the path of a folder, or empty for no records", |_| true),
    rule("pools.device", "auto, cpu, gpu or virtual", |_| true),
    rule("pools.prefill_gpus", "a list of at least one device, each once", |s| is_pool(&s.pools.prefill_gpus)),
    rule("pools.decode_gpus", "a list of at least one device, each once", |s| is_pool(&s.pools.decode_gpus)),
    rule("router.max_in_flight", COUNT, |s| s.router.max_in_flight > 0),
    rule("router.prefill_ctx_thresh", COUNT, |s| s.router.prefill_ctx_thresh > 0),
    rule("router.resumes_max", COUNT_OR_NONE, |_| true),
    rule("router.tick_ms", COUNT, |s| s.router.tick_ms > 0),
    rule("router.admission.queue_max", "a whole number from 0 to 100000", |s| s.router.admission.queue_max <= 100_000),
    rule(
        "router.admission.patience_ms",
        "three whole numbers up to 3600000, for priorities 1, 2 and 3, each at least the one before it",
        |s| s.router.admission.patience_ms.is_sorted() && s.router.admission.patience_ms[2] <= PATIENCE_MS_MAX,
    ),
    rule("router.admission.window", "off or aimd", |_| true),
    rule("router.admission.window_tokens_min", COUNT, |s| s.router.admission.window_tokens_min > 0),
    rule("router.admission.window_tokens_max", "at least router.admission.window_tokens_min", |s| {
        s.router.admission.window_tokens_max >= s.router.admission.window_tokens_min
    }),
    rule("router.admission.window_step_tokens", COUNT, |s| s.router.admission.window_step_tokens > 0),
    rule("router.admission.window_cut", "a share over 0 and under 1", |s| {
        s.router.admission.window_cut > 0.0 && s.router.admission.window_cut < 1.0
    }),
    rule("router.admission.reject", "off, naive or predictive", |_| true),
    rule("router.admission.reject_over", "three numbers over 0, for priorities 1, 2 and 3, each at most the one before it", |s| {
        let over = s.router.admission.reject_over;
        over.into_iter().all(is_positive) && over.is_sorted_by(|higher, lower| higher >= lower)
    }),
    rule("router.policy", "the name of a policy that needs no pools, such as `least_load`", |s| !s.router.policy.needs_pools()),
    rule("router.prefix.track", "auto, always or never", |_| true),
    rule("router.prefix.block_tokens", "0 (the engines' own) or a multiple of 16", |s| {
        s.router.prefix.block_tokens.is_multiple_of(16)
    }),
    rule("router.prefix.blocks_max", "a whole number from 1 to 67108864", |s| (1..=1 << 26).contains(&s.router.prefix.blocks_max)),
    rule("router.seed", COUNT_OR_NONE, |_| true),
    rule("router.explain", SWITCH, |_| true),
    rule("router.cost_per_hour", "a list of numbers of at least 0, one per engine; empty = not known", |s| {
        s.router.cost_per_hour.iter().all(|&cost| is_weight(cost))
    }),
    rule("router.signals.tau_ms", COUNT, |s| s.router.signals.tau_ms > 0),
    rule("router.signals.age_max_ms", COUNT, |s| s.router.signals.age_max_ms > 0),
    rule("router.signals.warm_up_requests", COUNT_OR_NONE, |_| true),
    rule("router.score.ttft", WEIGHT, |s| is_weight(s.router.score.ttft)),
    rule("router.score.itl", WEIGHT, |s| is_weight(s.router.score.itl)),
    rule("router.score.prefill_rate", WEIGHT, |s| is_weight(s.router.score.prefill_rate)),
    rule("router.score.decode_rate", WEIGHT, |s| is_weight(s.router.score.decode_rate)),
    rule("router.score.memory", WEIGHT, |s| is_weight(s.router.score.memory)),
    rule("router.score.locality", WEIGHT, |s| is_weight(s.router.score.locality)),
    rule("router.score.queue", WEIGHT, |s| is_weight(s.router.score.queue)),
    rule("router.score.urgency", WEIGHT, |s| is_weight(s.router.score.urgency)),
    rule("router.score.handoff", WEIGHT, |s| is_weight(s.router.score.handoff)),
    rule("router.score.cost", WEIGHT, |s| is_weight(s.router.score.cost)),
    rule("router.score.temperature", WEIGHT, |s| is_weight(s.router.score.temperature)),
    rule("router.cache_aware.match_min", "a share over 0, at most 1", |s| is_share(s.router.cache_aware.match_min)),
    rule("router.cache_aware.imbalance_abs", COUNT_OR_NONE, |_| true),
    rule("router.cache_aware.imbalance_rel", "a number of at least 1", |s| {
        s.router.cache_aware.imbalance_rel >= 1.0 && s.router.cache_aware.imbalance_rel.is_finite()
    }),
    rule("router.migration.enabled", SWITCH, |_| true),
    rule("router.migration.in_flight_max", COUNT, |s| s.router.migration.in_flight_max > 0),
    rule("router.migration.window_ms", COUNT, |s| s.router.migration.window_ms > 0),
    rule("router.migration.requests_max", COUNT, |s| s.router.migration.requests_max > 0),
    rule("router.migration.tokens_max", COUNT, |s| s.router.migration.tokens_max > 0),
    rule("router.migration.kv_share_max", "a share over 0, at most 1", |s| is_share(s.router.migration.kv_share_max)),
    rule("router.migration.itl_share_from", POSITIVE, |s| is_positive(s.router.migration.itl_share_from)),
    rule("router.migration.itl_share_to", "a number over 0, less than router.migration.itl_share_from", |s| {
        is_positive(s.router.migration.itl_share_to) && s.router.migration.itl_share_to < s.router.migration.itl_share_from
    }),
    rule("router.migration.sustained_ms", COUNT_OR_NONE, |_| true),
    rule("router.migration.moves_max", COUNT, |s| s.router.migration.moves_max > 0),
    rule("router.migration.cool_down_ms", COUNT_OR_NONE, |_| true),
    rule("router.migration.candidates_max", COUNT, |s| s.router.migration.candidates_max > 0),
    rule("router.migration.contention", "a number of at least 0", |s| {
        s.router.migration.contention >= 0.0 && s.router.migration.contention.is_finite()
    }),
    rule("router.roles.enabled", SWITCH, |_| true),
    rule("router.roles.smooth_ms", COUNT, |s| s.router.roles.smooth_ms > 0),
    rule("router.roles.hold_ms", COUNT_OR_NONE, |_| true),
    rule("router.roles.cool_down_ms", COUNT, |s| s.router.roles.cool_down_ms > 0),
    rule("router.roles.margin", MARGIN, |s| is_margin(s.router.roles.margin)),
    rule("router.auto.period_ms", COUNT, |s| s.router.auto.period_ms > 0),
    rule("router.auto.window_ms", COUNT, |s| s.router.auto.window_ms > 0),
    rule("router.auto.margin", MARGIN, |s| is_margin(s.router.auto.margin)),
    rule("router.auto.hold", COUNT, |s| s.router.auto.hold > 0),
    rule("router.auto.cool_down_ms", COUNT_OR_NONE, |_| true),
    rule("migrate.lease_ms", COUNT, |s| s.migrate.lease_ms > 0),
    rule("migrate.verify_kv", SWITCH, |_| true),
    rule("migrate.run_dir", PATH, |_| true),
    rule("migrate.copy_grid_blocks_max", COUNT, |s| s.migrate.copy_grid_blocks_max > 0),
    rule("migrate.calibration", "the path of a file, `none`, or empty for the default", |_| true),
    rule("workload.load", "a share over 0, at most 1.5", |s| s.workload.load > 0.0 && s.workload.load <= 1.5),
    rule("workload.rate", "requests per second, or 0 to derive them from workload.load", |s| {
        s.workload.rate >= 0.0 && s.workload.rate.is_finite()
    }),
    rule("workload.long_prompt_tokens", COUNT, |s| s.workload.long_prompt_tokens > 0),
    rule("workload.short_prompt_tokens", COUNT, |s| s.workload.short_prompt_tokens > 0),
    rule("workload.prefill_burst", COUNT_OR_NONE, |_| true),
    rule("workload.decode_requests", COUNT_OR_NONE, |_| true),
    rule("workload.continue_requests", COUNT_OR_NONE, |_| true),
    rule("workload.max_tokens", COUNT, |s| s.workload.max_tokens > 0),
    rule("workload.seed", COUNT_OR_NONE, |_| true),
    rule("objectives.ttft_ms", "a number over 0, or 0 to go by the prompt's length", |s| {
        s.objectives.ttft_ms == 0.0 || is_positive(s.objectives.ttft_ms)
    }),
    rule("objectives.ttft_short_ms", POSITIVE, |s| is_positive(s.objectives.ttft_short_ms)),
    rule("objectives.ttft_long_ms", POSITIVE, |s| is_positive(s.objectives.ttft_long_ms)),
    rule("objectives.itl_ms", POSITIVE, |s| is_positive(s.objectives.itl_ms)),
    rule("run.repetitions", COUNT, |s| s.run.repetitions > 0),
    rule("run.quick", SWITCH, |_| true),
    rule("run.exact", SWITCH, |_| true),
    rule("run.out", PATH, |_| true),
    rule("run.bootstrap_resamples", "a whole number of at least 100", |s| s.run.bootstrap_resamples >= 100),
    rule("run.search_budget_s", COUNT, |s| s.run.search_budget_s > 0),
    rule("run.expectations", "the path of a folder, or `none`", |s| !s.run.expectations.as_os_str().is_empty()),
    rule("run.update_expectations", SWITCH, |_| true),
    rule("dynamic_router.arms", ROUTER_ARMS, |s| s.dynamic_router.arms.iter().all(|arm| RouterArm::find(arm).is_ok())),
    rule(
        "dynamic_router.workloads",
        "mixed, two_wave_imbalance, prefix_sessions and trace, each once; empty = all but the last",
        |s| {
            let kinds = &s.dynamic_router.workloads;
            kinds.iter().enumerate().all(|(i, kind)| !kinds[..i].contains(kind))
        },
    ),
    rule("dynamic_router.requests", COUNT, |s| s.dynamic_router.requests > 0),
    rule("dynamic_router.rounds", COUNT, |s| s.dynamic_router.rounds > 0),
    rule("dynamic_router.sessions", COUNT, |s| s.dynamic_router.sessions > 0),
    rule("dynamic_router.trace", "the path of a trace, or empty", |_| true),
    rule("dynamic_router.replay_speed", "a number from 0.001 to 1000000", |s| {
        (1e-3..=1e6).contains(&s.dynamic_router.replay_speed)
    }),
    rule("dynamic_router.offset", COUNT_OR_NONE, |_| true),
    rule("dynamic_router.limit", COUNT_OR_NONE, |_| true),
    rule("telemetry.sample_ms", COUNT, |s| s.telemetry.sample_ms > 0),
    rule("telemetry.gpu_sample_ms", "a whole number from 10 to 60000", |s| (10..=60_000).contains(&s.telemetry.gpu_sample_ms)),
    rule("telemetry.log", "a filter such as `warn` or `info,dualpool_engine=debug`", |s| {
        tracing_subscriber::EnvFilter::try_new(&s.telemetry.log).is_ok()
    }),
    rule("virtual.kv", "none, shm or cuda", |_| true),
    rule("virtual.prefix_cache", SWITCH, |_| true),
    rule("virtual.speed", POSITIVE, |s| is_positive(s.virtual_engines.speed)),
    rule("telemetry.profile", "none, minimal, nsys or ncu", |_| true),
];

const ROUTER_ARMS: &str = "policies for engines that are all alike, and dynamic_router for the one of router.policy";

fn is_share(x: f64) -> bool {
    x > 0.0 && x <= 1.0
}

fn is_margin(x: f64) -> bool {
    (0.0..1.0).contains(&x)
}

fn is_positive(x: f64) -> bool {
    x > 0.0 && x.is_finite()
}

fn is_weight(x: f64) -> bool {
    x >= 0.0 && x.is_finite()
}

fn is_pool(devices: &[u32]) -> bool {
    !devices.is_empty() && devices.iter().enumerate().all(|(i, device)| !devices[..i].contains(device))
}

/// What a setting allows, in words.
pub fn allowed(key: &str) -> Option<&'static str> {
    RULES.iter().find(|rule| rule.key == key).map(|rule| rule.allowed)
}

/// Refuses settings that cannot work on any device: for those that come from a program and not through `load`.
pub fn check(settings: &Settings) -> Result<(), ConfigError> {
    let problems = problems(settings, None, &BTreeMap::new());
    if problems.is_empty() { Ok(()) } else { Err(ConfigError::Wrong(problems)) }
}

/// Everything that is wrong with these settings, on this kind of device where it is known.
pub fn problems(settings: &Settings, device: Option<DeviceKind>, origins: &BTreeMap<String, Origin>) -> Vec<Problem> {
    let broken = RULES.iter().filter(|rule| !(rule.holds)(settings)).map(|rule| (rule.key, rule.allowed.to_string()));
    let mut found: Vec<(&'static str, String)> = broken.collect();
    // Relations between values that are themselves wrong would only repeat it.
    if found.is_empty() {
        found = relations(settings, device);
    }
    let values = values(settings);
    let problem = |(key, allowed): (&str, String)| Problem::Value {
        key: key.to_string(),
        value: written(&values[key]),
        origin: origins.get(key).cloned().unwrap_or_default(),
        allowed,
    };
    found.into_iter().map(problem).collect()
}

fn relations(s: &Settings, device: Option<DeviceKind>) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut require = |holds: bool, key: &'static str, allowed: String| {
        if !holds {
            found.push((key, allowed));
        }
    };
    lengths(s, &mut require);
    batches(s, device, &mut require);
    if let Some(device) = device {
        pools(s, device, &mut require);
    }
    arms(s, &mut require);
    found
}

type Require<'a> = dyn FnMut(bool, &'static str, String) + 'a;

fn lengths(s: &Settings, require: &mut Require) {
    let (long, short, out) = (s.workload.long_prompt_tokens, s.workload.short_prompt_tokens, s.workload.max_tokens);
    let context = s.engine.max_model_len;
    require(out < context, "workload.max_tokens", format!("less than engine.max_model_len ({context})"));
    // With no room at all, the line above has said what is wrong.
    let room = if out < context { context - out } else { u32::MAX };
    let text = format!("at most {room}, which is engine.max_model_len ({context}) less workload.max_tokens ({out})");
    require(long <= room, "workload.long_prompt_tokens", text.clone());
    require(short <= room, "workload.short_prompt_tokens", text);
    require(short <= long, "workload.short_prompt_tokens", format!("at most workload.long_prompt_tokens ({long})"));
    let requests = [s.workload.prefill_burst, s.workload.decode_requests, s.workload.continue_requests];
    let all: u64 = requests.into_iter().map(u64::from).sum();
    require(all > 0, "workload.prefill_burst", "at least 1 where decode_requests and continue_requests are 0".into());
    let text = format!("at most {REQUESTS_MAX} requests together with decode_requests and continue_requests, which make {all}");
    require(all <= REQUESTS_MAX, "workload.prefill_burst", text);
}

fn batches(s: &Settings, device: Option<DeviceKind>, require: &mut Require) {
    let engine = &s.engine;
    // vLLM's scheduler gives every running sequence at least one token per step.
    let text = format!("at least engine.max_num_seqs ({})", engine.max_num_seqs);
    require(engine.max_num_batched_tokens >= engine.max_num_seqs, "engine.max_num_batched_tokens", text);
    let text = format!("at most engine.max_num_batched_tokens ({})", engine.max_num_batched_tokens);
    require(engine.block_size <= engine.max_num_batched_tokens, "engine.block_size", text);
    let text = format!("at most engine.max_model_len ({})", engine.max_model_len);
    require(engine.block_size <= engine.max_model_len, "engine.block_size", text);
    if device == Some(DeviceKind::Cpu) {
        require(engine.block_size.is_multiple_of(32), "engine.block_size", "0 or a multiple of 32 on CPU".into());
    }
}

fn pools(s: &Settings, device: DeviceKind, require: &mut Require) {
    let engines = s.pools.engines() as u32;
    let (prices, text) = (s.router.cost_per_hour.len(), format!("a cost for each of the {engines} engines of the pools, or none"));
    require(prices == 0 || prices == engines as usize, "router.cost_per_hour", text);
    let twice = s.pools.decode_gpus.iter().find(|device| s.pools.prefill_gpus.contains(device));
    match device {
        // Two engines on one GPU work if both fit; it is for trying things out, not for speed.
        DeviceKind::Gpu => {
            let each = s.engine.gpu_memory_utilization;
            let text = twice.map(|gpu| {
                format!("at most 0.5 while GPU {gpu} is in pools.prefill_gpus and in pools.decode_gpus, so that both engines fit")
            });
            require(twice.is_none() || each <= 0.5, "engine.gpu_memory_utilization", text.unwrap_or_default());
        }
        DeviceKind::Cpu | DeviceKind::Virtual | DeviceKind::Auto => {
            let unit = if device == DeviceKind::Virtual { "virtual engine" } else { "core set" };
            let text = twice.map(|index| {
                format!("any but {index}, which is in pools.prefill_gpus; without GPUs each engine needs a {unit} of its own")
            });
            require(twice.is_none(), "pools.decode_gpus", text.unwrap_or_default());
            let last = engines.saturating_sub(1);
            let text = format!("indices from 0 to {last}: {engines} engines share the machine's cores in {engines} sets");
            require(s.pools.prefill_gpus.iter().all(|&i| i <= last), "pools.prefill_gpus", text.clone());
            require(s.pools.decode_gpus.iter().all(|&i| i <= last), "pools.decode_gpus", text);
        }
    }
}

fn arms(s: &Settings, require: &mut Require) {
    let arms = &s.run.arms;
    let names: Vec<&str> = Arm::nameable().map(Arm::name).collect();
    let known = arms.iter().all(|arm| Arm::find(arm).is_ok());
    let once = arms.iter().enumerate().all(|(i, arm)| !arms[..i].contains(arm));
    require(!arms.is_empty() && known && once, "run.arms", format!("at least one of {}, each once", names.join(", ")));

    let arms = &s.dynamic_router.arms;
    let once = arms.iter().enumerate().all(|(i, arm)| !arms[..i].contains(arm));
    require(!arms.is_empty() && once, "dynamic_router.arms", format!("at least one, each once, of {ROUTER_ARMS}"));
    let trace = s.dynamic_router.workloads.contains(&WorkloadKind::Trace);
    let text = "the path of a trace where dynamic_router.workloads has `trace`".into();
    require(!trace || s.dynamic_router.names_trace(), "dynamic_router.trace", text);
}
