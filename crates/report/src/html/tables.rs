//! The tables of the page.

use dualpool_types::{Bytes, Role};

use super::run::arrangement;
use super::{Markup, absent, list, section};
use crate::Artifacts;
use crate::arms::Arm;
use crate::table::{legend, table};
use crate::terminal::{control, expectations, lost};
use crate::words::{figure, ms, or_not_measured, percent};

type Heading<'a> = (&'a str, &'a str);

/// A table with headings and units; `rows` writes the body.
fn draw(m: &mut Markup, headings: &[Heading], rows: impl FnOnce(&mut Markup)) {
    m.el("div", &[("class", &"scroll")], |m| {
        m.el("table", &[], |m| {
            m.el("thead", &[], |m| {
                m.el("tr", &[], |m| {
                    for (name, unit) in headings {
                        m.el("th", &[], |m| {
                            m.text(name);
                            m.leaf("span", &[("class", &"unit")], unit);
                        });
                    }
                });
            });
            m.el("tbody", &[], rows);
        });
    });
}

fn row(m: &mut Markup, control: bool, cells: &[String]) {
    m.el("tr", &[("class", &if control { "control" } else { "" })], |m| cells.iter().for_each(|cell| m.leaf("td", &[], cell)));
}

fn named(arm: &Arm) -> String {
    format!("{}  {}", arm.letter, arm.name)
}

pub fn arms(m: &mut Markup, artifacts: &Artifacts, arms: &[Arm]) {
    let source = if artifacts.summary.is_some() { "" } else { " Computed from the raw records of what was finished." };
    section(m, "The arms", &format!("{}{source}", legend(arms)));
    let (columns, rows) = table(arms);
    let headings: Vec<Heading> = std::iter::once(("arm", "")).chain(columns.iter().map(|c| (c.heading, c.unit))).collect();
    draw(m, &headings, |m| {
        for (arm, cells) in arms.iter().zip(&rows) {
            m.el("tr", &[("class", &if arm.control { "control" } else { "" })], |m| {
                m.leaf("td", &[], named(arm));
                for entries in cells {
                    m.el("td", &[], |m| {
                        for (i, entry) in entries.iter().enumerate() {
                            if i > 0 {
                                m.text(" / ");
                            }
                            match entry.best {
                                true => m.leaf("b", &[("class", &"best")], format!("{}*", entry.text)),
                                false => m.text(&entry.text),
                            }
                        }
                    });
                }
            });
        }
    });
}

pub fn handoffs(m: &mut Markup, arms: &[Arm]) {
    section(
        m,
        "Hand-offs",
        "Copy: the mover alone. Total: from the last output of the prefill leg to the first token of the decode leg.",
    );
    let any = |a: &Arm| a.figures.handoffs.count + a.figures.handoffs.recomputed > 0;
    if !arms.iter().any(any) {
        m.leaf("p", &[], "No arm moved KV.");
        return;
    }
    let headings = [
        ("arm", ""),
        ("count", ""),
        ("computed again", ""),
        ("moved", ""),
        ("copy", "p50 ms"),
        ("copy", "p95 ms"),
        ("total", "p50 ms"),
        ("total", "p95 ms"),
    ];
    draw(m, &headings, |m| {
        for arm in arms.iter().filter(|a| any(a)) {
            let h = &arm.figures.handoffs;
            let mut cells = vec![named(arm), h.count.to_string(), h.recomputed.to_string(), Bytes(h.bytes).to_string()];
            cells.extend([h.copy_ms_p50, h.copy_ms_p95, h.total_ms_p50, h.total_ms_p95].map(|v| or_not_measured(v, ms)));
            row(m, arm.control, &cells);
        }
    });
}

pub fn engines(m: &mut Markup, arms: &[Arm]) {
    section(m, "Engines", "TPOT: mean over the requests that decoded there of each one's mean ITL. Busy: with at least one leg.");
    let headings = [("arm", ""), ("engine", ""), ("role", ""), ("legs", ""), ("TPOT", "ms/token"), ("output", "tokens per busy s")];
    draw(m, &headings, |m| {
        for (arm, e) in arms.iter().flat_map(|a| a.figures.engines.iter().map(move |e| (a, e))) {
            let role: Role = e.role;
            let engine = format!("{} ({})", e.id, e.device);
            let (tpot, rate) = (or_not_measured(e.tpot_ms, ms), or_not_measured(e.tokens_per_busy_s, figure));
            row(m, arm.control, &[named(arm), engine, role.name().into(), e.requests.to_string(), tpot, rate]);
        }
    });
}

