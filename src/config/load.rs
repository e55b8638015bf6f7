//! Puts the layers on top of each other: defaults < defaults on GPUs < TOML file < environment < flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::Value as Json;

use dualpool_bench::{FlagValue, Settings, renamed, renamed_table};
use dualpool_machine::DeviceKind;
use dualpool_types::settings::values;

use super::keys::{closest, empty_tables, keys, nested, shown, typed};
use super::reference::allowed;
use super::{ConfigError, Origin, Problem};

/// The settings file that is read when no other is named.
pub const FILE: &str = "dualpool.toml";

/// `DUALPOOL_ENGINE__MODEL` sets `engine.model`.
pub const ENV_PREFIX: &str = "DUALPOOL_";

/// Variables of ours that are no settings: they say where the program's own files lie, and that a profiler started it.
const NOT_SETTINGS: [&str; 2] = ["DUALPOOL_PYTHON_DIR", UNDER_PROFILER];

/// Set for a run that a profiler started for us, so that it does not start one again.
pub const UNDER_PROFILER: &str = "DUALPOOL_UNDER_PROFILER";

const GPU_DEFAULTS: &str = include_str!("gpu.toml");

/// Everything the settings are made of.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file the user named; without one, `dualpool.toml` in `folder` where it exists.
    pub file: Option<PathBuf>,
    pub folder: PathBuf,
    pub env: Vec<(String, String)>,
    pub flags: Vec<FlagValue>,
    /// GPUs in this machine: with `pools.device = "auto"` they decide which defaults hold.
    pub gpus: usize,
}

impl Sources {
    /// This process's folder and environment.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<FlagValue>, gpus: usize) -> Sources {
        let env = std::env::vars_os().map(|(name, value)| (lossy(&name), lossy(&value))).collect();
        Sources { file, folder: PathBuf::from("."), env, flags, gpus }
    }
}

fn lossy(text: &std::ffi::OsStr) -> String {
    text.to_string_lossy().into_owned()
}

#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: Settings,
    /// Every key, with where its value came from.
    pub origins: BTreeMap<String, Origin>,
    /// What `pools.device` comes to on this machine; never `Auto`.
    pub device: DeviceKind,
}

/// One layer: settings from one place.
struct Layer {
    origin: Origin,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let defaults = values(&Settings::default());
    let mut layers = Vec::new();
    layers.extend(file_layer(sources)?);
    layers.extend(environment_layers(sources, &defaults));
    layers.extend(sources.flags.iter().map(|flag| {
        let value = typed_like(&defaults, &flag.key, &flag.text);
        Layer { origin: Origin::Flag(flag.flag.clone()), dict: nested(&flag.key, value) }
    }));
    refuse_unknown_keys(&layers, &defaults)?;

    let (settings, origins) = merge(&layers)?;
    let device = settings.pools.device_kind(sources.gpus);
    if device != DeviceKind::Gpu {
        return finish(settings, origins, device);
    }
    layers.insert(0, gpu_layer());
    let (settings, origins) = merge(&layers)?;
    finish(settings, origins, device)
}

fn finish(settings: Settings, origins: BTreeMap<String, Origin>, device: DeviceKind) -> Result<Loaded, ConfigError> {
    let problems = settings.problems(Some(device));
    if problems.is_empty() {
        return Ok(Loaded { settings, origins, device });
    }
    // Settings are plain tables, so they serialize.
    let tree = Value::serialize(&settings).unwrap_or_else(|error| unreachable!("settings serialize: {error}"));
    let wrong = problems.into_iter().map(|problem| Problem::Value {
        value: tree.find_ref(problem.key).map(shown).unwrap_or_default(),
        origin: origins.get(problem.key).cloned().unwrap_or_default(),
        key: problem.key.to_string(),
        allowed: problem.allowed,
    });
    Err(ConfigError::Wrong(wrong.collect()))
}

fn file_layer(sources: &Sources) -> Result<Option<Layer>, ConfigError> {
    let (path, optional) = match &sources.file {
        Some(path) => (path.clone(), false),
        None => (sources.folder.join(FILE), true),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => parse_toml(&path, &text).map(Some),
        Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::Unreadable { path, source }),
    }
}

fn parse_toml(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    let syntax = |why: String| ConfigError::Syntax { path: path.to_path_buf(), why };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| syntax(error.to_string()))?;
    let dict = Value::serialize(table).map_err(|error| syntax(error.to_string()))?.into_dict().unwrap_or_default();
    Ok(Layer { origin: Origin::File(path.to_path_buf()), dict })
}

/// The keys that have another default on GPUs, with it.
pub(super) fn gpu_defaults() -> BTreeMap<String, Json> {
    values(&gpu_layer().dict)
}

