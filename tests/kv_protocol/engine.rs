//! A real vLLM engine in a Python process of its own, driven by `tests/python/engine_driver.py`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

use dualpool_types::{EngineId, LegId, TokenId};

use crate::python::program;
use crate::watch::until;

/// Starting vLLM takes ten seconds on an idle machine, and minutes on a busy one.
const START_PATIENCE: Duration = Duration::from_secs(400);

/// Engines are large: the tests with a pair of them start theirs one after the other.
pub fn one_pair_at_a_time() -> MutexGuard<'static, ()> {
    static PAIR: Mutex<()> = Mutex::new(());
    PAIR.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Where vLLM's worker lives.
#[derive(Clone, Copy, PartialEq)]
pub enum Worker {
    OwnProcess,
    InCore,
}

#[derive(Default)]
struct Answers {
    started: BTreeMap<u64, bool>,
    done: BTreeMap<u64, Value>,
    ready: Option<Result<(), String>>,
    /// EngineCore and all else that vLLM started.
    pids: Vec<u32>,
    gone: bool,
}

pub struct Engine {
    pub id: EngineId,
    process: Child,
    commands: Mutex<(ChildStdin, u64)>,
    answers: Arc<(Mutex<Answers>, Condvar)>,
    log: tempfile::NamedTempFile,
}

/// A request that was sent, whose outcome can be waited for.
pub struct Pending<'a> {
    engine: &'a Engine,
    id: u64,
}

#[derive(Debug)]
pub struct Outcome {
    pub tokens: Vec<TokenId>,
    pub finish: String,
    pub cached: u64,
    /// What the connector returned for a held leg: the tokens its blocks cover.
    pub held: Option<u64>,
}

/// A leg's place in the protocol.
#[derive(Clone, Copy, Default)]
pub struct LegParams {
    pub leg: Option<LegId>,
    pub hold: bool,
    /// Source engine, source leg, tokens.
    pub source: Option<(EngineId, LegId, u64)>,
}

