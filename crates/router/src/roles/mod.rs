//! Engines that change pools while requests run.
//!
//! Each pool is under a pressure: 1 is where its requests begin to miss their objectives. When one pool starves for a while, and the
//! other one would be comfortable with an engine less, an engine changes over. It takes no new work of its old role from then on, and
//! what it has goes on: prompts are computed and handed over, answers come to their end. Neither pool gives its last engine.
//!
//! Two thresholds apart (starving, comfortable after the change), a time that the need must hold for, and a time between two changes
//! keep an engine from going to and fro.

use dualpool_types::{EngineId, Micros, Request, Role, Time};

use crate::fleet::{EngineState, FleetView};
use crate::settings::RoleSettings;

/// The pressure from which on a pool starves.
const STARVING: f64 = 1.0;
/// The pressure up to which a pool is well off, with the engine gone that it would give.
const COMFORTABLE: f64 = 0.8;
/// The share of its KV cache in use at which an engine that decodes is under a pressure of 1.
const KV_FULL: f64 = 0.9;
/// How far one request moves what requests are taken to be like.
const LEARNING_RATE: f64 = 0.05;

/// A pool's pressure, and the part of it that another engine would not take away: a prompt's own prefill, a step's fixed cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Pressure {
    all: f64,
    fixed: f64,
}

impl Pressure {
    /// With the pool's work on `to` engines instead of `from`.
    fn spread(self, from: usize, to: usize) -> f64 {
        let fixed = self.fixed.min(self.all);
        fixed + (self.all - fixed) * from as f64 / to.max(1) as f64
    }

    fn approach(&mut self, now: Pressure, share: f64) {
        self.all += share * (now.all - self.all);
        self.fixed += share * (now.fixed - self.fixed);
    }
}

/// What is watched from tick to tick.
#[derive(Debug)]
pub(crate) struct Roles {
    settings: RoleSettings,
    /// What requests are like, on average: prompt tokens and TTFT objective. None before the first one.
    typical: Option<(f64, f64)>,
    looked_at: Option<Time>,
    prefill: Pressure,
    decode: Pressure,
    starving: Option<(Role, Time)>,
    changed_at: Option<Time>,
}

/// An engine that is to change pools.
#[derive(Debug)]
pub(crate) struct RoleChange {
    pub(crate) engine: EngineId,
    pub(crate) to: Role,
    pub(crate) why: String,
}

/// A pool that is to get an engine of another one.
struct Growth {
    from: Role,
    to: Role,
    why: String,
}

impl Roles {
    pub(crate) fn new(settings: &RoleSettings) -> Roles {
        Roles {
            settings: settings.clone(),
            typical: None,
            looked_at: None,
            prefill: Pressure::default(),
            decode: Pressure::default(),
            starving: None,
            changed_at: None,
        }
    }

    /// Forgets what was watched: it says nothing of another arrangement.
    pub(crate) fn restart(&mut self) {
        *self = Roles::new(&self.settings);
    }

    /// A request arrived, whether or not it is let in.
    pub(crate) fn arrived(&mut self, request: &Request) {
        if !self.settings.enabled {
            return;
        }
        let (prompt, ttft) = (f64::from(request.prompt_tokens()), request.objectives.ttft_us_max.0.max(1) as f64);
        let (typical_prompt, typical_ttft) = self.typical.get_or_insert((prompt, ttft));
        *typical_prompt += LEARNING_RATE * (prompt - *typical_prompt);
        *typical_ttft += LEARNING_RATE * (ttft - *typical_ttft);
    }

    /// The engine that is to change pools now, because one starves: of those that the other pool has, the one with the least to do.
    pub(crate) fn tick(&mut self, now: Time, fleet: &FleetView<'_>) -> Option<RoleChange> {
        if !self.settings.enabled {
            return None;
        }
        let Growth { from, to, why } = self.pool_to_grow(now, fleet)?;
        let members = fleet.engines.iter().filter(|engine| engine.serves_pool(from));
        let engine = members.min_by(|a, b| fleet.work(a).total_cmp(&fleet.work(b)))?.id;
        (self.changed_at, self.starving) = (Some(now), None);
        Some(RoleChange { engine, to, why })
    }

