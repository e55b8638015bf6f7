//! The gate itself: everything that arrives comes through here, and whatever frees capacity opens it for the next in the queue.

use dualpool_types::records::{AdmissionState, RouterNote};
use dualpool_types::{Objectives, Phase, RejectReason, Request, RequestError, RequestId, Time};

use super::{Admitted, Sample, Waiting, retry_after};
use crate::flight::Journey;
use crate::policy::Placement;
use crate::{Action, EarlyRejection, EngineState, Router, locality};

impl Router {
    /// How admission stands.
    pub fn admission(&self) -> AdmissionState {
        self.admission.state(self.tokens_in_flight())
    }

    /// Lets a request in, makes it wait, or turns it away. Nothing but the moment speaks against it.
    pub(crate) fn admit(&mut self, now: Time, request: Request, actions: &mut Vec<Action>) {
        let mut journey = Journey::new(request);
        let asks = self.asks(&mut journey);
        if self.admission.queue.is_empty() && self.has_room(asks) {
            return self.begin(now, Waiting { journey, asks, arrived: now }, actions);
        }
        if let Some(reason) = self.no_place_to_wait(now, &mut journey) {
            return self.turn_away(&journey.request, reason, actions);
        }
        if self.admission.queue.is_empty() {
            self.admission.pace.begins(now);
        }
        self.admission.queue.push(Waiting { journey, asks, arrived: now });
    }

    /// Lets in whoever is next, as long as there is room. To be called after whatever may have made some.
    pub(crate) fn open_gate(&mut self, now: Time, actions: &mut Vec<Action>) {
        while let Some(first) = self.admission.queue.first() {
            let (asks, prompt_tokens) = (first.asks, first.request().prompt_tokens());
            if !self.has_room(asks) {
                // Who is next is not overtaken by who is smaller, or a long prompt would wait for ever.
                return;
            }
            let Some(first) = self.admission.queue.pop() else { return };
            self.admission.pace.moved(now, prompt_tokens);
            self.begin(now, first, actions);
        }
    }

    /// Who can no longer be in time is told so, and a note is left of what has changed.
    pub(crate) fn mind_gate(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.admission.reject != EarlyRejection::Off {
            let late = |waiting: &Waiting| {
                let Request { id, objectives, priority, .. } = *waiting.request();
                let waited = now.since(waiting.arrived).0 as f64;
                Some((id, self.admission.ttft_objection(waited, objectives, priority)?))
            };
            let late: Vec<(RequestId, RejectReason)> = self.admission.queue.iter().filter_map(late).collect();
            for (id, reason) in late {
                let is_next = self.admission.queue.first().is_some_and(|first| first.request().id == id);
                let Some(waiting) = self.admission.queue.remove(id) else { continue };
                if is_next {
                    self.admission.pace.moved(now, waiting.request().prompt_tokens());
                }
                self.turn_away(waiting.request(), reason, actions);
            }
        }
        let in_flight = self.tokens_in_flight();
        actions.extend(self.admission.note(now, in_flight).map(|state| Action::Note(Box::new(RouterNote::Admission(state)))));
    }

    /// A request that waits ends with this error. Returns whether it did wait.
    pub(crate) fn leaves_queue(
        &mut self,
        request: RequestId,
        error: impl FnOnce(Phase) -> RequestError,
        actions: &mut Vec<Action>,
    ) -> bool {
        let waited = self.admission.queue.remove(request).is_some();
        if waited {
            actions.push(Action::Finish { request, result: Err(error(Phase::Admission)) });
        }
        waited
    }

    /// Everybody who waits ends with this error.
    pub(crate) fn clear_queue(&mut self, error: impl Fn(Phase) -> RequestError, actions: &mut Vec<Action>) {
        while let Some(waiting) = self.admission.queue.pop() {
            actions.push(Action::Finish { request: waiting.request().id, result: Err(error(Phase::Admission)) });
        }
    }

    pub(crate) fn is_queued(&self, request: RequestId) -> bool {
        self.admission.queue.contains(request)
    }

    /// The first token of a request came.
    pub(crate) fn first_token(&mut self, now: Time, admitted: Admitted, objectives: Objectives) {
        let Some(window) = &mut self.admission.window else { return };
        let Admitted { at: sent, prompt_tokens, in_flight } = admitted;
        let objective = objectives.ttft_us_max.0 as f64;
        // A prompt that takes longer than its objective all by itself says nothing of what else is under way.
        if self.costs.prefill_us * f64::from(prompt_tokens) >= objective {
            return;
        }
        let used_up = now.since(sent).0 as f64 / objective;
        window.observe(now, Sample { sent, prompt_tokens, in_flight, used_up });
    }

