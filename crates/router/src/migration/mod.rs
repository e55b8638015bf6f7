//! Live migration: requests that are decoding leave an engine that is too slow for them when that pays.
//!
//! ```text
//! pays:  (ITL here - ITL there) * tokens to come  >  copy + gap + what the copy costs the requests that decode at both ends
//!        and the copy is cheaper than computing the prompt and all tokens so far again
//! ```
//! An engine's predicted ITL is what its demand makes of it, times the engine's own pace: of two with the same demand the slower one is
//! left.
//!
//! An engine is left when its predicted ITL has been over a share of the objective for a while, and for one where it stays below a lower
//! share, and below what is left behind: two thresholds, so that a migration never creates the reason for the way back. A request that
//! migrated stays where it is for a while, and migrates only so often; and all migrations together have a budget per window.
//!
//! - `candidates`: which requests may leave an engine.
//! - `under_way`: what has begun and is not over, with what `drain` began.

mod candidates;
mod under_way;

use dualpool_types::records::MigrationReason;
use dualpool_types::{EngineId, Micros, RequestId, Role, Time};

use crate::fleet::{EngineState, FleetView};
use crate::flight::{Detaching, Flight, Flights};
use crate::settings::MigrationSettings;

pub(crate) use candidates::Candidates;
pub(crate) use under_way::UnderWay;

/// What is remembered of migrations that were to pay. Bounded by the engines.
#[derive(Debug)]
pub(crate) struct Migration {
    settings: MigrationSettings,
    budget: Budget,
    /// By engine: since when it is too slow for what it decodes.
    slow_since: Vec<Option<Time>>,
    candidates: Candidates,
}

/// What has migrated in the window under way.
#[derive(Debug, Default)]
struct Budget {
    begun: Time,
    requests: u32,
    tokens: u64,
}

impl Budget {
    fn turn_window(&mut self, now: Time, settings: &MigrationSettings) {
        if now.since(self.begun) >= Micros(settings.window_ms.saturating_mul(1_000)) {
            *self = Budget { begun: now, requests: 0, tokens: 0 };
        }
    }

    /// Whether there is room for one more request with so much KV, to an engine with such a cache.
    fn affords(&self, tokens: u32, target_kv_tokens: u64, settings: &MigrationSettings) -> bool {
        let tokens = self.tokens + u64::from(tokens);
        let share = tokens as f64 <= settings.kv_share_max * target_kv_tokens as f64;
        self.requests < settings.requests_max && tokens <= settings.tokens_max && share
    }

    fn spend(&mut self, tokens: u32) {
        self.requests += 1;
        self.tokens += u64::from(tokens);
    }
}

/// A request that might migrate.
#[derive(Clone, Copy)]
struct Candidate {
    /// Tokens of KV that it has, and tokens that it gets after the one with which it would leave.
    context: u32,
    remaining: u32,
    itl_objective: f64,
}

impl Candidate {
    fn of(flight: &Flight) -> Candidate {
        Candidate {
            context: flight.stay.demand.context,
            remaining: flight.stay.left - 1,
            itl_objective: flight.journey.request.objectives.itl_us_max.0 as f64,
        }
    }
}

impl Migration {
    pub(crate) fn new(settings: &MigrationSettings, engines: usize) -> Migration {
        Migration {
            settings: settings.clone(),
            budget: Budget::default(),
            slow_since: vec![None; engines],
            candidates: Candidates::new(settings.candidates_max),
        }
    }

    /// Whether requests migrate when that pays.
    pub(crate) fn is_on(&self) -> bool {
        self.settings.enabled
    }

    /// What is to migrate now: at most one request off each engine that is too slow for what it decodes.
    pub(crate) fn tick(
        &mut self,
        now: Time,
        fleet: &FleetView<'_>,
        flights: &Flights,
        under_way: &mut UnderWay,
    ) -> Vec<(RequestId, Detaching)> {
        let mut leave = Vec::new();
        if !self.settings.enabled {
            return leave;
        }
        self.budget.turn_window(now, &self.settings);
        let sustained = Micros(self.settings.sustained_ms.saturating_mul(1_000));
        for (from, slow_since) in fleet.engines.iter().zip(&mut self.slow_since) {
            let plans = Plans { settings: &self.settings, budget: &self.budget, fleet, under_way };
            if !plans.is_slow(from) {
                *slow_since = None;
                continue;
            }
            let since = *slow_since.get_or_insert(now);
            if now.since(since) < sustained || !fleet.can_hand_off(from.id) || from.draining || !under_way.has_room() {
                continue;
            }
            let settings = &self.settings;
            let may = |flight: &Flight| flight.stay.engine == from.id && flight.can_detach() && has_rested(flight, now, settings);
            let best = self.candidates.among(flights, may).find_map(|(request, flight)| {
                let to = plans.target(from, Candidate::of(flight), now)?;
                Some((request, flight, to))
            });
            if let Some((request, flight, to)) = best {
                self.budget.spend(flight.stay.demand.context);
                under_way.begins(&flight.stay, Some(to));
                leave.push((request, Detaching { to: Some(to), why: MigrationReason::SavesTime }));
            }
        }
        leave
    }
}

