//! What each arm showed against one baseline: for every metric a panel, for every arm its ratio and interval. A filled point is a
//! difference that was shown.

use dualpool_types::artifact::{Comparison, Verdict};

use super::{Anchor, Axis, CHARACTER_WIDTH, Scale, WIDTH, drawing, label, line, log_range, plain};
use crate::arms::Arm;
use crate::svg::Svg;
use crate::verdicts::{effect, higher_is_better, label as name};

const ROW: f64 = 20.0;
const HEAD: f64 = 26.0;
const FOOT: f64 = 34.0;
const GAP: f64 = 30.0;
const PANEL: f64 = (WIDTH - GAP) / 2.0;

/// All comparisons given must have the same baseline.
pub(crate) fn forest(m: &mut Svg, arms: &[Arm], comparisons: &[&Comparison]) {
    let mut metrics: Vec<&str> = Vec::new();
    for c in comparisons {
        if !metrics.contains(&c.metric.as_str()) {
            metrics.push(&c.metric);
        }
    }
    let panels: Vec<Vec<&Comparison>> =
        metrics.iter().map(|metric| comparisons.iter().copied().filter(|c| c.metric == *metric).collect()).collect();
    let height = |panels: &[Vec<&Comparison>]| HEAD + ROW * panels.iter().map(Vec::len).max().unwrap_or(0) as f64 + FOOT;
    let total = panels.chunks(2).map(height).sum();
    // One scale for all panels, so that an effect of one size looks the same wherever it is.
    let bounds = comparisons.iter().filter(|c| c.ratio.is_some()).flat_map(|c| [c.ratio, c.ci_low, c.ci_high]);
    let bounds = bounds.flatten().chain([0.5, 2.0]);
    let range = log_range(bounds).map_or((0.5, 2.0), |(low, high)| (low.max(0.02), high.min(50.0)));
    drawing(m, total, "Ratios of each arm to the baseline, with 95% intervals", |m| {
        let mut top = 0.0;
        for row in panels.chunks(2) {
            for (i, panel) in row.iter().enumerate() {
                draw(m, (i as f64 * (PANEL + GAP), top), range, arms, panel);
            }
            top += height(row);
        }
    });
}

fn draw(m: &mut Svg, (left, top): (f64, f64), range: (f64, f64), arms: &[Arm], rows: &[&Comparison]) {
    let Some(first) = rows.first() else { return };
    let names = rows.iter().map(|c| c.candidate.chars().count()).max().unwrap_or(0).min(24) as f64 * CHARACTER_WIDTH + 26.0;
    let x = Axis { scale: Scale::Log, low: range.0, high: range.1, from: left + names, to: left + PANEL - 118.0 };
    let (upper, lower) = (top + HEAD, top + HEAD + ROW * rows.len() as f64);
    let up = higher_is_better(&first.metric);
    label(m, left, top + 15.0, Anchor::Start, "panel", name(&first.metric));
    label(m, x.at(1.0) - 8.0, top + 15.0, Anchor::End, "tick", if up { "\u{2190} worse" } else { "\u{2190} better" });
    label(m, x.at(1.0) + 8.0, top + 15.0, Anchor::Start, "tick", if up { "better \u{2192}" } else { "worse \u{2192}" });
    for tick in x.ticks(((x.to - x.from) / 38.0) as usize) {
        line(m, (x.at(tick), upper), (x.at(tick), lower), "grid");
        label(m, x.at(tick), lower + 14.0, Anchor::Middle, "tick", format!("{}x", plain(tick)));
    }
    line(m, (x.at(1.0), upper - 4.0), (x.at(1.0), lower), "unity");
    for (i, c) in rows.iter().enumerate() {
        let y = upper + ROW * (i as f64 + 0.5);
        let arm = arms.iter().find(|a| a.name == c.candidate);
        let (class, letter) = arm.map_or(("arm ac", ""), |a| (&a.class, &a.letter));
        label(m, left, y + 4.0, Anchor::Start, &format!("letter {class}"), letter);
        label(m, left + 20.0, y + 4.0, Anchor::Start, "row", shortened(&c.candidate));
        let shown = matches!(c.verdict, Verdict::Better | Verdict::Worse);
        let emphasis = if shown { "row strong" } else { "row faint" };
        let Some(value) = c.ratio else {
            // Points of a share have no place on an axis of ratios.
            label(m, left + PANEL, y + 4.0, Anchor::End, emphasis, effect(c).unwrap_or_else(|| "not measured".into()));
            continue;
        };
        if let (Some(low), Some(high)) = (c.ci_low, c.ci_high) {
            let interval = format!("interval {class}");
            line(m, (x.at(low), y), (x.at(high), y), &interval);
            for end in [x.at(low), x.at(high)] {
                line(m, (end, y - 3.5), (end, y + 3.5), &interval);
            }
        }
        let fill = if shown { "point shown" } else { "point" };
        m.void("circle", &[("cx", &x.at(value)), ("cy", &y), ("r", &3.2), ("class", &format!("{fill} {class}"))]);
        label(m, left + PANEL, y + 4.0, Anchor::End, emphasis, effect(c).unwrap_or_default());
    }
}

fn shortened(name: &str) -> String {
    if name.chars().count() > 24 { name.chars().take(23).chain(['\u{2026}']).collect() } else { name.to_string() }
}