impl Engine {
    /// Spawns the process; `wait_ready` waits for it, so that several start at the same time.
    pub fn spawn(control: &Path, id: u16, model: &Path, worker: Worker) -> Engine {
        let mut command = program("engine_driver.py");
        command.arg("--control").arg(control).arg("--model").arg(model).arg("--engine").arg(id.to_string());
        if worker == Worker::InCore {
            command.arg("--in-core");
        }
        let log = tempfile::NamedTempFile::new().unwrap();
        command.stderr(log.reopen().unwrap());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let answers: Arc<(Mutex<Answers>, Condvar)> = Arc::default();
        let shared = answers.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                take(&mut shared.0.lock().unwrap(), &serde_json::from_str(&line).unwrap());
                shared.1.notify_all();
            }
            shared.0.lock().unwrap().gone = true;
            shared.1.notify_all();
        });
        Engine { id: EngineId(id), process, commands: Mutex::new((stdin, 0)), answers, log }
    }

    pub fn wait_ready(&self) -> Result<(), String> {
        self.wait(START_PATIENCE, "it to start", |answers| answers.ready.clone())
    }

    /// All that vLLM wrote to its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    pub fn generate(&self, prompt: &[TokenId], max_tokens: usize, params: LegParams) -> Pending<'_> {
        let mut extra = serde_json::Map::new();
        if let Some(leg) = params.leg {
            extra.insert("dualpool_leg".into(), json!(leg.to_string()));
            extra.insert("dualpool_hold".into(), json!(params.hold));
        }
        if let Some((engine, leg, tokens)) = params.source {
            extra.insert("dualpool_kv_source".into(), json!({"engine": engine, "leg": leg.to_string(), "tokens": tokens}));
        }
        self.send(json!({"do": "generate", "prompt": prompt, "max_tokens": max_tokens, "params": extra}))
    }

    /// Greedy tokens with nothing in the prefix cache: what any hand-off must reproduce.
    pub fn reference(&self, prompt: &[TokenId], max_tokens: usize) -> Vec<TokenId> {
        self.wait_idle();
        let tokens = self.generate(prompt, max_tokens, LegParams::default()).wait().tokens;
        self.wait_idle();
        tokens
    }

    /// Waits until none of its blocks is in use, and forgets all cached prefixes.
    pub fn wait_idle(&self) {
        until("all blocks of the engine to be free", || {
            self.send(json!({"do": "reset"})).answer()["reset"].as_bool().unwrap().then_some(())
        });
    }

    fn send(&self, mut command: Value) -> Pending<'_> {
        let mut commands = self.commands.lock().unwrap();
        commands.1 += 1;
        let id = commands.1;
        command["id"] = json!(id);
        command["request"].is_null().then(|| command["request"] = json!(format!("r{id}")));
        writeln!(commands.0, "{command}").unwrap();
        Pending { engine: self, id }
    }

    fn wait<T>(&self, patience: Duration, what: &str, mut check: impl FnMut(&Answers) -> Option<T>) -> T {
        let (lock, changed) = &*self.answers;
        let mut answers = lock.lock().unwrap();
        loop {
            if let Some(value) = check(&answers) {
                return value;
            }
            assert!(!answers.gone, "{}: the engine's process ended while the test waited for {what}", self.id);
            let (guard, timeout) = changed.wait_timeout(answers, patience).unwrap();
            assert!(!timeout.timed_out(), "{}: waited in vain for {what}", self.id);
            answers = guard;
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the log of {}:\n{}", self.id, self.log());
        }
        // The driver's death takes EngineCore and its worker with it (see `die_with_parent`).
        let _ = self.process.kill();
        let _ = self.process.wait();
        let pids = std::mem::take(&mut self.answers.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pids);
        let left = || pids.iter().copied().filter(|pid| is_alive(*pid)).collect::<Vec<u32>>();
        if std::thread::panicking() {
            return;
        }
        until("all processes of the engine to end", || left().is_empty().then_some(()));
    }
}

/// Zombies count as gone: the process that inherited them has not reaped them yet.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything, so look behind its end.
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

impl Pending<'_> {
    pub fn wait(self) -> Outcome {
        let answer = self.answer();
        Outcome {
            tokens: serde_json::from_value(answer["tokens"].clone()).unwrap(),
            finish: answer["finish"].as_str().unwrap_or_default().to_string(),
            cached: answer["cached"].as_u64().unwrap_or(0),
            held: answer["returned"]["dualpool_held"]["tokens"].as_u64(),
        }
    }

    /// Waits for its first token.
    pub fn wait_started(&self) {
        let done = |answers: &Answers| answers.started.contains_key(&self.id) || answers.done.contains_key(&self.id);
        self.engine.wait(crate::watch::PATIENCE, "a first token", |answers| done(answers).then_some(()));
    }

    pub fn is_over(&self) -> bool {
        self.engine.answers.0.lock().unwrap().done.contains_key(&self.id)
    }

    /// Aborts the request; its outcome can still be waited for.
    pub fn abort(&self) {
        self.engine.send(json!({"do": "abort", "request": format!("r{}", self.id)})).answer();
    }

    fn answer(self) -> Value {
        let answer = self.engine.wait(crate::watch::PATIENCE, "an answer", |answers| answers.done.get(&self.id).cloned());
        assert!(answer.get("error").is_none(), "{}: {answer}", self.engine.id);
        answer
    }
}

fn take(answers: &mut Answers, line: &Value) {
    if let Some(id) = line["id"].as_u64() {
        match line["done"].as_bool() {
            Some(true) => drop(answers.done.insert(id, line.clone())),
            _ => drop(answers.started.insert(id, true)),
        }
    } else if let Some(why) = line["failed"].as_str() {
        answers.ready = Some(Err(why.to_string()));
    } else {
        answers.pids = serde_json::from_value(line["pids"].clone()).unwrap();
        answers.ready = Some(Ok(()));
    }
}
