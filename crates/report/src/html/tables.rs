//! The tables of the page.

use maud::{Markup, html};

use dualpool_types::Bytes;

use super::run::arrangement;
use super::{absent, list, section};
use crate::Artifacts;
use crate::arms::Arm;
use crate::metric;
use crate::table::{Entry, legend, table};
use crate::terminal::{control, expectations, held, lost};
use crate::words::{NOT_MEASURED, figure, ms, or_not_measured, percent};

/// A heading and its unit.
type Heading<'a> = (&'a str, &'a str);

/// A table with headings and units; `rows` is its body.
fn draw(headings: &[Heading], rows: Markup) -> Markup {
    html! {
        div class="scroll" {
            table {
                thead {
                    tr {
                        @for (name, unit) in headings {
                            th { (name) span class="unit" { (unit) } }
                        }
                    }
                }
                tbody { (rows) }
            }
        }
    }
}

fn row(control: bool, cells: &[String]) -> Markup {
    html! {
        tr class=[control.then_some("control")] { @for cell in cells { td { (cell) } } }
    }
}

fn named(arm: &Arm) -> String {
    format!("{}  {}", arm.letter, arm.name)
}

pub(super) fn arms(artifacts: &Artifacts, arms: &[Arm]) -> Markup {
    let source = if artifacts.summary.is_some() { "" } else { " Computed from the raw records of what was finished." };
    let (columns, rows) = table(arms);
    let headings: Vec<Heading> = std::iter::once(("arm", "")).chain(columns.iter().map(|c| (c.heading, c.unit))).collect();
    let body = html! {
        @for (arm, cells) in arms.iter().zip(&rows) {
            tr class=[arm.control.then_some("control")] {
                td { (named(arm)) }
                @for entries in cells { td { (figures(entries)) } }
            }
        }
    };
    html! {
        (section("The arms", &format!("{}{source}", legend(arms))))
        (draw(&headings, body))
    }
}

/// One cell: a slash between its figures, the best of the column in bold.
fn figures(entries: &[Entry]) -> Markup {
    html! {
        @for (i, entry) in entries.iter().enumerate() {
            @if i > 0 { " / " }
            @if entry.best {
                b class="best" { (entry.text) "*" }
            } @else {
                (entry.text)
            }
        }
    }
}

/// The same requests judged by two rules, and the gap that tells these apart.
pub(super) fn by_two_rules(arms: &[Arm]) -> Markup {
    let intro = "Strict: the first token in time and no gap over the ITL objective; verdicts go by this rule. By TPOT: the first token in time \
                 and the mean ITL of the request within the ITL objective, as most benchmarks have it. Goodput: such requests per second.";
    let shown = [metric::GOODPUT, metric::TPOT_SHARE, metric::GOODPUT_RPS, metric::TPOT_GOODPUT_RPS, metric::LONGEST_ITL_P99];
    let headings = [
        ("arm", ""),
        ("share within objectives", "strict, %"),
        ("share within objectives", "by TPOT, %"),
        ("goodput", "strict, requests/s"),
        ("goodput", "by TPOT, requests/s"),
        ("longest ITL of a request", "p99 ms"),
    ];
    let cells = |arm: &Arm| {
        let figures = shown.map(|metric| or_not_measured((metric.read)(&arm.figures), metric.unit.write()));
        std::iter::once(named(arm)).chain(figures).collect::<Vec<_>>()
    };
    html! {
        (section("Within objectives, by two rules", intro))
        (draw(&headings, html! { @for arm in arms { (row(arm.control, &cells(arm))) } }))
    }
}

pub(super) fn handoffs(arms: &[Arm]) -> Markup {
    let any = |a: &&Arm| a.figures.handoffs.count + a.figures.handoffs.recomputed > 0;
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
    let cells = |arm: &Arm| {
        let h = &arm.figures.handoffs;
        let mut cells = vec![named(arm), h.count.to_string(), h.recomputed.to_string(), Bytes(h.bytes).to_string()];
        cells.extend([h.copy_ms_p50, h.copy_ms_p95, h.total_ms_p50, h.total_ms_p95].map(|v| or_not_measured(v, ms)));
        cells
    };
    let moving: Vec<&Arm> = arms.iter().filter(any).collect();
    html! {
        (section(
            "Hand-offs",
            "Copy: the mover alone. Total: from the last output of the prefill leg to the first token of the decode leg.",
        ))
        @if moving.is_empty() {
            p { "No arm moved KV." }
        } @else {
            (draw(&headings, html! { @for arm in moving { (row(arm.control, &cells(arm))) } }))
        }
    }
}

