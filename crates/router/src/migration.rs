//! Live migration: requests that are decoding leave an engine that is too slow for them when that pays.
//!
//! ```text
//! pays:  (ITL here - ITL there) * tokens to come  >  copy + gap + what the copy costs those who decode at both ends
//!        and the copy is cheaper than computing the prompt and all tokens so far again
//! ```
//! An engine's predicted ITL is what its load makes of it, times the engine's own pace: of two with the same load the slower one is left.
//!
//! An engine is left when its predicted ITL has been over a share of the objective for a while, and for one where it stays below a lower
//! share, and below what is left behind: two thresholds, so that a move never creates the reason for the way back. A request that moved
//! stays where it is for a while, and moves only so often; and all moves together have a budget per window.

use dualpool_types::records::MigrationReason;
use dualpool_types::{EngineId, Micros, RequestId, Role, Time};

use super::flight::{Flight, Parting, Stay};
use super::{Action, EngineState, FleetView, Router};
use crate::MigrationSettings;

/// What the router remembers of moves. Bounded by the engines, and by the requests in flight.
#[derive(Debug)]
pub(super) struct Migration {
    /// The window under way, and what was moved in it.
    begun: Time,
    requests: u32,
    tokens: u64,
    /// By engine: since when it is too slow for what it decodes.
    slow_since: Vec<Option<Time>>,
    /// By engine: requests that are leaving it, and that are meant to come to it, but not sent yet.
    leaving: Vec<u32>,
    coming: Vec<Coming>,
    moving: u32,
    /// Requests that may leave the engine at hand, those with the least KV first; kept for its memory.
    pub candidates: Vec<(u32, RequestId)>,
    /// By engine: it was said to be drained.
    pub told: Vec<bool>,
}

/// What is meant to come to an engine: it has no place there yet, and is to find one.
#[derive(Clone, Copy, Debug, Default)]
struct Coming {
    legs: u32,
    /// Tokens whose KV they will take.
    tokens: u64,
}

impl Coming {
    fn add(&mut self, stay: &Stay) {
        self.legs += 1;
        self.tokens += u64::from(stay.demand.context) + u64::from(stay.left);
    }
}

impl Migration {
    pub fn new(engines: usize) -> Migration {
        Migration {
            begun: Time::default(),
            requests: 0,
            tokens: 0,
            slow_since: vec![None; engines],
            leaving: vec![0; engines],
            coming: vec![Coming::default(); engines],
            moving: 0,
            candidates: Vec::new(),
            told: vec![false; engines],
        }
    }

    fn turn_window(&mut self, now: Time, settings: &MigrationSettings) {
        if now.since(self.begun) >= Micros(settings.window_ms.saturating_mul(1_000)) {
            (self.begun, self.requests, self.tokens) = (now, 0, 0);
        }
    }

    /// Whether the budget has room for one more request with so much KV, to an engine with such a cache.
    fn affords(&self, tokens: u32, target_kv_tokens: u64, settings: &MigrationSettings) -> bool {
        let tokens = self.tokens + u64::from(tokens);
        let share = tokens as f64 <= settings.kv_share_max * target_kv_tokens as f64;
        self.requests < settings.requests_max && tokens <= settings.tokens_max && share
    }
}

/// A request that might move.
#[derive(Clone, Copy)]
struct Candidate {
    /// Tokens of KV that it has, and tokens that it gets after the one with which it would leave.
    context: u32,
    remaining: u32,
    itl_objective: f64,
}

impl Router {
    /// Moves what is to be moved now.
    pub(super) fn move_on(&mut self, now: Time, actions: &mut Vec<Action>) {
        let drains = self.engines.iter().any(|engine| engine.draining);
        if !drains && !self.settings.migration.enabled {
            return;
        }
        self.count_moves();
        self.drain_on(now, actions);
        if self.settings.migration.enabled {
            self.relieve(now, actions);
        }
    }

    fn count_moves(&mut self) {
        let Migration { leaving, coming, moving, .. } = &mut self.migration;
        leaving.fill(0);
        coming.fill(Coming::default());
        *moving = 0;
        for flight in self.flights.values().filter(|flight| flight.is_moving()) {
            *moving += 1;
            if let Some(Parting { to, .. }) = flight.stay.parting {
                leaving[flight.stay.engine.index()] += 1;
                to.into_iter().for_each(|to| coming[to.index()].add(&flight.stay));
            }
        }
    }

    pub(super) fn may_move_more(&self) -> bool {
        self.migration.moving < self.settings.migration.in_flight_max
    }

    /// Gathers the requests that may leave this engine, in an order that does not depend on chance.
    pub(super) fn gather(&mut self, from: EngineId, now: Time) {
        let Router { flights, migration, settings, .. } = self;
        let draining = self.engines[from.index()].draining;
        let settings = &settings.migration;
        let rested = |flight: &Flight| {
            let cool = Micros(settings.cool_down_ms.saturating_mul(1_000));
            flight.journey.moves < settings.moves_max && flight.journey.moved_at.is_none_or(|at| now.since(at) >= cool)
        };
        let may = |flight: &Flight| flight.stay.engine == from && flight.can_part() && (draining || rested(flight));
        migration.candidates.clear();
        let able = flights.iter().filter(|(_, flight)| may(flight));
        migration.candidates.extend(able.map(|(&request, flight)| (flight.stay.demand.context, request)));
        migration.candidates.sort_unstable();
        migration.candidates.truncate(settings.candidates_max as usize);
    }

