//! `auto`: chooses among the other policies while it serves.
//!
//! Every `router.auto.period_ms` it takes the recent requests, and in the ticks that follow forecasts what candidate arrangements would do
//! with them: one per tick, so that no tick takes long. When all have been looked at, the best one is compared with the arrangement
//! that serves. Another one takes over when its forecast is better by a margin in several comparisons in a row, and not soon after the
//! last change: two arrangements that are about as good must not take turns.

mod candidates;
mod forecast;
mod recent;
mod requests;

use dualpool_types::{Arrangement, FinishReason, Micros, PolicyKind, Request, Time};

use crate::flight::Flight;
use crate::settings::{AutoSettings, RouterSettings};

use candidates::{Sizes, candidates};
pub(crate) use forecast::FleetModel;
use forecast::{Forecast, Forecaster};
use recent::Recent;
use requests::Expected;

/// Requests below which nothing is chosen: a forecast for a handful says nothing.
const REQUESTS_MIN: usize = 32;

/// What `auto` has seen, and where it stands in its comparison.
#[derive(Debug)]
pub(crate) struct Auto {
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
    requests: Vec<Expected>,
    forecaster: Forecaster,
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
    pub(crate) fn new(settings: &RouterSettings, arrangement: &Arrangement, now: Time) -> Auto {
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
            requests: Vec::new(),
            forecaster: Forecaster::default(),
            settings,
        }
    }

    /// A request was let in. Only such ones are forecast for: what is turned away is no engine's work, whatever serves.
    pub(crate) fn admitted(&mut self, now: Time, request: &Request) {
        self.recent.arrived(now, request);
    }

    /// The request's leg gave so many tokens, ended, or both.
    pub(crate) fn output(&mut self, flight: &Flight, tokens: usize, cached_tokens: Option<u32>, finish: Option<&FinishReason>) {
        let Flight { journey, stay, .. } = flight;
        let request = journey.request.id;
        if let Some(cached) = cached_tokens.filter(|_| stay.leg.leg == 0) {
            self.recent.cached(request, cached);
        }
        let made = (journey.tokens.len() + tokens) as u32;
        let over = match finish {
            Some(FinishReason::Stop) => true,
            Some(FinishReason::Length) => made >= journey.request.max_tokens,
            _ => false,
        };
        if over {
            self.recent.answered(request, made);
        }
    }

    /// Looks at one more candidate; a comparison that this completes may give the arrangement to change to.
    pub(crate) fn tick(&mut self, now: Time, model: FleetModel<'_>) -> Option<Change> {
        let Some(round) = &mut self.round else {
            if !self.begun && self.recent.iter().len() > 0 {
                return self.begin(now, model);
            }
            if now >= self.next_round {
                self.begin_round(now, model);
            }
            return None;
        };
        if let Some(candidate) = round.candidates.get(round.seen) {
            let forecast = self.forecaster.forecast(model, candidate, &self.requests);
            if round.best.is_none_or(|(_, best)| forecast.score > best.score) {
                round.best = Some((round.seen, forecast));
            }
            round.seen += 1;
            return None;
        }
        self.end_round(now)
    }

    /// The first choice, before there is anything to forecast from.
    fn begin(&mut self, now: Time, model: FleetModel<'_>) -> Option<Change> {
        self.begun = true;
        let long_from = self.current.long_prompt_tokens_min;
        requests::expect(&mut self.requests, &self.recent, now, long_from);
        let sizes = Sizes::of(&self.requests, long_from, model.costs)?;
        Some(self.change(now, candidates::first(model.engines, sizes, long_from), None))
    }

    fn begin_round(&mut self, now: Time, model: FleetModel<'_>) {
        self.next_round = now.plus(Micros(self.settings.period_ms.saturating_mul(1_000)));
        self.recent.forget_old(now);
        if self.recent.iter().len() < REQUESTS_MIN {
            return;
        }
        let long_from = self.current.long_prompt_tokens_min;
        requests::expect(&mut self.requests, &self.recent, now, long_from);
        let Some(sizes) = Sizes::of(&self.requests, long_from, model.costs) else { return };
        let current = self.forecaster.forecast(model, &self.current, &self.requests);
        let candidates = candidates(model.engines, sizes, long_from);
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

/// An arrangement to change to.
pub(crate) struct Change {
    pub(crate) from: String,
    pub(crate) to: Arrangement,
    /// Share within objectives, before and after.
    pub(crate) forecasts: Option<(f64, f64)>,
    pub(crate) requests: u32,
}
