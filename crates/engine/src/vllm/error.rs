//! Why engines did not start: the engine, the cause in vLLM's own words, and what to try.

use std::path::PathBuf;

use thiserror::Error;

use dualpool_types::{Bytes, EngineId};

use super::lane::Lane;
use super::spec::Pin;

#[derive(Clone, Debug, Error)]
pub enum StartError {
    #[error("no Python at {}: {why}; run `make setup`", python.display())]
    NoPython { python: PathBuf, why: String },
    #[error("{} is not a virtual environment of Python {linked}, which this program is linked with; run `make setup` and build again", venv.display())]
    OtherPython { venv: PathBuf, linked: String },
    #[error("the interpreter calls {found} its home instead of {}; another libpython was loaded, build again with PYO3_PYTHON set to that environment's bin/python", expected.display())]
    WrongPrefix { expected: PathBuf, found: String },
    #[error("this process already runs the interpreter of {}; one process can run one, so {} needs another process", running.display(), wanted.display())]
    OtherVenv { running: PathBuf, wanted: PathBuf },
    #[error("dualpool's Python files are not at {}; set DUALPOOL_PYTHON_DIR to the folder that holds them", path.display())]
    NoPythonFiles { path: PathBuf },
    #[error("{} holds no vLLM; run `make setup`, or install vLLM there", venv.display())]
    NoVllm { venv: PathBuf },
    #[error("vLLM {version} in {} is not supported on {device}; supported are {supported}; run `make setup`", venv.display())]
    UnsupportedVllm { version: String, venv: PathBuf, device: &'static str, supported: String },
    #[error("vLLM {version} in {} is built for {built_for}, and engines on {asked} were asked for; set `--device`, or run `make setup` on the machine it is for", venv.display())]
    OtherBuild { version: String, venv: PathBuf, built_for: &'static str, asked: &'static str },
    #[error("the embedded interpreter failed: {why}")]
    Interpreter { why: String },
    #[error("`{key}` is {value}; allowed is: {allowed}")]
    Setting { key: &'static str, value: String, allowed: String },
    #[error("model folder {}: {why}", path.display())]
    Model { path: PathBuf, why: String },
    #[error("{engine} was given {cores}; allowed is: {allowed}")]
    Cores { engine: EngineId, cores: String, allowed: String },
    #[error("{engine} was given twice; every engine needs an id of its own")]
    Twice { engine: EngineId },
    #[error(
        "{engines} engines of {} need {weights} of weights and {kv_cache} of KV cache each, and {available} of memory are free; \
         take a smaller model or lower `engine.kv_cache_mib`", model.display()
    )]
    Memory { model: PathBuf, engines: u64, weights: Bytes, kv_cache: Bytes, available: Bytes },
    #[error("run folder {} cannot be written: {why}; set `kv.run_dir` to a folder of your own", path.display())]
    RunDir { path: PathBuf, why: String },
    #[error("{engine} on {device} did not start: {why}; {hint}")]
    Engine { engine: EngineId, device: String, why: String, hint: &'static str },
    #[error("{engine} was not ready after {after_s} s; its last log line: {last}; raise `engine.start_timeout_s`")]
    Timeout { engine: EngineId, after_s: u64, last: String },
}

impl StartError {
    /// From the exception that vLLM raised in this process, and the log of the engine's own process, which knows better.
    pub(super) fn engine(pin: &Pin, raised: &str, lane: &Lane) -> StartError {
        // What vLLM raises here when the engine's process failed only points to that process's log.
        let elsewhere = raised.contains("Engine core initialization failed");
        let told = lane.log.cause().or_else(|| lane.ending().map(str::to_owned));
        let why = told.filter(|_| elsewhere).unwrap_or_else(|| plain(raised));
        let hint = hint(&why);
        StartError::Engine { engine: lane.id, device: pin.to_string(), why, hint }
    }

    pub(super) fn process(engine: EngineId, pin: &Pin, source: &std::io::Error) -> StartError {
        StartError::Engine {
            engine,
            device: pin.to_string(),
            why: source.to_string(),
            hint: "check the limits on open files and processes (`ulimit -n -u`)",
        }
    }
}

/// What to try, by what vLLM says. The first match counts.
const HINTS: [(&[&str], &str); 9] = [
    (
        &["larger than the available kv cache", "no available memory for the cache blocks"],
        "raise `engine.kv_cache_mib` (CPU) or `engine.gpu_memory_utilization` (GPU), or lower `engine.max_model_len`",
    ),
    (
        &["greater than the derived max_model_len", "max_position_embeddings"],
        "lower `engine.max_model_len` to what the model was made for",
    ),
    (
        &["out of memory", "can't allocate memory", "available memory on node", "free memory on device", "memoryerror", "sigkill"],
        "take a smaller model, lower `engine.kv_cache_mib` or `engine.gpu_memory_utilization`, or end other programs",
    ),
    (
        &["cannot find any model weights", "safetensors", "no such file or directory"],
        "the model folder is incomplete; download the model again",
    ),
    (
        &["are not supported for now", "model architectures", "architecture"],
        "this vLLM does not know the model's architecture; take another model",
    ),
    (&["dtype", "bfloat16", "float16"], "set `engine.dtype` to one that the device supports, such as `float32`"),
    (
        &["invalid device ordinal", "out of range", "nvml", "no cuda-capable device"],
        "name a GPU that exists; `dualpool doctor` lists them",
    ),
    (&["dualpool.connector", "control socket"], "the engine could not reach dualpool's control socket"),
    (&["block_size"], "leave `engine.block_size` at 0, vLLM's own choice"),
];

fn hint(why: &str) -> &'static str {
    let why = why.to_lowercase();
    let matching = HINTS.iter().find(|(words, _)| words.iter().any(|word| why.contains(word)));
    matching.map_or("set `telemetry.log` to `info,dualpool_engine=trace` to see the engine's whole log", |(_, hint)| hint)
}

/// One line of a Python exception: a validation error's message without pydantic's frame around it.
fn plain(raised: &str) -> String {
    let message = match raised.split_once("Value error, ") {
        Some((_, message)) => message.split(" [type=").next().unwrap_or(message),
        None => raised,
    };
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_the_setting_to_change() {
        let kv = "ValueError: To serve at least one request with the models's max seq len (8192), 0.5 GiB KV cache is needed, which is larger than the available KV cache memory";
        assert!(hint(kv).contains("engine.kv_cache_mib"));
        assert!(hint("its process 7 was killed by SIGKILL").contains("smaller model"));
        assert!(hint("something new").contains("telemetry.log"));
    }

    #[test]
    fn pydantic_frames_are_stripped() {
        let raised = "ValidationError: 1 validation error for ModelConfig\n  Value error, User-specified max_model_len (99) is too long. [type=value_error, input_value=ArgsKwargs]\n";
        assert_eq!(plain(raised), "User-specified max_model_len (99) is too long.");
        assert_eq!(plain("OSError: a\n b"), "OSError: a b");
    }
}
