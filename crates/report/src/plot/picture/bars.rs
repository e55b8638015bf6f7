//! A bar per arm and figure: what the tail is, how many requests were served well, and what that cost.

use super::super::{Anchor, WIDTH, label, plain, rect};
use super::{Drawn, MARGIN, SECTION};
use crate::metric::{self, Metric};
use crate::svg::Svg;
use crate::words::NOT_MEASURED;

const ROW: f64 = 18.0;
const LETTERS: f64 = 30.0;
/// Room for a bar's figure.
const FIGURE: f64 = 62.0;

struct Panel {
    name: fn() -> String,
    read: fn(&Drawn) -> Option<f64>,
    write: fn(f64) -> String,
}

const PANELS: [Panel; 3] = [
    Panel { name: || named(metric::TTFT_P95), read: |arm| arm.ttft_p95, write: metric::TTFT_P95.unit.write() },
    Panel {
        name: || named(metric::GOODPUT) + " of all requests",
        read: |arm| arm.goodput_share,
        write: metric::GOODPUT.unit.write(),
    },
    Panel { name: || "good requests per unit of cost".into(), read: |arm| arm.good_per_cost, write: plain },
];

fn named(metric: Metric) -> String {
    format!("{}, {}", metric.label(), metric.unit.name())
}

pub(super) fn height(arms: usize) -> f64 {
    SECTION + arms as f64 * ROW
}

/// A panel that has a figure for no arm is left out.
pub(super) fn draw(m: &mut Svg, top: f64, arms: &[Drawn]) {
    let panels: Vec<&Panel> = PANELS.iter().filter(|panel| arms.iter().any(|arm| (panel.read)(arm).is_some())).collect();
    let width = (WIDTH - 2.0 * MARGIN) / panels.len().max(1) as f64;
    for (i, panel) in panels.into_iter().enumerate() {
        let left = MARGIN + i as f64 * width;
        label(m, left, top + 14.0, Anchor::Start, "section", (panel.name)());
        let most = arms.iter().filter_map(panel.read).fold(f64::MIN_POSITIVE, f64::max);
        for (row, arm) in arms.iter().enumerate() {
            let y = top + SECTION + row as f64 * ROW;
            label(m, left, y + 10.0, Anchor::Start, &format!("letter {}", arm.class), &arm.letter);
            let value = (panel.read)(arm);
            let length = value.map_or(0.0, |value| (value / most).max(0.0) * (width - LETTERS - FIGURE));
            rect(m, (left + LETTERS, y), (length, ROW - 6.0), &format!("fill {}", arm.class));
            let text = value.map_or_else(|| NOT_MEASURED.to_string(), panel.write);
            label(m, left + LETTERS + length + 6.0, y + 10.0, Anchor::Start, "row", text);
        }
    }
}
