//! Values that parse and still cannot work. `RULES` holds what concerns one setting alone, `relations` what concerns several.

use std::collections::BTreeMap;

use super::keys::written;
use super::load::values;
use super::{ARMS, ConfigError, DeviceKind, Origin, Problem, Settings};

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
const PATH: &str = "a path";

/// Requests of one repetition, at most: their records are kept in memory until the run is over.
const REQUESTS_MAX: u64 = 100_000;

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
    rule("objectives.ttft_short_ms", POSITIVE, |s| is_positive(s.objectives.ttft_short_ms)),
    rule("objectives.ttft_long_ms", POSITIVE, |s| is_positive(s.objectives.ttft_long_ms)),
    rule("objectives.itl_ms", POSITIVE, |s| is_positive(s.objectives.itl_ms)),
    rule("run.repetitions", COUNT, |s| s.run.repetitions > 0),
    rule("run.quick", SWITCH, |_| true),
    rule("run.exact", SWITCH, |_| true),
    rule("run.out", PATH, |_| true),
    rule("run.bootstrap_resamples", "a whole number of at least 100", |s| s.run.bootstrap_resamples >= 100),
    rule("run.search_budget_s", COUNT, |s| s.run.search_budget_s > 0),
    rule("telemetry.sample_ms", COUNT, |s| s.telemetry.sample_ms > 0),
    rule("telemetry.gpu_sample_ms", "a whole number from 10 to 60000", |s| (10..=60_000).contains(&s.telemetry.gpu_sample_ms)),
    rule("telemetry.log", "a filter such as `warn` or `info,dualpool::engine=debug`", |s| {
        tracing_subscriber::EnvFilter::try_new(&s.telemetry.log).is_ok()
    }),
    rule("virtual.kv", "none, shm or cuda", |_| true),
    rule("virtual.prefix_cache", SWITCH, |_| true),
    rule("virtual.speed", POSITIVE, |s| is_positive(s.virtual_engines.speed)),
    rule("telemetry.profile", "none, minimal, nsys or ncu", |_| true),
];

fn is_share(x: f64) -> bool {
    x > 0.0 && x <= 1.0
}

fn is_positive(x: f64) -> bool {
    x > 0.0 && x.is_finite()
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
    let known = arms.iter().all(|arm| ARMS.contains(&arm.as_str()));
    let once = arms.iter().enumerate().all(|(i, arm)| !arms[..i].contains(arm));
    require(!arms.is_empty() && known && once, "run.arms", format!("at least one of {}, each once", ARMS.join(", ")));
}