pub(super) fn engines(arms: &[Arm]) -> Markup {
    let headings = [("arm", ""), ("engine", ""), ("role", ""), ("legs", ""), ("TPOT", "ms/token"), ("output", "tokens per busy s")];
    let rows = arms.iter().flat_map(|arm| {
        arm.figures.engines.iter().map(move |e| {
            let engine = format!("{} ({})", e.id, e.device);
            let (tpot, rate) = (or_not_measured(e.tpot_ms, ms), or_not_measured(e.tokens_per_busy_s, figure));
            row(arm.control, &[named(arm), engine, e.role.name().into(), e.requests.to_string(), tpot, rate])
        })
    });
    html! {
        (section("Engines", "TPOT: mean over the requests that decoded there of each one's mean ITL. Busy: with at least one leg."))
        (draw(&headings, html! { @for row in rows { (row) } }))
    }
}

/// Where a router is what is measured.
pub(super) fn routing(arms: &[Arm]) -> Markup {
    if arms.iter().all(|a| a.figures.routing.is_none()) {
        return Markup::default();
    }
    let intro = "Which engine got what. Same engine: turns that went to the engine of the turn before. Spread: deepest queue less the \
                 shallowest, mean over time.";
    let headings = [
        ("arm", ""),
        ("cached", "% of prompts"),
        ("same engine", "% of turns"),
        ("spread", "requests"),
        ("queue by engine", "mean depth"),
        ("prompt tokens by engine", ""),
    ];
    let rows = arms.iter().filter_map(|arm| {
        let r = arm.figures.routing.as_ref()?;
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
        Some(row(arm.control, &cells))
    });
    html! {
        (section("Routing", intro))
        (draw(&headings, html! { @for row in rows { (row) } }))
    }
}

pub(super) fn search(artifacts: &Artifacts) -> Markup {
    let intro = "A simulation on engines that cost what the router learned of these shortlisted the arrangements; short trials on the \
                 engines chose among them. Scores: higher is better. Arrangements without requests were not on the shortlist.";
    let headings = [
        ("arrangement", ""),
        ("forecast", "score"),
        ("requests", ""),
        ("share within objectives", "%"),
        ("trial", "score"),
        ("chosen for", ""),
    ];
    let score = |score: f64| format!("{score:.3}");
    let rows = html! {
        @for trial in &artifacts.run.search {
            tr {
                td class="words" {
                    (trial.arrangement.name) ": " (arrangement(&trial.arrangement))
                    @if let Some(why) = &trial.forecast_overruled { ". The forecast has no say: " (why) }
                }
                td { (score(trial.forecast)) }
                td { (trial.requests) }
                td { (or_not_measured(trial.goodput_share, percent)) }
                td { (or_not_measured(trial.score, score)) }
                td { @if let Some(arms) = &trial.chosen_for { (arms) } }
            }
        }
    };
    html! {
        (section("Search", intro))
        @if artifacts.run.search.is_empty() {
            (absent("search trials (none were made)"))
        } @else {
            (draw(&headings, rows))
        }
    }
}

/// What tells whether the figures can be trusted.
pub(super) fn soundness(artifacts: &Artifacts, arms: &[Arm]) -> Markup {
    let mut said = Vec::new();
    match &artifacts.summary {
        Some(summary) => {
            said.push(control(summary));
            said.push(held(summary));
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
    html! {
        (section("Soundness", ""))
        (list(&said))
        (identical(artifacts))
    }
}

/// Nothing where output tokens were not compared.
fn identical(artifacts: &Artifacts) -> Markup {
    let Some(summary) = artifacts.summary.as_ref().filter(|s| !s.identical_requests.is_empty()) else { return Markup::default() };
    let how = if summary.exact {
        "An exact run: any difference is a fault."
    } else {
        "Not an exact run: the composition of a batch alone can change greedy tokens in half precision; the control shows how often."
    };
    let rows = summary.identical_requests.iter().map(|(arm, i)| {
        let share = if i.compared == 0 { NOT_MEASURED.to_string() } else { percent(f64::from(i.same) / f64::from(i.compared)) };
        row(false, &[arm.clone(), i.same.to_string(), i.compared.to_string(), share])
    });
    html! {
        h3 { "Requests with the same output tokens as the reference arm" }
        p class="note" { (how) }
        (draw(&[("arm", ""), ("same", ""), ("compared", ""), ("share", "%")], html! { @for row in rows { (row) } }))
    }
}
