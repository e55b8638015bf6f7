//! Admission: which requests start, which wait, and which are turned away at once because waiting would be in vain.
//!
//! - `queue`: a bounded queue, served by deadline, so that priorities count and the lowest does not starve.
//! - `window`: the prompt tokens under way, kept to what the engines can do in time. One for the whole fleet: the policy picks the engine
//!   after the request is let in and keeps the engines level, a request that waits for one engine would hold up those behind it that
//!   could go to another, and the signal is one share of the objectives whatever the engine.
//! - `pace`: how fast the queue moves.
//!
//! What a request that starts now can expect is predicted by `predict`, from the engines' demand and the decodes that admission has
//! seen begin and end.
//!
//! All of it is off by default: then a request starts when it arrives, and is rejected when `router.max_in_flight` are in flight.

mod pace;
mod queue;
mod window;

use dualpool_types::records::AdmissionState;
use dualpool_types::{EngineId, Micros, Objectives, Priority, RejectReason, Request, RequestId, Time};

use crate::costs::CostModel;
use crate::fleet::{EngineState, FleetView};
use crate::flight::{Admitted, Journey};
use crate::placement::Placement;
use crate::predict::{Decodes, Outlook, outlook};
use crate::settings::{EarlyRejection, RouterSettings, WindowKind};

use pace::Pace;
use queue::Queue;
pub(crate) use queue::Waiting;
use window::{Sample, Window};

/// A caller is never told to come back later than this, nor sooner than the other.
const RETRY_AFTER_MS: (u64, u64) = (10, 60_000);
/// Time between two notes.
const NOTE_PERIOD: Micros = Micros(1_000_000);
/// A window that changed by less than this share is not worth a note.
const NOTE_CHANGE_MIN: f64 = 0.1;

/// What admission knows and remembers. Bounded: `queue_max` requests per priority, and a number per 50 ms in which a decode that still
/// runs began.
pub(crate) struct Admission {
    max_in_flight: u32,
    queue: Queue,
    window: Option<Window>,
    decodes: Decodes,
    pace: Pace,
    reject: EarlyRejection,
    reject_over: [f64; 3],
    rejected: [u64; 3],
    noted: Option<(Time, AdmissionState)>,
}

/// What becomes of a request that arrives.
pub(crate) enum Verdict {
    Starts(Waiting),
    Waits,
    IsTurnedAway(Request, RejectReason),
}

impl Admission {
    pub(crate) fn new(settings: &RouterSettings, engines: usize) -> Admission {
        let RouterSettings { max_in_flight, admission: settings, .. } = settings;
        Admission {
            max_in_flight: *max_in_flight,
            queue: Queue::new(settings.queue_max, settings.patience_ms),
            window: (settings.window == WindowKind::Aimd).then(|| Window::new(settings)),
            decodes: Decodes::new(engines),
            pace: Pace::default(),
            reject: settings.reject,
            reject_over: settings.reject_over,
            rejected: [0; 3],
            noted: None,
        }
    }

    /// Requests that wait.
    pub(crate) fn queue_len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_queued(&self, request: RequestId) -> bool {
        self.queue.contains(request)
    }

    /// Whether it goes by what prefix caches are believed to hold of a request that arrives.
    pub(crate) fn wants_cached(&self) -> bool {
        self.window.is_some() || self.rejects_early()
    }

    /// Whether a request that would break its objectives is turned away.
    pub(crate) fn rejects_early(&self) -> bool {
        self.reject != EarlyRejection::Off
    }

    /// Lets a request in, makes it wait, or turns it away. Nothing but the moment speaks against it. `in_flight` requests are.
    pub(crate) fn arrived(&mut self, now: Time, journey: Journey, in_flight: usize, fleet: &FleetView<'_>) -> Verdict {
        let asks = self.asks(&journey.request, fleet);
        if self.queue.is_empty() && self.has_room(asks, in_flight, fleet) {
            return Verdict::Starts(Waiting { journey, asks, arrived: now });
        }
        if let Some(reason) = self.no_place_to_wait(now, &journey.request, in_flight, fleet) {
            return Verdict::IsTurnedAway(journey.request, reason);
        }
        if self.queue.is_empty() {
            self.pace.begins(now);
        }
        self.queue.push(Waiting { journey, asks, arrived: now });
        Verdict::Waits
    }

    /// The request that is next, as long as there is room. To be asked after anything that may have made some.
    pub(crate) fn next(&mut self, now: Time, in_flight: usize, fleet: &FleetView<'_>) -> Option<Waiting> {
        let first = self.queue.first()?;
        let (asks, prompt_tokens) = (first.asks, first.request().prompt_tokens());
        // What is next is not overtaken by what is smaller, or a long prompt would wait for ever.
        if !self.has_room(asks, in_flight, fleet) {
            return None;
        }
        let first = self.queue.pop()?;
        self.pace.moved(now, prompt_tokens);
        Some(first)
    }

