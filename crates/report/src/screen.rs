//! The end of a run on one screen: what was asked, the arms as a table, what it comes to in at most five sentences, and where the rest is.

use comfy_table::{CellAlignment, Table, presets};

use dualpool_types::Micros;
use dualpool_types::artifact::{ArmSummary, Summary};

use super::Artifacts;
use super::arms::{Arm, arms};
use super::conclusion::{Conclusion, conclude, offered_load};
use super::metric::{self, Metric, Unit};
use super::paragraphs::{COLUMNS_MIN, Paragraphs, printable};
use super::terminal::{expectations, held, lost};
use super::words::{NOT_MEASURED, count, ms};

/// Faults are shown up to this number; the report has all of them.
const FAULTS_MAX: usize = 4;

/// The run in at most 25 lines of at most `columns` columns, where it is of up to six arms. Paths and commands are lines of their own that are as
/// long as they are.
pub fn print(artifacts: &Artifacts, columns: u16) -> String {
    let columns = columns.max(COLUMNS_MIN);
    let arms = arms(artifacts);
    let mut out = Paragraphs::new(columns);
    asked(artifacts, &arms).iter().for_each(|line| out.hanging(line));
    if artifacts.summary.is_none() {
        artifacts.notes.iter().for_each(|note| out.hanging(note));
    }
    out.blank();
    out.verbatim(&table(&arms, columns.into()));
    out.blank();
    let faults = faults(artifacts, &arms);
    faults.iter().take(FAULTS_MAX).for_each(|fault| out.item(fault));
    if faults.len() > FAULTS_MAX {
        out.item(&format!("{} more in the report.", faults.len() - FAULTS_MAX));
    }
    let Conclusion { sentences, command } = conclude(artifacts);
    sentences.iter().for_each(|sentence| out.item(sentence));
    command.iter().for_each(|command| out.verbatim(&format!("    {}\n", printable(command))));
    out.verbatim(&format!("artifacts: {}\nreport:    {}\n", artifacts.dir.display(), artifacts.dir.join("report.html").display()));
    out.text
}

/// The arms of a run that goes on, by what was recorded so far, as a table of at most `columns` columns.
pub fn provisional(artifacts: &Artifacts, columns: u16) -> String {
    table(&arms(artifacts), columns.max(COLUMNS_MIN).into())
}

/// What was asked of what.
fn asked(artifacts: &Artifacts, arms: &[Arm]) -> Vec<String> {
    let (run, env) = (&artifacts.run, &artifacts.run.environment);
    let model = env.model.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let engines = count(env.engines.len() as u64, "engine");
    let modelled = if env.backend.contains("virtual") { ", a timing model" } else { "" };
    let mut lines = vec![format!("{} {}: {model} on {engines} ({}{modelled})", run.target, run.id, env.backend)];
    let Some(summary) = &artifacts.summary else { return lines };
    let requests = arms.first().map_or(0, |arm| arm.figures.requests) / summary.repetitions.max(1);
    let took = run.phases.iter().map(|phase| phase.us).fold(Micros::ZERO, |all, us| all + us);
    let stopped = if run.interrupted { ", stopped early" } else { "" };
    lines.push(format!(
        "mix {}, {}, {} x {} per arm, {}{stopped}",
        summary.mix,
        load(artifacts, summary),
        summary.repetitions,
        count(requests.into(), "request"),
        minutes(took)
    ));
    // An exact run asks for tokens, not for service.
    if !summary.exact {
        let o = summary.objectives;
        lines.push(format!(
            "objectives: TTFT {} ms (short prompts), {} ms (long), every ITL {} ms",
            ms(o.ttft_short_ms),
            ms(o.ttft_long_ms),
            ms(o.itl_ms)
        ));
    }
    lines
}

