//! The report on a terminal at full length: the arms as a table, then what they showed against each other in words.

use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent, presets};

use dualpool_types::artifact::{Comparison, Held, Summary, Verdict};

use super::Artifacts;
use super::arms::{Arm, arms};
use super::beyond::lacking;
use super::metric::{self, Metric};
use super::paragraphs::{COLUMNS_MIN, Paragraphs, printable};
use super::recommend::{control_differences, is_control, recommend};
use super::table::{Entry, legend, table};
use super::verdicts::{finding, label, pairs, sentence};
use super::words::{count, ms, or_not_measured, percent};

/// The report as text of at most `columns` columns.
pub fn print_full(artifacts: &Artifacts, columns: u16) -> String {
    let columns = columns.max(COLUMNS_MIN);
    let arms = arms(artifacts);
    let mut out = Paragraphs::new(columns);
    out.line(&headline(artifacts));
    for note in &artifacts.notes {
        out.item(note);
    }
    out.blank();
    out.text.push_str(&arms_table(&arms, columns));
    out.text.push('\n');
    out.line(&legend(&arms));
    by_two_rules(&arms, &mut out);
    if let Some(summary) = &artifacts.summary {
        verdicts(summary, &arms, &mut out);
        soundness(summary, &arms, &mut out);
    }
    recommendation(artifacts, &mut out);
    out.text
}

fn headline(artifacts: &Artifacts) -> String {
    let (run, env) = (&artifacts.run, &artifacts.run.environment);
    let mut line = format!("{} {} - {} on {}, {} engines", run.target, run.id, env.model, env.backend, env.engines.len());
    if let Some(s) = &artifacts.summary {
        let rate = s.rate_rps.map_or(String::new(), |rps| format!(" at {rps:.1} requests/s"));
        line += &format!(", mix {}, {}{rate}, {} per arm", s.mix, s.arrivals, count(s.repetitions.into(), "repetition"));
        // An exact run asks for tokens, not for service.
        if !s.exact {
            let o = s.objectives;
            line += &format!(
                "; objectives: short TTFT {} ms, long TTFT {} ms, ITL {} ms",
                ms(o.ttft_short_ms),
                ms(o.ttft_long_ms),
                ms(o.itl_ms)
            );
        }
    }
    line
}

