//! Which arrangement is best is a question of the objectives. The map answers it for a whole grid of them, from the raw records:
//! the share within objectives that each arm would have had, had the objectives been these.

use dualpool_types::Class;
use dualpool_types::artifact::SummaryObjectives;

use super::Artifacts;
use super::arms::Arm;
use super::choose::Choice;
use super::measure::{is_done, longest_itl_ms, quantile, sorted, ttft_ms};

pub(crate) const COLUMNS: usize = 16;
pub(crate) const ROWS: usize = 10;
/// Arms whose share within objectives is at most this far below the best one's are in a cell together: a few requests of a run decide nothing.
pub(crate) const TIE_SHARE: f64 = 0.02;

/// The grid is log-spaced around what was observed, and its lines pass through the user's own objectives.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectiveMap {
    /// TTFT objectives of short prompts, ascending; those of long prompts are `long_scale` times as much.
    pub ttft_ms: Vec<f64>,
    pub long_scale: f64,
    /// ITL objectives, ascending.
    pub itl_ms: Vec<f64>,
    /// Where the user's own objectives are: (column, row).
    pub own: (usize, usize),
    /// Share of requests within the objectives: `[arm][row][column]`, arms as they were given.
    pub share: Vec<Vec<Vec<f64>>>,
}

/// The arms that lead at one point of the map.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaders {
    pub best: f64,
    /// Every arm within `TIE_SHARE` of the best; empty when the best share itself is no more than that: then no arm meets these objectives.
    pub arms: Vec<usize>,
}

/// The user's objectives: those of the summary, else those of the requests.
pub(crate) fn objectives(artifacts: &Artifacts) -> Option<SummaryObjectives> {
    if let Some(summary) = &artifacts.summary {
        return Some(summary.objectives);
    }
    let any = artifacts.requests.first()?.objectives;
    let of = |class| artifacts.requests.iter().find(|r| r.class == class).map_or(any, |r| r.objectives);
    Some(SummaryObjectives {
        ttft_short_ms: of(Class::Short).ttft_us_max.as_ms(),
        ttft_long_ms: of(Class::Long).ttft_us_max.as_ms(),
        itl_ms: any.itl_us_max.as_ms(),
    })
}

impl ObjectiveMap {
    /// None when there is no request with a first token, or an objective that is not above 0.
    pub fn of(arms: &[&Arm], own: SummaryObjectives) -> Option<ObjectiveMap> {
        let positive = [own.ttft_short_ms, own.ttft_long_ms, own.itl_ms].iter().all(|ms| ms.is_finite() && *ms > 0.0);
        if !positive {
            return None;
        }
        let long_scale = own.ttft_long_ms / own.ttft_short_ms;
        let points: Vec<Vec<(f64, f64)>> =
            arms.iter().map(|arm| arm.requests.iter().filter_map(|r| needs(r, long_scale)).collect()).collect();
        let ttfts = sorted(points.iter().flatten().map(|p| p.0));
        let itls = sorted(points.iter().flatten().map(|p| p.1));
        let (ttft_ms, column) = grid(&ttfts, own.ttft_short_ms, COLUMNS)?;
        let (itl_ms, row) = grid(&itls, own.itl_ms, ROWS)?;
        let share = arms.iter().zip(&points).map(|(arm, p)| shares(p, arm.requests.len(), &ttft_ms, &itl_ms)).collect();
        Some(ObjectiveMap { ttft_ms, long_scale, itl_ms, own: (column, row), share })
    }

    pub fn leaders(&self, column: usize, row: usize) -> Leaders {
        let share = |arm: &Vec<Vec<f64>>| arm[row][column];
        let best = self.share.iter().map(share).fold(0.0, f64::max);
        let leads = |arm: &Vec<Vec<f64>>| best > TIE_SHARE && share(arm) >= best - TIE_SHARE;
        Leaders { best, arms: (0..self.share.len()).filter(|&i| leads(&self.share[i])).collect() }
    }
}

/// The tightest objectives that a request meets: its TTFT as that of a short prompt, and its longest gap.
fn needs(request: &dualpool_types::records::RequestRecord, long_scale: f64) -> Option<(f64, f64)> {
    let scale = if request.class == Class::Long { long_scale } else { 1.0 };
    is_done(request).then_some(())?;
    Some((ttft_ms(request)? / scale, longest_itl_ms(request)))
}

