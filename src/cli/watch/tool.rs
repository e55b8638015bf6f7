//! The tools that watch from outside, and how each is called.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use dualpool_bench::profile::{ExtractError, Profile, ncu, nsys};
use dualpool_fleet::ProfileKind;

/// Launches that `ncu` measures in each process: it runs every one of them several times.
const NCU_LAUNCHES_MAX: u32 = 256;

/// The kernels that `ncu` measures: those that move KV blocks.
const NCU_KERNELS: &str = "regex:^kv_";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    /// Nsight Systems.
    Nsys,
    /// Nsight Compute.
    Ncu,
}

impl Tool {
    /// The tool that a setting asks for.
    pub(super) fn of(kind: ProfileKind) -> Option<Tool> {
        match kind {
            ProfileKind::None | ProfileKind::Minimal => None,
            ProfileKind::Nsys => Some(Tool::Nsys),
            ProfileKind::Ncu => Some(Tool::Ncu),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Tool::Nsys => "nsys",
            Tool::Ncu => "ncu",
        }
    }

    /// Its maker's name for it.
    pub(super) fn product(self) -> &'static str {
        match self {
            Tool::Nsys => "NVIDIA Nsight Systems",
            Tool::Ncu => "NVIDIA Nsight Compute",
        }
    }

    /// The first one on `PATH`.
    pub(super) fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        let executable =
            |file: &PathBuf| file.is_file() && nix::unistd::access(file.as_path(), nix::unistd::AccessFlags::X_OK).is_ok();
        std::env::split_paths(&path).map(|folder| folder.join(self.name())).find(executable)
    }

    /// What the tool leaves in the run's folder.
    pub(super) fn report(self) -> &'static str {
        match self {
            Tool::Nsys => "profile.nsys-rep",
            Tool::Ncu => "profile.ncu-rep",
        }
    }

    /// What the tool leaves beside its report when it prints it.
    pub(super) fn export(self) -> Option<&'static str> {
        match self {
            Tool::Nsys => Some("profile.sqlite"),
            Tool::Ncu => None,
        }
    }

    /// What comes before the command that is to be watched. Engines are processes of their own, started by `spawn`: without being
    /// told, neither tool would see one of them.
    pub(super) fn watch(self, dir: &Path) -> Vec<OsString> {
        let mut output = OsString::from("--output=");
        output.push(dir.join("profile"));
        let (words, last): (&[&str], Vec<OsString>) = match self {
            Tool::Nsys => (
                &[
                    "profile",
                    "--trace=cuda,nvtx,osrt",
                    "--trace-fork-before-exec=true",
                    // vLLM replays its decode steps as CUDA graphs, whose kernels would else be one.
                    "--cuda-graph-trace=node",
                    "--sample=none",
                    "--cpuctxsw=none",
                    "--wait=primary",
                    "--force-overwrite=true",
                ],
                vec![output],
            ),
            Tool::Ncu => (
                &[
                    "--target-processes",
                    "all",
                    "--nvtx",
                    "--clock-control",
                    "none",
                    "--force-overwrite",
                    "--kernel-name",
                    NCU_KERNELS,
                ],
                vec![
                    "--launch-count".into(),
                    NCU_LAUNCHES_MAX.to_string().into(),
                    "--metrics".into(),
                    ncu::METRICS.join(",").into(),
                    "--export".into(),
                    dir.join(self.report()).into(),
                ],
            ),
        };
        words.iter().map(OsString::from).chain(last).collect()
    }

    /// The arguments that print a report as CSV.
    pub(super) fn print(self, dir: &Path) -> Vec<OsString> {
        let report = dir.join(self.report()).into_os_string();
        let (before, after): (&[&str], &[&str]) = match self {
            Tool::Nsys => {
                (&["stats", "--report", "cuda_gpu_trace", "--format", "csv", "--force-export=true", "--output", "-"], &[])
            }
            Tool::Ncu => (&["--import"], &["--csv", "--page", "details", "--print-units", "base"]),
        };
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        [words(before), vec![report], words(after)].concat()
    }

    /// Reads what `print` gives.
    pub(super) fn extract(self, csv: &str) -> Result<Profile, ExtractError> {
        match self {
            Tool::Nsys => nsys::extract(csv),
            Tool::Ncu => ncu::extract(csv),
        }
    }
}
