//! `auto`: chooses among the other policies while it serves.
//!
//! Every `router.auto.period_ms` it takes the recent requests, and in the ticks that follow rehearses them under one candidate after
//! the other: a look per tick, so that no tick takes long. When all have been looked at, the best one is compared with the arrangement
//! that serves. Another one takes over when its forecast is better by a margin in several comparisons in a row, and not soon after the
//! last change: two arrangements that are about as good must not take turns.

mod candidates;
mod recent;
mod rehearsal;
mod script;

use dualpool_types::records::RouterNote;
use dualpool_types::{Arrangement, FinishReason, Micros, PolicyKind, Request, Time};

use super::{Action, Event, Router};
use crate::{AutoSettings, RouterSettings};
use candidates::{Sizes, candidates};
use recent::Recent;
use rehearsal::{Forecast, Part, Rehearsal, Stage};

/// Requests below which nothing is chosen: a forecast for a handful says nothing.
const REQUESTS_MIN: usize = 32;

/// What `auto` has seen, and where it stands in its comparison.
#[derive(Debug)]
pub(super) struct Auto {
    settings: AutoSettings,
    recent: Recent,
    /// What serves.
    current: Arrangement,
    /// Whether it has had a request to go by.
    begun: bool,
    changed_at: Time,
    /// Comparisons in a row that another arrangement won.
    wins: u32,
    round: Option<Round>,
    next_round: Time,
    parts: Vec<Part>,
    rehearsal: Rehearsal,
}

/// A comparison under way. All candidates are judged by the same requests.
#[derive(Debug)]
struct Round {
    candidates: Vec<Arrangement>,
    /// Candidates looked at so far.
    seen: usize,
    current: Forecast,
    best: Option<(usize, Forecast)>,
}

impl Auto {
    pub fn new(settings: &RouterSettings, arrangement: &Arrangement, now: Time) -> Auto {
        let settings = settings.auto.clone();
        let current = Arrangement { policy: PolicyKind::LeastLoad, ..arrangement.clone() };
        Auto {
            recent: Recent::new(Micros(settings.window_ms.saturating_mul(1_000))),
            current,
            begun: false,
            changed_at: now,
            wins: 0,
            round: None,
            next_round: now,
            parts: Vec::new(),
            rehearsal: Rehearsal::default(),
            settings,
        }
    }

    /// Looks at one more candidate; a comparison that this completes may give the arrangement to change to.
    fn tick(&mut self, now: Time, stage: Stage<'_>) -> Option<Change> {
        let Some(round) = &mut self.round else {
            if !self.begun && self.recent.iter().len() > 0 {
                return self.begin(now, stage);
            }
            if now >= self.next_round {
                self.begin_round(now, stage);
            }
            return None;
        };
        if let Some(candidate) = round.candidates.get(round.seen) {
            let forecast = self.rehearsal.play(stage, candidate, &self.parts);
            if round.best.is_none_or(|(_, best)| forecast.score > best.score) {
                round.best = Some((round.seen, forecast));
            }
            round.seen += 1;
            return None;
        }
        self.end_round(now)
    }

    /// The first choice, before there is anything to rehearse.
    fn begin(&mut self, now: Time, stage: Stage<'_>) -> Option<Change> {
        self.begun = true;
        let long_from = self.current.long_prompt_tokens_min;
        script::write(&mut self.parts, &self.recent, now, long_from);
        let sizes = Sizes::of(&self.parts, long_from, stage.costs)?;
        Some(self.change(now, candidates::first(stage.engines, sizes, long_from), None))
    }

    fn begin_round(&mut self, now: Time, stage: Stage<'_>) {
        self.next_round = now.plus(Micros(self.settings.period_ms.saturating_mul(1_000)));
        self.recent.forget_old(now);
        if self.recent.iter().len() < REQUESTS_MIN {
            return;
        }
        let long_from = self.current.long_prompt_tokens_min;
        script::write(&mut self.parts, &self.recent, now, long_from);
        let Some(sizes) = Sizes::of(&self.parts, long_from, stage.costs) else { return };
        let current = self.rehearsal.play(stage, &self.current, &self.parts);
        let candidates = candidates(stage.engines, sizes, long_from);
        self.round = Some(Round { candidates, seen: 0, current, best: None });
    }

    fn end_round(&mut self, now: Time) -> Option<Change> {
        let Round { mut candidates, current, best, .. } = self.round.take()?;
        let (place, best) = best?;
        let wins = best.score > current.score + self.settings.margin;
        self.wins = if wins { self.wins + 1 } else { 0 };
        let cooled = now.since(self.changed_at) >= Micros(self.settings.cool_down_ms.saturating_mul(1_000));
        if self.wins < self.settings.hold || !cooled {
            return None;
        }
        let forecasts = Some((current.share, best.share));
        Some(self.change(now, candidates.swap_remove(place), forecasts))
    }

    fn change(&mut self, now: Time, to: Arrangement, forecasts: Option<(f64, f64)>) -> Change {
        let from = std::mem::replace(&mut self.current, to.clone());
        (self.wins, self.changed_at) = (0, now);
        Change { from: from.name, to, forecasts, requests: self.recent.iter().len() as u32 }
    }
}

struct Change {
    from: String,
    to: Arrangement,
    /// Share within objectives, before and after.
    forecasts: Option<(f64, f64)>,
    requests: u32,
}

impl Router {
    /// Lets those that adapt see what comes in and what comes out, before it is handled.
    pub(super) fn observe_mix(&mut self, event: &Event<'_>) {
        if let Event::Arrived(request) = event
            && self.settings.roles.enabled
        {
            self.roles.arrived(request);
        }
        let (Router { auto: Some(auto), flights, .. }, Event::Output { leg, tokens, cached_tokens, finish }) = (self, event) else {
            return;
        };
        let Some(flight) = flights.get(&leg.request).filter(|flight| flight.stay.leg == *leg) else { return };
        if let Some(cached) = cached_tokens.filter(|_| leg.leg == 0) {
            auto.recent.cached(leg.request, cached);
        }
        let made = (flight.journey.tokens.len() + tokens.len()) as u32;
        let over = match finish {
            Some((FinishReason::Stop, _)) => true,
            Some((FinishReason::Length, _)) => made >= flight.journey.request.max_tokens,
            _ => false,
        };
        if over {
            auto.recent.answered(leg.request, made);
        }
    }

    /// A request was let in. Only such ones are rehearsed: whoever is turned away is no engine's work, whatever serves.
    pub(super) fn observe_admitted(&mut self, now: Time, request: &Request) {
        if let Some(auto) = &mut self.auto {
            auto.recent.arrived(now, request);
        }
    }

    /// Gives `auto` its turn.
    pub(super) fn choose(&mut self, now: Time, actions: &mut Vec<Action>) {
        let Router { auto: Some(auto), engines, costs, copies, settings, .. } = self else { return };
        let Some(change) = auto.tick(now, Stage { engines, costs, copies, settings }) else { return };
        let Change { from, to, forecasts, requests } = change;
        self.rearrange(&to, actions);
        let (forecast_from, forecast_to) = forecasts.unzip();
        actions.push(Action::Note(Box::new(RouterNote::Rearranged { from, to, forecast_from, forecast_to, requests })));
    }
}
