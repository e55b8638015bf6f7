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

/// All figures that the two servings of the engines and the simulation have.
pub(super) fn figures(
    case: &Case,
    measured: &[RequestRecord],
    again: &[RequestRecord],
    simulated: &[RequestRecord],
) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (metric, values) in METRICS {
        let sorted = [measured, again, simulated].map(values);
        for q in QUANTILES {
            let [Some(measured), Some(measured_again), Some(simulated)] = sorted.each_ref().map(|values| quantile(values, q))
            else {
                continue;
            };
            if measured > 0.0 {
                let (workload, policy) = (case.workload.to_string(), case.policy);
                figures.push(Figure { workload, policy, metric: metric.into(), quantile: q, measured, measured_again, simulated });
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
            let of = |off: fn(&Figure) -> f64| {
                let of_line = figures.iter().filter(|figure| figure.metric == metric && figure.quantile == q);
                let all = sorted(of_line.map(|figure| off(figure).abs()));
                quantile(&all, 0.5).zip(all.last().copied())
            };
            if let (Some((error_median, error_max)), Some((floor_median, floor_max))) = (of(Figure::error), of(Figure::floor)) {
                lines.push(Summary { metric: metric.into(), quantile: q, error_median, error_max, floor_median, floor_max });
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
    fn a_line_says_how_far_its_figure_is_off_in_the_middle_and_at_worst_and_what_chance_comes_to() {
        let figure = |measured: f64, measured_again: f64, simulated: f64| Figure {
            workload: "mixed".into(),
            policy: PolicyKind::LeastLoad,
            metric: "itl_ms".into(),
            quantile: 0.5,
            measured,
            measured_again,
            simulated,
        };
        let lines = summary(&[figure(100.0, 103.0, 102.0), figure(50.0, 49.0, 40.0), figure(10.0, 9.0, 10.5)]);
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!((line.error_median - 0.05).abs() < 1e-9 && (line.error_max - 0.2).abs() < 1e-9, "{line:?}");
        assert!((line.floor_median - 0.03).abs() < 1e-9 && (line.floor_max - 0.1).abs() < 1e-9, "{line:?}");
        assert_eq!((line.metric.as_str(), line.quantile), ("itl_ms", 0.5));
    }
}
