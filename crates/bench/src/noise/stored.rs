//! The calibration of a kind of machine, beside its expectations, for later runs to say what they can show.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::{Timestamp, Unit};

use dualpool_report::metric::{self, Metric};
use dualpool_types::artifact::Environment;
use dualpool_types::records::replace_json;

use super::{NOISE_SCHEMA, Noise};
use crate::RunSettings;
use crate::expectations::MachineKind;

/// Machines change: what else runs on them, and how warm they are.
const AGE_MAX_DAYS: i32 = 30;

/// The number of repetitions for which it is said what shows.
const SAID_AFTER: u32 = 12;

fn path(run: &RunSettings, machine: &MachineKind) -> Option<PathBuf> {
    Some(run.expectations_folder()?.join(format!("{}.noise.json", machine.slug())))
}

/// Keeps a calibration for later runs; returns where. None where the user wants nothing kept.
pub(crate) fn keep(run: &RunSettings, noise: &Noise) -> anyhow::Result<Option<PathBuf>> {
    let Some(path) = path(run, &noise.machine) else { return Ok(None) };
    let write = || format!("cannot write the calibration of noise {}", path.display());
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).with_context(write)?;
    replace_json(&path, noise).with_context(write)?;
    Ok(Some(path))
}

/// What is known of the noise of this machine, for the reader of a run. None where it was not calibrated.
pub(crate) fn known(run: &RunSettings, environment: &Environment) -> Option<String> {
    let machine = MachineKind::of(environment);
    let path = path(run, &machine)?;
    let text = std::fs::read_to_string(&path).ok()?;
    let again = "`dualpool calibrate --noise` makes a new one";
    let noise: Noise = match serde_json::from_str(&text) {
        Ok(noise) => noise,
        Err(why) => return Some(format!("The calibration of noise {} cannot be read: {why}; {again}.", path.display())),
    };
    if noise.schema_version != NOISE_SCHEMA || noise.machine != machine {
        return Some(format!("The calibration of noise {} is of another version or machine; {again}.", path.display()));
    }
    let started: Timestamp = noise.started_at.parse().ok()?;
    let days = Timestamp::now().since((Unit::Hour, started)).ok()?.get_hours() / 24;
    if days > AGE_MAX_DAYS {
        return Some(format!("The calibration of noise {} is {days} days old; {again}.", path.display()));
    }
    Some(said(&noise))
}

fn said(noise: &Noise) -> String {
    let shows = noise.figures.metrics.iter().filter_map(|of| {
        let effect = of.visible.iter().find(|visible| visible.repetitions == SAID_AFTER)?.effect;
        Some(match Metric::find(&of.metric)?.unit {
            metric::Unit::Share => format!("{:.1} points in {}", effect * 100.0, of.metric),
            _ => format!("{:.0} % in {}", (effect - 1.0) * 100.0, of.metric),
        })
    });
    format!(
        "Identical arms on this machine, calibrated on {}: {SAID_AFTER} repetitions show differences of {}; of identical arms {:.1} % are called \
         different.",
        noise.started_at.split('T').next().unwrap_or_default(),
        shows.collect::<Vec<_>>().join(", "),
        noise.figures.wrong_share * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{MetricNoise, NoiseFigures, Visible};
    use dualpool_types::EngineId;
    use dualpool_types::artifact::EnvironmentEngine;

    fn environment() -> Environment {
        Environment {
            dualpool: "0".into(),
            backend: "virtual".into(),
            model: "m".into(),
            dtype: "auto".into(),
            os: "unknown".into(),
            cpu: "A CPU".into(),
            cores: Some(2),
            memory_bytes: None,
            gpus: vec![],
            engines: vec![EnvironmentEngine { id: EngineId(0), device: "virtual".into(), block_size: 16, kv_blocks: 9 }],
        }
    }

    fn noise(started_at: Timestamp) -> Noise {
        let metric = |metric: &str, effect| MetricNoise {
            metric: metric.into(),
            repetitions: 20,
            scatter: Some(0.1),
            visible: vec![Visible { repetitions: 12, effect }],
        };
        Noise {
            schema_version: NOISE_SCHEMA,
            machine: MachineKind::of(&environment()),
            run: "r".into(),
            started_at: started_at.to_string(),
            load: Some(0.7),
            requests: 36,
            figures: NoiseFigures {
                repetitions: 20,
                drawn: 2000,
                drawn_repetitions: 12,
                wrong_share: 0.021,
                metrics: vec![metric("goodput_share", 0.034), metric("itl_ms.p99", 1.12)],
            },
        }
    }

    #[test]
    fn a_calibration_counts_on_its_machine_and_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunSettings { expectations: dir.path().to_path_buf(), ..RunSettings::default() };
        let said = |environment: &Environment| known(&run, environment);
        assert_eq!(said(&environment()), None);
        keep(&run, &noise(Timestamp::now())).unwrap().unwrap();
        let text = said(&environment()).unwrap();
        assert!(text.contains("3.4 points in goodput_share, 12 % in itl_ms.p99") && text.contains("2.1 %"), "{text}");
        assert_eq!(said(&Environment { cpu: "Another".into(), ..environment() }), None);
        let old = Timestamp::now() - jiff::SignedDuration::from_hours(24 * 40);
        let path = keep(&run, &noise(old)).unwrap().unwrap();
        assert!(said(&environment()).unwrap().contains("is 40 days old; `dualpool calibrate --noise`"));
        std::fs::write(path, "{").unwrap();
        assert!(said(&environment()).unwrap().contains("cannot be read"));
        let none = RunSettings { expectations: "none".into(), ..RunSettings::default() };
        assert_eq!(keep(&none, &noise(old)).unwrap(), None);
    }
}
