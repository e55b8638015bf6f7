//! What the router knows of each engine. The load is counted from the router's own events, so it is never stale: a leg counts from
//! the moment it is sent (the in-flight credit that keeps a herd from chasing an old report), and what an engine says of itself only
//! refines it.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use crate::core::{DeviceSignals, EngineId, EngineStats, Micros, Objectives, PREFILL_TOKENS_MIN, Role, Time, Tuning};

use super::signals::Busy;
use super::{Arrangement, CopyTable, CostModel, EngineSignals, Explanation, Signal, Terms};

/// A looser ITL objective counts as this one: an hour, which is none at all, and fits a sum over 2^32 legs.
const ITL_OBJECTIVE_US_MAX: u64 = 3_600_000_000;

/// A device's signals are used for this long. Older ones say what was, and count as none.
pub const DEVICE_SIGNALS_AGE_MAX: Micros = Micros(3_000_000);

/// From this share on, an engine's device counts as busy between engines that are equal in all else.
const DEVICE_BUSY_MIN: f32 = 0.5;

/// Microseconds of work that a KV cache filled to one half counts for. As the cache fills, the term grows without bound.
const KV_PRESSURE_US: f64 = 150_000.0;

/// A pace within this range is the cost model's error for that engine's mix of steps, and not another machine.
const PACE_MODEL_ERROR: std::ops::Range<f64> = 0.8..1.25;

/// An engine is taken to be at most so many times slower, or faster, than the fleet's model.
const PACE_MAX: f64 = 20.0;

/// What is fixed for an engine's life and matters to a decision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineFacts {
    /// Longest prompt + output, in tokens.
    pub max_model_len: u32,
    /// Tokens one step may process, as the engine was started.
    pub max_num_batched_tokens: u32,
    /// Legs one step may hold: the engine's seats. Further legs wait until others end.
    pub max_num_seqs: u32,
    /// Tokens whose KV fits into the engine.
    pub kv_tokens: u64,
    /// Whether the engine can hold and load KV blocks.
    pub kv_transfer: bool,
    /// Tokens per block of its prefix cache; 0 when it caches no prefixes.
    pub prefix_block_tokens: u32,
    /// What it costs to have the engine for an hour, in whatever currency all of them are priced in; none when nobody said.
    pub cost_per_hour: Option<f64>,
}

/// One leg's share of an engine's load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LegLoad {
    /// Prompt tokens the engine has yet to compute; 0 from the leg's first token on.
    pub prefill: u32,
    pub long: bool,
    /// Tokens whose KV the leg takes.
    pub context: u32,
    /// Output tokens yet to come.
    pub outputs: u32,
    pub started: bool,
    pub objectives: Objectives,
}

/// The legs that are on an engine, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Legs without a token yet, and those with one. Their sum is the queue depth.
    pub waiting: u64,
    pub running: u64,
    /// Of the waiting ones, those with a long prompt to compute.
    pub long_prefills: u64,
    /// Prompt tokens of the waiting ones; of them, those of long prompts.
    pub prompt_tokens: u64,
    pub long_prompt_tokens: u64,
    /// Tokens whose KV the legs take.
    pub context_tokens: u64,
    /// Output tokens yet to come.
    pub output_tokens: u64,
    itl_objectives_us: u64,
}

impl Load {
    pub(super) fn enter(&mut self, leg: &LegLoad) {
        self.count(leg, |sum, part| *sum += part);
    }

    pub(super) fn leave(&mut self, leg: &LegLoad) {
        self.count(leg, |sum, part| *sum -= part);
    }

    /// One list of what a leg adds, so that leaving takes away exactly what entering added.
    fn count(&mut self, leg: &LegLoad, apply: impl Fn(&mut u64, u64)) {
        let (waiting, long) = (u64::from(!leg.started), u64::from(!leg.started && leg.long));
        apply(&mut self.waiting, waiting);
        apply(&mut self.running, 1 - waiting);
        apply(&mut self.long_prefills, long);
        apply(&mut self.prompt_tokens, leg.prefill.into());
        apply(&mut self.long_prompt_tokens, long * u64::from(leg.prefill));
        apply(&mut self.context_tokens, leg.context.into());
        apply(&mut self.output_tokens, leg.outputs.into());
        apply(&mut self.itl_objectives_us, leg.objectives.itl_us_max.0.min(ITL_OBJECTIVE_US_MAX));
    }