/// `n` log-spaced values that cover nearly all observed ones and hold `own`, and where `own` is. None without an observed value.
fn grid(observed: &[f64], own: f64, n: usize) -> Option<(Vec<f64>, usize)> {
    const MARGIN: f64 = 1.15;
    let low = quantile(observed, 0.01)?.max(own / 1e3).min(own) / MARGIN;
    let high = quantile(observed, 0.99)?.min(own * 1e3).max(own) * MARGIN;
    let step = (high / low).powf(1.0 / (n - 1) as f64);
    let at = (((own / low).ln() / step.ln()).round() as usize).min(n - 1);
    let values = (0..n).map(|i| if i == at { own } else { own * step.powi(i as i32 - at as i32) });
    Some((values.collect(), at))
}

/// Counts each request into the tightest cell that it meets, and sums towards the loose corner: one pass over the requests instead
/// of one per cell.
fn shares(points: &[(f64, f64)], requests: usize, ttft_ms: &[f64], itl_ms: &[f64]) -> Vec<Vec<f64>> {
    let mut met = vec![vec![0.0; ttft_ms.len()]; itl_ms.len()];
    for (ttft, itl) in points {
        let (column, row) = (ttft_ms.partition_point(|ms| ms < ttft), itl_ms.partition_point(|ms| ms < itl));
        if column < ttft_ms.len() && row < itl_ms.len() {
            met[row][column] += 1.0;
        }
    }
    for row in 0..itl_ms.len() {
        for column in 0..ttft_ms.len() {
            let below = if row > 0 { met[row - 1][column] } else { 0.0 };
            let left = if column > 0 { met[row][column - 1] } else { 0.0 };
            let both = if row > 0 && column > 0 { met[row - 1][column - 1] } else { 0.0 };
            met[row][column] += below + left - both;
        }
    }
    for share in met.iter_mut().flatten() {
        *share /= requests.max(1) as f64;
    }
    met
}

/// Which of the objectives is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Objective {
    Itl,
    ShortTtft,
}

impl Objective {
    pub(crate) fn with_article(self) -> &'static str {
        match self {
            Objective::Itl => "an ITL objective",
            Objective::ShortTtft => "a short TTFT objective",
        }
    }

    fn of(self, map: &ObjectiveMap, (column, row): (usize, usize)) -> f64 {
        match self {
            Objective::Itl => map.itl_ms[row],
            Objective::ShortTtft => map.ttft_ms[column],
        }
    }
}

/// Where the answer turns: the first objective on the way from the user's own, tighter or looser, under which another arm would be clearly
/// ahead of the choice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    pub objective: Objective,
    pub limit_ms: f64,
    pub own_limit_ms: f64,
    pub leaders: Vec<String>,
    /// Shares of the leaders, and of the choice.
    pub best: f64,
    pub own: f64,
}

impl Turn {
    /// On each of the four ways at most one.
    pub(crate) fn all(artifacts: &Artifacts, choice: &Choice) -> Vec<Turn> {
        let arms: Vec<&Arm> = choice.candidates.iter().chain(&choice.failed).copied().collect();
        let Some(map) = objectives(artifacts).and_then(|own| ObjectiveMap::of(&arms, own)) else { return Vec::new() };
        let Some(chosen) = arms.iter().position(|a| a.name == choice.arm.name) else { return Vec::new() };
        let (column, row) = map.own;
        let turn = |objective: Objective, cells: Vec<(usize, usize)>| {
            let leads_another = |&(c, r): &(usize, usize)| {
                let leaders = map.leaders(c, r).arms;
                !leaders.is_empty() && !leaders.contains(&chosen)
            };
            let (c, r) = cells.into_iter().find(leads_another)?;
            let leaders = map.leaders(c, r);
            Some(Turn {
                objective,
                limit_ms: objective.of(&map, (c, r)),
                own_limit_ms: objective.of(&map, map.own),
                leaders: leaders.arms.iter().map(|&i| arms[i].name.to_string()).collect(),
                best: leaders.best,
                own: map.share[chosen][r][c],
            })
        };
        let ways = [
            turn(Objective::Itl, (0..row).rev().map(|r| (column, r)).collect()),
            turn(Objective::Itl, (row + 1..map.itl_ms.len()).map(|r| (column, r)).collect()),
            turn(Objective::ShortTtft, (0..column).rev().map(|c| (c, row)).collect()),
            turn(Objective::ShortTtft, (column + 1..map.ttft_ms.len()).map(|c| (c, row)).collect()),
        ];
        ways.into_iter().flatten().collect()
    }

