//! What there is to see at one moment.

use std::collections::BTreeMap;

use dualpool_types::records::{EngineSample, GpuReading, Sample};
use dualpool_types::{EngineId, Micros, Role};

use super::live::Live;
use super::runs::{Status, Watched};

/// Rates are over this time.
const RATE_WINDOW: Micros = Micros(5_000_000);

#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub run: Option<RunView>,
    pub gpus: Vec<GpuRow>,
    /// Why no GPU is shown.
    pub no_gpus: Option<String>,
    /// The last things that happened to GPUs.
    pub events: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct RunView {
    pub folder: String,
    pub status: Status,
    pub model: Option<String>,
    /// None while there are no samples.
    pub moment: Option<Moment>,
}

/// The latest sample of every engine.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub arm: String,
    pub repetition: u32,
    pub at: Micros,
    pub engines: Vec<EngineRow>,
}

#[derive(Clone, Debug)]
pub(super) struct EngineRow {
    pub sample: EngineSample,
    pub device: Option<String>,
    /// KV moves into it per second; none until two samples are there to compare.
    pub moves_per_s: Option<f64>,
}

/// The engines of one role, together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pool {
    pub role: Role,
    pub engines: usize,
    pub waiting: u32,
    pub running: u32,
    /// The mean of those that report it.
    pub kv_usage: Option<f32>,
    pub moves_per_s: Option<f64>,
}

#[derive(Clone, Debug)]
pub(super) struct GpuRow {
    pub reading: GpuReading,
    pub engines: Vec<EngineId>,
}

impl Snapshot {
    pub(super) fn new(watched: Option<Watched>, live: &Live) -> Snapshot {
        let (readings, events) = live.latest();
        Snapshot::of(watched, readings, live.why_none.clone(), events)
    }

    /// This machine's GPUs as they are now; where there are none, those of the run, which may be another machine's.
    pub(super) fn of(
        watched: Option<Watched>,
        live: Option<Vec<GpuReading>>,
        why_none: Option<String>,
        events: Vec<String>,
    ) -> Snapshot {
        let recorded = watched.as_ref().map(|watched| recorded(&watched.samples)).unwrap_or_default();
        let gpus: Vec<GpuRow> = match live {
            Some(readings) => {
                let engines = |uuid: &str| recorded.iter().find(|row| &*row.reading.uuid == uuid).map(|row| row.engines.clone());
                let row = |reading: GpuReading| GpuRow { engines: engines(&reading.uuid).unwrap_or_default(), reading };
                readings.into_iter().map(row).collect()
            }
            None => recorded,
        };
        let no_gpus = gpus.is_empty().then(|| why_none.unwrap_or_else(|| "the GPUs have not answered yet".into()));
        Snapshot { run: watched.map(RunView::new), gpus, no_gpus, events }
    }
}

/// The run that the last sample is of.
fn last_run(samples: &[Sample]) -> Option<(&str, u32)> {
    samples.iter().rev().find_map(|sample| match sample {
        Sample::Engine(sample) => Some((sample.arm.as_str(), sample.repetition)),
        Sample::Gpu(_) => None,
    })
}

fn recorded(samples: &[Sample]) -> Vec<GpuRow> {
    let mut latest = BTreeMap::new();
    for sample in samples {
        if let Sample::Gpu(sample) = sample {
            latest.insert(sample.reading.gpu, GpuRow { reading: sample.reading.clone(), engines: sample.engines.clone() });
        }
    }
    latest.into_values().collect()
}

impl RunView {
    fn new(watched: Watched) -> RunView {
        let Watched { folder, status, info, samples } = watched;
        let environment = info.map(|info| info.environment);
        let devices: BTreeMap<EngineId, String> =
            environment.iter().flat_map(|e| &e.engines).map(|engine| (engine.id, engine.device.clone())).collect();
        RunView {
            folder: folder.display().to_string(),
            status,
            model: environment.map(|environment| environment.model),
            moment: Moment::new(&samples, &devices),
        }
    }
}

impl Moment {
    fn new(samples: &[Sample], devices: &BTreeMap<EngineId, String>) -> Option<Moment> {
        let (arm, repetition) = last_run(samples)?;
        let of_run = samples.iter().filter_map(|sample| match sample {
            Sample::Engine(sample) if (sample.arm.as_str(), sample.repetition) == (arm, repetition) => Some(sample),
            _ => None,
        });
        let mut engines: BTreeMap<EngineId, Vec<&EngineSample>> = BTreeMap::new();
        for sample in of_run {
            let samples = engines.entry(sample.engine).or_default();
            // Runs that are not measured bear the same label: where time falls, another one began.
            if samples.last().is_some_and(|last| sample.at_us < last.at_us) {
                samples.clear();
            }
            samples.push(sample);
        }
        let row = |samples: &Vec<&EngineSample>| {
            let &sample = samples.last()?;
            Some(EngineRow { device: devices.get(&sample.engine).cloned(), moves_per_s: rate(samples), sample: sample.clone() })
        };
        let engines: Vec<EngineRow> = engines.values().filter_map(row).collect();
        let at = engines.iter().map(|row| row.sample.at_us).max()?;
        Some(Moment { arm: arm.to_string(), repetition, at, engines })
    }

    pub(super) fn pools(&self) -> Vec<Pool> {
        let pool = |role: Role| {
            let engines: Vec<&EngineRow> = self.engines.iter().filter(|row| row.sample.role == role).collect();
            let kv: Vec<f32> = engines.iter().filter_map(|row| row.sample.kv_usage).collect();
            (!engines.is_empty()).then(|| Pool {
                role,
                engines: engines.len(),
                waiting: engines.iter().map(|row| row.sample.waiting).sum(),
                running: engines.iter().map(|row| row.sample.running).sum(),
                kv_usage: (!kv.is_empty()).then(|| kv.iter().sum::<f32>() / kv.len() as f32),
                moves_per_s: engines.iter().map(|row| row.moves_per_s).sum(),
            })
        };
        Role::ALL.into_iter().filter_map(pool).collect()
    }

    /// Hand-offs per second over all engines; none until that is known of each.
    pub(super) fn moves_per_s(&self) -> Option<f64> {
        self.engines.iter().map(|row| row.moves_per_s).sum()
    }
}

/// KV moves per second over the last samples of one engine.
fn rate(samples: &[&EngineSample]) -> Option<f64> {
    let last = samples.last()?;
    let first = samples.iter().find(|sample| last.at_us - sample.at_us <= RATE_WINDOW)?;
    let seconds = (last.at_us - first.at_us).as_secs();
    (seconds > 0.0).then(|| last.transfers_in.saturating_sub(first.transfers_in) as f64 / seconds)
}
