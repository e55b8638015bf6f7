//! How TTFT and TPOT settle in the course of a repetition: caches fill, a router learns, queues reach their depth. Figures of a whole
//! run do not show it.

use comfy_table::{CellAlignment, Table, TableComponent, presets};

use dualpool_types::Micros;
use dualpool_types::records::RequestRecord;

use super::Artifacts;
use super::arms::arms;
use super::measure::{itls_ms, quantile, sorted, ttft_ms};
use super::words::{ms, or_not_measured};

/// Windows of equal length that the time of all arrivals is divided into.
pub const WINDOWS: usize = 8;

/// The requests that arrived in a window, over all repetitions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    pub requests: usize,
    pub ttft_p50_ms: Option<f64>,
    pub ttft_p95_ms: Option<f64>,
    /// The mean over the requests of each one's mean ITL.
    pub tpot_ms: Option<f64>,
}

/// What an arm's requests got, window by window, of a time that ends at `end`.
pub fn windows(requests: &[&RequestRecord], end: Micros) -> Vec<Window> {
    let mut by_window: Vec<Vec<&RequestRecord>> = vec![Vec::new(); WINDOWS];
    for request in requests {
        let at = request.arrived_us.0 as u128 * WINDOWS as u128 / (u128::from(end.0) + 1);
        by_window[(at as usize).min(WINDOWS - 1)].push(request);
    }
    by_window.iter().map(|requests| window(requests)).collect()
}

fn window(requests: &[&RequestRecord]) -> Window {
    let ttfts = sorted(requests.iter().filter_map(|r| ttft_ms(r)));
    let tpot = |r: &&RequestRecord| {
        let gaps = r.token_us.len().checked_sub(1).filter(|&gaps| gaps > 0)?;
        Some(itls_ms(r).sum::<f64>() / gaps as f64)
    };
    let tpots: Vec<f64> = requests.iter().filter_map(tpot).collect();
    Window {
        requests: requests.len(),
        ttft_p50_ms: quantile(&ttfts, 0.5),
        ttft_p95_ms: quantile(&ttfts, 0.95),
        tpot_ms: (!tpots.is_empty()).then(|| tpots.iter().sum::<f64>() / tpots.len() as f64),
    }
}

/// The table for a terminal: a row per arm, and in each window TTFT p50/p95 and TPOT.
pub fn table(artifacts: &Artifacts) -> String {
    let arms = arms(artifacts);
    let end = arms.iter().flat_map(|arm| &arm.requests).map(|r| r.arrived_us).max().unwrap_or_default();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    for line in [TableComponent::HorizontalLines, TableComponent::MiddleIntersections] {
        table.remove_style(line);
    }
    let until = |i: usize| Micros((u128::from(end.0) * (i as u128 + 1) / WINDOWS as u128) as u64);
    table.set_header(std::iter::once("arm".to_string()).chain((0..WINDOWS).map(|i| format!("to {:.1} s", until(i).as_secs()))));
    for arm in &arms {
        let cell = |w: &Window| {
            let [p50, p95, tpot] = [w.ttft_p50_ms, w.ttft_p95_ms, w.tpot_ms].map(|value| or_not_measured(value, ms));
            format!("{p50}/{p95}\n{tpot}")
        };
        let name: String = arm.name.chars().filter(|c| !c.is_control()).collect();
        table.add_row(std::iter::once(name).chain(windows(&arm.requests, end).iter().map(cell)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let legend =
        "TTFT p50/p95 in ms, and below it TPOT in ms (mean of the requests' mean ITL), by the time of arrival, all repetitions.";
    format!("{}\n{legend}\n", table.trim_fmt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn every_request_is_in_one_window_and_the_last_arrival_in_the_last() {
        let artifacts = fixture::small();
        let arms = arms(&artifacts);
        let end = arms.iter().flat_map(|arm| &arm.requests).map(|r| r.arrived_us).max().unwrap();
        for arm in &arms {
            let windows = windows(&arm.requests, end);
            assert_eq!(windows.iter().map(|w| w.requests).sum::<usize>(), arm.requests.len());
            assert!(windows[WINDOWS - 1].requests > 0);
        }
        let one: Vec<&RequestRecord> = arms[0].requests.iter().copied().take(1).collect();
        let alone = windows(&one, end).into_iter().find(|w| w.requests == 1).unwrap();
        assert_eq!(alone.ttft_p50_ms, ttft_ms(one[0]));
        assert_eq!(windows(&[], Micros::ZERO), vec![Window::default(); WINDOWS]);
    }

    #[test]
    fn the_table_names_every_arm() {
        let artifacts = fixture::small();
        let text = table(&artifacts);
        for arm in &artifacts.summary.as_ref().unwrap().arms {
            assert!(text.contains(&arm.name), "{text}");
        }
    }
}
