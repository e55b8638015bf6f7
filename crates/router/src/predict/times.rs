//! What is predicted of the engines in a view: by the cost model, from their demand and their pace.

use dualpool_types::EngineId;

use crate::fleet::{EngineState, FleetView, Signal};

/// Microseconds of work that a KV cache filled to one half counts for. As the cache fills, the term grows without bound.
const KV_PRESSURE_US: f64 = 150_000.0;

/// A pace within this range is the cost model's error for that engine's mix of steps, and not another machine.
const PACE_MODEL_ERROR: std::ops::Range<f64> = 0.8..1.25;

/// An engine is taken to be at most so many times slower, or faster, than the fleet's model.
const PACE_MAX: f64 = 20.0;

impl FleetView<'_> {
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

    /// How long the engine's steps are beside those of an engine that the cost model of the whole fleet fits.
    pub fn pace(&self, engine: &EngineState) -> f64 {
        let pace = engine.signals.get(Signal::Pace, self.now).unwrap_or(1.0);
        if PACE_MODEL_ERROR.contains(&pace) { 1.0 } else { pace.clamp(1.0 / PACE_MAX, PACE_MAX) }
    }

    /// What the engine has to bear: the time in which it would do all it has, and more the fuller its KV cache is.
    pub fn burden(&self, engine: &EngineState) -> f64 {
        let kv = engine.kv_usage().min(0.999);
        self.work(engine) + KV_PRESSURE_US * kv / (1.0 - kv)
    }

    /// Predicted time until a prompt sent to this engine now has its first token, with what its prefix cache holds of the prompt. Where
    /// long prompts have a chunk of their own, a short one is computed beside them; else it waits until all that came before it is done.
    pub fn ttft(&self, engine: &EngineState, prompt_tokens: f64) -> f64 {
        let running = engine.demand.running as f64;
        let seat = self.seat_wait(engine);
        // The last token is computed whatever the cache holds: the first output comes of it.
        let prompt_tokens = self.uncached(engine.id, prompt_tokens).max(1.0);
        let queue = self.costs.prefill(engine.backlog() + prompt_tokens, engine.chunk(), running);
        let alone = self.costs.prefill(prompt_tokens, engine.chunk_of(prompt_tokens), running);
        let beside = engine.demand.long_prefills as f64 * engine.chunk_of(f64::INFINITY);
        let room = engine.chunk() - beside;
        if beside == 0.0 || room < 1.0 || prompt_tokens >= self.long_prompt_tokens_min.into() {
            return seat + queue.max(alone);
        }
        let shorts = (engine.demand.prompt_tokens - engine.demand.long_prompt_tokens) as f64 + prompt_tokens;
        // The step that is under way ends first; on average half of it is left.
        let steps = (shorts / room).ceil() + 0.5;
        seat + (steps * self.costs.step(beside, running) + shorts * self.costs.prefill_us).min(queue.max(alone))
    }

    /// Predicted time until one more leg gets a seat; 0 while one is free. Legs are taken to end one after the other, spread over
    /// the time that their mean remaining output takes.
    pub fn seat_wait(&self, engine: &EngineState) -> f64 {
        let (depth, seats) = (engine.demand.depth() as f64, f64::from(engine.facts.max_num_seqs.max(1)));
        let must_end = depth + 1.0 - seats;
        if must_end <= 0.0 {
            return 0.0;
        }
        let outputs = engine.demand.output_tokens as f64 / depth;
        must_end / seats * outputs * self.costs.step(0.0, seats)
    }

    /// Predicted longest step while a prompt sent to this engine now is computed: the ITL of what decodes there.
    pub fn step_beside(&self, engine: &EngineState, prompt_tokens: f64) -> f64 {
        let chunk = engine.chunk_of(self.uncached(engine.id, prompt_tokens));
        let prompt = (engine.backlog() + chunk).min(engine.chunk());
        self.costs.step(prompt, engine.demand.running as f64)
    }

    /// Predicted time in which the engine would drain all it has.
    pub fn work(&self, engine: &EngineState) -> f64 {
        let depth = (engine.demand.depth() as f64).max(1.0);
        let outputs = engine.demand.output_tokens as f64;
        engine.backlog() * self.costs.prefill_us + outputs * self.costs.decode_us + outputs / depth * self.costs.step_us
    }
}