fn load(artifacts: &Artifacts, summary: &Summary) -> String {
    match (offered_load(artifacts), summary.rate_rps) {
        (Some(load), Some(rate)) => format!("{rate:.1} req/s ({:.0} % of saturation)", load * 100.0),
        (None, Some(rate)) => format!("{rate:.1} requests/s"),
        (_, None) if summary.arrivals == "all_upfront" => "all requests at once".into(),
        (_, None) => format!("arrivals {}", summary.arrivals.replace('_', " ")),
    }
}

fn minutes(time: Micros) -> String {
    let s = time.as_secs();
    if s < 100.0 { format!("{s:.0} s") } else { format!("{:.1} min", s / 60.0) }
}

struct Column {
    heading: &'static str,
    metric: Metric,
}

const SHARE: Column = Column { heading: "within\nobjectives", metric: metric::GOODPUT };
const ITL: Column = Column { heading: "ITL\np99 ms", metric: metric::ITL_P99 };

const SHORT_TTFT: Column = Column { heading: "TTFT p95\nshort ms", metric: metric::SHORT_TTFT_P95 };
const FOREGROUND_TTFT: Column = Column { heading: "foreground\nTTFT p95 ms", metric: metric::FOREGROUND_TTFT_P95 };
const TTFT: Column = Column { heading: "TTFT\np95 ms", metric: metric::TTFT_P95 };

const CACHED: Column = Column { heading: "prompt\ncached", metric: metric::CACHED_SHARE };
const SPREAD: Column = Column { heading: "queue\nspread", metric: metric::QUEUE_SPREAD };

/// What verdicts are about first.
const OF_POOLS: &[Column] = &[SHARE, SHORT_TTFT, ITL];

/// The same where routing is what is measured.
const OF_ROUTING: &[Column] = &[SHARE, TTFT, ITL, CACHED, SPREAD];
const OF_ROUTED_WAVES: &[Column] = &[SHARE, FOREGROUND_TTFT, ITL, CACHED, SPREAD];

fn columns(arms: &[&Arm]) -> &'static [Column] {
    let any = |has: fn(&ArmSummary) -> bool| arms.iter().any(|arm| has(&arm.figures));
    match (any(|figures| figures.routing.is_some()), any(|figures| figures.ttft_ms.foreground.is_some())) {
        (false, _) => OF_POOLS,
        (true, false) => OF_ROUTING,
        (true, true) => OF_ROUTED_WAVES,
    }
}