    pub fn depth(&self) -> u64 {
        self.waiting + self.running
    }
}

/// An engine as the policies see it.
#[derive(Clone, Debug)]
pub struct EngineState {
    pub id: EngineId,
    pub facts: EngineFacts,
    pub role: Role,
    pub alive: bool,
    /// It could move KV, and lost its link to the mover.
    pub kv_lost: bool,
    /// It gets no new requests, and those it has are moved away.
    pub draining: bool,
    pub load: Load,
    pub signals: EngineSignals,
    pub(super) tuning: Tuning,
    /// Settings it is to have once the requests that decode on it are over, or at this time.
    pub(super) next_tuning: Option<(Time, Tuning)>,
    /// Prompt tokens the engine reported as computed for legs that have no token yet.
    progress: u64,
    /// Prompt tokens of legs that got their first token or left since the last report: the next one still counts their last chunks,
    /// and only then they come off the progress.
    settling: u64,
    /// Legs that got their first token since the last report: their tokens are no decodes.
    first_tokens: u32,
    report: Option<(Time, EngineStats)>,
    device: Option<(Time, DeviceSignals)>,
    /// The engine was idle when it reported, or since: what it said of its KV cache is past.
    stale: bool,
}

impl EngineState {
    pub(super) fn new(id: EngineId, facts: EngineFacts, signals: EngineSignals) -> EngineState {
        EngineState {
            id,
            facts,
            role: Role::Shared,
            alive: true,
            kv_lost: false,
            draining: false,
            load: Load::default(),
            signals,
            tuning: Tuning::default(),
            next_tuning: None,
            progress: 0,
            settling: 0,
            first_tokens: 0,
            report: None,
            device: None,
            stale: true,
        }
    }

    pub(super) fn arrange(&mut self, arrangement: &Arrangement) {
        self.role = arrangement.roles[self.id.index()];
        self.tune(arrangement.tunings[self.id.index()]);
        self.signals.forget();
    }

    pub(super) fn tune(&mut self, tuning: Tuning) {
        (self.tuning, self.next_tuning) = (tuning, None);
    }

    /// The settings it has, or is about to have.
    pub(super) fn settled_tuning(&self) -> Tuning {
        self.next_tuning.map_or(self.tuning, |(_, tuning)| tuning)
    }

    /// Whether these settings would make the steps longer in which requests decode here now.
    pub(super) fn is_disturbed_by(&self, tuning: Tuning) -> bool {
        let step = tuning.max_num_batched_tokens.unwrap_or(self.facts.max_num_batched_tokens);
        self.load.running > 0 && f64::from(step) > self.batched_tokens()
    }

    /// An engine like this one with nothing on it, in its place in another arrangement.
    pub(super) fn idle_twin(&self, arrangement: &Arrangement) -> EngineState {
        let mut twin = EngineState::new(self.id, self.facts, self.signals.clone());
        (twin.alive, twin.kv_lost, twin.draining) = (self.alive, self.kv_lost, self.draining);
        twin.arrange(arrangement);
        twin
    }

    /// The leg's prompt is computed: its tokens are no longer part of what the engine is in the middle of.
    pub(super) fn started(&mut self, prefill: u32) {
        self.first_tokens += 1;
        self.settle_progress(prefill);
    }

    /// A leg left the engine, with its share of the progress if it had not started.
    pub(super) fn left(&mut self, leg: &LegLoad) {
        self.load.leave(leg);
        if !leg.started {
            self.settle_progress(leg.prefill);
        }
        self.stale |= self.load.depth() == 0;
    }

    fn settle_progress(&mut self, prefill: u32) {
        (self.progress, self.settling) =
            if self.load.waiting == 0 { (0, 0) } else { (self.progress, self.settling + u64::from(prefill)) };
    }

