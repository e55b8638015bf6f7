//! The distributions of TTFT and ITL, one curve per arm. Both axes serve the tail: latency is logarithmic, and the share of samples
//! is spaced by its distance to 100 %.

use dualpool_types::artifact::SummaryObjectives;

use super::{Anchor, Axis, Distribution, Key, Scale, WIDTH, drawing, label, line, log_range, path, plain, x_axis, y_axis};
use crate::arms::Arm;
use crate::measure::sorted;
use crate::metric::Series;
use crate::svg::Svg;

pub(super) const HEIGHT: f64 = 380.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = HEIGHT - 42.0;
/// Points per curve: enough for a smooth line, however many samples there are.
const POINTS: usize = 240;
/// Above this share even a big run has too few samples.
const SHARE_MAX: f64 = 0.999;

/// Three panels: TTFT of short and of long prompts, and ITL.
pub(crate) fn ecdfs(m: &mut Svg, arms: &[Arm], objectives: Option<SummaryObjectives>) {
    let of = |series: Series| -> Vec<Vec<f64>> {
        arms.iter().map(|arm| sorted(arm.requests.iter().flat_map(|r| series.of(r)))).collect()
    };
    let panels = [
        ("TTFT of short prompts, ms", of(Series::ShortTtft), objectives.map(|o| o.ttft_short_ms)),
        ("TTFT of long prompts, ms", of(Series::LongTtft), objectives.map(|o| o.ttft_long_ms)),
        ("ITL (every gap), ms", of(Series::Itl), objectives.map(|o| o.itl_ms)),
    ];
    let keys: Vec<Key> = arms.iter().map(Arm::key).collect();
    drawing(m, HEIGHT, "Distributions of TTFT and ITL per arm", |m| side_by_side(m, &keys, panels.into()));
}

/// What a panel is of, the distribution of each arm, and the objective.
pub(super) type Panel<'a, D> = (&'a str, Vec<D>, Option<f64>);

/// The panels in one row.
pub(super) fn side_by_side<D: Distribution>(m: &mut Svg, keys: &[Key], panels: Vec<Panel<D>>) {
    let columns = panels.len() as f64;
    for (i, (name, samples, objective)) in panels.into_iter().enumerate() {
        let left = 46.0 + i as f64 * (WIDTH + 6.0) / columns;
        panel(m, (left, left + (WIDTH - 60.0 * columns) / columns), name, keys, &samples, objective);
    }
}

fn panel<D: Distribution>(m: &mut Svg, (left, right): (f64, f64), name: &str, keys: &[Key], samples: &[D], objective: Option<f64>) {
    let ends = samples.iter().filter_map(D::range).flat_map(|(low, high)| [low, high]);
    let Some((low, high)) = log_range(ends.chain(objective)) else {
        label(m, (left + right) / 2.0, (TOP + BOTTOM) / 2.0, Anchor::Middle, "name", format!("{name}: not measured"));
        return;
    };
    // The lowest percent of the gaps (tokens that left together) would squeeze all the others.
    let floor = samples.iter().filter_map(|s| s.quantile(0.02)).fold(high, f64::min).min(objective.unwrap_or(high));
    let x = Axis { scale: Scale::Log, low: low.max(floor / 1.3), high, from: left, to: right };
    let most = samples.iter().map(D::count).max().unwrap_or(0).max(2);
    let y = Axis { scale: Scale::Tail, low: 0.0, high: (1.0 - 1.0 / most as f64).min(SHARE_MAX), from: BOTTOM, to: TOP };
    x_axis(m, &x, (TOP, BOTTOM), name, plain);
    y_axis(m, &y, (left, right), |share| plain(share * 100.0));
    label(m, left - 6.0, TOP - 12.0, Anchor::End, "tick", "%");
    if let Some(objective) = objective {
        line(m, (x.at(objective), TOP - 4.0), (x.at(objective), BOTTOM), "objective");
        label(m, x.at(objective), TOP - 8.0, Anchor::Middle, "objective-name", format!("objective {} ms", plain(objective)));
    }
    let mut marks = Vec::new();
    for (i, (key, samples)) in keys.iter().zip(samples).enumerate().filter(|(_, (_, s))| s.count() > 0) {
        let share_max = (1.0 - 1.0 / samples.count() as f64).min(y.high);
        let curve = |part: f64| {
            // Even steps on the tail scale.
            let share = 1.0 - (1.0 - share_max).powf(part);
            (x.at(samples.quantile(share).unwrap_or(low)), y.at(share))
        };
        let points: Vec<(f64, f64)> = (0..=POINTS).map(|p| curve(p as f64 / POINTS as f64)).collect();
        path(m, &points, &format!("curve {}", key.class));
        // Letters stand at different heights, so that no two can cover each other.
        marks.push((curve(0.2 + 0.7 * (i as f64 + 0.5) / keys.len() as f64), key));
    }
    for ((x, y), key) in marks {
        label(m, x, y + 4.0, Anchor::Middle, &format!("mark {}", key.class), key.letter);
    }
}
