//! The best score wins; or, at a temperature, a draw in which better scores have better odds. With two pools, a prompt of which the
//! decode engines would have to compute a lot is scored over the prefill pool and handed off; any other lives in the decode pool.

use dualpool_types::{EngineId, PolicyKind, Role};

use crate::explain::Terms;
use crate::fleet::{EngineState, FleetView};
use crate::placement::{Ask, Placement};
use crate::settings::ScoreSettings;

use super::draws::Draws;
use super::policy::Policy;
use super::scorer::{Scorer, Stage};
use super::turn::Turn;

pub(super) struct Score {
    scorer: Scorer,
    temperature: f64,
    draws: Draws,
    turn: Turn,
}

impl Score {
    pub(super) fn new(settings: &ScoreSettings, seed: u64) -> Score {
        Score {
            scorer: Scorer::new(settings),
            temperature: settings.temperature,
            draws: Draws::new(seed, PolicyKind::Score),
            turn: Turn::default(),
        }
    }

    fn choose(
        &mut self,
        fleet: &FleetView<'_>,
        ask: &Ask,
        stage: Stage,
        fits: impl Fn(&EngineState) -> bool + Copy,
    ) -> Option<EngineId> {
        let start = self.turn.next();
        let costs = match fleet.explaining {
            None => self.scorer.costs(fleet, ask, stage, fits, &mut ()),
            Some(explanation) => self.scorer.costs(fleet, ask, stage, fits, &mut *explanation.borrow_mut()),
        };
        let drawn = if self.temperature > 0.0 { draw(fleet, costs, fits, self.temperature, &mut self.draws) } else { None };
        drawn.or_else(|| fleet.least_where(fits, start, |engine| costs[engine.id.index()]).map(|engine| engine.id))
    }
}

/// A candidate at odds of `exp(-cost / temperature)`, with costs from 0 for the best to 1 for the worst. None when every device is lost.
fn draw(
    fleet: &FleetView<'_>,
    costs: &[f64],
    fits: impl Fn(&EngineState) -> bool,
    temperature: f64,
    draws: &mut Draws,
) -> Option<EngineId> {
    let sound = || fleet.engines.iter().filter(|engine| engine.takes_work() && fits(engine) && !engine.device_lost(fleet.now));
    let cost = |engine: &EngineState| costs[engine.id.index()];
    let best = sound().map(cost).fold(f64::INFINITY, f64::min);
    let worst = sound().map(cost).fold(f64::NEG_INFINITY, f64::max);
    let range = (worst - best).max(f64::MIN_POSITIVE);
    let odds = |engine: &EngineState| (-((cost(engine) - best) / range).min(1.0) / temperature).exp();
    let total: f64 = sound().map(odds).sum();
    let mut left = draws.share() * total;
    let drawn = sound().find(|engine| {
        left -= odds(engine);
        left < 0.0
    });
    if let Some(explanation) = fleet.explaining {
        let mut explanation = explanation.borrow_mut();
        for engine in sound() {
            explanation.score(engine.id, cost(engine));
            explanation.term(engine.id, "probability", odds(engine) / total);
        }
    }
    // Rounding may leave a crumb beyond the last one.
    drawn.or_else(|| sound().next_back()).map(|engine| engine.id)
}

impl Policy for Score {
    fn wants_cached(&self) -> bool {
        true
    }

    fn place(&mut self, fleet: &FleetView<'_>, ask: &Ask) -> Option<Placement> {
        if !fleet.in_pools() {
            return self.choose(fleet, ask, Stage::Whole, |_| true).map(Placement::Whole);
        }
        let decoders = fleet.engines.iter().filter(|engine| engine.takes_work() && engine.role == Role::Decode);
        let cached = decoders.map(|engine| fleet.cached(engine.id)).max().unwrap_or(0);
        if !fleet.is_long(ask.prompt_tokens.saturating_sub(cached)) {
            return self.choose(fleet, ask, Stage::Whole, |engine| engine.role == Role::Decode).map(Placement::Whole);
        }
        let aside = fleet.aside();
        let to = aside.least_taker(Role::Decode, 0, |engine| aside.work(engine)).map(|engine| engine.id);
        self.choose(fleet, ask, Stage::Prefill { to }, |engine| engine.role == Role::Prefill).map(Placement::Split)
    }

    fn decode_on(&mut self, fleet: &FleetView<'_>, ask: &Ask, from: EngineId) -> Option<EngineId> {
        let stage = Stage::Decode { from };
        let of_pool = self.choose(fleet, ask, stage, |engine| engine.role == Role::Decode && engine.takes_kv());
        of_pool.or_else(|| self.choose(fleet, ask, stage, EngineState::takes_kv))
    }
}
