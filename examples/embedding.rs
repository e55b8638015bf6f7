//! What embedding vLLM costs: time to two ready engines, tokens per second of one engine with 64 streams, the way of a token from
//! EngineCore to the Rust consumer, and the memory of this process. `python/tools/plain_vllm.py` measures the same engine driven by
//! plain Python; `docs/performance.md` has both.
//!
//!     cargo run --release --example embedding -- MODEL [STREAMS] [MAX_TOKENS] [ROUNDS]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use tokio::sync::mpsc;

use dualpool_engine::vllm::{self, EngineSpec, Pin};
use dualpool_engine::{ENGINE_EVENTS_MAX, Engine, EngineEvent, EngineEvents, EngineSettings};
use dualpool_types::{Clock, EngineId, Leg, LegId, MonotonicClock, RequestId, Sampling};

/// As in `plain_vllm.py`.
const PROMPT_TOKENS: u32 = 32;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let model = args.first().context("usage: embedding MODEL [STREAMS] [MAX_TOKENS] [ROUNDS]")?;
    let number = |place: usize, default: u64| args.get(place).map_or(Ok(default), |text| text.parse());
    let (streams, max_tokens, rounds) = (number(1, 64)?, number(2, 64)? as u32, number(3, 3)?);
    let settings = EngineSettings { model: model.into(), max_model_len: 2048, kv_cache_mib: 256, ..EngineSettings::default() };
    let spec = |id: u16| EngineSpec {
        id: EngineId(id),
        pin: Pin::Cores(vec![u32::from(id)]),
        settings: settings.clone(),
        memory_node: None,
        step_trace: None,
        control_socket: None,
    };

    let begun = Instant::now();
    let run_dir = tempfile::Builder::new().prefix("dualpool-").tempdir()?;
    let (sender, mut events) = mpsc::channel(ENGINE_EVENTS_MAX);
    let quiet: vllm::Progress = Arc::new(|_, _| {});
    let engines = vllm::start(Path::new(".venv"), run_dir.path(), vec![spec(0), spec(1)], sender, quiet).await?;
    println!("two engines ready after {:.1} s", begun.elapsed().as_secs_f64());

    let mut next = 0;
    for round in 0..=rounds {
        let (tokens_per_s, mut latencies) = serve(engines[0].as_ref(), &mut events, &mut next, streams, max_tokens).await?;
        latencies.sort_unstable();
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize] as f64 / 1e3;
        let kind = if round == 0 { "warm-up" } else { "round" };
        println!(
            "{kind} {round}: {streams} streams on one engine: {tokens_per_s:.0} tokens/s; EngineCore to consumer p50 {:.2} ms, p99 {:.2} ms",
            at(0.5),
            at(0.99)
        );
    }
    println!("memory of this process: {}", memory()?);
    for engine in &engines {
        engine.shutdown().await;
    }
    Ok(())
}

/// Output tokens per second, and each token's way in microseconds.
async fn serve(
    engine: &dyn Engine,
    events: &mut EngineEvents,
    next: &mut u64,
    streams: u64,
    max_tokens: u32,
) -> anyhow::Result<(f64, Vec<u64>)> {
    let clock = MonotonicClock::new();
    let begun = Instant::now();
    let mut left = HashMap::new();
    for stream in 0..streams {
        let id = LegId { request: RequestId(*next), leg: 0 };
        *next += 1;
        let prompt = (0..PROMPT_TOKENS).map(|k| (stream as u32 * 7 + k) % 200 + 10).collect();
        left.insert(id, max_tokens as usize);
        engine.submit(Leg {
            id,
            prompt,
            max_tokens,
            ignore_eos: true,
            sampling: Sampling::default(),
            kv_source: None,
            hold: false,
        });
    }
    let mut latencies = Vec::new();
    let mut tokens = 0;
    while !left.is_empty() {
        match events.recv().await.context("the engines are gone")? {
            EngineEvent::Died { engine, why } => anyhow::bail!("{engine} died: {why}"),
            EngineEvent::Step(step) => {
                let way = clock.now().since(step.core_at).0;
                for output in step.outputs {
                    tokens += output.tokens.len();
                    latencies.extend(output.tokens.iter().map(|_| way));
                    if output.finish.is_some() {
                        left.remove(&output.leg);
                    }
                }
            }
        }
    }
    Ok((tokens as f64 / begun.elapsed().as_secs_f64(), latencies))
}

/// Resident memory by kind, as the kernel counts it.
fn memory() -> anyhow::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let wanted = ["VmRSS", "RssAnon", "RssFile", "RssShmem"];
    Ok(status.lines().filter(|line| wanted.iter().any(|w| line.starts_with(w))).collect::<Vec<_>>().join(", ").replace('\t', " "))
}