fn has_rested(flight: &Flight, now: Time, settings: &MigrationSettings) -> bool {
    let cool_down = Micros(settings.cool_down_ms.saturating_mul(1_000));
    let journey = &flight.journey;
    journey.migrations < settings.per_request_max && journey.migrated_at.is_none_or(|at| now.since(at) >= cool_down)
}

/// What it is judged by whether a migration pays.
struct Plans<'a> {
    settings: &'a MigrationSettings,
    budget: &'a Budget,
    fleet: &'a FleetView<'a>,
    under_way: &'a UnderWay,
}

impl Plans<'_> {
    fn is_slow(&self, engine: &EngineState) -> bool {
        let objective = engine.itl_objective();
        engine.alive && objective.is_finite() && self.itl(engine, 0.0) > self.settings.itl_share_from * objective
    }

    /// Predicted ITL on this engine, in microseconds, with so many requests more: an engine is as slow as it was lately.
    fn itl(&self, engine: &EngineState, more: f64) -> f64 {
        let running = (self.under_way.running_after(engine) + more).max(0.0);
        self.fleet.pace(engine) * self.fleet.costs.step(engine.backlog().min(engine.chunk()), running)
    }

    /// The engine on which this request is best off, of those to which its migration pays.
    fn target(&self, from: &EngineState, candidate: Candidate, now: Time) -> Option<EngineId> {
        let pays = |to: &&EngineState| to.id != from.id && to.role != Role::Prefill && self.pays(from, to, candidate, now);
        let itl = |engine: &EngineState| self.itl(engine, 1.0);
        self.fleet.engines.iter().filter(pays).min_by(|a, b| itl(a).total_cmp(&itl(b))).map(|engine| engine.id)
    }

    /// Whether the engine has a place for it, and the budget as well.
    fn fits(&self, to: &EngineState, Candidate { context, remaining, .. }: Candidate, now: Time) -> bool {
        let coming = self.under_way.coming(to.id);
        let taken = to.demand.context_tokens + to.demand.output_tokens + coming.tokens + u64::from(context) + u64::from(remaining);
        let seats = to.demand.depth() + u64::from(coming.legs) < u64::from(to.facts.max_num_seqs);
        to.takes_kv()
            && !to.device_lost(now)
            && taken <= to.facts.kv_tokens
            && seats
            && self.budget.affords(context, to.facts.kv_tokens, self.settings)
    }

    fn pays(&self, from: &EngineState, to: &EngineState, candidate: Candidate, now: Time) -> bool {
        if !self.fits(to, candidate, now) {
            return false;
        }
        let Plans { settings, fleet, under_way, .. } = self;
        let Candidate { context, remaining, itl_objective } = candidate;
        let (here, there) = (self.itl(from, 0.0), self.itl(to, 1.0));
        let stays_better = there < self.itl(from, -1.0) && there < settings.itl_share_to * itl_objective.min(to.itl_objective());
        let (costs, pace, running_there) = (fleet.costs, fleet.pace(to), under_way.running_after(to));
        let copy = fleet.copy(from.id, to.id, context.into());
        let gap = costs.handoff_us + pace * to.joining(costs, running_there + 1.0);
        let again = pace * costs.prefill(context.into(), to.chunk(), running_there);
        let contention = settings.contention * copy * (under_way.running_after(from) + running_there);
        stays_better && copy < again && (here - there) * f64::from(remaining) > copy + gap + contention
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_bounds_requests_tokens_and_the_share_of_the_target_until_its_window_turns() {
        let settings = MigrationSettings {
            window_ms: 100,
            requests_max: 2,
            tokens_max: 1_000,
            kv_share_max: 0.5,
            ..MigrationSettings::default()
        };
        let mut budget = Budget::default();
        assert!(budget.affords(1_000, 2_000, &settings) && !budget.affords(1_001, 1 << 20, &settings));
        assert!(!budget.affords(1_000, 1_999, &settings), "more than half of what the target has");
        budget.spend(400);
        assert!(budget.affords(600, 1 << 20, &settings) && !budget.affords(601, 1 << 20, &settings));
        budget.spend(1);
        assert!(!budget.affords(1, 1 << 20, &settings), "two requests");
        budget.turn_window(Time(99_999), &settings);
        assert!(!budget.affords(1, 1 << 20, &settings));
        budget.turn_window(Time(100_000), &settings);
        assert!(budget.affords(1_000, 1 << 20, &settings));
    }
}
