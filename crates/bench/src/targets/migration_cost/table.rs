//! A calibration on a terminal: per link what each class of copy reaches and costs.

use std::fmt::Write as _;

use super::result::{Link, MigrationCost};
use super::sweep::Point;
use crate::columns::rendered;

/// Narrower than this no table is readable.
const COLUMNS_MIN: u16 = 60;

/// A copy this much faster than the ceiling is no noise.
const CACHED: f64 = 1.1;

/// The calibration as text of at most `columns` columns.
pub(super) fn table(cost: &MigrationCost, columns: u16) -> String {
    let (columns, machine) = (columns.max(COLUMNS_MIN), &cost.machine);
    let threads = cost.machine.threads.map_or("unknown".into(), |count| count.to_string());
    let mut text = format!(
        "{} {} - {}, {} hardware threads; medians of {} copies each, a first one apart\n",
        cost.target, cost.id, machine.cpu, threads, cost.repeats
    );
    for link in &cost.links {
        of_link(link, columns, &mut text);
    }
    text
}

fn of_link(link: &Link, columns: u16, text: &mut String) {
    let ceiling = gb(link.ceiling_bytes_per_s);
    let large = link.large.first().map_or(String::new(), |point| format!(" ({} in one piece)", point.bytes));
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n{} -> {} over {}: ceiling {ceiling} GB/s{large}\n", link.from, link.to, link.transport);
    text.push_str(&rendered(
        &["class", "range", "ranges", "bytes", "copy us", "spread %", "GB/s", "% of ceiling", "plan us"],
        link.points.iter().map(|point| row(point, link.ceiling_bytes_per_s)).collect(),
        columns,
    ));
    if link.points.iter().any(|point| point.bytes_per_s() > CACHED * link.ceiling_bytes_per_s) {
        text.push_str("over 100 %: what was written still lay in a cache when the copy was over\n");
    }
    text.push('\n');
    let fit = |class: &super::Class| {
        vec![
            class.class.to_string(),
            figure(class.cost.submit_us),
            figure(class.smallest_us),
            format!("{:.3}", class.cost.range_us),
            gb(class.cost.bytes_per_s),
            percent(class.fit_error_median),
            format!("{} / {}", percent(class.held_out_error_median), percent(class.held_out_error_p90)),
        ]
    };
    let headings = ["class", "submit us", "smallest plan us", "us per range", "GB/s", "fit error %", "unseen p50 / p90 %"];
    text.push_str(&rendered(&headings, link.classes.iter().map(fit).collect(), columns));
    let same = link.choices.iter().filter(|choice| choice.chosen == choice.fastest).count();
    let _ = writeln!(
        text,
        "\nof {} plans that the fit has not seen, half are predicted within {} %; the class chosen was the fastest one for {same} of {}",
        link.held_out.len(),
        percent(link.held_out_error_median),
        link.choices.len()
    );
}

fn row(point: &Point, ceiling: f64) -> Vec<String> {
    vec![
        point.class.to_string(),
        point.range_bytes.to_string(),
        point.ranges.to_string(),
        point.bytes.to_string(),
        figure(point.copy_us),
        percent(point.spread),
        gb(point.bytes_per_s()),
        percent(point.bytes_per_s() / ceiling),
        figure(point.plan_us),
    ]
}

fn gb(bytes_per_s: f64) -> String {
    format!("{:.2}", bytes_per_s / 1e9)
}

fn percent(share: f64) -> String {
    format!("{:.0}", share * 100.0)
}

/// Three digits or so.
fn figure(us: f64) -> String {
    if us < 100.0 { format!("{us:.2}") } else { format!("{us:.0}") }
}
