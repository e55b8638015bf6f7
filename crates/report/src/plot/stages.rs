//! Where the time to the second token went, as stacked bars of means (means add up, percentiles do not).

use dualpool_types::Class;

use super::{Anchor, Axis, Scale, WIDTH, drawing, label, line, plain, rect, x_axis};
use crate::arms::Arm;
use crate::measure::{Stages, class_name};
use crate::svg::Svg;
use crate::words::ms;

const ROW: f64 = 24.0;
const TOP: f64 = 26.0;
const LEFT: f64 = 34.0;
const PANEL: f64 = WIDTH / 2.0 - 20.0;
/// The stages that end with the first token.
const BEFORE_FIRST_TOKEN: usize = 2;

pub(crate) fn stages(m: &mut Svg, arms: &[Arm]) {
    let height = TOP + ROW * arms.len() as f64 + 42.0;
    drawing(m, height, "Mean time to the second token by stage", |m| {
        for (i, class) in [Class::Short, Class::Long].into_iter().enumerate() {
            panel(m, i as f64 * (WIDTH / 2.0 + 10.0), class, arms);
        }
    });
}

fn mean(arm: &Arm, class: Class) -> Option<[f64; 5]> {
    let all: Vec<[f64; 5]> =
        arm.requests.iter().filter(|r| r.class == class).filter_map(|r| Stages::of(r)).map(|s| s.parts()).collect();
    let sum = |part: usize| all.iter().map(|parts| parts[part]).sum::<f64>() / all.len() as f64;
    (!all.is_empty()).then(|| std::array::from_fn(sum))
}

fn panel(m: &mut Svg, left: f64, class: Class, arms: &[Arm]) {
    let means: Vec<Option<[f64; 5]>> = arms.iter().map(|a| mean(a, class)).collect();
    let longest = means.iter().flatten().map(|parts| parts.iter().sum()).fold(1.0, f64::max);
    let x = Axis { scale: Scale::Linear, low: 0.0, high: longest, from: left + LEFT, to: left + PANEL - 110.0 };
    let bottom = TOP + ROW * arms.len() as f64;
    label(m, left + LEFT, 14.0, Anchor::Start, "panel", format!("{} prompts", class_name(class)));
    x_axis(m, &x, (TOP, bottom), "mean ms since arrival", plain);
    for (i, (arm, mean)) in arms.iter().zip(means).enumerate() {
        let y = TOP + ROW * i as f64;
        label(m, left + LEFT - 8.0, y + 17.0, Anchor::End, &format!("letter {}", arm.class), &arm.letter);
        let Some(parts) = mean else {
            label(m, left + LEFT + 8.0, y + 17.0, Anchor::Start, "row faint", "not measured");
            continue;
        };
        let mut from = 0.0;
        for (stage, part) in parts.into_iter().enumerate() {
            rect(m, (x.at(from), y + 4.0), (x.at(from + part) - x.at(from), ROW - 8.0), &format!("stage{stage}"));
            from += part;
            if stage + 1 == BEFORE_FIRST_TOKEN {
                line(m, (x.at(from), y + 1.0), (x.at(from), y + ROW - 1.0), "first-token");
            }
        }
        let ttft = parts[..BEFORE_FIRST_TOKEN].iter().sum();
        let rest: f64 = parts[BEFORE_FIRST_TOKEN..].iter().sum();
        label(m, x.at(from) + 8.0, y + 17.0, Anchor::Start, "row", format!("{} + {} ms", ms(ttft), ms(rest)));
    }
}