/// Where a router is what is measured.
pub fn routing(m: &mut Markup, arms: &[Arm]) {
    if arms.iter().all(|a| a.figures.routing.is_none()) {
        return;
    }
    let intro = "Which engine got what. Same engine: turns that went to the engine of the turn before. Spread: deepest queue less the \
                 shallowest, mean over time.";
    section(m, "Routing", intro);
    let headings = [
        ("arm", ""),
        ("cached", "% of prompts"),
        ("same engine", "% of turns"),
        ("spread", "requests"),
        ("queue by engine", "mean depth"),
        ("prompt tokens by engine", ""),
    ];
    draw(m, &headings, |m| {
        for (arm, r) in arms.iter().filter_map(|a| Some((a, a.figures.routing.as_ref()?))) {
            let tenths = |v: f64| format!("{v:.1}");
            let depths: Vec<String> = r.engines.iter().map(|e| or_not_measured(e.queue_depth_mean, tenths)).collect();
            let prompts: Vec<String> = r.engines.iter().map(|e| e.prompt_tokens.to_string()).collect();
            let cells = [
                named(arm),
                or_not_measured(r.cached_share, percent),
                or_not_measured(r.same_engine_share, percent),
                or_not_measured(r.queue_spread_mean, tenths),
                depths.join(" / "),
                prompts.join(" / "),
            ];
            row(m, arm.control, &cells);
        }
    });
}

pub fn search(m: &mut Markup, artifacts: &Artifacts) {
    let intro = "A simulation on engines that cost what the router learned of these shortlisted the arrangements; short trials on the \
                 engines chose among them. Scores: higher is better. Arrangements without requests were not on the shortlist.";
    section(m, "Search", intro);
    if artifacts.run.search.is_empty() {
        return absent(m, "search trials (none were made)");
    }
    let headings =
        [("arrangement", ""), ("forecast", "score"), ("requests", ""), ("goodput", "%"), ("trial", "score"), ("chosen for", "")];
    draw(m, &headings, |m| {
        for trial in &artifacts.run.search {
            let what = format!("{}: {}", trial.arrangement.name, arrangement(&trial.arrangement));
            let chosen = trial.chosen_for.clone().unwrap_or_default();
            m.el("tr", &[], |m| {
                m.leaf("td", &[("class", &"words")], what);
                for cell in [
                    format!("{:.3}", trial.forecast),
                    trial.requests.to_string(),
                    or_not_measured(trial.goodput_share, percent),
                    or_not_measured(trial.score, |score| format!("{score:.3}")),
                    chosen,
                ] {
                    m.leaf("td", &[], cell);
                }
            });
        }
    });
}

/// What tells whether the figures can be trusted.
pub fn soundness(m: &mut Markup, artifacts: &Artifacts, arms: &[Arm]) {
    section(m, "Soundness", "");
    let mut said = Vec::new();
    match &artifacts.summary {
        Some(summary) => {
            said.push(control(summary));
            let held = summary.held_blocks_after;
            said.push(format!(
                "KV blocks still held after the run: {held}{}",
                if held > 0 { ": A FAULT, blocks were lost." } else { "." }
            ));
            said.extend(expectations(summary));
            if summary.identical_requests.is_empty() {
                said.push("Output tokens were not compared.".into());
            }
        }
        None => said.push("A/A control, held blocks and output tokens: not measured, there is no summary.".into()),
    }
    let errors = arms.iter().flat_map(|a| a.figures.errors.iter().map(move |e| format!("{}: {}x {}", a.name, e.count, e.message)));
    let errors: Vec<String> = errors.collect();
    if errors.is_empty() {
        said.push("No request failed.".into());
    }
    said.extend(errors);
    said.extend(lost(arms));
    list(m, &said);
    let Some(summary) = artifacts.summary.as_ref().filter(|s| !s.identical_requests.is_empty()) else { return };
    m.leaf("h3", &[], "Requests with the same output tokens as the reference arm");
    let how = if summary.exact {
        "An exact run: any difference is a fault."
    } else {
        "Not an exact run: the composition of a batch alone can change greedy tokens in half precision; the control shows how often."
    };
    m.leaf("p", &[("class", &"note")], how);
    draw(m, &[("arm", ""), ("same", ""), ("compared", ""), ("share", "%")], |m| {
        for (arm, i) in &summary.identical_requests {
            let share = if i.compared == 0 { "n/m".to_string() } else { percent(f64::from(i.same) / f64::from(i.compared)) };
            row(m, false, &[arm.clone(), i.same.to_string(), i.compared.to_string(), share]);
        }
    });
}
