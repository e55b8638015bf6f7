//! What the router goes by.

use serde::{Deserialize, Serialize};

use dualpool_types::{EngineId, LONG_PROMPT_TOKENS_MIN, PolicyKind};

use super::{
    AdmissionSettings, AutoSettings, CacheAwareSettings, MigrationSettings, PrefixSettings, RoleSettings, ScoreSettings,
    SignalSettings,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouterSettings {
    /// Requests admitted and not yet over, at most; further ones wait (`admission.queue_max`) or are rejected.
    pub max_in_flight: u32,
    /// Prompts of at least this many tokens count as long (`--prefill-ctx-thresh`).
    pub prefill_ctx_thresh: u32,
    /// An admitted request whose engine dies is resumed on another one at most this many times.
    pub resumes_max: u32,
    /// How often the router looks at what is due with time.
    pub tick_ms: u64,
    pub admission: AdmissionSettings,
    /// What the router routes by where no arm of a benchmark says otherwise (`--policy`).
    pub policy: PolicyKind,
    /// What it believes of the engines' prefix caches.
    pub prefix: PrefixSettings,
    /// Seed of what policies draw at random.
    pub seed: u64,
    /// Note the terms of every candidate of every placement (`--explain`).
    pub explain: bool,
    /// What an hour of each engine costs, in the order of the pools' devices (prefill, then decode) and in any currency; empty = not
    /// known. Policy `score` weighs it by `score.cost`.
    pub cost_per_hour: Vec<f64>,
    pub signals: SignalSettings,
    pub score: ScoreSettings,
    pub cache_aware: CacheAwareSettings,
    pub migration: MigrationSettings,
    /// Engines that change pools (`router.roles.*`).
    pub roles: RoleSettings,
    /// The policy `auto` (`router.auto.*`).
    pub auto: AutoSettings,
}

impl Default for RouterSettings {
    fn default() -> Self {
        RouterSettings {
            max_in_flight: 1024,
            prefill_ctx_thresh: LONG_PROMPT_TOKENS_MIN,
            resumes_max: 3,
            tick_ms: 50,
            admission: AdmissionSettings::default(),
            policy: PolicyKind::CacheAware,
            prefix: PrefixSettings::default(),
            seed: 1,
            explain: false,
            cost_per_hour: Vec::new(),
            signals: SignalSettings::default(),
            score: ScoreSettings::default(),
            cache_aware: CacheAwareSettings::default(),
            migration: MigrationSettings::default(),
            roles: RoleSettings::default(),
            auto: AutoSettings::default(),
        }
    }
}

impl RouterSettings {
    /// What an hour of this engine costs; none when nobody said.
    pub fn cost_per_hour_of(&self, engine: EngineId) -> Option<f64> {
        self.cost_per_hour.get(engine.index()).copied()
    }
}
