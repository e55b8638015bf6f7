//! What was run, where, how to repeat it, and what it did not measure.

use maud::{Markup, html};

use dualpool_types::artifact::{Summary, Verdict};
use dualpool_types::{Arrangement, Bytes, Tuning};

use super::{list, section};
use crate::arms::Arm;
use crate::beyond::lacking;
use crate::metric::{self, Metric};
use crate::objective_map::objectives;
use crate::verdicts::label;
use crate::words::{count, figure, ms};
use crate::{Artifacts, command};

pub(super) fn heading(artifacts: &Artifacts) -> Markup {
    let (run, env) = (&artifacts.run, &artifacts.run.environment);
    let engines = count(env.engines.len() as u64, "engine");
    html! {
        h1 { "dualpool: " (run.target) }
        p class="sub" { (env.model) " on " (engines) " (" (env.backend) "), " (run.started_at) ", run " (run.id) }
        @for note in &artifacts.notes {
            p class="notice" { (note) }
        }
    }
}

pub(super) fn what_was_run(artifacts: &Artifacts, arms: &[Arm]) -> Markup {
    let run = &artifacts.run;
    html! {
        (section("What was run", ""))
        dl {
            @for (name, value) in facts(artifacts, arms) {
                dt { (name) }
                dd { (value) }
            }
        }
        h3 { "To repeat it" }
        pre { (command::repeated(run)) }
        details {
            summary { "All settings" }
            pre { (serde_json::to_string_pretty(&run.settings).unwrap_or_default()) }
        }
    }
}

