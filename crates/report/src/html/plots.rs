//! The plots of the page, each with the words needed to read it.

use dualpool_types::arm::controlled;
use dualpool_types::artifact::Comparison;

use super::{Markup, absent, legend, section, swatches};
use crate::arms::Arm;
use crate::measure::Stages;
use crate::objective_map::{ObjectiveMap, TIE_SHARE, objectives};
use crate::verdicts::{pairs, sentence};
use crate::{Artifacts, plot};

pub fn objective_map(m: &mut Markup, artifacts: &Artifacts, arms: &[Arm]) {
    let note = format!(
        "Which arm has the highest goodput if these were the objectives, recomputed from every request: a request counts when it is done, its first \
         token came within the TTFT objective of its kind, and no gap was over the ITL objective. A cell shows the letters and colours of the \
         leading arms and the best goodput; arms within {:.0} points of the best share it (A=B); a dash means that hardly any request of any arm met the objectives. Strong colour: high goodput. The outlined cell is \
         yours.",
        TIE_SHARE * 100.0
    );
    section(m, "Objective map: which arrangement for which objectives", &note);
    let shown: Vec<&Arm> = arms.iter().filter(|a| !a.control && !a.requests.is_empty()).collect();
    let map = objectives(artifacts).and_then(|own| ObjectiveMap::of(&shown, own));
    let Some(map) = map else { return absent(m, "the objective map (it needs the records of finished requests)") };
    legend(m, &shown);
    plot::leader_map(m, &map, &shown);
    m.leaf("h3", &[], "Goodput of every arm, % of its requests");
    m.leaf(
        "p",
        &[("class", &"note")],
        "The same grid: ITL objective upwards, TTFT objective of short prompts to the right, both in ms.",
    );
    plot::goodput_maps(m, &map, &shown);
}

pub fn comparisons(m: &mut Markup, artifacts: &Artifacts, arms: &[Arm]) {
    section(
        m,
        "Comparisons",
        "Ratio of each arm to the baseline with its 95% interval (paired bootstrap). Filled: a difference is shown. Hollow: none is shown. \
         The control is the baseline run a second time: its distance from 1 is what chance does.",
    );
    let all: Vec<&Comparison> = artifacts.summary.iter().flat_map(|s| &s.comparisons).collect();
    if all.is_empty() {
        return absent(m, "comparisons between arms");
    }
    let mut baselines: Vec<&str> = Vec::new();
    for c in &all {
        if !baselines.contains(&c.baseline.as_str()) {
            baselines.push(&c.baseline);
        }
    }
    for baseline in baselines {
        let own: Vec<&Comparison> = all.iter().copied().filter(|c| c.baseline == baseline).collect();
        m.leaf("h3", &[], format!("Against {baseline}"));
        plot::forest(m, arms, &own);
        m.el("ul", &[("class", &"verdicts")], |m| {
            for (_, candidate, group) in pairs(&own).into_iter().filter(|(_, candidate, _)| controlled(candidate).is_none()) {
                m.el("li", &[], |m| {
                    m.leaf("b", &[], candidate);
                    m.text(format!(": {}", sentence(&group)));
                });
            }
        });
    }
}

pub fn distributions(m: &mut Markup, artifacts: &Artifacts, arms: &[Arm]) {
    section(
        m,
        "Distributions of TTFT and ITL",
        "Share of samples at or below a latency, all repetitions. Further left is better. Both axes are stretched so that tails can be read: 90, 99 and \
         99.9% are evenly apart. A curve ends where one sample is left.",
    );
    if arms.iter().all(|a| a.requests.is_empty()) {
        return absent(m, "TTFT and ITL distributions (there are no request records)");
    }
    legend(m, &arms.iter().collect::<Vec<_>>());
    plot::ecdfs(m, arms, objectives(artifacts));
}

pub fn stages(m: &mut Markup, arms: &[Arm]) {
    section(
        m,
        "From arrival to the second token",
        "Means of all requests of a kind. The bar up to the black mark is the TTFT; what follows is the way to the second token, which a hand-off makes longer. \
         The figures beside a bar are the two parts.",
    );
    if !arms.iter().flat_map(|a| &a.requests).any(|r| Stages::of(r).is_some()) {
        return absent(m, "the stages of requests (no request has two tokens)");
    }
    let classes = ["stage0", "stage1", "stage2", "stage3", "stage4"];
    swatches(m, &classes.into_iter().zip(Stages::NAMES).collect::<Vec<_>>());
    legend(m, &arms.iter().collect::<Vec<_>>());
    plot::stages(m, arms);
}

pub fn queues(m: &mut Markup, arms: &[Arm]) {
    section(
        m,
        "Queue depth over time",
        "Requests waiting and running, summed over the engines of a pool; the first repetition of each arm, all on the same axes.",
    );
    let sampled: Vec<&Arm> = arms.iter().filter(|a| !a.control && !a.samples.is_empty()).collect();
    if sampled.is_empty() {
        return absent(m, "queue depth over time (there are no engine samples)");
    }
    swatches(m, &[("depth prefill", "prefill pool"), ("depth decode", "decode pool"), ("depth shared", "shared engines")]);
    plot::queues(m, &sampled);
}

pub fn lanes(m: &mut Markup, arms: &[Arm]) {
    section(
        m,
        "What each engine did",
        "One thin bar per stay of a request on an engine; the first repetition of each arm, the same requests and the same time axis. A lane is as high as requests \
         were in flight there at once.",
    );
    let served: Vec<&Arm> = arms.iter().filter(|a| !a.control && a.requests.iter().any(|r| !r.legs.is_empty())).collect();
    if served.is_empty() {
        return absent(m, "what the engines did (there are no request records with legs)");
    }
    let kinds = [
        ("prefill-short", "engine queue + prefill, short prompt"),
        ("prefill-long", "engine queue + prefill, long prompt"),
        ("idle", "waiting for KV or for the next step"),
        ("copy", "copy"),
        ("decode", "decode"),
    ];
    swatches(m, &kinds);
    let ends = served.iter().flat_map(|a| {
        let repetition = a.pictured();
        a.requests.iter().filter(move |r| Some(r.repetition) == repetition).map(|r| r.ended_us)
    });
    let end = ends.max().unwrap_or_default();
    for arm in &served {
        m.leaf("h3", &[], format!("{} {}", arm.letter, arm.name));
        plot::lanes(m, arm, end);
    }
}