/// The arms but for controls, with what each is.
fn table(arms: &[Arm], width: usize) -> String {
    let arms: Vec<&Arm> = arms.iter().filter(|arm| !arm.control).collect();
    let columns = columns(&arms);
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(std::iter::once("\narm").chain(columns.iter().map(|c| c.heading)));
    for arm in &arms {
        table.add_row(std::iter::once(printable(arm.name)).chain(columns.iter().map(|column| cell(column.metric, arm))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
        if column.index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let figures: Vec<String> = table.lines().collect();
    let room = width.saturating_sub(figures.iter().map(|line| line.chars().count()).max().unwrap_or(0) + 1);
    let headings = figures.len() - arms.len();
    let mut text: String = figures[..headings - 1].iter().map(|line| format!("{}\n", line.trim_end())).collect();
    let described = described(&arms, room);
    let beside = room >= described.iter().map(|words| words.chars().count()).max().unwrap_or(0);
    let of_arms = std::iter::once("what it is").chain(described.iter().map(String::as_str));
    for (line, words) in figures[headings - 1..].iter().zip(of_arms) {
        let gap = if beside { " " } else { "\n    " };
        text += &format!("{}\n", format!("{line}{gap}{words}").trim_end());
    }
    text
}

fn cell(metric: Metric, arm: &Arm) -> String {
    let percent = if metric.unit == Unit::Share { "%" } else { "" };
    (metric.read)(&arm.figures).map_or(NOT_MEASURED.into(), |figure| metric.unit.write()(figure) + percent)
}

/// At full length where that fits for every arm.
fn described(arms: &[&Arm], room: usize) -> Vec<String> {
    let all: Vec<_> = arms.iter().map(|arm| arm.arrangement.map(|arrangement| arrangement.describe())).collect();
    let full: Vec<String> = all.iter().map(|words| words.as_ref().map_or(String::new(), |words| words.full.clone())).collect();
    if full.iter().all(|words| words.chars().count() <= room) {
        return full;
    }
    all.into_iter().map(|words| words.map_or(String::new(), |words| words.brief)).collect()
}

/// What makes a run a faulty one; nothing in a sound one.
fn faults(artifacts: &Artifacts, arms: &[Arm]) -> Vec<String> {
    let mut faults = lost(arms);
    for arm in arms {
        faults.extend(arm.figures.errors.iter().map(|e| format!("Not served by {}: {}x {}", arm.name, e.count, e.message)));
    }
    if let Some(summary) = &artifacts.summary {
        if summary.held_blocks_after > 0 {
            faults.push(held(summary));
        }
        faults.extend(expectations(summary).into_iter().filter(|line| line.starts_with("BEHIND")));
        faults.extend(summary.drained.iter().map(|engine| format!("{engine} was drained for some of the time.")));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const LINES_MAX: usize = 25;

    fn fits(artifacts: &Artifacts, columns: u16) -> String {
        let text = print(artifacts, columns);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= columns.into(), "{widest} columns:\n{text}");
        assert!(text.lines().count() <= LINES_MAX, "{} lines:\n{text}", text.lines().count());
        text
    }

    #[test]
    fn the_end_of_a_run_fits_one_screen() {
        let text = fits(&fixture::by_default(), 80);
        for alarm in ["FAULT", "BEHIND", "warning", "Not served"] {
            assert!(!text.contains(alarm), "`{alarm}` in a sound run:\n{text}");
        }
        insta::assert_snapshot!("by_default_80", text);
        insta::assert_snapshot!("by_default_120", fits(&fixture::by_default(), 120));
        for columns in [80, 120] {
            fits(&fixture::small(), columns);
        }
    }

    #[test]
    fn a_narrow_terminal_has_what_an_arm_is_below_its_figures() {
        let text = print(&fixture::small(), 60);
        assert!(text.lines().all(|l| l.chars().count() <= 60), "{text}");
        assert!(text.contains("\n    all prefill+decode, by load\n"), "{text}");
    }

    #[test]
    fn faults_are_on_the_screen() {
        let mut artifacts = fixture::small();
        let summary = artifacts.summary.as_mut().unwrap();
        summary.held_blocks_after = 7;
        summary.arms[2].handoffs.recomputed = 4;
        summary.arms[0].errors.push(dualpool_types::artifact::ErrorCount { message: "engine-0 died during copy".into(), count: 3 });
        let text = print(&artifacts, 200);
        for said in ["held after the run: 7: A FAULT", "the KV of 4 hand-offs was not moved", "shared_least_load: 3x engine-0 died"]
        {
            assert!(text.contains(said), "`{said}` is not in:\n{text}");
        }
    }

    #[test]
    fn a_run_without_a_summary_is_shown_as_far_as_it_goes() {
        let mut artifacts = fixture::small();
        artifacts.summary = None;
        artifacts.notes.push("There is no summary.json.".into());
        let text = print(&artifacts, 100);
        assert!(text.contains("There is no summary.json.") && text.contains("dual_pool"), "{text}");
        assert!(text.contains("No recommendation: the run is not finished, or it was stopped"), "{text}");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let mut artifacts = fixture::small();
        artifacts.run.target = "\u{1b}[2Jtarget".into();
        artifacts.run.command.push("\u{1b}[2J".into());
        artifacts.summary.as_mut().unwrap().arms[0].name = "\u{1b}]0;arm".into();
        assert!(!print(&artifacts, 100).contains('\u{1b}'));
    }
}