/// What was run, on what, and by which settings: names and values.
fn facts(artifacts: &Artifacts, arms: &[Arm]) -> Vec<(String, String)> {
    let (run, env) = (&artifacts.run, &artifacts.run.environment);
    let mut facts: Vec<(String, String)> = Vec::new();
    let mut fact = |name: &str, value: String| facts.push((name.to_string(), value));
    if let Some(s) = &artifacts.summary {
        fact("workload", format!("mix {}, arrivals {}, {}", s.mix, s.arrivals, count(s.repetitions.into(), "repetition")));
    }
    fact("offered load", load(artifacts));
    if let Some(o) = objectives(artifacts) {
        fact(
            "objectives",
            format!(
                "first token of short prompts in {} ms, of long ones in {} ms; no gap between tokens over {} ms",
                ms(o.ttft_short_ms),
                ms(o.ttft_long_ms),
                ms(o.itl_ms)
            ),
        );
    }
    fact("model", format!("{}, {}", env.model, env.dtype));
    fact("versions", format!("dualpool {}, {}", env.dualpool, env.backend));
    let gpus = if env.gpus.is_empty() { "no GPU".to_string() } else { env.gpus.join(", ") };
    let cores = env.cores.map_or("cores not known".into(), |cores| count(cores.into(), "core"));
    let memory = env.memory_bytes.map_or("memory not known".into(), |bytes| Bytes(bytes).to_string());
    fact("machine", format!("{}, {cores}, {memory}, {gpus}, {}", env.cpu, env.os));
    for e in &env.engines {
        fact(&e.id.to_string(), format!("{}, {} KV blocks of {} tokens", e.device, e.kv_blocks, e.block_size));
    }
    fact("seeds", run.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "));
    let phases: Vec<String> = run.phases.iter().map(|p| format!("{} {}", p.name, p.us)).collect();
    fact("time taken", if phases.is_empty() { "not measured".into() } else { phases.join(", ") });
    for (arm, served) in arms.iter().filter_map(|arm| Some((arm, arm.arrangement?))) {
        fact(&format!("{} {}", arm.letter, arm.name), arrangement(served));
    }
    facts
}

fn load(artifacts: &Artifacts) -> String {
    let rps = |rate: f64| format!("{} requests/s", figure(rate));
    match (artifacts.run.rate_rps, artifacts.run.saturation_rps) {
        (Some(rate), Some(most)) => {
            let of_mixes: Vec<String> =
                artifacts.run.mixes.iter().map(|mix| format!("{} {}", mix.name, figure(mix.saturation_rps))).collect();
            let of_mixes = if of_mixes.is_empty() { String::new() } else { format!(" ({})", of_mixes.join(", ")) };
            format!("{}, {:.0}% of a measured saturation of {}{of_mixes}", rps(rate), rate / most * 100.0, rps(most))
        }
        (Some(rate), None) => format!("{} (saturation was not measured)", rps(rate)),
        (None, _) => "no fixed rate".to_string(),
    }
}

/// Policy, roles and scheduler settings in words.
pub(super) fn arrangement(a: &Arrangement) -> String {
    let roles: Vec<&str> = a.roles.iter().map(|r| r.name()).collect();
    let policy = serde_json::to_value(a.policy).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default();
    let tunings: Vec<String> = a.tunings.iter().map(tuning).collect();
    let tuned = match tunings.first() {
        Some(first) if tunings.iter().all(|t| t == first) => first.clone(),
        _ => tunings.join(" / "),
    };
    format!("policy {policy}, engines {}, {tuned}, long from {} tokens", roles.join(" + "), a.long_prompt_tokens_min)
}

fn tuning(t: &Tuning) -> String {
    let settings =
        [("max_num_batched_tokens", t.max_num_batched_tokens), ("long_prefill_token_threshold", t.long_prefill_token_threshold)];
    let set: Vec<String> = settings.iter().filter_map(|(name, value)| Some(format!("{name} {}", (*value)?))).collect();
    if set.is_empty() { "scheduler as started".to_string() } else { set.join(" ") }
}

/// The figures that a reader looks for in every arm.
const LOOKED_FOR: [Metric; 5] =
    [metric::GOODPUT, metric::SHORT_TTFT_P95, metric::LONG_TTFT_P95, metric::ITL_P99, metric::OUTPUT_RATE];

/// Everything that a reader may look for and not find.
pub(super) fn not_measured(artifacts: &Artifacts, arms: &[Arm]) -> Markup {
    let mut missing = vec![
        "Where in an engine a first token waited: its own queue and its prefill are one figure, because the engine reports the first token, not when it began.".to_string(),
        "Time between dualpool and a client: clocks stop when a token leaves dualpool.".to_string(),
    ];
    if artifacts.run.saturation_rps.is_none() {
        missing.push("The saturation rate, and with it the load as a share of it.".into());
    }
    if artifacts.run.search.is_empty() {
        missing.push("Other scheduler settings: no search was made.".into());
    }
    if artifacts.run.phases.is_empty() {
        missing.push("How long the parts of the run took.".into());
    }
    for arm in arms {
        let absent = LOOKED_FOR.iter().filter(|metric| (metric.read)(&arm.figures).is_none());
        let absent: Vec<&str> = absent.map(|metric| metric.name).collect();
        if !absent.is_empty() {
            missing.push(format!("{}: {}.", arm.name, absent.join(", ")));
        }
    }
    if let Some(summary) = &artifacts.summary {
        missing.extend(unmeasured_comparisons(summary));
        missing.extend(lacking(&summary.comparisons, arms));
    }
    html! {
        (section("What was not measured", ""))
        (list(&missing))
        p class="note" {
            "Every figure on this page comes from run.json, summary.json, requests.jsonl and samples.jsonl in the folder of this file; \
             `dualpool report` with that folder builds the page again."
        }
    }
}

fn unmeasured_comparisons(summary: &Summary) -> Vec<String> {
    let unmeasured = summary.comparisons.iter().filter(|c| matches!(c.verdict, Verdict::NotMeasured | Verdict::TooFew));
    unmeasured
        .map(|c| format!("{} of {} against {}: too few samples, or failed requests.", label(&c.metric), c.candidate, c.baseline))
        .collect()
}
