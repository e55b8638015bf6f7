//! A calibration of noise on a terminal.

use std::path::Path;

use dualpool_report::metric::{Metric, Unit};

use crate::columns::rendered;
use crate::noise::Noise;
use crate::stats::MetricNoise;

/// Narrower than this no table is readable.
const COLUMNS_MIN: u16 = 60;

/// The calibration as text of at most `columns` columns. `kept`: the file that later runs go by.
pub(super) fn table(noise: &Noise, kept: Option<&Path>, dir: &Path, columns: u16) -> String {
    let figures = &noise.figures;
    let row = |of: &MetricNoise| {
        let is_share = Metric::find(&of.metric).is_some_and(|metric| metric.unit == Unit::Share);
        let effect = |effect: f64| {
            if is_share { format!("{:.1} points", effect * 100.0) } else { format!("{:.0} %", (effect - 1.0) * 100.0) }
        };
        let visible = of.visible.iter().map(|visible| effect(visible.effect));
        [of.metric.clone()].into_iter().chain(visible).collect()
    };
    let rows = figures.metrics.iter().filter(|of| !of.visible.is_empty()).map(row).collect();
    format!(
        "{} paired repetitions of {} requests of identical arms\n\n{}\nThe smallest effects that a run of so many repetitions shows in four of \
         five cases.\n\nOf {} runs of {} repetitions drawn from these, {:.1} % call identical arms different; the rule allows 5 %.\n\n{}artifacts: {}\n",
        figures.repetitions,
        noise.requests,
        rendered(&["metric", "6", "12", "24 repetitions"], rows, columns.max(COLUMNS_MIN)),
        figures.drawn,
        figures.drawn_repetitions,
        figures.wrong_share * 100.0,
        match kept {
            Some(path) => format!("kept:      {}\n", path.display()),
            None => "kept:      not, so later runs do not go by it\n".to_string(),
        },
        dir.display(),
    )
}