fn gpu_layer() -> Layer {
    match parse_toml(Path::new("gpu.toml"), GPU_DEFAULTS) {
        Ok(layer) => Layer { origin: Origin::GpuDefault, ..layer },
        // Compiled in, and loaded by a test.
        Err(error) => unreachable!("{error}"),
    }
}

/// One layer per variable, so that an error can name it.
fn environment_layers(sources: &Sources, defaults: &BTreeMap<String, Json>) -> Vec<Layer> {
    let is_setting = |name: &str| name.starts_with(ENV_PREFIX) && !NOT_SETTINGS.contains(&name);
    let mut variables: Vec<_> = sources.env.iter().filter(|(name, _)| is_setting(name)).collect();
    variables.sort();
    let layer = |(name, text): &(String, String)| {
        let key = name[ENV_PREFIX.len()..].to_lowercase().replace("__", ".");
        Layer { origin: Origin::Environment(name.clone()), dict: nested(&key, typed_like(defaults, &key, text)) }
    };
    variables.into_iter().map(layer).collect()
}

fn typed_like(defaults: &BTreeMap<String, Json>, key: &str, text: &str) -> Value {
    defaults.get(key).map_or_else(|| Value::from(text), |default| typed(default, text))
}

fn refuse_unknown_keys(layers: &[Layer], defaults: &BTreeMap<String, Json>) -> Result<(), ConfigError> {
    let mut problems = Vec::new();
    for Layer { origin, dict } in layers {
        let settings = keys(dict).into_iter().filter(|key| !defaults.contains_key(key));
        let is_table = |name: &str| defaults.keys().any(|key| key.split('.').next() == Some(name));
        let tables = empty_tables(dict).filter(|name| !is_table(name));
        problems.extend(settings.chain(tables).map(|key| unknown(key, origin.clone(), defaults)));
    }
    if problems.is_empty() { Ok(()) } else { Err(ConfigError::Wrong(problems)) }
}

fn unknown(key: String, origin: Origin, defaults: &BTreeMap<String, Json>) -> Problem {
    if let Some(new) = renamed(&key) {
        return Problem::Renamed { old: key, origin, new };
    }
    if let Some((old, new)) = renamed_table(&key) {
        return Problem::RenamedTable { key, origin, old, new };
    }
    let did_you_mean = closest(&key, defaults.keys().map(String::as_str)).map(String::from);
    Problem::UnknownKey { key, origin, did_you_mean }
}

fn merge(layers: &[Layer]) -> Result<(Settings, BTreeMap<String, Origin>), ConfigError> {
    let mut figment = Figment::from(Serialized::defaults(Settings::default()));
    let mut origins: BTreeMap<_, _> = values(&Settings::default()).into_keys().map(|key| (key, Origin::Default)).collect();
    for layer in layers {
        figment = figment.merge(layer);
        origins.extend(keys(&layer.dict).into_iter().map(|key| (key, layer.origin.clone())));
    }
    match figment.extract() {
        Ok(settings) => Ok((settings, origins)),
        Err(error) => Err(ConfigError::Wrong(error.into_iter().map(|e| type_problem(e, &figment, &origins)).collect())),
    }
}

/// A value of the wrong type: text for a number, a negative number for a size, a name that is not on the list.
fn type_problem(error: figment::Error, figment: &Figment, origins: &BTreeMap<String, Origin>) -> Problem {
    // The path of a list's element ends in its index.
    let path: Vec<_> = error.path.iter().filter(|part| part.parse::<usize>().is_err()).map(String::as_str).collect();
    let key = path.join(".");
    let value = figment.find_value(&key).map_or_else(|_| error.kind.to_string(), |value| shown(&value));
    let allowed = match (&error.kind, allowed(&key)) {
        (Kind::UnknownVariant(_, names), _) => names.join(", "),
        (_, Some(text)) => text,
        (Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected), None) => expected.clone(),
        (kind, None) => kind.to_string(),
    };
    let origin = origins.get(&key).cloned().unwrap_or_default();
    Problem::Value { key, value, origin, allowed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_workload::{Mix, WorkloadSettings, check};

    #[test]
    fn every_mix_is_fine_by_default_and_by_the_defaults_on_gpus() {
        for gpus in [0, 2] {
            let settings = load(&Sources { folder: "/nonexistent".into(), gpus, ..Sources::default() }).unwrap().settings;
            for mix in [Mix::Balanced, Mix::DecodeHeavy, Mix::LongContext, Mix::Burst, Mix::Changing] {
                let workload = WorkloadSettings { mix, ..settings.workload.clone() };
                assert_eq!(check(&workload, settings.engine.max_model_len), Ok(()), "{gpus} GPUs");
            }
        }
    }
}
