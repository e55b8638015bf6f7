//! Compiles the kernels with nvcc where it is installed. The program embeds what comes out; an empty file means that it compiles them
//! itself at start, for the GPU at hand.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = "../../kernels/kv_copy.cu";

/// A100, H100 and H200, B200; those that the nvcc at hand knows.
const CHIPS: [&str; 3] = ["80", "90", "100"];

fn main() {
    for path in [SOURCE, "build.rs"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in ["NVCC", "CUDA_HOME"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let fatbin = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("kv_copy.fatbin");
    std::fs::write(&fatbin, []).expect("cargo's output folder can be written");
    let Some((nvcc, known)) = candidates().into_iter().find_map(|nvcc| Some((known_chips(&nvcc)?, nvcc)).map(|(k, n)| (n, k)))
    else {
        return;
    };
    // A toolkit that does not work must not keep the program from being built.
    if let Err(why) = compile(&nvcc, &known, &fatbin) {
        println!("cargo:warning={} does not compile {SOURCE}, so it is compiled at start: {why}", Path::new(&nvcc).display());
        std::fs::write(&fatbin, []).expect("cargo's output folder can be written");
    }
}

fn candidates() -> Vec<OsString> {
    let toolkit = |home: &Path| home.join("bin/nvcc").into_os_string();
    let named = std::env::var_os("NVCC");
    let home = std::env::var_os("CUDA_HOME").map(|home| toolkit(Path::new(&home)));
    named.into_iter().chain(home).chain(["nvcc".into(), toolkit(Path::new("/usr/local/cuda"))]).collect()
}

/// Those of [`CHIPS`] that this nvcc compiles for; none when it does not run.
fn known_chips(nvcc: &OsString) -> Option<Vec<&'static str>> {
    let output = Command::new(nvcc).arg("--list-gpu-code").output().ok().filter(|output| output.status.success())?;
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    let known = |chip: &&str| list.lines().any(|line| line.trim() == format!("sm_{chip}"));
    Some(CHIPS.into_iter().filter(known).collect())
}

fn compile(nvcc: &OsString, chips: &[&str], fatbin: &Path) -> Result<(), String> {
    let newest = chips.last().ok_or_else(|| format!("it knows none of sm_{}", CHIPS.join(", sm_")))?;
    let mut command = Command::new(nvcc);
    command.args(["--fatbin", "-std=c++17", "-O3", "-o"]).arg(fatbin).arg(SOURCE);
    for chip in chips {
        command.arg(format!("-gencode=arch=compute_{chip},code=sm_{chip}"));
    }
    // For chips that come after, the driver compiles it when it loads the module.
    command.arg(format!("-gencode=arch=compute_{newest},code=compute_{newest}"));
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    // One line: cargo shows a warning's first line only.
    Err(String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" "))
}
