//! The arms as rows: the one table that the terminal and the HTML report both show.

use dualpool_types::artifact::ArmSummary;

use super::arms::Arm;
use super::metric::{self, Better, Metric};
use super::words::NOT_MEASURED;

/// One column: a heading, its unit, and one or more figures per arm.
pub(crate) struct Column {
    pub heading: &'static str,
    pub unit: &'static str,
    figures: &'static [Figure],
    /// Whether the arms have anything to show in it.
    shown: fn(&[Arm]) -> bool,
}

struct Figure {
    read: fn(&ArmSummary) -> Option<f64>,
    write: fn(f64) -> String,
    /// Of what is better neither way, an arm may lack the figure, which is then left out.
    better: Better,
}

const fn of(metric: Metric) -> Figure {
    Figure { read: metric.read, write: metric.unit.write(), better: metric.better }
}

const COLUMNS: [Column; 11] = [
    Column { heading: "share within objectives", unit: "%", figures: &[of(metric::GOODPUT)], shown: always },
    Column {
        heading: "short TTFT",
        unit: "p50/p95 ms",
        figures: &[of(metric::SHORT_TTFT_P50), of(metric::SHORT_TTFT_P95)],
        shown: |arms| !routed(arms) || any(arms, metric::SHORT_TTFT_P50),
    },
    Column {
        heading: "long TTFT",
        unit: "p50/p95 ms",
        figures: &[of(metric::LONG_TTFT_P50), of(metric::LONG_TTFT_P95)],
        shown: |arms| !routed(arms) || any(arms, metric::LONG_TTFT_P50),
    },
    Column {
        heading: "foreground TTFT",
        unit: "p50/p95 ms",
        figures: &[of(metric::FOREGROUND_TTFT_P50), of(metric::FOREGROUND_TTFT_P95)],
        shown: |arms| any(arms, metric::FOREGROUND_TTFT_P50),
    },
    Column { heading: "TTFT", unit: "p50/p95 ms", figures: &[of(metric::TTFT_P50), of(metric::TTFT_P95)], shown: routed },
    Column { heading: "ITL", unit: "p50/p99 ms", figures: &[of(metric::ITL_P50), of(metric::ITL_P99)], shown: always },
    Column { heading: "output", unit: "tok/s", figures: &[of(metric::OUTPUT_RATE)], shown: always },
    Column {
        heading: "queue",
        unit: "pre/dec",
        figures: &[of(metric::PREFILL_DEPTH), of(metric::DECODE_DEPTH), of(metric::SHARED_DEPTH)],
        shown: always,
    },
    Column { heading: "spread", unit: "requests", figures: &[of(metric::QUEUE_SPREAD)], shown: routed },
    Column { heading: "cached", unit: "% of prompts", figures: &[of(metric::CACHED_SHARE)], shown: routed },
    Column {
        heading: "hand-offs",
        unit: "",
        figures: &[
            Figure { read: |a| Some(a.handoffs.count.into()), write: |v| format!("{v:.0}"), better: Better::Neither },
            Figure {
                read: |a| Some(a.handoffs.recomputed.into()).filter(|n| *n > 0.0),
                write: |v| format!("{v:.0} LOST"),
                better: Better::Neither,
            },
        ],
        shown: |arms| !routed(arms) || arms.iter().any(|a| a.figures.handoffs.count + a.figures.handoffs.recomputed > 0),
    },
];

fn always(_: &[Arm]) -> bool {
    true
}

fn any(arms: &[Arm], metric: Metric) -> bool {
    arms.iter().any(|arm| (metric.read)(&arm.figures).is_some())
}

fn routed(arms: &[Arm]) -> bool {
    arms.iter().any(|arm| arm.figures.routing.is_some())
}

/// What explains the headings, below the table.
const LEGEND: &str = "* best of the column, controls aside. share within objectives: of the requests, those that met all of theirs. queue: mean depth \
(waiting + running) of the prefill and the decode pool, or of all engines where they are shared. hand-offs: KV moves, all repetitions. n/m: not measured.";

/// What explains the further headings where a router is what is measured.
const ROUTING_LEGEND: &str = "spread: deepest queue less the shallowest, mean over time. cached: share of the prompt tokens that were in \
the prefix cache of the engine chosen.";

/// The legend of a table of these arms.
pub(crate) fn legend(arms: &[Arm]) -> String {
    if routed(arms) { format!("{LEGEND} {ROUTING_LEGEND}") } else { LEGEND.to_string() }
}

/// One figure of one arm, as text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub text: String,
    pub best: bool,
}

/// The columns, and for every arm its entries in each of them.
pub(crate) fn table(arms: &[Arm]) -> (Vec<&'static Column>, Vec<Vec<Vec<Entry>>>) {
    let columns: Vec<&Column> = COLUMNS.iter().filter(|column| (column.shown)(arms)).collect();
    let mut rows = vec![Vec::new(); arms.len()];
    for column in &columns {
        let mut cells = vec![Vec::new(); arms.len()];
        for figure in column.figures {
            let best = figure.best_text(arms);
            for (cell, arm) in cells.iter_mut().zip(arms) {
                if let Some(text) = figure.text(arm) {
                    cell.push(Entry { best: !arm.control && best.as_ref() == Some(&text), text });
                }
            }
        }
        for (row, mut cell) in rows.iter_mut().zip(cells) {
            if cell.is_empty() {
                cell.push(Entry { text: NOT_MEASURED.into(), best: false });
            }
            row.push(cell);
        }
    }
    (columns, rows)
}

impl Figure {
    fn text(&self, arm: &Arm) -> Option<String> {
        match ((self.read)(&arm.figures), self.better) {
            (Some(value), _) => Some((self.write)(value)),
            (None, Better::Neither) => None,
            (None, _) => Some(NOT_MEASURED.to_string()),
        }
    }

    /// The best value as it is written: arms that read the same are equally good. None when all do.
    fn best_text(&self, arms: &[Arm]) -> Option<String> {
        let values: Vec<f64> = arms.iter().filter(|a| !a.control).filter_map(|a| (self.read)(&a.figures)).collect();
        let best = match self.better {
            Better::Higher => values.iter().copied().reduce(f64::max),
            Better::Lower => values.iter().copied().reduce(f64::min),
            Better::Neither => None,
        };
        let text = (self.write)(best?);
        values.iter().any(|v| (self.write)(*v) != text).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arms::arms;
    use crate::fixture;

    #[test]
    fn the_best_is_marked_and_a_control_never_is() {
        let mut artifacts = fixture::small();
        let summary = artifacts.summary.as_mut().unwrap();
        for (arm, share) in summary.arms.iter_mut().zip([0.5, 0.9, 0.9, 0.2, 1.0]) {
            arm.goodput_share = Some(share);
            arm.ttft_ms.long.p95 = None;
            arm.itl_ms.p50 = Some(20.0);
        }
        let arms = arms(&artifacts);
        let (_, rows) = table(&arms);
        let best: Vec<bool> = rows.iter().map(|row| row[0][0].best).collect();
        assert_eq!(best, [false, true, true, false, false]);
        assert!(rows.iter().all(|row| row[2][1] == Entry { text: "n/m".into(), best: false }));
        assert!(rows.iter().all(|row| !row[3][0].best), "nothing is best where all are alike");
        let depths: Vec<usize> = rows.iter().map(|row| row[5].len()).collect();
        assert_eq!(depths, [1, 1, 2, 2, 1], "two pools have two queues");
    }
}
