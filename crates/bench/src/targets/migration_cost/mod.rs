//! The target `migration_cost` (`dualpool calibrate`): what copies of KV cost between the devices of this machine, by the size of their
//! ranges, the number of ranges and the class of copy. It needs no engines: it copies between memories of its own, by the plans and the
//! transports that hand-offs use.

mod fit;
mod memory;
mod plans;
mod result;
mod sweep;
mod table;

use std::path::PathBuf;

use anyhow::{Context, anyhow};

use dualpool_engine::Spot;
use dualpool_fleet::Progress;
use dualpool_kv::{CalibrationError, CopyClass, KernelSettings, LinkCost, Transport, Transports};
use dualpool_machine::Machine;
use dualpool_report::measure::{quantile, sorted};
use dualpool_types::records::{can_write_in, replace_json};
use dualpool_types::{Bytes, Failure, Program};

use crate::Settings;
use crate::folder::{FolderError, Identity};
use crate::target::{Alone, Call, Done, Prepared, Target, json};
use fit::Observed;
use plans::{Scale, Shape};
use sweep::{FROM, Point, TO};
use table::table;

pub use result::{Choice, Class, HeldOut, Link, MIGRATION_COST_SCHEMA, MigrationCost};

/// The name of the file in the run's folder.
pub const FILE: &str = "migration_cost.json";

pub struct CopyCalibration;

impl Target for CopyCalibration {
    fn name(&self) -> &'static str {
        "migration_cost"
    }

    fn about(&self) -> &'static str {
        "what copying KV costs between the devices of this machine, by size, number of ranges and way to copy; needs no engines"
    }

    fn file(&self) -> Option<&'static str> {
        Some(FILE)
    }

    fn prepare(&self, call: &Call) -> Result<Prepared, Failure> {
        let settings = call.settings.clone();
        let placements = dualpool_machine::choose(&settings.pools, call.gpus)?;
        let identity = Identity::now(self.name(), &settings.run.out);
        if identity.dir.join(FILE).exists() {
            return Err(FolderError::Taken { path: identity.dir }.into());
        }
        // Now, and not after minutes of copying.
        let calibration = settings.kv.calibration_file();
        can_write_in(&identity.dir).map_err(|source| FolderError::Write { path: identity.dir.clone(), source })?;
        if let Some(path) = &calibration {
            let folder = path.parent().unwrap_or(path);
            can_write_in(folder).map_err(|source| CalibrationError::Write { path: path.clone(), source })?;
        }
        let spots = placements.iter().map(|placement| Spot::of(&placement.device, &settings.virtual_engines));
        Ok(Prepared::Alone(Box::new(Calibration {
            spots: spots.collect::<anyhow::Result<Vec<Spot>>>()?,
            machine: Machine::detect(call.gpus),
            program: call.program.clone(),
            command: call.command.to_vec(),
            identity,
            calibration,
            settings,
        })))
    }
}

/// A calibration that can begin.
struct Calibration {
    settings: Settings,
    identity: Identity,
    spots: Vec<Spot>,
    machine: Machine,
    program: Program,
    command: Vec<String>,
    /// The file that later runs read, where they look for any.
    calibration: Option<PathBuf>,
}

impl Alone for Calibration {
    /// Measures every ordered pair of the engines' memories and writes both files.
    fn run(self: Box<Self>, progress: &dyn Progress) -> Result<Done, Failure> {
        let Calibration { settings, identity, spots, machine, program, command, calibration } = *self;
        let bench = Bench {
            program,
            kernels: KernelSettings::new(&settings.kv, &settings.engine.venv),
            scale: if settings.run.quick { Scale::QUICK } else { Scale::FULL },
            seed: settings.workload.seed,
            progress,
        };
        let mut links = Vec::new();
        for (from, to) in pairs(&spots) {
            let what = || format!("measuring copies from {} to {}", from.name(), to.name());
            links.push(bench.link(from, to).with_context(what)?);
        }
        if links.is_empty() {
            return Err(anyhow!("copies need two engines, and there is one; give the two pools a device each").into());
        }
        let artifact = identity.dir.join(FILE);
        let cost = MigrationCost {
            schema_version: MIGRATION_COST_SCHEMA,
            target: CopyCalibration.name().into(),
            id: identity.id,
            started_at: identity.started_at,
            command,
            dualpool: env!("CARGO_PKG_VERSION").into(),
            machine,
            memory_bytes: bench.scale.memory,
            repeats: bench.scale.repeats,
            seed: bench.seed,
            links,
        };
        replace_json(&artifact, &cost).map_err(|source| FolderError::Write { path: identity.dir, source })?;
        if let Some(path) = &calibration {
            cost.copy_costs()?.write(path)?;
        }
        Ok(Done::whole(move |view| match view.json {
            true => json(&cost),
            false => {
                let read = calibration.map(|path| format!("read by runs: {}\n", path.display())).unwrap_or_default();
                Ok(format!("{}\nmeasured:     {}\n{read}", table(&cost, view.columns), artifact.display()))
            }
        }))
    }
}

/// Every ordered pair of engines, those between the same two memories once.
fn pairs(spots: &[Spot]) -> Vec<(&Spot, &Spot)> {
    let mut pairs: Vec<(&Spot, &Spot)> = Vec::new();
    for (i, from) in spots.iter().enumerate() {
        for (_, to) in spots.iter().enumerate().filter(|(j, _)| *j != i) {
            if !pairs.iter().any(|pair| pair.0.name() == from.name() && pair.1.name() == to.name()) {
                pairs.push((from, to));
            }
        }
    }
    pairs
}