    fn begin(&mut self, now: Time, waiting: Waiting, actions: &mut Vec<Action>) {
        let Waiting { mut journey, arrived, .. } = waiting;
        let Some(plan) = self.plan(&mut journey) else {
            // Every policy falls back to any engine alive, so none is.
            return self.turn_away(&journey.request, RejectReason::NoEngine, actions);
        };
        let ask = journey.ask();
        if self.admission.reject != EarlyRejection::Off {
            let (waited, priority) = (now.since(arrived).0 as f64, journey.request.priority);
            self.look_up(&mut journey);
            let objection = self.judging(|fleet, admission| {
                let forecast = super::forecast::forecast(fleet, &admission.decodes, admission.reject, plan, &ask);
                admission.objection(&forecast, waited, ask.objectives, priority)
            });
            if let Some(reason) = objection {
                return self.turn_away(&journey.request, reason, actions);
            }
        }
        if self.admission.window.is_some() {
            let (Placement::Whole(engine) | Placement::Split(engine)) = plan;
            let prompt_tokens = ask.prompt_tokens - locality::cached_on(self.prefix.as_ref(), engine, &mut journey);
            let in_flight = self.tokens_in_flight() + u64::from(prompt_tokens);
            journey.admitted = Some(Admitted { at: now, prompt_tokens, in_flight });
        }
        self.observe_admitted(now, &journey.request);
        self.start(now, journey, plan, actions);
    }

    fn turn_away(&mut self, request: &Request, reason: RejectReason, actions: &mut Vec<Action>) {
        let of_admission = reason.retry_after_ms().is_some() || matches!(reason, RejectReason::TooManyInFlight { .. });
        self.admission.rejected[request.priority.index()] += u64::from(of_admission);
        actions.push(Action::Finish { request: request.id, result: Err(RequestError::Rejected { reason }) });
    }

    /// Prompt tokens that a request asks the window for: those that the engine with most of them in its cache would have to compute.
    fn asks(&mut self, journey: &mut Journey) -> u32 {
        let prompt_tokens = journey.request.prompt_tokens();
        if self.admission.window.is_none() {
            return prompt_tokens;
        }
        self.look_up(journey);
        self.judging(|fleet, _| {
            let able = fleet.engines.iter().filter(|engine| engine.takes_work());
            prompt_tokens - able.map(|engine| fleet.cached(engine.id)).max().unwrap_or(0)
        })
    }

    /// Whether one more request may be under way, with so many prompt tokens to compute.
    fn has_room(&self, prompt_tokens: u32) -> bool {
        let window = self.admission.window.as_ref();
        self.admitted() < self.settings.max_in_flight as usize
            && window.is_none_or(|window| window.admits(self.tokens_in_flight(), prompt_tokens))
    }

    /// Why a request that cannot start now is not to wait either.
    fn no_place_to_wait(&mut self, now: Time, journey: &mut Journey) -> Option<RejectReason> {
        let Request { priority, objectives, .. } = journey.request;
        let prompt_tokens = journey.request.prompt_tokens();
        let by_itself = self.costs.prefill_us / self.engines.iter().filter(|engine| engine.takes_work()).count().max(1) as f64;
        let us_per_token = self.admission.pace.us_per_token().unwrap_or(by_itself);
        if !self.admission.queue.has_room(priority) {
            let queued = self.admission.queue.lengths()[priority.index()];
            let in_flight = self.admitted() as u32;
            if queued == 0 && in_flight >= self.settings.max_in_flight {
                return Some(RejectReason::TooManyInFlight { in_flight });
            }
            // When half of them are gone: all who were turned away for one place would be back for it at once.
            let ahead = self.admission.queue.tokens_before(now, priority) + u64::from(prompt_tokens);
            let retry_after_ms = retry_after(0.5 * ahead as f64 * us_per_token);
            return Some(RejectReason::QueueFull { priority, queued, retry_after_ms });
        }
        if self.admission.reject == EarlyRejection::Off {
            return None;
        }
        let wait = self.admission.queue.tokens_before(now, priority) as f64 * us_per_token;
        self.look_up(journey);
        self.judging(|fleet, admission| {
            // Which engine it will be is open. This one is the least that it can expect; when its turn comes it is looked at again.
            let ttft = |engine: &EngineState| fleet.pace(engine) * fleet.ttft(engine, prompt_tokens.into());
            let soonest = fleet.least(None, 0, ttft)?;
            admission.ttft_objection(wait + ttft(soonest), objectives, priority)
        })
    }

    /// Prompt tokens dispatched whose request has no token from there yet.
    fn tokens_in_flight(&self) -> u64 {
        self.engines.iter().map(|engine| engine.demand.prompt_tokens).sum()
    }
}