    /// Why a request should not start with this placement, if its objectives would be broken.
    pub(crate) fn objection(
        &self,
        now: Time,
        waiting: &Waiting,
        placement: Placement,
        fleet: &FleetView<'_>,
    ) -> Option<RejectReason> {
        let Request { objectives, priority, .. } = *waiting.request();
        let outlook = outlook(fleet, &self.decodes, self.reject, placement, &waiting.journey.ask());
        self.objection_to(&outlook, now.since(waiting.arrived).0 as f64, objectives, priority)
    }

    /// Whether it goes by how long first tokens take, and so by what requests were let in with.
    pub(crate) fn watches_first_tokens(&self) -> bool {
        self.window.is_some()
    }

    /// The first token of a request came.
    pub(crate) fn first_token(&mut self, now: Time, admitted: Admitted, objectives: Objectives, costs: &CostModel) {
        let Some(window) = &mut self.window else { return };
        let Admitted { at: sent, prompt_tokens, in_flight } = admitted;
        let objective = objectives.ttft_us_max.0 as f64;
        // A prompt that takes longer than its objective all by itself says nothing of what else is under way.
        if costs.prefill_us * f64::from(prompt_tokens) >= objective {
            return;
        }
        let used_up = now.since(sent).0 as f64 / objective;
        window.observe(now, Sample { sent, prompt_tokens, in_flight, used_up });
    }

    /// A decode begins on this engine that lasts for so many microseconds if it runs to its last token.
    pub(crate) fn decode_began(&mut self, engine: EngineId, now: Time, at_most_us: f64) {
        self.decodes.began(engine, now, at_most_us);
    }

    /// A decode left its engine. `cut_off`: it would have gone on.
    pub(crate) fn decode_ended(&mut self, engine: EngineId, began: Time, now: Time, cut_off: bool) {
        self.decodes.ended(engine, began, now, cut_off);
    }

    /// A request is turned away; counted are those that are for want of room, or of time.
    pub(crate) fn turned_away(&mut self, priority: Priority, reason: &RejectReason) {
        let of_admission = reason.retry_after_ms().is_some() || matches!(reason, RejectReason::TooManyInFlight { .. });
        self.rejected[priority.index()] += u64::from(of_admission);
    }

    /// Forgets a request that waits. Returns whether it did.
    pub(crate) fn leaves(&mut self, request: RequestId) -> bool {
        self.queue.remove(request).is_some()
    }

    /// Takes the next one out of the queue, whether or not there is room.
    pub(crate) fn pop(&mut self) -> Option<RequestId> {
        self.queue.pop().map(|waiting| waiting.request().id)
    }

    /// Takes those out of the queue that can no longer be in time.
    pub(crate) fn late(&mut self, now: Time) -> Vec<(Request, RejectReason)> {
        if !self.rejects_early() {
            return Vec::new();
        }
        let late = |waiting: &Waiting| {
            let Request { id, objectives, priority, .. } = *waiting.request();
            let waited = now.since(waiting.arrived).0 as f64;
            Some((id, self.ttft_objection(waited, objectives, priority)?))
        };
        let late: Vec<(RequestId, RejectReason)> = self.queue.iter().filter_map(late).collect();
        let mut turned_away = Vec::with_capacity(late.len());
        for (id, reason) in late {
            let is_next = self.queue.first().is_some_and(|first| first.request().id == id);
            let Some(waiting) = self.queue.remove(id) else { continue };
            if is_next {
                self.pace.moved(now, waiting.request().prompt_tokens());
            }
            turned_away.push((waiting.journey.request, reason));
        }
        turned_away
    }

    /// How admission stands.
    pub(crate) fn state(&self, tokens_in_flight: u64) -> AdmissionState {
        AdmissionState {
            window_tokens: self.window.as_ref().map(Window::tokens),
            tokens_in_flight,
            queued: self.queue.lengths(),
            rejected: self.rejected,
        }
    }

    /// What is to be noted now, if anything.
    pub(crate) fn note(&mut self, now: Time, tokens_in_flight: u64) -> Option<AdmissionState> {
        let state = self.state(tokens_in_flight);
        let (at, last) = self.noted.get_or_insert_with(|| (now, AdmissionState { tokens_in_flight: 0, ..state.clone() }));
        let moved = |(now, then): (u64, u64)| now.abs_diff(then) as f64 > NOTE_CHANGE_MIN * then as f64;
        let changed = state.window_tokens.zip(last.window_tokens).is_some_and(moved)
            || state.rejected != last.rejected
            || (0..3).any(|i| (state.queued[i] == 0) != (last.queued[i] == 0));
        if !changed || now.since(*at) < NOTE_PERIOD {
            return None;
        }
        (*at, *last) = (now, state.clone());
        Some(state)
    }