/// What measuring any link takes.
struct Bench<'a> {
    program: Program,
    kernels: KernelSettings,
    scale: Scale,
    seed: u64,
    progress: &'a dyn Progress,
}

impl Bench<'_> {
    fn link(&self, from: &Spot, to: &Spot) -> anyhow::Result<Link> {
        let lend = |spot: &Spot| memory::lend(spot, self.scale.memory, &self.program);
        let (source, target) = (lend(from)?, lend(to)?);
        // Dropped before what it maps: the keepers stay until the end of this function.
        let _keepers = (source.keeper, target.keeper);
        let mut transport = Transports::new(self.kernels.clone());
        transport.map(FROM, source.memory)?;
        transport.map(TO, target.memory)?;
        self.progress.phase(&format!("{} to {}", from.name(), to.name()), self.scale.repeats + 1);
        let measured = measure(&mut transport, &self.scale, self.seed, &mut |round| {
            self.progress.step(if round == 0 { "warm-up" } else { "copies" });
        })?;
        concluded(from, to, &transport.classes(FROM, TO)?, measured)
    }
}

/// Fits every class and looks at what it predicts.
fn concluded(from: &Spot, to: &Spot, classes: &[CopyClass], measured: Measured) -> anyhow::Result<Link> {
    let Measured { large, points, held_out } = measured;
    let classes = classes.iter().map(|&class| fitted(class, &points, &held_out)).collect::<anyhow::Result<Vec<Class>>>()?;
    let costs = LinkCost::new(classes.iter().map(|class| (class.class, class.cost)).collect())?;
    let predicted = |point: &Point| costs.classes()[&point.class].predict_us(point.bytes, point.ranges);
    let held_out: Vec<HeldOut> =
        held_out.into_iter().map(|measured| HeldOut { predicted_us: predicted(&measured), measured }).collect();
    let errors = sorted(held_out.iter().map(|h| (h.predicted_us / h.measured.total_us() - 1.0).abs()));
    Ok(Link {
        from: from.name(),
        to: to.name(),
        transport: from.transport().into(),
        ceiling_bytes_per_s: large.iter().map(Point::bytes_per_s_max).fold(0.0, f64::max),
        large,
        choices: choices(&costs, &points),
        points,
        classes,
        held_out_error_median: quantile(&errors, 0.5).context("no plan was held out")?,
        held_out,
    })
}

struct Measured {
    large: Vec<Point>,
    points: Vec<Point>,
    held_out: Vec<Point>,
}

/// All of a link in one sweep, so that grid, held-out plans and the large copy share the same minutes of the machine.
fn measure(transport: &mut dyn Transport, scale: &Scale, seed: u64, round: &mut dyn FnMut(u32)) -> anyhow::Result<Measured> {
    let (grid, held_out, large) = (plans::grid(scale), plans::held_out(scale, seed), scale.ceiling());
    let shapes: Vec<Shape> = grid.iter().chain(&held_out).chain([&large]).copied().collect();
    let points = sweep::sweep(transport, &shapes, scale, seed, round)?;
    let of = |shapes: &[Shape]| {
        let shape = |point: &Point| Shape { range_bytes: point.range_bytes, ranges: point.ranges };
        points.iter().filter(|point| shapes.contains(&shape(point))).cloned().collect::<Vec<_>>()
    };
    Ok(Measured { large: of(&[large]), held_out: of(&held_out), points: of(&grid) })
}

fn fitted(class: CopyClass, points: &[Point], held_out: &[Point]) -> anyhow::Result<Class> {
    let of_class = |points: &[Point]| points.iter().filter(|point| point.class == class).map(observed).collect::<Vec<_>>();
    let (seen, unseen) = (of_class(points), of_class(held_out));
    let cost = fit::fit(&seen).with_context(|| format!("class `{class}` gave no times to fit"))?;
    let (fit_errors, held_out_errors) = (fit::errors(&cost, &seen), fit::errors(&cost, &unseen));
    let smallest = seen.iter().min_by_key(|point| point.bytes.0).context("the grid is empty")?;
    let at = |errors: &[f64], share| quantile(errors, share).with_context(|| format!("class `{class}` has no held-out plan"));
    Ok(Class {
        class,
        cost,
        smallest_us: smallest.us,
        fit_error_median: at(&fit_errors, 0.5)?,
        held_out_error_median: at(&held_out_errors, 0.5)?,
        held_out_error_p90: at(&held_out_errors, 0.9)?,
    })
}

/// A hand-off waits for the plan as well.
fn observed(point: &Point) -> Observed {
    Observed { bytes: point.bytes, ranges: point.ranges, us: point.total_us() }
}

/// For every shape of the grid the class that a mover would take, and the one that was fastest.
fn choices(costs: &LinkCost, points: &[Point]) -> Vec<Choice> {
    let mut shapes: Vec<(Bytes, u32)> = points.iter().map(|point| (point.range_bytes, point.ranges)).collect();
    shapes.sort_by_key(|(range_bytes, ranges)| (range_bytes.0, *ranges));
    shapes.dedup();
    let choice = |(range_bytes, ranges): (Bytes, u32)| {
        let of_shape = points.iter().filter(|point| (point.range_bytes, point.ranges) == (range_bytes, ranges));
        let fastest = of_shape.min_by(|a, b| a.total_us().total_cmp(&b.total_us()))?.class;
        let (chosen, _) = costs.choose(Bytes(range_bytes.0 * u64::from(ranges)), ranges);
        Some(Choice { range_bytes, ranges, chosen, fastest })
    };
    shapes.into_iter().filter_map(choice).collect()
}