    /// Takes the engine's own report. Returns what one whole step took, when the report lets one tell: the time, the prompt tokens
    /// and the decodes in it.
    pub(super) fn report(&mut self, at: Time, mut stats: EngineStats) -> Option<(Micros, f64, f64)> {
        stats.kv_usage = if stats.kv_usage.is_finite() { stats.kv_usage.clamp(0.0, 1.0) } else { 0.0 };
        self.stale = self.load.depth() == 0;
        let first_tokens = std::mem::take(&mut self.first_tokens);
        let (then, before) = self.report.replace((at, stats))?;
        let computed = stats.prompt_tokens_computed.saturating_sub(before.prompt_tokens_computed);
        if self.load.waiting > 0 {
            self.progress = (self.progress + computed).saturating_sub(self.settling).min(self.load.prompt_tokens);
        }
        self.settling = 0;
        // Only a step that began when the one before it ended lasted from one report to the next.
        let back_to_back = stats.steps == before.steps.wrapping_add(1) && before.running > 0;
        let outputs = stats.output_tokens.saturating_sub(before.output_tokens).saturating_sub(first_tokens.into());
        let span = at.since(then);
        if stats.steps < before.steps {
            // It counts from its start, so it started again.
            self.signals.restarted();
        } else if back_to_back || (before.running > 0 && stats.running > 0) {
            self.signals.worked(at, Busy { span, prompt_tokens: computed, output_tokens: outputs });
        }
        back_to_back.then_some((span, computed as f64, outputs as f64))
    }

    pub(super) fn died(&mut self) {
        self.alive = false;
        self.signals.restarted();
        self.draining = false;
        (self.progress, self.settling) = (0, 0);
        self.first_tokens = 0;
    }

    /// Whether requests may be sent to it.
    pub fn takes_work(&self) -> bool {
        self.alive && !self.draining
    }

    /// Whether one more leg, with so many tokens of prompt and output, finds a seat and memory here.
    pub(super) fn has_room(&self, tokens: u32) -> bool {
        let taken = self.load.context_tokens + self.load.output_tokens + u64::from(tokens);
        self.load.depth() < self.facts.max_num_seqs.into() && taken <= self.facts.kv_tokens
    }

    /// Whether a leg that comes with its KV may be sent here.
    pub fn takes_kv(&self) -> bool {
        self.takes_work() && self.moves_kv()
    }

    /// Whether KV can be moved from this engine and to it.
    pub fn moves_kv(&self) -> bool {
        self.alive && self.facts.kv_transfer && !self.kv_lost
    }

    pub fn stats(&self) -> Option<&EngineStats> {
        self.report.as_ref().map(|(_, stats)| stats)
    }

    pub(super) fn device_said(&mut self, at: Time, signals: DeviceSignals) {
        self.device = Some((at, signals));
    }

    /// What the engine's device said last, and when. None when it says nothing, or nothing that is recent enough to go by.
    pub fn device(&self, now: Time) -> Option<(Time, &DeviceSignals)> {
        let (at, signals) = self.device.as_ref()?;
        (now.since(*at) <= DEVICE_SIGNALS_AGE_MAX).then_some((*at, signals))
    }

    /// How little the engine's device can be counted on: 0 for one that is well, idle or unknown.
    fn device_trouble(&self, now: Time) -> u8 {
        let Some((_, signals)) = self.device(now) else { return 0 };
        let busy = signals.busy.is_some_and(|busy| busy >= DEVICE_BUSY_MIN);
        u8::from(busy) + 2 * u8::from(signals.slowed == Some(true))
    }

    pub(super) fn device_lost(&self, now: Time) -> bool {
        self.device(now).is_some_and(|(_, signals)| signals.lost)
    }

    /// Prompt tokens dispatched to the engine and not known to be computed.
    pub fn backlog(&self) -> f64 {
        self.load.prompt_tokens.saturating_sub(self.progress.saturating_sub(self.settling)) as f64
    }

    /// Tokens one step may process.
    pub fn batched_tokens(&self) -> f64 {
        f64::from(self.tuning.max_num_batched_tokens.unwrap_or(self.facts.max_num_batched_tokens))
    }

    /// Prompt tokens one step can take beside the decodes it has.
    pub fn chunk(&self) -> f64 {
        (self.batched_tokens() - self.load.running as f64).max(PREFILL_TOKENS_MIN.into())
    }