    fn pool_to_grow(&mut self, now: Time, fleet: &FleetView<'_>) -> Option<Growth> {
        let ms = |ms: u64| Micros(ms.saturating_mul(1_000));
        let (prompt, ttft_max) = self.typical?;
        let members = |role| fleet.engines.iter().filter(|engine| engine.serves_pool(role)).count();
        let (prefills, decodes) = (members(Role::Prefill), members(Role::Decode));

        let since = now.since(self.looked_at.replace(now).unwrap_or(now));
        let share = 1.0 - (-(since.0 as f64) / ms(self.settings.smooth_ms).0.max(1) as f64).exp();
        self.prefill.approach(prefill_pressure(fleet, prompt, ttft_max), share);
        self.decode.approach(decode_pressure(fleet, ttft_max), share);

        let (prefill, decode) = (self.prefill, self.decode);
        let (to, giver, givers, takers) = if prefill.all >= decode.all {
            (Role::Prefill, decode, decodes, prefills)
        } else {
            (Role::Decode, prefill, prefills, decodes)
        };
        let taker = if to == Role::Prefill { prefill } else { decode };
        let before = taker.all;
        // A pool without an engine able to serve cannot be helped by arithmetic: the policies fall back to all engines.
        let possible = givers >= 2 && takers >= 1 && before >= STARVING;
        let left = giver.spread(givers, givers.saturating_sub(1));
        let after = taker.spread(takers, takers + 1).max(left);
        if !possible || left > COMFORTABLE || before - after < self.settings.margin * before {
            self.starving = None;
            return None;
        }
        let since = match self.starving {
            Some((role, since)) if role == to => since,
            _ => self.starving.insert((to, now)).1,
        };
        let cooled = self.changed_at.is_none_or(|at| now.since(at) >= ms(self.settings.cool_down_ms));
        if now.since(since) < ms(self.settings.hold_ms) || !cooled {
            return None;
        }
        let from = if to == Role::Prefill { Role::Decode } else { Role::Prefill };
        let why = format!(
            "the {} pool is at {before:.2} of its objectives, the {} pool at {:.2}; predicted after the change: {:.2} and {left:.2}",
            to.name(),
            from.name(),
            giver.all,
            taker.spread(takers, takers + 1),
        );
        Some(Growth { from, to, why })
    }
}

/// The mean over a pool's engines; none under pressure where there is no engine.
fn mean(fleet: &FleetView<'_>, role: Role, of: impl Fn(&EngineState) -> Pressure) -> Pressure {
    let (mut sum, mut count) = (Pressure::default(), 0.0);
    for pressure in fleet.engines.iter().filter(|engine| engine.serves_pool(role)).map(of) {
        if pressure.all.is_finite() && pressure.fixed.is_finite() {
            sum.all += pressure.all;
            sum.fixed += pressure.fixed;
            count += 1.0;
        }
    }
    if count == 0.0 { sum } else { Pressure { all: sum.all / count, fixed: sum.fixed / count } }
}

/// The predicted TTFT of one more request, as a share of its objective.
fn prefill_pressure(fleet: &FleetView<'_>, prompt_tokens: f64, ttft_max: f64) -> Pressure {
    mean(fleet, Role::Prefill, |engine| {
        let alone = fleet.costs.prefill(prompt_tokens, engine.chunk_of(prompt_tokens), 0.0);
        Pressure { all: fleet.ttft(engine, prompt_tokens) / ttft_max, fixed: alone / ttft_max }
    })
}

/// The step as a share of the ITL objective, the KV in use, or the prompts that wait there: whichever is worst.
fn decode_pressure(fleet: &FleetView<'_>, ttft_max: f64) -> Pressure {
    mean(fleet, Role::Decode, |engine| {
        let itl_max = engine.itl_objective().max(1.0);
        let step = fleet.costs.step(0.0, engine.demand.depth() as f64) / itl_max;
        let (kv, prompts) = (engine.kv_usage() / KV_FULL, engine.backlog() * fleet.costs.prefill_us / ttft_max);
        let wait = fleet.seat_wait(engine) / ttft_max;
        let fixed = if step >= kv.max(prompts).max(wait) { fleet.costs.step_us / itl_max } else { 0.0 };
        Pressure { all: step.max(kv).max(prompts).max(wait), fixed }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_engine_takes_its_part_of_the_work_and_nothing_of_what_each_request_costs_alone() {
        let pressure = Pressure { all: 1.5, fixed: 0.5 };
        assert_eq!(pressure.spread(1, 2), 1.0);
        assert_eq!(pressure.spread(2, 1), 2.5);
        assert_eq!(Pressure { all: 0.2, fixed: 0.5 }.spread(2, 1), 0.2, "the fixed part is never more than all of it");
    }
}
