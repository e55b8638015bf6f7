//! The plots of the page, each with the words needed to read it.

use maud::{Markup, html};

use dualpool_types::artifact::Comparison;

use super::{absent, drawing, legend, section, swatches};
use crate::arms::Arm;
use crate::measure::Stages;
use crate::objective_map::{ObjectiveMap, TIE_SHARE, objectives};
use crate::verdicts::{finding, is_decided, pairs};
use crate::words::count;
use crate::{Artifacts, plot};

pub(super) fn objective_map(artifacts: &Artifacts, arms: &[Arm]) -> Markup {
    let note = format!(
        "Which arm has the largest share within objectives if these were the objectives, recomputed from every request: a request counts when it is done, its first \
         token came within the TTFT objective of its kind, and no gap was over the ITL objective. A cell shows the letters and colours of the \
         leading arms and the best share; arms within {:.0} points of the best share it (A=B); a dash means that hardly any request of any arm met the objectives. Strong colour: a large share. The outlined cell is \
         yours.",
        TIE_SHARE * 100.0
    );
    let shown: Vec<&Arm> = arms.iter().filter(|a| !a.control && !a.requests.is_empty()).collect();
    let map = objectives(artifacts).and_then(|own| ObjectiveMap::of(&shown, own));
    html! {
        (section("Objective map: which arrangement for which objectives", &note))
        @if let Some(map) = map {
            (legend(&shown))
            (drawing(|svg| plot::leader_map(svg, &map, &shown)))
            h3 { "Share within objectives of every arm, %" }
            p class="note" {
                "The same grid: ITL objective upwards, TTFT objective of short prompts to the right, both in ms."
            }
            (drawing(|svg| plot::share_maps(svg, &map, &shown)))
        } @else {
            (absent("the objective map (it needs the records of finished requests)"))
        }
    }
}

pub(super) fn comparisons(artifacts: &Artifacts, arms: &[Arm]) -> Markup {
    let all: Vec<&Comparison> = artifacts.summary.iter().flat_map(|s| &s.comparisons).collect();
    let mut baselines: Vec<&str> = Vec::new();
    for c in &all {
        if !baselines.contains(&c.baseline.as_str()) {
            baselines.push(&c.baseline);
        }
    }
    html! {
        (section(
            "Comparisons",
            "Ratio of each arm to the baseline with its 95% interval (Student's t over repetitions). Filled: a difference is shown. Hollow: none is shown. \
             Folded: what decided nothing. The control is the baseline run a second time: its distance from 1 is what chance does.",
        ))
        @if all.is_empty() {
            (absent("comparisons between arms"))
        }
        @for baseline in baselines {
            (against(baseline, all.iter().copied().filter(|c| c.baseline == baseline).collect(), arms))
        }
    }
}

/// What is decided, and folded what is not.
fn against(baseline: &str, own: Vec<&Comparison>, arms: &[Arm]) -> Markup {
    let (decided, open): (Vec<&Comparison>, Vec<&Comparison>) = own.into_iter().partition(|c| is_decided(c));
    html! {
        h3 { "Against " (baseline) }
        @if decided.is_empty() {
            p { "Nothing is decided." }
        } @else {
            (drawn(&decided, arms))
        }
        @if !open.is_empty() {
            details {
                summary { (count(open.len() as u64, "comparison")) " that decided nothing" }
                (drawn(&open, arms))
            }
        }
    }
}

fn drawn(comparisons: &[&Comparison], arms: &[Arm]) -> Markup {
    html! {
        (drawing(|svg| plot::forest(svg, arms, comparisons)))
        ul class="verdicts" {
            @for (_, candidate, group) in pairs(comparisons) {
                li { b { (candidate) } ": " (group.iter().map(|c| finding(c)).collect::<Vec<_>>().join("; ")) }
            }
        }
    }
}

pub(super) fn distributions(artifacts: &Artifacts, arms: &[Arm]) -> Markup {
    html! {
        (section(
            "Distributions of TTFT and ITL",
            "Share of samples at or below a latency, all repetitions. Further left is better. Both axes are stretched so that tails can be read: 90, 99 and \
             99.9% are evenly apart. A curve ends where one sample is left.",
        ))
        @if arms.iter().all(|a| a.requests.is_empty()) {
            (absent("TTFT and ITL distributions (there are no request records)"))
        } @else {
            (legend(&arms.iter().collect::<Vec<_>>()))
            (drawing(|svg| plot::ecdfs(svg, arms, objectives(artifacts))))
        }
    }
}

pub(super) fn stages(arms: &[Arm]) -> Markup {
    let classes = ["stage0", "stage1", "stage2", "stage3", "stage4"];
    html! {
        (section(
            "From arrival to the second token",
            "Means of all requests of a kind. The bar up to the black mark is the TTFT; what follows is the way to the second token, which a hand-off makes longer. \
             The figures beside a bar are the two parts.",
        ))
        @if arms.iter().flat_map(|a| &a.requests).any(|r| Stages::of(r).is_some()) {
            (swatches(&classes.into_iter().zip(Stages::NAMES).collect::<Vec<_>>()))
            (legend(&arms.iter().collect::<Vec<_>>()))
            (drawing(|svg| plot::stages(svg, arms)))
        } @else {
            (absent("the stages of requests (no request has two tokens)"))
        }
    }
}

pub(super) fn queues(arms: &[Arm]) -> Markup {
    let sampled: Vec<&Arm> = arms.iter().filter(|a| !a.control && !a.samples.is_empty()).collect();
    html! {
        (section(
            "Queue depth over time",
            "Requests waiting and running, summed over the engines of a pool; the first repetition of each arm, all on the same axes.",
        ))
        @if sampled.is_empty() {
            (absent("queue depth over time (there are no engine samples)"))
        } @else {
            (swatches(&[("depth prefill", "prefill pool"), ("depth decode", "decode pool"), ("depth shared", "shared engines")]))
            (drawing(|svg| plot::queues(svg, &sampled)))
        }
    }
}

/// What is in a lane, by the class of its fill.
const KINDS: [(&str, &str); 5] = [
    ("prefill-short", "engine queue + prefill, short prompt"),
    ("prefill-long", "engine queue + prefill, long prompt"),
    ("idle", "waiting for KV or for the next step"),
    ("copy", "copy"),
    ("decode", "decode"),
];

pub(super) fn lanes(arms: &[Arm]) -> Markup {
    let served: Vec<&Arm> = arms.iter().filter(|a| !a.control && a.requests.iter().any(|r| !r.legs.is_empty())).collect();
    let ends = served.iter().flat_map(|a| {
        let repetition = a.pictured();
        a.requests.iter().filter(move |r| Some(r.repetition) == repetition).map(|r| r.ended_us)
    });
    let end = ends.max().unwrap_or_default();
    html! {
        (section(
            "What each engine did",
            "One thin bar per stay of a request on an engine; the first repetition of each arm, the same requests and the same time axis. A lane is as high as requests \
             were in flight there at once.",
        ))
        @if served.is_empty() {
            (absent("what the engines did (there are no request records with legs)"))
        } @else {
            (swatches(&KINDS))
            @for arm in &served {
                h3 { (arm.letter) " " (arm.name) }
                (drawing(|svg| plot::lanes(svg, arm, end)))
            }
        }
    }
}