    /// Prompt tokens that one step can take of one prompt of this length.
    pub fn chunk_of(&self, prompt_tokens: f64) -> f64 {
        let threshold = match self.tuning.long_prefill_token_threshold {
            None | Some(0) => f64::INFINITY,
            Some(threshold) => f64::from(threshold),
        };
        prompt_tokens.min(threshold).min(self.chunk())
    }

    /// Predicted time from the end of a leg's copy to its next token, as the last of `running`: the step under way ends first, of
    /// which half is left on average, and its own follows.
    pub(super) fn joining(&self, costs: &CostModel, running: f64) -> f64 {
        1.5 * costs.step(self.backlog().min(self.chunk()), running)
    }

    /// Share of the KV cache that the legs in flight will take, 0 to 1. The engine's own report counts when it says more: it also
    /// sees blocks that are held for legs that are over.
    pub fn kv_usage(&self) -> f64 {
        let in_flight = (self.load.context_tokens + self.load.output_tokens) as f64 / self.facts.kv_tokens.max(1) as f64;
        let reported = match self.report {
            Some((_, stats)) if !self.stale => f64::from(stats.kv_usage),
            _ => 0.0,
        };
        in_flight.max(reported).min(1.0)
    }

    /// What the requests on this engine call a good ITL, in microseconds: their mean, which is exact where all ask for the same.
    pub fn itl_objective(&self) -> f64 {
        match self.load.depth() {
            0 => f64::INFINITY,
            depth => self.load.itl_objectives_us as f64 / depth as f64,
        }
    }
}

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
    /// Where to say what the decision is made of, when somebody wants to know.
    pub explaining: Option<&'a RefCell<Explanation>>,
}

