//! The same figure of the engines' records and of the simulator's.

use dualpool_report::measure::{itls_ms, quantile, sorted, ttft_ms};
use dualpool_types::records::RequestRecord;

use super::plan::Case;
use super::result::{Figure, Summary};

const QUANTILES: [f64; 2] = [0.5, 0.95];

type Values = fn(&[RequestRecord]) -> Vec<f64>;

const METRICS: [(&str, Values); 3] = [
    ("ttft_ms", |records| sorted(records.iter().filter_map(ttft_ms))),
    ("itl_ms", |records| sorted(records.iter().flat_map(itls_ms))),
    ("e2e_ms", |records| sorted(records.iter().map(|record| (record.ended_us - record.arrived_us).as_ms()))),
];

/// All figures that both have.
pub(super) fn figures(case: &Case, measured: &[RequestRecord], simulated: &[RequestRecord]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (metric, values) in METRICS {
        let (measured, simulated) = (values(measured), values(simulated));
        for q in QUANTILES {
            let (Some(measured), Some(simulated)) = (quantile(&measured, q), quantile(&simulated, q)) else { continue };
            if measured > 0.0 {
                let (workload, policy) = (case.workload.to_string(), case.policy);
                figures.push(Figure { workload, policy, metric: metric.into(), quantile: q, measured, simulated });
            }
        }
    }
    figures
}

/// One line per metric and quantile.
pub(super) fn summary(figures: &[Figure]) -> Vec<Summary> {
    let mut lines = Vec::new();
    for (metric, _) in METRICS {
        for q in QUANTILES {
            let of = figures.iter().filter(|figure| figure.metric == metric && figure.quantile == q);
            let errors = sorted(of.map(|figure| figure.error().abs()));
            if let (Some(error_median), Some(&error_max)) = (quantile(&errors, 0.5), errors.last()) {
                lines.push(Summary { metric: metric.into(), quantile: q, error_median, error_max });
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::PolicyKind;

    #[test]
    fn a_line_says_how_far_its_figure_is_off_in_the_middle_and_at_worst() {
        let figure = |measured: f64, simulated: f64| Figure {
            workload: "mixed".into(),
            policy: PolicyKind::LeastLoad,
            metric: "itl_ms".into(),
            quantile: 0.5,
            measured,
            simulated,
        };
        let lines = summary(&[figure(100.0, 102.0), figure(50.0, 40.0), figure(10.0, 10.5)]);
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!((line.error_median - 0.05).abs() < 1e-9 && (line.error_max - 0.2).abs() < 1e-9, "{line:?}");
        assert_eq!((line.metric.as_str(), line.quantile), ("itl_ms", 0.5));
    }
}
