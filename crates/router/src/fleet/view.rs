//! The fleet as a policy sees it, and the ways to choose from it.

use std::cell::RefCell;

use dualpool_types::{EngineId, Role, Time};

use super::engine::EngineState;
use crate::costs::{CopyTable, CostModel};
use crate::explain::{Explanation, Terms};

/// All that a policy may look at.
#[derive(Clone, Copy, Debug)]
pub struct FleetView<'a> {
    pub engines: &'a [EngineState],
    pub costs: &'a CostModel,
    pub copies: &'a CopyTable,
    /// By engine: tokens from the start of the prompt at hand whose KV its prefix cache is believed to hold.
    pub cached: &'a [u32],
    pub long_prompt_tokens_min: u32,
    pub now: Time,
    /// Where to say what the decision is made of, where it is to be explained.
    pub explaining: Option<&'a RefCell<Explanation>>,
}

impl<'a> FleetView<'a> {
    /// The engine that takes work with this role (or any, for none) that scores lowest; between equals the one whose device is in the least
    /// trouble, and of those the first one, counted from `start`. An engine that cannot be scored counts as worse than any that can,
    /// and one whose device is lost as worse still: it will die of it.
    pub fn least(&self, role: Option<Role>, start: usize, score: impl Fn(&EngineState) -> f64) -> Option<&'a EngineState> {
        self.least_where(|engine| role.is_none_or(|role| engine.role == role), start, score)
    }

    /// The same over the engines alive that fit.
    pub fn least_where(
        &self,
        fits: impl Fn(&EngineState) -> bool,
        start: usize,
        score: impl Fn(&EngineState) -> f64,
    ) -> Option<&'a EngineState> {
        let (before, from) = self.engines.split_at(start % self.engines.len().max(1));
        let mut best: Option<((bool, f64, u8), &EngineState)> = None;
        for engine in from.iter().chain(before) {
            if !engine.takes_work() || !fits(engine) {
                continue;
            }
            let score = score(engine);
            if let Some(explanation) = self.explaining {
                explanation.borrow_mut().score(engine.id, score);
            }
            let score = if score.is_finite() { score } else { f64::MAX };
            let rank = (engine.device_lost(self.now), score, engine.device_trouble(self.now));
            if best.is_none_or(|(lowest, _)| rank < lowest) {
                best = Some((rank, engine));
            }
        }
        best.map(|(_, engine)| engine)
    }

    /// The same within a pool, and over the whole fleet once no engine of the pool is alive.
    pub fn least_of_pool(&self, role: Role, start: usize, score: impl Fn(&EngineState) -> f64) -> Option<&'a EngineState> {
        self.least(Some(role), start, &score).or_else(|| self.least(None, start, &score))
    }

    /// The same over the engines that can take KV from another one.
    pub fn least_taker(&self, role: Role, start: usize, score: impl Fn(&EngineState) -> f64) -> Option<&'a EngineState> {
        let of_pool = self.least_where(|engine| engine.role == role && engine.takes_kv(), start, &score);
        of_pool.or_else(|| self.least_where(EngineState::takes_kv, start, &score))
    }

    /// The next engine that takes work, counted from `start`, whatever its demand and its device.
    pub fn in_turn(&self, start: usize) -> Option<&'a EngineState> {
        let (before, from) = self.engines.split_at(start % self.engines.len().max(1));
        let mut able = from.iter().chain(before).filter(|engine| engine.takes_work());
        if let Some(explanation) = self.explaining {
            let mut explanation = explanation.borrow_mut();
            able.clone().enumerate().for_each(|(turn, engine)| explanation.score(engine.id, turn as f64));
        }
        able.next()
    }

    /// Whether there are two pools, with an engine alive in each.
    pub fn in_pools(&self) -> bool {
        let alive = |role| self.engines.iter().any(|engine| engine.takes_work() && engine.role == role);
        alive(Role::Prefill) && alive(Role::Decode)
    }

    /// Whether what is on this engine can go on elsewhere with its KV.
    pub fn can_hand_off(&self, from: EngineId) -> bool {
        let mut others = self.engines.iter().filter(|engine| engine.id != from);
        self.engines[from.index()].moves_kv() && others.any(EngineState::takes_kv)
    }

    /// Prompt tokens dispatched whose request has no token from there yet.
    pub fn prompt_tokens_in_flight(&self) -> u64 {
        self.engines.iter().map(|engine| engine.demand.prompt_tokens).sum()
    }

    /// The same view for a side question, which is no part of what is explained.
    pub fn aside(&self) -> FleetView<'a> {
        FleetView { explaining: None, ..*self }
    }

    /// Tokens of the prompt at hand that this engine need not compute.
    pub fn cached(&self, engine: EngineId) -> u32 {
        self.cached.get(engine.index()).copied().unwrap_or(0)
    }

    /// Tokens of a prompt that this engine would have to compute, or to fetch.
    pub fn uncached(&self, engine: EngineId, prompt_tokens: f64) -> f64 {
        (prompt_tokens - f64::from(self.cached(engine))).max(0.0)
    }

    pub fn is_long(&self, prompt_tokens: u32) -> bool {
        prompt_tokens >= self.long_prompt_tokens_min
    }
}
