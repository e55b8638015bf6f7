//! Measures copies over one link: every shape of plan in every class, in rounds over all of them, so that whatever drifts on the machine
//! meanwhile weighs on all alike.

use std::time::Instant;

use rand::seq::SliceRandom as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_kv::{CopyClass, CopyPlanError, MapError, Stop, Transport, TransportError, copy_plan};
use dualpool_report::measure::{quantile, sorted};
use dualpool_types::{Bytes, EngineId, Rng, seeded};

use super::plans::{self, Scale, Shape};

/// The ends of the link, as the transport knows them.
pub(super) const FROM: EngineId = EngineId(0);
pub(super) const TO: EngineId = EngineId(1);

#[derive(Debug, thiserror::Error)]
pub(super) enum SweepError {
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Plan(#[from] CopyPlanError),
    #[error("which classes of copy there are cannot be found out: {0}")]
    Classes(TransportError),
    #[error("copying {ranges} ranges of {range_bytes} in class `{class}`: {source}")]
    Copy { ranges: u32, range_bytes: Bytes, class: CopyClass, source: TransportError },
}

/// One plan in one class of copy. Times are medians over the repeats, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// The class of copy.
    pub class: CopyClass,
    /// The bytes of each byte range.
    pub range_bytes: Bytes,
    /// The number of byte ranges.
    pub ranges: u32,
    /// The bytes of all ranges together.
    pub bytes: Bytes,
    /// The time to make the plan from the two maps in microseconds.
    pub plan_us: f64,
    /// The time from handing the plan to the transport until all bytes are there, in microseconds.
    pub copy_us: f64,
    /// The shortest of these times in microseconds.
    pub copy_us_min: f64,
    /// Half of the repeats lie within this share of the median: (third quartile - first quartile) / median.
    pub spread: f64,
    /// The time of the first copy in microseconds, which is in none of the figures above.
    pub first_us: f64,
    /// The number of repeats.
    pub repeats: u32,
}

impl Point {
    pub fn bytes_per_s(&self) -> f64 {
        self.bytes.0 as f64 / self.copy_us * 1e6
    }

    /// Of the fastest repeat.
    pub fn bytes_per_s_max(&self) -> f64 {
        self.bytes.0 as f64 / self.copy_us_min * 1e6
    }

    /// What a hand-off waits for.
    pub fn total_us(&self) -> f64 {
        self.plan_us + self.copy_us
    }
}

/// A shape in a class, with its times so far.
struct Case {
    shape: Shape,
    class: CopyClass,
    /// (planning, copying), the warm-up first.
    times: Vec<(f64, f64)>,
}

/// Measures all shapes in all classes that the transport has for this link. `round` is told before each round; the first is the warm-up.
pub(super) fn sweep(
    transport: &mut dyn Transport,
    shapes: &[Shape],
    scale: &Scale,
    seed: u64,
    round: &mut dyn FnMut(u32),
) -> Result<Vec<Point>, SweepError> {
    let mut rng = seeded(seed, "copies");
    let classes = transport.classes(FROM, TO).map_err(SweepError::Classes)?;
    let cases = classes.iter().flat_map(|&class| shapes.iter().map(move |&shape| Case { shape, class, times: Vec::new() }));
    let mut cases: Vec<Case> = cases.collect();
    for repeat in 0..=scale.repeats {
        round(repeat);
        cases.shuffle(&mut rng);
        for case in &mut cases {
            let time = time(transport, &case.shape, case.class, scale, &mut rng)?;
            case.times.push(time);
        }
    }
    let mut points: Vec<Point> = cases.iter().map(Case::point).collect();
    points.sort_by_key(|point| (point.class, point.range_bytes.0, point.ranges));
    Ok(points)
}

/// One plan, made and carried out. Drawn anew each time: the same bytes twice would come from the processor's cache.
fn time(
    transport: &mut dyn Transport,
    shape: &Shape,
    class: CopyClass,
    scale: &Scale,
    rng: &mut Rng,
) -> Result<(f64, f64), SweepError> {
    let (source, target) = (plans::map(FROM, shape, scale)?, plans::map(TO, shape, scale)?);
    let pairs = [plans::pairs(source.groups[0].blocks, target.groups[0].blocks, shape.ranges, rng)];
    let begun = Instant::now();
    let spans = copy_plan(&source, &target, &pairs)?;
    let planned = Instant::now();
    let copied = transport.copy_as(class, &spans, FROM, TO, &Stop::default());
    let over = Instant::now();
    copied.map_err(|source| SweepError::Copy { ranges: shape.ranges, range_bytes: shape.range_bytes, class, source })?;
    Ok(((planned - begun).as_secs_f64() * 1e6, (over - planned).as_secs_f64() * 1e6))
}

impl Case {
    fn point(&self) -> Point {
        let (first, repeats) = self.times.split_first().map_or((0.0, &[][..]), |(first, rest)| (first.1, rest));
        let copies = sorted(repeats.iter().map(|time| time.1));
        let at = |share| quantile(&copies, share).unwrap_or(0.0);
        Point {
            class: self.class,
            range_bytes: self.shape.range_bytes,
            ranges: self.shape.ranges,
            bytes: self.shape.bytes(),
            plan_us: quantile(&sorted(repeats.iter().map(|time| time.0)), 0.5).unwrap_or(0.0),
            copy_us: at(0.5),
            copy_us_min: at(0.0),
            spread: (at(0.75) - at(0.25)) / at(0.5).max(f64::MIN_POSITIVE),
            first_us: first,
            repeats: repeats.len() as u32,
        }
    }
}
