//! The objective map as a drawing: which arm leads where, and below it the share within objectives of every arm in the same grid.

use super::{Anchor, WIDTH, drawing, label, rect};
use crate::arms::Arm;
use crate::objective_map::ObjectiveMap;
use crate::svg::Svg;
use crate::words::{figure, percent};

/// Letters that fit a cell; more leaders than that are counted.
const LETTERS_MAX: usize = 3;

/// Where a grid of cells stands in a drawing. Row 0, the tightest ITL objective, is the lowest.
struct Grid {
    left: f64,
    top: f64,
    cell: (f64, f64),
    rows: usize,
}

impl Grid {
    fn corner(&self, column: usize, row: usize) -> (f64, f64) {
        (self.left + column as f64 * self.cell.0, self.top + (self.rows - 1 - row) as f64 * self.cell.1)
    }

    fn bottom(&self) -> f64 {
        self.top + self.rows as f64 * self.cell.1
    }
}

/// Each cell has the colours and letters of the arms that lead there, the stronger the larger their share within objectives.
pub(crate) fn leader_map(m: &mut Svg, map: &ObjectiveMap, arms: &[&Arm]) {
    let (columns, rows) = (map.ttft_ms.len(), map.itl_ms.len());
    let left = 92.0;
    let grid = Grid { left, top: 8.0, cell: ((WIDTH - left - 4.0) / columns as f64, 36.0), rows };
    drawing(m, grid.bottom() + 66.0, "Objective map: the arms with the largest share within objectives", |m| {
        for row in 0..rows {
            for column in 0..columns {
                leader_cell(m, &grid, map, arms, (column, row));
            }
            let y = grid.corner(0, row).1 + grid.cell.1 / 2.0 + 4.0;
            label(m, left - 8.0, y, Anchor::End, emphasis(row == map.own.1), figure(map.itl_ms[row]));
        }
        let (x, y) = grid.corner(map.own.0, map.own.1);
        rect(m, (x, y), grid.cell, "own");
        for (column, &ttft) in map.ttft_ms.iter().enumerate() {
            let x = grid.corner(column, 0).0 + grid.cell.0 / 2.0;
            let class = emphasis(column == map.own.0);
            label(m, x, grid.bottom() + 16.0, Anchor::Middle, class, figure(ttft));
            label(m, x, grid.bottom() + 32.0, Anchor::Middle, class, figure(ttft * map.long_scale));
        }
        label(m, left - 8.0, grid.bottom() + 16.0, Anchor::End, "tick", "short");
        label(m, left - 8.0, grid.bottom() + 32.0, Anchor::End, "tick", "long");
        label(m, (left + WIDTH) / 2.0, grid.bottom() + 54.0, Anchor::Middle, "name", "TTFT objective, ms (short and long prompts)");
        m.el("g", &[("transform", &format!("translate(14 {}) rotate(-90)", (grid.top + grid.bottom()) / 2.0))], |m| {
            label(m, 0.0, 0.0, Anchor::Middle, "name", "ITL objective (longest gap), ms");
        });
    });
}

fn emphasis(own: bool) -> &'static str {
    if own { "tick strong" } else { "tick" }
}

fn leader_cell(m: &mut Svg, grid: &Grid, map: &ObjectiveMap, arms: &[&Arm], (column, row): (usize, usize)) {
    let leaders = map.leaders(column, row);
    let (x, y) = grid.corner(column, row);
    let (width, height) = (grid.cell.0 - 1.0, grid.cell.1 - 1.0);
    m.el("g", &[], |m| {
        let share = |(i, arm): (usize, &&Arm)| format!("{} {}%", arm.name, percent(map.share[i][row][column]));
        let all: Vec<String> = arms.iter().enumerate().map(share).collect();
        let at = format!("TTFT {} ms, ITL {} ms", figure(map.ttft_ms[column]), figure(map.itl_ms[row]));
        m.leaf("title", &[], format!("{at}: {}", all.join(", ")));
        rect(m, (x, y), (width, height), "cell");
        let stripe = width / leaders.arms.len().max(1) as f64;
        for (i, &arm) in leaders.arms.iter().enumerate() {
            let class = format!("fill {}", arms[arm].class);
            let at = x + i as f64 * stripe;
            let strength = 0.08 + 0.52 * leaders.best;
            m.void(
                "rect",
                &[("x", &at), ("y", &y), ("width", &stripe), ("height", &height), ("class", &class), ("fill-opacity", &strength)],
            );
        }
        let middle = x + width / 2.0;
        let letters = match leaders.arms.len() {
            0 => "\u{2013}".to_string(),
            n if n == arms.len() && n > 1 => "all".to_string(),
            n if n > LETTERS_MAX => format!("{n} tie"),
            _ => leaders.arms.iter().map(|&i| arms[i].letter.as_str()).collect::<Vec<_>>().join("="),
        };
        label(m, middle, y + 16.0, Anchor::Middle, "leader", letters);
        label(m, middle, y + 29.0, Anchor::Middle, "small", format!("{:.0}%", leaders.best * 100.0));
    });
}

/// The share within objectives of each arm at every point of the map, in percent.
pub(crate) fn share_maps(m: &mut Svg, map: &ObjectiveMap, arms: &[&Arm]) {
    const COLUMNS: usize = 2;
    let (columns, rows) = (map.ttft_ms.len(), map.itl_ms.len());
    let panel = WIDTH / COLUMNS as f64;
    let cell = ((panel - 62.0) / columns as f64, 17.0);
    let height = rows as f64 * cell.1 + 58.0;
    drawing(
        m,
        arms.len().div_ceil(COLUMNS) as f64 * height,
        "Share within objectives of every arm over the objective map, in percent",
        |m| {
            for (i, arm) in arms.iter().enumerate() {
                let (left, top) = ((i % COLUMNS) as f64 * panel + 44.0, (i / COLUMNS) as f64 * height + 22.0);
                let grid = Grid { left, top, cell, rows };
                label(m, left, top - 7.0, Anchor::Start, &format!("letter {}", arm.class), &arm.letter);
                label(m, left + 20.0, top - 7.0, Anchor::Start, "panel", arm.name);
                for (row, shares) in map.share[i].iter().enumerate() {
                    let y = grid.corner(0, row).1 + 12.5;
                    label(m, left - 6.0, y, Anchor::End, emphasis(row == map.own.1), figure(map.itl_ms[row]));
                    for (column, &share) in shares.iter().enumerate() {
                        share_cell(m, &grid, (column, row), share, &arm.class);
                    }
                }
                rect(m, grid.corner(map.own.0, map.own.1), cell, "own");
                for (column, ttft) in map.ttft_ms.iter().enumerate().filter(|(c, _)| c % 2 == map.own.0 % 2) {
                    let x = grid.corner(column, 0).0 + cell.0 / 2.0;
                    label(m, x, grid.bottom() + 14.0, Anchor::Middle, emphasis(column == map.own.0), figure(*ttft));
                }
            }
        },
    );
}

fn share_cell(m: &mut Svg, grid: &Grid, (column, row): (usize, usize), share: f64, class: &str) {
    let (x, y) = grid.corner(column, row);
    let (width, height) = (grid.cell.0 - 1.0, grid.cell.1 - 1.0);
    rect(m, (x, y), (width, height), "cell");
    let class = format!("fill {class}");
    let strength = 0.6 * share;
    m.void("rect", &[("x", &x), ("y", &y), ("width", &width), ("height", &height), ("class", &class), ("fill-opacity", &strength)]);
    label(m, x + width / 2.0, y + 12.0, Anchor::Middle, "small", format!("{:.0}", share * 100.0));
}