    pub(crate) fn direction(&self) -> &'static str {
        if self.limit_ms < self.own_limit_ms { "tighter" } else { "looser" }
    }

    /// How far it is from the user's own objective, as a factor.
    pub(crate) fn distance(&self) -> f64 {
        (self.limit_ms / self.own_limit_ms).ln().abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arms::arms;
    use crate::fixture;

    /// The definition, word for word: a request counts when it is done, its first token was in time for its class, and no gap
    /// between its tokens was too long.
    fn literal(arm: &Arm, ttft_short_ms: f64, ttft_long_ms: f64, itl_ms: f64) -> f64 {
        let mut good = 0;
        for r in &arm.requests {
            let limit = match r.class {
                Class::Short => ttft_short_ms,
                Class::Long => ttft_long_ms,
            };
            let mut ok = matches!(r.outcome, dualpool_types::records::Outcome::Done) && !r.token_us.is_empty();
            ok = ok && (r.token_us[0].0 - r.arrived_us.0) as f64 / 1e3 <= limit;
            for i in 1..r.token_us.len() {
                ok = ok && (r.token_us[i].0 - r.token_us[i - 1].0) as f64 / 1e3 <= itl_ms;
            }
            good += i32::from(ok);
        }
        f64::from(good) / arm.requests.len() as f64
    }

    #[test]
    fn every_cell_equals_the_literal_definition() {
        let artifacts = fixture::large();
        let all = arms(&artifacts);
        let arms: Vec<&Arm> = all.iter().collect();
        let map = ObjectiveMap::of(&arms, objectives(&artifacts).unwrap()).unwrap();
        let mut distinct = std::collections::BTreeSet::new();
        for (i, arm) in arms.iter().enumerate() {
            for (row, &itl) in map.itl_ms.iter().enumerate() {
                for (column, &ttft) in map.ttft_ms.iter().enumerate() {
                    let expected = literal(arm, ttft, ttft * map.long_scale, itl);
                    assert!((map.share[i][row][column] - expected).abs() < 1e-9, "{} at {ttft} ms, {itl} ms", arm.name);
                    distinct.insert((expected * 1e6) as i64);
                }
            }
        }
        assert!(distinct.len() > 20, "the fixture's map is flat");
    }

    #[test]
    fn the_grid_passes_through_the_users_objectives() {
        let artifacts = fixture::large();
        let all = arms(&artifacts);
        let arms: Vec<&Arm> = all.iter().collect();
        let own = objectives(&artifacts).unwrap();
        let map = ObjectiveMap::of(&arms, own).unwrap();
        assert_eq!((map.ttft_ms[map.own.0], map.itl_ms[map.own.1]), (own.ttft_short_ms, own.itl_ms));
        assert!(map.ttft_ms.is_sorted() && map.itl_ms.is_sorted());
        for (arm, share) in arms.iter().zip(&map.share) {
            assert!((share[map.own.1][map.own.0] - arm.figures.goodput_share.unwrap()).abs() < 1e-9, "{}", arm.name);
        }
    }

    #[test]
    fn ties_are_shared_and_an_empty_cell_has_no_leader() {
        let cell = |share: f64| vec![vec![share]];
        let map = |shares: [f64; 3]| ObjectiveMap {
            ttft_ms: vec![1.0],
            long_scale: 1.0,
            itl_ms: vec![1.0],
            own: (0, 0),
            share: shares.map(cell).to_vec(),
        };
        assert_eq!(map([0.90, 0.95, 0.94]).leaders(0, 0), Leaders { best: 0.95, arms: vec![1, 2] });
        assert_eq!(map([0.0; 3]).leaders(0, 0), Leaders { best: 0.0, arms: vec![] });
        assert_eq!(map([0.01, 0.0, 0.0]).leaders(0, 0), Leaders { best: 0.01, arms: vec![] });
    }

    #[test]
    fn nothing_measured_makes_no_map() {
        let mut artifacts = fixture::small();
        let own = objectives(&artifacts).unwrap();
        artifacts.requests.clear();
        let all = arms(&artifacts);
        assert_eq!(ObjectiveMap::of(&all.iter().collect::<Vec<_>>(), own), None);
    }
}
