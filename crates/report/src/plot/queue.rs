//! Queue depth over time, per pool: one small panel per arm, all with the same axes.

use std::collections::BTreeMap;

use dualpool_types::records::EngineSample;
use dualpool_types::{EngineId, Micros, Role};

use super::{Anchor, Axis, Key, Scale, WIDTH, drawing, label, path, plain, x_axis, y_axis};
use crate::arms::Arm;
use crate::svg::Svg;

const COLUMNS: usize = 3;
const HEIGHT: f64 = 190.0;
const PANEL: f64 = WIDTH / COLUMNS as f64;

/// Of each pool: when, and how deep.
pub(super) type Depths = BTreeMap<Role, Vec<(f64, f64)>>;

pub(crate) fn queues(m: &mut Svg, arms: &[&Arm]) {
    let panels: Vec<(Key, &str, Depths)> = arms.iter().map(|arm| (arm.key(), arm.name, depths(arm))).collect();
    let name = "s since the start of the repetition";
    drawing(m, height(panels.len()), "Queue depth over time per pool and arm", |m| grid(m, name, &panels));
}

/// What so many panels need.
pub(super) fn height(panels: usize) -> f64 {
    panels.div_ceil(COLUMNS) as f64 * HEIGHT
}

/// One panel per arm; `seconds_name` says what the seconds count from.
pub(super) fn grid(m: &mut Svg, seconds_name: &str, panels: &[(Key, &str, Depths)]) {
    let points = || panels.iter().flat_map(|(_, _, depths)| depths.values()).flatten();
    let seconds = points().map(|p| p.0).fold(1e-3, f64::max);
    let deepest = 1.05 * points().map(|p| p.1).fold(1.0, f64::max);
    for (i, (key, name, depths)) in panels.iter().enumerate() {
        let (left, top) = ((i % COLUMNS) as f64 * PANEL + 34.0, (i / COLUMNS) as f64 * HEIGHT + 24.0);
        let (right, bottom) = (left + PANEL - 52.0, top + HEIGHT - 70.0);
        let x = Axis { scale: Scale::Linear, low: 0.0, high: seconds, from: left, to: right };
        let y = Axis { scale: Scale::Linear, low: 0.0, high: deepest, from: bottom, to: top };
        label(m, left, top - 9.0, Anchor::Start, &format!("letter {}", key.class), key.letter);
        label(m, left + 20.0, top - 9.0, Anchor::Start, "panel", name);
        x_axis(m, &x, (top, bottom), seconds_name, plain);
        y_axis(m, &y, (left, right), plain);
        for (role, points) in depths {
            let points: Vec<(f64, f64)> = points.iter().map(|&(at, depth)| (x.at(at), y.at(depth))).collect();
            path(m, &points, &format!("depth {}", role.name()));
        }
        if depths.is_empty() {
            label(m, (left + right) / 2.0, (top + bottom) / 2.0, Anchor::Middle, "row faint", "not measured");
        }
    }
}

/// The depth of a pool is the sum of what its engines last said. Engines are sampled together, so a pool gets one point per moment.
pub(super) fn depths(arm: &Arm) -> Depths {
    let Some(repetition) = arm.pictured() else { return Depths::new() };
    let mut samples: Vec<&EngineSample> = arm.samples.iter().copied().filter(|s| s.repetition == repetition).collect();
    samples.sort_by_key(|s| (s.at_us, s.engine));
    let mut latest: BTreeMap<Role, BTreeMap<EngineId, u32>> = BTreeMap::new();
    let mut depths = Depths::new();
    for moment in samples.chunk_by(|a, b| a.at_us == b.at_us) {
        for s in moment {
            latest.entry(s.role).or_default().insert(s.engine, s.waiting + s.running);
        }
        let at: Micros = moment[0].at_us;
        for (role, engines) in &latest {
            depths.entry(*role).or_default().push((at.as_secs(), engines.values().sum::<u32>().into()));
        }
    }
    depths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arms::arms;
    use crate::fixture;

    #[test]
    fn a_pool_is_as_deep_as_its_engines_together() {
        let artifacts = fixture::small();
        let arms = arms(&artifacts);
        let shared = depths(&arms[0]);
        let at = 30;
        let moment: Vec<&&EngineSample> =
            arms[0].samples.iter().filter(|s| s.repetition == 0 && s.at_us == Micros(at * 50_000)).collect();
        assert_eq!(moment.len(), 2);
        let sum: u32 = moment.iter().map(|s| s.waiting + s.running).sum();
        assert!(sum > 0, "the fixture is idle there");
        assert_eq!(shared[&Role::Shared][at as usize], (at as f64 * 0.05, f64::from(sum)));
        assert_eq!(depths(&arms[3]).keys().copied().collect::<Vec<_>>(), [Role::Prefill, Role::Decode]);
    }
}