    /// Prompt tokens that a request asks the window for: those that the engine with most of them in its cache would have to compute.
    fn asks(&self, request: &Request, fleet: &FleetView<'_>) -> u32 {
        let prompt_tokens = request.prompt_tokens();
        if self.window.is_none() {
            return prompt_tokens;
        }
        let able = fleet.engines.iter().filter(|engine| engine.takes_work());
        prompt_tokens - able.map(|engine| fleet.cached(engine.id)).max().unwrap_or(0)
    }

    /// Whether one more request may be under way, with so many prompt tokens to compute.
    fn has_room(&self, prompt_tokens: u32, in_flight: usize, fleet: &FleetView<'_>) -> bool {
        let window = self.window.as_ref();
        in_flight < self.max_in_flight as usize
            && window.is_none_or(|window| window.admits(fleet.prompt_tokens_in_flight(), prompt_tokens))
    }

    /// Why a request that cannot start now is not to wait either.
    fn no_place_to_wait(&self, now: Time, request: &Request, in_flight: usize, fleet: &FleetView<'_>) -> Option<RejectReason> {
        let Request { priority, objectives, .. } = *request;
        let prompt_tokens = request.prompt_tokens();
        let by_itself = fleet.costs.prefill_us / fleet.engines.iter().filter(|engine| engine.takes_work()).count().max(1) as f64;
        let us_per_token = self.pace.us_per_token().unwrap_or(by_itself);
        if !self.queue.has_room(priority) {
            let queued = self.queue.lengths()[priority.index()];
            let in_flight = in_flight as u32;
            if queued == 0 && in_flight >= self.max_in_flight {
                return Some(RejectReason::TooManyInFlight { in_flight });
            }
            // When half of them are gone: all that were turned away for one place would be back for it at once.
            let ahead = self.queue.tokens_before(now, priority) + u64::from(prompt_tokens);
            let retry_after_ms = retry_after(0.5 * ahead as f64 * us_per_token);
            return Some(RejectReason::QueueFull { priority, queued, retry_after_ms });
        }
        if !self.rejects_early() {
            return None;
        }
        let wait = self.queue.tokens_before(now, priority) as f64 * us_per_token;
        // Which engine it will be is open. This one is the least that it can expect; when its turn comes it is looked at again.
        let ttft = |engine: &EngineState| fleet.pace(engine) * fleet.ttft(engine, prompt_tokens.into());
        let soonest = fleet.least(None, 0, ttft)?;
        self.ttft_objection(wait + ttft(soonest), objectives, priority)
    }

    /// Why a request of this priority should not start, if its objectives would be broken. `waited` are the microseconds it has spent,
    /// or is to spend, before it starts.
    fn objection_to(&self, outlook: &Outlook, waited: f64, objectives: Objectives, priority: Priority) -> Option<RejectReason> {
        self.ttft_objection(waited + outlook.ttft, objectives, priority).or_else(|| {
            let (allowed, objective) = (self.allowed(objectives.itl_us_max, priority), objectives.itl_us_max);
            (outlook.itl > allowed).then(|| RejectReason::WouldMissItl {
                predicted_ms: ms(outlook.itl),
                allowed_ms: ms(allowed),
                objective_ms: objective.0 / 1_000,
                // The share of the decodes that must end, if ITL grows with their number.
                retry_after_ms: retry_after((1.0 - allowed / outlook.itl) * outlook.decode_lasts),
            })
        })
    }

    fn ttft_objection(&self, predicted: f64, objectives: Objectives, priority: Priority) -> Option<RejectReason> {
        let (allowed, objective) = (self.allowed(objectives.ttft_us_max, priority), objectives.ttft_us_max);
        (predicted > allowed).then(|| RejectReason::WouldMissTtft {
            predicted_ms: ms(predicted),
            allowed_ms: ms(allowed),
            objective_ms: objective.0 / 1_000,
            // What is queued is worked off in as much time as it takes.
            retry_after_ms: retry_after(predicted - allowed),
        })
    }

    fn allowed(&self, objective: Micros, priority: Priority) -> f64 {
        objective.0 as f64 * self.reject_over[priority.index()]
    }
}

fn ms(us: f64) -> u64 {
    // `as` saturates, so that a prediction of for ever is a large number.
    (us / 1e3).round() as u64
}

fn retry_after(us: f64) -> u64 {
    ms(us).clamp(RETRY_AFTER_MS.0, RETRY_AFTER_MS.1)
}
