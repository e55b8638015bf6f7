//! The legs on an engine, summed up.

use dualpool_types::Objectives;

/// A looser ITL objective counts as this one: an hour, which is none at all, and fits a sum over 2^32 legs.
const ITL_OBJECTIVE_US_MAX: u64 = 3_600_000_000;

/// What one leg adds to an engine's demand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LegDemand {
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
pub struct Demand {
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
    pub(super) itl_objectives_us: u64,
}

impl Demand {
    pub(crate) fn enter(&mut self, leg: &LegDemand) {
        self.count(leg, |sum, part| *sum += part);
    }

    pub(crate) fn leave(&mut self, leg: &LegDemand) {
        self.count(leg, |sum, part| *sum -= part);
    }

    /// One list of what a leg adds, so that leaving takes away exactly what entering added.
    fn count(&mut self, leg: &LegDemand, apply: impl Fn(&mut u64, u64)) {
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
