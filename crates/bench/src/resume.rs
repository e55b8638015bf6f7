//! A run that goes on: more repetitions of the same arms at the same rate, for which new and earlier ones have to be alike.

use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use dualpool_report::{Artifacts, load};
use dualpool_types::artifact::{Environment, RUN_SCHEMA_VERSION};
use dualpool_types::{Failure, UserError};

use crate::folder::{Identity, REQUESTS, RunFolder};

/// Whether a run begins, or goes on in the folder that it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Anew,
    GoOn,
}

#[derive(Debug, Error)]
pub enum ResumeError {
    #[error("the run in {} was made by another version of dualpool, whose files are of version {found}; repeat it", dir.display())]
    Version { dir: PathBuf, found: u32 },
    #[error("the run in {} was made with another {what}: {then}; now it is {now}; repeat it", dir.display())]
    Elsewhere { dir: PathBuf, what: String, then: String, now: String },
}

impl UserError for ResumeError {
    fn hint(&self) -> &'static str {
        "a run goes on with the version, the engines and the machine that it began with"
    }
}

/// The folder of a run, and what it holds of an earlier one. A workload that an earlier run did not come to begins anew.
pub(super) fn folder(identity: Identity, begin: Begin) -> Result<(RunFolder, Option<Artifacts>), Failure> {
    if begin == Begin::Anew || !identity.dir.join(REQUESTS).exists() {
        return Ok((RunFolder::create(identity)?, None));
    }
    let earlier = load(&identity.dir)?;
    if earlier.run.schema_version != RUN_SCHEMA_VERSION {
        return Err(ResumeError::Version { dir: identity.dir, found: earlier.run.schema_version }.into());
    }
    let identity = Identity::of(&earlier.run, &identity.dir);
    Ok((RunFolder::reopen(identity, &earlier)?, Some(earlier)))
}

/// Fails where the engines or the machine are not as they were.
pub(super) fn check(dir: &Path, then: &Environment, now: &Environment) -> Result<(), ResumeError> {
    match difference(&deciding(then), &deciding(now)) {
        Some((what, then, now)) => Err(ResumeError::Elsewhere { dir: dir.to_path_buf(), what, then, now }),
        None => Ok(()),
    }
}

/// All but what changes from day to day without changing figures: the system's version and how much memory it leaves.
fn deciding(environment: &Environment) -> Value {
    let mut json = serde_json::to_value(environment).unwrap_or_default();
    if let Some(keys) = json.as_object_mut() {
        ["os", "memory_bytes"].iter().for_each(|key| drop(keys.remove(*key)));
    }
    for engine in json["engines"].as_array_mut().into_iter().flatten() {
        engine.as_object_mut().and_then(|keys| keys.remove("kv_blocks"));
    }
    json
}

fn difference(then: &Value, now: &Value) -> Option<(String, String, String)> {
    let keys = then.as_object()?.keys();
    let key = keys.into_iter().find(|key| then[key.as_str()] != now[key.as_str()])?;
    Some((key.clone(), then[key].to_string(), now[key].to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::EngineId;
    use dualpool_types::artifact::EnvironmentEngine;

    fn environment() -> Environment {
        let engine =
            |id, kv_blocks| EnvironmentEngine { id: EngineId(id), device: format!("cores {id}"), block_size: 128, kv_blocks };
        Environment {
            dualpool: "1".into(),
            backend: "vllm 1".into(),
            model: "m".into(),
            dtype: "auto".into(),
            os: "Debian, Linux 6.1".into(),
            cpu: "a".into(),
            cores: Some(2),
            memory_bytes: Some(1),
            gpus: vec![],
            engines: vec![engine(0, 9), engine(1, 9)],
        }
    }

    #[test]
    fn a_run_goes_on_where_it_began() {
        let then = environment();
        let mut now = then.clone();
        (now.os, now.memory_bytes, now.engines[0].kv_blocks) = ("Debian, Linux 6.2".into(), Some(2), 8);
        assert!(check(Path::new("run"), &then, &now).is_ok());
        now.engines[1].device = "cores 3".into();
        let error = check(Path::new("run"), &then, &now).unwrap_err().to_string();
        assert!(error.starts_with("the run in run was made with another engines:") && error.contains("cores 3"), "{error}");
        now = Environment { backend: "vllm 2".into(), ..then.clone() };
        let error = check(Path::new("run"), &then, &now).unwrap_err().to_string();
        assert_eq!(error, "the run in run was made with another backend: \"vllm 1\"; now it is \"vllm 2\"; repeat it");
    }
}
