//! A comparison on a terminal.

use super::result::{Figure, SimFidelity, Summary};
use crate::columns::rendered;

/// What the last column is.
const FLOOR: &str = "floor: how far the engines are off themselves when they serve the same again.";

/// Narrower than this no table is readable.
const COLUMNS_MIN: u16 = 60;

/// The comparison as text of at most `columns` columns.
pub(super) fn table(fidelity: &SimFidelity, columns: u16) -> String {
    let columns = columns.max(COLUMNS_MIN);
    let environment = &fidelity.environment;
    let metric = |name: &str, q: f64| format!("{} p{:.0}", name.trim_end_matches("_ms").to_uppercase(), q * 100.0);
    let figure = |figure: &Figure| {
        vec![
            format!("{} by {}", figure.workload, figure.policy.name()),
            metric(&figure.metric, figure.quantile),
            format!("{:.1}", figure.measured),
            format!("{:.1}", figure.simulated),
            format!("{:+.1}", figure.error() * 100.0),
            format!("{:+.1}", figure.floor() * 100.0),
        ]
    };
    let line = |line: &Summary| {
        let percent = |share: f64| format!("{:.1}", share * 100.0);
        let figures = [line.error_median, line.error_max, line.floor_median, line.floor_max].map(percent);
        [vec![metric(&line.metric, line.quantile)], figures.to_vec()].concat()
    };
    format!(
        "{} {} - {}, {} on {}\n\n{}\n{}\n{FLOOR}",
        fidelity.target,
        fidelity.id,
        environment.model,
        environment.backend,
        environment.cpu,
        rendered(
            &["workload", "", "engines ms", "simulated ms", "off by %", "floor %"],
            fidelity.figures.iter().map(figure).collect(),
            columns
        ),
        rendered(
            &["off by", "median %", "at most %", "floor median %", "floor at most %"],
            fidelity.summary.iter().map(line).collect(),
            columns
        ),
    )
}
