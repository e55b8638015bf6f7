//! Two real engines with a tiny model as a fleet, as `dualpool run` starts them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::MutexGuard;

use dualpool_bench::Settings;
use dualpool_fleet::Silent;
use dualpool_fleet::{Facts, Fleet, NewRequest, Reply, ReplyStream};
use dualpool_kv::{EngineLinks, Transports};
use dualpool_machine::{DeviceKind, Gpus};
use dualpool_types::{
    Arrangement, Class, EngineId, Micros, Objectives, PolicyKind, Priority, RequestError, Sampling, TokenId, Tuning, seeded,
};

use crate::one_at_a_time;
use crate::support::faults::{Fault, Faults, FaultyTransport};

/// Longer than any wait here should take; a check that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long blocks may take to come back once no request needs them.
pub const SETTLE: Duration = Duration::from_secs(20);

/// The cores, for as long as a test keeps this. None where CPU engines cannot run.
pub async fn cores() -> Option<MutexGuard<'static, ()>> {
    if !Gpus::detect().is_empty() {
        println!("skipped: these tests pin CPU engines, and .venv holds the CUDA build of vLLM");
        return None;
    }
    Some(one_at_a_time().await)
}

pub fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

/// float32, in which tokens do not depend on what else is in the batch.
pub fn settings(name: &str) -> Settings {
    let mut settings = Settings::default();
    settings.engine.model = model(name);
    settings.engine.venv = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv");
    settings.engine.dtype = "float32".into();
    settings.engine.max_model_len = 2048;
    settings.engine.max_num_batched_tokens = 1024;
    settings.engine.kv_cache_mib = 64;
    settings.pools.device = DeviceKind::Cpu;
    settings
}

pub async fn start(settings: &Settings, fault: Fault) -> Fleet {
    let placements = dualpool_machine::choose(&settings.pools, &Gpus::detect()).expect("a machine with two cores");
    let transport = Box::new(FaultyTransport::new(Transports::default(), Faults::new(fault)));
    let fleet = settings.fleet(&placements, EngineLinks::default());
    dualpool_fleet::start_over(transport, fleet, Arc::new(Silent)).await.expect("two engines with a tiny model")
}

/// Every prompt prefills on engine 0 and moves to engine 1.
pub fn every_prompt_moves() -> Arrangement {
    let (prefill, decode) = ([EngineId(0)], [EngineId(1)]);
    let tuning = Tuning::default();
    Arrangement::pools("full_disaggregation", PolicyKind::FullDisaggregation, &prefill, &decode, 2, tuning, tuning, 1)
        .expect("two engines, one in each pool")
}

pub fn prompt(tokens: usize, seed: u64) -> Arc<[TokenId]> {
    let mut rng = seeded(seed, "prompt");
    (0..tokens).map(|_| rng.random_range(3..500)).collect()
}

pub fn request(prompt: Arc<[TokenId]>, max_tokens: u32, index: u32) -> NewRequest {
    NewRequest {
        prompt,
        max_tokens,
        ignore_eos: true,
        sampling: Sampling::default(),
        class: Class::Short,
        priority: Priority::Normal,
        objectives: Objectives { ttft_us_max: Micros::from_secs(10.0), itl_us_max: Micros::from_secs(10.0) },
        facts: Facts { index, ..Facts::default() },
    }
}

/// All tokens of a request, and how it ended.
pub async fn finish(mut replies: ReplyStream) -> (Vec<TokenId>, Result<(), RequestError>) {
    let mut tokens = Vec::new();
    let all = async {
        while let Some(reply) = replies.next().await {
            match reply {
                Reply::Tokens { tokens: new, .. } => tokens.extend(new),
                Reply::End(end) => return end,
            }
        }
        panic!("the reply stream ended without an end");
    };
    let end = tokio::time::timeout(PATIENCE, all).await.expect("the request is stuck");
    (tokens, end)
}

/// What one engine answers to each prompt when it is alone with it.
pub async fn reference(fleet: &Fleet, prompts: &[Arc<[TokenId]>], max_tokens: u32) -> Vec<Vec<TokenId>> {
    let alone = Arrangement::shared("alone", PolicyKind::RoundRobin, 2, Tuning::default());
    fleet.arrange(&alone).await.expect("an idle fleet");
    let mut answers = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        let (tokens, end) = finish(fleet.submit(request(prompt.clone(), max_tokens, index as u32)).await).await;
        end.expect("a plain request");
        answers.push(tokens);
    }
    fleet.reset_prefix_caches().await.expect("idle engines");
    answers
}

/// The engine processes are gone.
pub fn gone(pids: &[u32]) -> bool {
    pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}/stat")).exists() || is_zombie(*pid))
}

fn is_zombie(pid: u32) -> bool {
    // The state follows the name, which is in parentheses.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

pub fn pids(fleet: &Fleet) -> Vec<u32> {
    fleet.engines().iter().map(|engine| engine.pid.expect("a vLLM engine has a process")).collect()
}

pub async fn shut_down(fleet: &Fleet) {
    let pids = pids(fleet);
    fleet.shutdown().await;
    assert!(gone(&pids), "engine processes {pids:?} are still there");
}
