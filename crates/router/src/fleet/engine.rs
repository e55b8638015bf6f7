//! One engine: what is fixed about it, what it has to do, and what it and its device said last.

use serde::{Deserialize, Serialize};

use dualpool_types::{Arrangement, DeviceSignals, EngineId, EngineStats, Micros, PREFILL_TOKENS_MIN, Role, Time, Tuning};

use crate::costs::CostModel;

use super::demand::{Demand, LegDemand};
use super::signals::{Busy, EngineSignals};

/// A device's signals are used for this long. Older ones say what was, and count as none.
pub const DEVICE_SIGNALS_AGE_MAX: Micros = Micros(3_000_000);

/// From this share on, an engine's device counts as busy between engines that are equal in all else.
const DEVICE_BUSY_MIN: f32 = 0.5;

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
    /// Whether the engine can hold and fetch KV blocks.
    pub kv_transfer: bool,
    /// Tokens per block of its prefix cache; 0 when it caches no prefixes.
    pub prefix_block_tokens: u32,
    /// What it costs to have the engine for an hour, in whatever currency all of them are priced in; none when that is not known.
    pub cost_per_hour: Option<f64>,
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
    /// It gets no new requests, and those it has go on elsewhere.
    pub draining: bool,
    pub demand: Demand,
    pub signals: EngineSignals,
    pub(crate) tuning: Tuning,
    /// Settings it is to have once the requests that decode on it are over, or at this time.
    pub(crate) next_tuning: Option<(Time, Tuning)>,
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
    pub(crate) fn new(id: EngineId, facts: EngineFacts, signals: EngineSignals) -> EngineState {
        EngineState {
            id,
            facts,
            role: Role::Shared,
            alive: true,
            kv_lost: false,
            draining: false,
            demand: Demand::default(),
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

    pub(crate) fn arrange(&mut self, arrangement: &Arrangement) {
        self.role = arrangement.roles[self.id.index()];
        self.tune(arrangement.tunings[self.id.index()]);
        self.signals.forget();
    }

    pub(crate) fn tune(&mut self, tuning: Tuning) {
        (self.tuning, self.next_tuning) = (tuning, None);
    }

    /// The settings it has, or is about to have.
    pub(crate) fn settled_tuning(&self) -> Tuning {
        self.next_tuning.map_or(self.tuning, |(_, tuning)| tuning)
    }

    /// Whether these settings would make the steps longer in which requests decode here now.
    pub(crate) fn is_disturbed_by(&self, tuning: Tuning) -> bool {
        let step = tuning.max_num_batched_tokens.unwrap_or(self.facts.max_num_batched_tokens);
        self.demand.running > 0 && f64::from(step) > self.batched_tokens()
    }

    /// An engine like this one with nothing on it, in its place in another arrangement.
    pub(crate) fn idle_twin(&self, arrangement: &Arrangement) -> EngineState {
        let mut twin = EngineState::new(self.id, self.facts, self.signals.clone());
        (twin.alive, twin.kv_lost, twin.draining) = (self.alive, self.kv_lost, self.draining);
        twin.arrange(arrangement);
        twin
    }

    /// The leg's prompt is computed: its tokens are no longer part of what the engine is in the middle of.
    pub(crate) fn started(&mut self, prefill: u32) {
        self.first_tokens += 1;
        self.settle_progress(prefill);
    }

    /// A leg left the engine, with its share of the progress if it had not started.
    pub(crate) fn left(&mut self, leg: &LegDemand) {
        self.demand.leave(leg);
        if !leg.started {
            self.settle_progress(leg.prefill);
        }
        self.stale |= self.demand.depth() == 0;
    }

    fn settle_progress(&mut self, prefill: u32) {
        (self.progress, self.settling) =
            if self.demand.waiting == 0 { (0, 0) } else { (self.progress, self.settling + u64::from(prefill)) };
    }

    /// Takes the engine's own report. Returns what one whole step took, when the report lets one tell: the time, the prompt tokens
    /// and the decodes in it.
    pub(crate) fn report(&mut self, at: Time, mut stats: EngineStats) -> Option<(Micros, f64, f64)> {
        stats.kv_usage = if stats.kv_usage.is_finite() { stats.kv_usage.clamp(0.0, 1.0) } else { 0.0 };
        self.stale = self.demand.depth() == 0;
        let first_tokens = std::mem::take(&mut self.first_tokens);
        let (then, before) = self.report.replace((at, stats))?;
        let computed = stats.prompt_tokens_computed.saturating_sub(before.prompt_tokens_computed);
        if self.demand.waiting > 0 {
            self.progress = (self.progress + computed).saturating_sub(self.settling).min(self.demand.prompt_tokens);
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

    pub(crate) fn died(&mut self) {
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
    pub(crate) fn has_room(&self, tokens: u32) -> bool {
        let taken = self.demand.context_tokens + self.demand.output_tokens + u64::from(tokens);
        self.demand.depth() < self.facts.max_num_seqs.into() && taken <= self.facts.kv_tokens
    }

    /// Whether a leg that comes with its KV may be sent here.
    pub fn takes_kv(&self) -> bool {
        self.takes_work() && self.moves_kv()
    }

    /// Whether the engine is of use to this pool: it takes work, and its KV can move.
    pub(crate) fn serves_pool(&self, role: Role) -> bool {
        self.role == role && self.takes_kv()
    }

    /// Whether KV can be moved from this engine and to it.
    pub fn moves_kv(&self) -> bool {
        self.alive && self.facts.kv_transfer && !self.kv_lost
    }

    pub fn stats(&self) -> Option<&EngineStats> {
        self.report.as_ref().map(|(_, stats)| stats)
    }

    pub(crate) fn device_said(&mut self, at: Time, signals: DeviceSignals) {
        self.device = Some((at, signals));
    }

    /// What the engine's device said last, and when. None when it says nothing, or nothing that is recent enough to go by.
    pub fn device(&self, now: Time) -> Option<(Time, &DeviceSignals)> {
        let (at, signals) = self.device.as_ref()?;
        (now.since(*at) <= DEVICE_SIGNALS_AGE_MAX).then_some((*at, signals))
    }

    /// How little the engine's device can be counted on: 0 for one that is well, idle or unknown.
    pub(super) fn device_trouble(&self, now: Time) -> u8 {
        let Some((_, signals)) = self.device(now) else { return 0 };
        let busy = signals.busy.is_some_and(|busy| busy >= DEVICE_BUSY_MIN);
        u8::from(busy) + 2 * u8::from(signals.slowed == Some(true))
    }

    pub(crate) fn device_lost(&self, now: Time) -> bool {
        self.device(now).is_some_and(|(_, signals)| signals.lost)
    }

    /// Prompt tokens dispatched to the engine and not known to be computed.
    pub fn backlog(&self) -> f64 {
        self.demand.prompt_tokens.saturating_sub(self.progress.saturating_sub(self.settling)) as f64
    }

    /// Tokens one step may process.
    pub fn batched_tokens(&self) -> f64 {
        f64::from(self.tuning.max_num_batched_tokens.unwrap_or(self.facts.max_num_batched_tokens))
    }

    /// Prompt tokens one step can take beside the decodes it has.
    pub fn chunk(&self) -> f64 {
        (self.batched_tokens() - self.demand.running as f64).max(PREFILL_TOKENS_MIN.into())
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
    pub(crate) fn joining(&self, costs: &CostModel, running: f64) -> f64 {
        1.5 * costs.step(self.backlog().min(self.chunk()), running)
    }

    /// Share of the KV cache that the legs in flight will take, 0 to 1. The engine's own report counts when it says more: it also
    /// sees blocks that are held for legs that are over.
    pub fn kv_usage(&self) -> f64 {
        let in_flight = (self.demand.context_tokens + self.demand.output_tokens) as f64 / self.facts.kv_tokens.max(1) as f64;
        let reported = match self.report {
            Some((_, stats)) if !self.stale => f64::from(stats.kv_usage),
            _ => 0.0,
        };
        in_flight.max(reported).min(1.0)
    }

    /// What the requests on this engine call a good ITL, in microseconds: their mean, which is exact where all ask for the same.
    pub fn itl_objective(&self) -> f64 {
        match self.demand.depth() {
            0 => f64::INFINITY,
            depth => self.demand.itl_objectives_us as f64 / depth as f64,
        }
    }
}