impl<'a> FleetView<'a> {
    /// The engine that takes work with this role (or any, for none) that scores lowest; between equals the one whose device is in the least
    /// trouble, and of those the first one, counted from `start`. An engine that cannot be scored counts as worse than any that can,
    /// and one whose device is lost as worse still: it will die of it.
    pub fn least(&self, role: Option<Role>, start: usize, score: impl Fn(&EngineState) -> f64) -> Option<&'a EngineState> {
        self.least_where(|engine| role.is_none_or(|role| engine.role == role), start, score)
    }

    /// The next engine that takes work, counted from `start`, whatever its load and its device.
    pub fn in_turn(&self, start: usize) -> Option<&'a EngineState> {
        let (before, from) = self.engines.split_at(start % self.engines.len().max(1));
        let mut able = from.iter().chain(before).filter(|engine| engine.takes_work());
        if let Some(explanation) = self.explaining {
            let mut explanation = explanation.borrow_mut();
            able.clone().enumerate().for_each(|(turn, engine)| explanation.score(engine.id, turn as f64));
        }
        able.next()
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

    /// The same within a pool, and over the whole fleet once nobody in the pool is alive.
    pub fn least_of_pool(&self, role: Role, start: usize, score: impl Fn(&EngineState) -> f64) -> Option<&'a EngineState> {
        self.least(Some(role), start, &score).or_else(|| self.least(None, start, &score))
    }

    /// The same over the engines that can take KV from another one.
    pub fn least_taker(&self, role: Role, start: usize, score: impl Fn(&EngineState) -> f64) -> Option<&'a EngineState> {
        let of_pool = self.least_where(|engine| engine.role == role && engine.takes_kv(), start, &score);
        of_pool.or_else(|| self.least_where(EngineState::takes_kv, start, &score))
    }

    /// Whether there are two pools, with an engine alive in each.
    pub fn in_pools(&self) -> bool {
        let alive = |role| self.engines.iter().any(|engine| engine.takes_work() && engine.role == role);
        alive(Role::Prefill) && alive(Role::Decode)
    }

    /// The same view for a side question, which is no part of what is explained.
    pub fn aside(&self) -> FleetView<'a> {
        FleetView { explaining: None, ..*self }
    }

    /// Predicted time to copy the KV of so many tokens from one engine to another.
    pub fn copy(&self, from: EngineId, to: EngineId, tokens: f64) -> f64 {
        if from == to {
            return 0.0;
        }
        self.copies.copy(from, to, tokens).unwrap_or(self.costs.handoff_us_per_token * tokens)
    }

    /// Predicted time from the last output of the prefill leg to the decode leg being ready for a step.
    pub fn handoff(&self, from: EngineId, to: EngineId, tokens: f64) -> f64 {
        self.costs.handoff_us + self.copy(from, to, tokens)
    }

    /// Tokens of the prompt at hand that this engine need not compute.
    pub fn cached(&self, engine: EngineId) -> u32 {
        self.cached.get(engine.index()).copied().unwrap_or(0)
    }

    /// Tokens of a prompt that this engine would have to compute, or to load.
    pub fn uncached(&self, engine: EngineId, prompt_tokens: f64) -> f64 {
        (prompt_tokens - f64::from(self.cached(engine))).max(0.0)
    }

    /// How long the engine's steps are beside those of an engine that the cost model of the whole fleet fits.
    pub fn pace(&self, engine: &EngineState) -> f64 {
        let pace = engine.signals.get(Signal::Pace, self.now).unwrap_or(1.0);
        if PACE_MODEL_ERROR.contains(&pace) { 1.0 } else { pace.clamp(1.0 / PACE_MAX, PACE_MAX) }
    }

    /// How loaded the engine is: the time in which it would drain what it has, and more the fuller its KV cache is.
    pub fn load(&self, engine: &EngineState) -> f64 {
        let kv = engine.kv_usage().min(0.999);
        self.work(engine) + KV_PRESSURE_US * kv / (1.0 - kv)
    }

    pub fn is_long(&self, prompt_tokens: u32) -> bool {
        prompt_tokens >= self.long_prompt_tokens_min
    }

    /// Predicted time until a prompt sent to this engine now has its first token, with what its prefix cache holds of the prompt. Where long prompts have a chunk of their own, a
    /// short one is computed beside them; else it waits until all that came before it is done.
    pub fn ttft(&self, engine: &EngineState, prompt_tokens: f64) -> f64 {
        let running = engine.load.running as f64;
        let seat = self.seat_wait(engine);
        // The last token is computed whatever the cache holds: the first output comes of it.
        let prompt_tokens = self.uncached(engine.id, prompt_tokens).max(1.0);
        let queue = self.costs.prefill(engine.backlog() + prompt_tokens, engine.chunk(), running);
        let alone = self.costs.prefill(prompt_tokens, engine.chunk_of(prompt_tokens), running);
        let beside = engine.load.long_prefills as f64 * engine.chunk_of(f64::INFINITY);
        let room = engine.chunk() - beside;
        if beside == 0.0 || room < 1.0 || prompt_tokens >= self.long_prompt_tokens_min.into() {
            return seat + queue.max(alone);
        }
        let shorts = (engine.load.prompt_tokens - engine.load.long_prompt_tokens) as f64 + prompt_tokens;
        // The step that is under way ends first; on average half of it is left.
        let steps = (shorts / room).ceil() + 0.5;
        seat + (steps * self.costs.step(beside, running) + shorts * self.costs.prefill_us).min(queue.max(alone))
    }

    /// Predicted time until one more leg gets a seat; 0 while one is free. Legs are taken to end one after the other, spread over
    /// the time that their mean remaining output takes.
    pub fn seat_wait(&self, engine: &EngineState) -> f64 {
        let (depth, seats) = (engine.load.depth() as f64, f64::from(engine.facts.max_num_seqs.max(1)));
        let must_end = depth + 1.0 - seats;
        if must_end <= 0.0 {
            return 0.0;
        }
        let outputs = engine.load.output_tokens as f64 / depth;
        must_end / seats * outputs * self.costs.step(0.0, seats)
    }

    /// Predicted longest step while a prompt sent to this engine now is computed: the ITL of what decodes there.
    pub fn step_beside(&self, engine: &EngineState, prompt_tokens: f64) -> f64 {
        let chunk = engine.chunk_of(self.uncached(engine.id, prompt_tokens));
        let prompt = (engine.backlog() + chunk).min(engine.chunk());
        self.costs.step(prompt, engine.load.running as f64)
    }

    /// Predicted time in which the engine would drain all it has.
    pub fn work(&self, engine: &EngineState) -> f64 {
        let depth = (engine.load.depth() as f64).max(1.0);
        let outputs = engine.load.output_tokens as f64;
        engine.backlog() * self.costs.prefill_us + outputs * self.costs.decode_us + outputs / depth * self.costs.step_us
    }
}
