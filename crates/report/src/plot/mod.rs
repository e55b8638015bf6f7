//! Plots as SVG, written by hand: colours come from the page's style sheet, so that one drawing serves light, dark and paper.

mod curve;
mod ecdf;
mod forest;
mod lanes;
mod map;
pub mod picture;
mod queue;
mod stages;

pub(crate) use curve::{Curve, Distribution};
pub(crate) use ecdf::ecdfs;
pub(crate) use forest::forest;
pub(crate) use lanes::lanes;
pub(crate) use map::{leader_map, share_maps};
pub(crate) use queue::queues;
pub(crate) use stages::stages;

use super::svg::Svg;
use super::words::figure;

/// Width of every plot, in the SVG's own pixels; the page scales it.
pub(crate) const WIDTH: f64 = 1120.0;
/// Of the style sheet's text in plots, in pixels.
pub(crate) const CHARACTER_WIDTH: f64 = 6.6;

/// What tells an arm from the others in a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a> {
    pub letter: &'a str,
    /// Selects colour and dash in the style sheet.
    pub class: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    Linear,
    Log,
    /// For shares from 0: the distance to 1 on a log scale, so that 90, 99 and 99.9% are evenly apart and tails can be read.
    Tail,
}

/// Maps `low..high` to the pixels `from..to`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub scale: Scale,
    pub low: f64,
    pub high: f64,
    pub from: f64,
    pub to: f64,
}

impl Axis {
    /// The pixel of a value; values outside are drawn on the edge.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let (low, high, value) = (self.warp(self.low), self.warp(self.high), self.warp(value));
        let part = if high > low { (value - low) / (high - low) } else { 0.5 };
        self.from + (self.to - self.from) * part.clamp(0.0, 1.0)
    }

    fn warp(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(f64::MIN_POSITIVE).ln(),
            Scale::Tail => -(1.0 - value.min(1.0 - 1e-9)).ln(),
        }
    }

    /// Round values within the axis, `most` at most.
    pub(crate) fn ticks(&self, most: usize) -> Vec<f64> {
        let mut ticks = match self.scale {
            Scale::Linear => linear_ticks(self.low, self.high, most),
            Scale::Log => log_ticks(self.low, self.high, most),
            Scale::Tail => vec![0.0, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999],
        };
        let slack = (self.high - self.low) * 1e-9;
        ticks.retain(|t| (self.low - slack..=self.high + slack).contains(t));
        ticks
    }
}

fn linear_ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    let rough = (high - low) / most.max(1) as f64;
    if !(rough > 0.0 && rough.is_finite()) {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough * (1.0 - 1e-9)).unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    (0..=most as i64).map(|i| (first + i) as f64 * step).collect()
}

/// 1, 2 and 5 of every decade, or only 1s where that would be too many.
fn log_ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let of = |digits: &[f64]| -> Vec<f64> {
        let all = decades.clone().flat_map(|d| digits.iter().map(move |m| m * 10f64.powi(d)));
        all.filter(|t| (low..=high).contains(t)).collect()
    };
    let ticks = [of(&[1.0, 2.0, 5.0]), of(&[1.0, 3.0]), of(&[1.0])].into_iter().find(|t| t.len() <= most);
    ticks.unwrap_or_else(|| of(&[1.0]).into_iter().step_by(2).collect())
}

/// Low and high end of values, widened a little; none when there is no positive one.
pub(crate) fn log_range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values.filter(|v| *v > 0.0).fold((f64::INFINITY, 0f64), |(l, h), v| (l.min(v), h.max(v)));
    (low <= high).then_some((low / 1.1, high * 1.1))
}

/// A drawing with the words that say what it shows.
pub(crate) fn drawing(m: &mut Svg, height: f64, title: &str, inner: impl FnOnce(&mut Svg)) {
    let view = format!("0 0 {WIDTH} {height}");
    m.el("svg", &[("xmlns", &"http://www.w3.org/2000/svg"), ("viewBox", &view), ("role", &"img"), ("aria-label", &title)], inner);
}