fn arms_table(arms: &[Arm], columns: u16) -> String {
    let (headings, rows) = table(arms);
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
    let heading = headings.iter().map(|c| format!("{}\n{}", c.heading, c.unit));
    for line in [TableComponent::HorizontalLines, TableComponent::MiddleIntersections] {
        table.remove_style(line);
    }
    table.set_header(std::iter::once("arm\n".to_string()).chain(heading));
    for (arm, cells) in arms.iter().zip(rows) {
        table.add_row(std::iter::once(printable(arm.name)).chain(cells.iter().map(|cell| entries(cell))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
        if column.index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// `80*/160`.
fn entries(cell: &[Entry]) -> String {
    let entry = |e: &Entry| if e.best { format!("{}*", e.text) } else { e.text.clone() };
    cell.iter().map(entry).collect::<Vec<_>>().join("/")
}

/// The same requests judged strictly and by the mean, as most benchmarks have it.
fn by_two_rules(arms: &[Arm], out: &mut Paragraphs) {
    out.blank();
    out.line("Within objectives by two rules: no gap over the ITL objective, and TPOT within it");
    for arm in arms {
        let of = |metric: Metric| or_not_measured((metric.read)(&arm.figures), metric.unit.write());
        out.item(&format!(
            "{}: share {}% and {}%, goodput {} and {} requests/s; longest ITL of a request p99 {} ms",
            arm.name,
            of(metric::GOODPUT),
            of(metric::TPOT_SHARE),
            of(metric::GOODPUT_RPS),
            of(metric::TPOT_GOODPUT_RPS),
            of(metric::LONGEST_ITL_P99)
        ));
    }
}

/// One sentence per pair of arms; the control is spoken of apart.
fn verdicts(summary: &Summary, arms: &[Arm], out: &mut Paragraphs) {
    let apart: Vec<&Comparison> = summary.comparisons.iter().filter(|c| !is_control(c)).collect();
    out.blank();
    out.line("Verdicts (candidate to baseline, with 95% intervals over repetitions)");
    if apart.is_empty() {
        out.item("No comparison was made.");
    }
    for (baseline, candidate, group) in pairs(&apart) {
        out.item(&format!("{candidate} against {baseline}: {}", sentence(&group)));
    }
    lacking(&summary.comparisons, arms).iter().for_each(|lacking| out.item(lacking));
}

/// What tells whether the figures can be trusted.
fn soundness(summary: &Summary, arms: &[Arm], out: &mut Paragraphs) {
    out.blank();
    out.line("Soundness");
    out.item(&control(summary));
    let identical: Vec<String> = summary
        .identical_requests
        .iter()
        .map(|(arm, i)| format!("{arm} {}/{} ({}%)", i.same, i.compared, percent(f64::from(i.same) / f64::from(i.compared.max(1)))))
        .collect();
    match identical.is_empty() {
        true => out.item("Output tokens were not compared."),
        false => out.item(&format!("Requests with the same output tokens as the reference arm: {}.", identical.join(", "))),
    }
    let errors: Vec<String> =
        arms.iter().flat_map(|a| a.figures.errors.iter().map(move |e| format!("{}: {}x {}", a.name, e.count, e.message))).collect();
    match errors.is_empty() {
        true => out.item("Errors: none."),
        false => out.item(&format!("Errors: {}.", errors.join("; "))),
    }
    lost(arms).into_iter().for_each(|lost| out.item(&lost));
    out.item(&held(summary));
    expectations(summary).into_iter().for_each(|line| out.item(&line));
}

/// Hand-offs that did not move their KV, arm by arm.
pub(crate) fn lost(arms: &[Arm]) -> Vec<String> {
    let lost = arms.iter().filter(|a| a.figures.handoffs.recomputed > 0);
    lost.map(|a| {
        let handoffs = count(a.figures.handoffs.recomputed.into(), "hand-off");
        format!("{}: the KV of {handoffs} was not moved but computed again: A FAULT, unless a client left.", a.name)
    })
    .collect()
}

/// Whether hand-offs left blocks behind.
pub(crate) fn held(summary: &Summary) -> String {
    let held = summary.held_blocks_after;
    let fault = if held > 0 { ": A FAULT, blocks were lost" } else { "" };
    format!("KV blocks still held after the run: {held}{fault}.")
}

/// What the A/A control says of the machine.
pub(crate) fn control(summary: &Summary) -> String {
    let judged = |c: &&Comparison| is_control(c) && !matches!(c.verdict, Verdict::TooFew | Verdict::NotMeasured);
    let compared = summary.comparisons.iter().filter(judged).count();
    if compared == 0 && summary.comparisons.iter().any(is_control) {
        return "A/A control: too few values to tell.".to_string();
    }
    let differences: Vec<String> = control_differences(summary).map(finding).collect();
    match (compared, differences.is_empty()) {
        (0, _) => "A/A control: not measured.".to_string(),
        (n, true) => format!("A/A control: no difference shown on {}, as it should be.", count(n as u64, "metric")),
        (n, false) => format!(
            "A/A control: DIFFERS from its own arm on {} of {} (one in twenty does by chance): {}.",
            differences.len(),
            count(n as u64, "metric"),
            differences.join(", ")
        ),
    }
}

/// How the run stands to what was accepted of earlier ones; nothing where nothing was.
pub(crate) fn expectations(summary: &Summary) -> Vec<String> {
    let Some(Held { file, run, compared, behind }) = &summary.expectations else { return Vec::new() };
    let held = format!("{} of run {run} ({file})", count((*compared).into(), "accepted ratio"));
    if behind.is_empty() {
        return vec![format!("Expectations: behind none of {held}.")];
    }
    let lines = behind.iter().map(|b| {
        let (now, then) = (format!("{:.2}x", b.ratio), format!("{:.2}x ({:.2}-{:.2})", b.accepted, b.ci_low, b.ci_high));
        format!("BEHIND: {} of {} against {}: {now}, accepted was {then}.", label(&b.metric), b.candidate, b.baseline)
    });
    std::iter::once(format!("Expectations: behind {} of {held}.", behind.len())).chain(lines).collect()
}

fn recommendation(artifacts: &Artifacts, out: &mut Paragraphs) {
    let said = recommend(artifacts);
    out.blank();
    out.line(&format!("Recommendation: {}", said.arm.as_deref().unwrap_or("none")));
    for reason in &said.reasons {
        out.item(reason);
    }
    if !said.caveats.is_empty() {
        out.line("But");
    }
    for caveat in &said.caveats {
        out.item(caveat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_full_run_at_100_columns() {
        let text = print_full(&fixture::large(), 100);
        let widest = text.lines().map(|l| l.chars().count()).max().unwrap();
        assert!(widest <= 100, "{widest} columns:\n{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_narrow_terminal_is_kept_to() {
        let text = print_full(&fixture::small(), 60);
        assert!(text.lines().all(|l| l.chars().count() <= 60), "{text}");
    }

    #[test]
    fn an_interrupted_run_says_what_is_missing() {
        let mut artifacts = fixture::small();
        artifacts.summary = None;
        artifacts.requests.retain(|r| r.arm != "dual_pool");
        artifacts.notes.push("There is no summary.json.".into());
        insta::assert_snapshot!(print_full(&artifacts, 100));
    }

    #[test]
    fn faults_are_not_hidden() {
        let mut artifacts = fixture::small();
        let summary = artifacts.summary.as_mut().unwrap();
        summary.held_blocks_after = 7;
        summary.identical_requests.clear();
        summary.arms[2].handoffs.recomputed = 4;
        summary.arms[0].errors.push(dualpool_types::artifact::ErrorCount { message: "engine-0 died during copy".into(), count: 3 });
        summary.comparisons.retain(|c| !is_control(c));
        let text = print_full(&artifacts, 200);
        for said in [
            "held after the run: 7: A FAULT",
            "tokens were not compared",
            "the KV of 4 hand-offs was not moved",
            "shared_least_load: 3x engine-0 died",
            "A/A control: not measured",
        ] {
            assert!(text.contains(said), "`{said}` is not in:\n{text}");
        }
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let mut artifacts = fixture::small();
        artifacts.run.target = "\u{1b}[2Jtarget".into();
        artifacts.summary.as_mut().unwrap().arms[0].name = "\u{1b}]0;arm".into();
        assert!(!print_full(&artifacts, 100).contains('\u{1b}'));
    }
}
