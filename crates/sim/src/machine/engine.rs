//! A modelled engine, and what it has done.

use dualpool_model::{Scheduler, VirtualSettings};
use dualpool_router::EngineFacts;
use dualpool_types::{Micros, Time, Tuning};

use crate::EngineTotals;

/// The scheduler decides what it computes; here is what the simulation knows of it besides.
pub(super) struct Engine<'a> {
    pub settings: &'a VirtualSettings,
    pub scheduler: Scheduler,
    /// In a step.
    pub busy: bool,
    pub alive: bool,
    /// Has its link to the mover.
    pub linked: bool,
    /// The router's count of its legs, since when, and what it came to until then: legs times microseconds.
    depth: u64,
    depth_since: Time,
    depth_area: u128,
    pub totals: EngineTotals,
}

impl<'a> Engine<'a> {
    pub(super) fn new(settings: &'a VirtualSettings, tuning: Tuning) -> Engine<'a> {
        let mut scheduler = Scheduler::new(settings);
        scheduler.tune(tuning);
        Engine {
            settings,
            scheduler,
            busy: false,
            alive: true,
            linked: true,
            depth: 0,
            depth_since: Time(0),
            depth_area: 0,
            totals: EngineTotals::default(),
        }
    }

    /// Nothing is computed, waits or is held.
    pub(super) fn is_at_rest(&self) -> bool {
        !self.alive || (!self.busy && self.scheduler.is_idle())
    }

    /// Brings its queue up to date, with what the router counts now.
    pub(super) fn has_depth(&mut self, depth: u64, now: Time) {
        self.depth_area += u128::from(self.depth) * u128::from(now.since(self.depth_since).0);
        (self.depth, self.depth_since) = (depth, now);
        self.totals.queue_max = self.totals.queue_max.max(depth);
    }

    /// What it did in all, when all is over.
    pub(super) fn totals(&self, ended: Micros) -> EngineTotals {
        let stats = self.scheduler.stats();
        EngineTotals {
            steps: stats.steps,
            output_tokens: stats.output_tokens,
            prompt_tokens_computed: stats.prompt_tokens_computed,
            prompt_tokens_cached: stats.prefix_hits,
            evictions: self.scheduler.evictions(),
            queue_mean: self.depth_area as f64 / ended.0.max(1) as f64,
            ..self.totals
        }
    }
}

/// What the router is told of such an engine.
pub(super) fn facts(settings: &VirtualSettings, cost_per_hour: Option<f64>) -> EngineFacts {
    EngineFacts {
        max_model_len: settings.max_model_len,
        max_num_batched_tokens: settings.max_num_batched_tokens,
        max_num_seqs: settings.max_num_seqs,
        kv_tokens: u64::from(settings.kv_blocks) * u64::from(settings.block_size),
        kv_transfer: true,
        prefix_block_tokens: if settings.prefix_cache { settings.block_size } else { 0 },
        cost_per_hour,
    }
}