    /// Asks the request's engine to end its leg with the next token.
    pub(super) fn part(&mut self, request: RequestId, parting: Parting, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights.get_mut(&request) else { return };
        flight.stay.parting = Some(parting);
        self.migration.moving += 1;
        self.migration.leaving[flight.stay.engine.index()] += 1;
        parting.to.into_iter().for_each(|to| self.migration.coming[to.index()].add(&flight.stay));
        actions.push(Action::Detach { engine: flight.stay.engine, leg: flight.stay.leg });
    }

    /// Moves at most one request off each engine that is too slow for what it decodes.
    fn relieve(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.migration.turn_window(now, &self.settings.migration);
        let sustained = Micros(self.settings.migration.sustained_ms.saturating_mul(1_000));
        for at in 0..self.engines.len() {
            let from = self.engines[at].id;
            if !self.is_slow(from) {
                self.migration.slow_since[at] = None;
                continue;
            }
            let since = *self.migration.slow_since[at].get_or_insert(now);
            if now.since(since) < sustained || !self.can_hand_over(from) || self.engines[at].draining || !self.may_move_more() {
                continue;
            }
            self.gather(from, now);
            let best = self.migration.candidates.iter().find_map(|&(context, request)| {
                let flight = self.flights.get(&request)?;
                let itl_objective = flight.journey.request.objectives.itl_us_max.0 as f64;
                let candidate = Candidate { context, remaining: flight.stay.left - 1, itl_objective };
                Some((request, context, self.target(from, candidate, now)?))
            });
            if let Some((request, context, to)) = best {
                self.migration.requests += 1;
                self.migration.tokens += u64::from(context);
                self.part(request, Parting { to: Some(to), why: MigrationReason::Pays }, actions);
            }
        }
    }

    fn is_slow(&self, engine: EngineId) -> bool {
        let state = &self.engines[engine.index()];
        let objective = state.itl_objective();
        state.alive && objective.is_finite() && self.itl(engine, 0.0) > self.settings.migration.itl_share_from * objective
    }

    /// Requests that decode on this engine once the moves under way are over.
    fn running(&self, engine: EngineId) -> f64 {
        let (leaving, coming) = (self.migration.leaving[engine.index()], self.migration.coming[engine.index()]);
        let running = self.engines[engine.index()].demand.running as f64;
        (running - f64::from(leaving)).max(0.0) + f64::from(coming.legs)
    }

    /// Predicted ITL on this engine, in microseconds, with so many requests more.
    fn itl(&self, engine: EngineId, more: f64) -> f64 {
        let running = (self.running(engine) + more).max(0.0);
        self.view(|fleet| step(fleet, &fleet.engines[engine.index()], running))
    }

    /// The engine on which this request is best off, of those to which its move pays.
    fn target(&self, from: EngineId, candidate: Candidate, now: Time) -> Option<EngineId> {
        let pays = |to: &&EngineState| to.id != from && to.role != Role::Prefill && self.pays(from, to, candidate, now);
        let itl = |engine: &EngineState| self.itl(engine.id, 1.0);
        self.engines.iter().filter(pays).min_by(|a, b| itl(a).total_cmp(&itl(b))).map(|engine| engine.id)
    }

    fn pays(&self, from: EngineId, to: &EngineState, candidate: Candidate, now: Time) -> bool {
        let settings = &self.settings.migration;
        let Candidate { context, remaining, itl_objective } = candidate;
        let coming = self.migration.coming[to.id.index()];
        let taken = to.demand.context_tokens + to.demand.output_tokens + coming.tokens + u64::from(context) + u64::from(remaining);
        let seats = to.demand.depth() + u64::from(coming.legs) < u64::from(to.facts.max_num_seqs);
        if !to.takes_kv()
            || to.device_lost(now)
            || taken > to.facts.kv_tokens
            || !seats
            || !self.migration.affords(context, to.facts.kv_tokens, settings)
        {
            return false;
        }
        let (here, there) = (self.itl(from, 0.0), self.itl(to.id, 1.0));
        let stays_better = there < self.itl(from, -1.0) && there < settings.itl_share_to * itl_objective.min(to.itl_objective());
        let (copy, gap, again) = self.view(|fleet| {
            let (costs, pace) = (fleet.costs, fleet.pace(to));
            let copy = fleet.copy(from, to.id, context.into());
            let gap = costs.handoff_us + pace * to.joining(costs, self.running(to.id) + 1.0);
            (copy, gap, pace * costs.prefill(context.into(), to.chunk(), self.running(to.id)))
        });
        let contention = settings.contention * copy * (self.running(from) + self.running(to.id));
        stays_better && copy < again && (here - there) * f64::from(remaining) > copy + gap + contention
    }
}

/// Predicted length of a step, and so the gap between two tokens, with so many requests decoding: an engine is as slow as it was lately.
fn step(fleet: &FleetView<'_>, engine: &EngineState, running: f64) -> f64 {
    fleet.pace(engine) * fleet.costs.step(engine.backlog().min(engine.chunk()), running)
}