#[derive(Clone, Copy)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// Text at a place; where it would be cut off at the right of the drawing, it is moved to the left by so much.
pub(crate) fn label(m: &mut Svg, x: f64, y: f64, anchor: Anchor, class: &str, text: impl std::fmt::Display) {
    let text = text.to_string();
    let (anchor, to_the_right) = match anchor {
        Anchor::Start => ("start", 1.0),
        Anchor::Middle => ("middle", 0.5),
        Anchor::End => ("end", 0.0),
    };
    let width = text.chars().count() as f64 * CHARACTER_WIDTH;
    let x = x - (x + to_the_right * width - WIDTH).max(0.0);
    m.leaf("text", &[("x", &x), ("y", &y), ("text-anchor", &anchor), ("class", &class)], text);
}

pub(crate) fn line(m: &mut Svg, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
    m.void("line", &[("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2), ("class", &class)]);
}

pub(crate) fn rect(m: &mut Svg, (x, y): (f64, f64), (width, height): (f64, f64), class: &str) {
    m.void("rect", &[("x", &x), ("y", &y), ("width", &width.max(0.0)), ("height", &height.max(0.0)), ("class", &class)]);
}

/// A line through points.
pub(crate) fn path(m: &mut Svg, points: &[(f64, f64)], class: &str) {
    let tenth = |v: f64| (v * 10.0).round() / 10.0;
    let points: Vec<String> = points.iter().map(|&(x, y)| format!("{},{}", tenth(x), tenth(y))).collect();
    m.void("polyline", &[("points", &points.join(" ")), ("class", &class)]);
}

/// Vertical grid lines with their values below, and the axis' name under them.
pub(crate) fn x_axis(m: &mut Svg, axis: &Axis, (top, bottom): (f64, f64), name: &str, write: fn(f64) -> String) {
    let most = ((axis.to - axis.from) / 55.0) as usize;
    for tick in axis.ticks(most) {
        let x = axis.at(tick);
        line(m, (x, top), (x, bottom), "grid");
        label(m, x, bottom + 15.0, Anchor::Middle, "tick", write(tick));
    }
    line(m, (axis.from, bottom), (axis.to, bottom), "edge");
    label(m, (axis.from + axis.to) / 2.0, bottom + 32.0, Anchor::Middle, "name", name);
}

/// Horizontal grid lines with their values at the left.
pub(crate) fn y_axis(m: &mut Svg, axis: &Axis, (left, right): (f64, f64), write: fn(f64) -> String) {
    let most = ((axis.from - axis.to) / 28.0) as usize;
    for tick in axis.ticks(most) {
        let y = axis.at(tick);
        line(m, (left, y), (right, y), "grid");
        label(m, left - 6.0, y + 4.0, Anchor::End, "tick", write(tick));
    }
}

/// A tick's value: no more digits than it has.
pub(crate) fn plain(value: f64) -> String {
    if value.fract().abs() < 1e-9 { format!("{value:.0}") } else { figure(value).trim_end_matches('0').to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_within_the_axis_and_few() {
        let axis = |scale, low, high| Axis { scale, low, high, from: 0.0, to: 100.0 };
        assert_eq!(axis(Scale::Linear, 0.0, 9.3).ticks(5), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(axis(Scale::Log, 8.0, 400.0).ticks(8), [10.0, 20.0, 50.0, 100.0, 200.0]);
        assert_eq!(axis(Scale::Log, 8.0, 4e5).ticks(6), [10.0, 100.0, 1e3, 1e4, 1e5]);
        assert_eq!(axis(Scale::Tail, 0.0, 0.99).ticks(0), [0.0, 0.5, 0.75, 0.9, 0.95, 0.99]);
        assert_eq!(axis(Scale::Linear, 3.0, 3.0).ticks(5), [3.0]);
    }

    #[test]
    fn values_are_placed_within_the_pixels() {
        let log = Axis { scale: Scale::Log, low: 1.0, high: 100.0, from: 10.0, to: 30.0 };
        assert_eq!([0.0, 1.0, 10.0, 100.0, 1e9].map(|v| log.at(v).round()), [10.0, 10.0, 20.0, 30.0, 30.0]);
        let tail = Axis { scale: Scale::Tail, low: 0.0, high: 0.99, from: 20.0, to: 0.0 };
        assert_eq!([0.0, 0.9, 0.99].map(|v| tail.at(v).round()), [20.0, 10.0, 0.0]);
    }
}
