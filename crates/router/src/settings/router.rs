//! What the router goes by.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::settings::{Rule, Section, count, is_not_negative, rule};
use dualpool_types::{EngineId, LONG_PROMPT_TOKENS_MIN, PolicyKind};

use super::{
    AdmissionSettings, AutoSettings, CacheAwareSettings, MigrationSettings, PrefixSettings, RoleSettings, ScoreSettings,
    SignalSettings,
};

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouterSettings {
    /// Requests that may be admitted and not yet over. An aborted leg counts until its engine has ended it. Further requests wait
    /// if `router.admission.queue_max` allows it and are rejected otherwise.
    pub max_in_flight: u32,
    /// Prompts of at least this many tokens count as long, for policies that treat long and short prompts differently and for the
    /// class in the records of traces and conversations. With a prefix index, a policy may count only the tokens that are not
    /// cached.
    pub prefill_ctx_thresh: u32,
    /// How often an admitted request is resumed on another engine after its engine died. One death more ends it with an error.
    pub resumes_max: u32,
    /// Milliseconds between two looks at what depends on time and not on an event: waiting requests, live migrations, tunings that
    /// wait for an engine to fall idle, pool changes, and one candidate of the policy `auto`.
    pub tick_ms: u64,
    pub admission: AdmissionSettings,
    /// Policy that routes requests where no benchmark arm names one: in `dualpool run dynamic_router` the arm `dynamic_router`. It
    /// must need no pools. docs/routing.md describes the policies.
    #[schemars(with = "String")]
    pub policy: PolicyKind,
    pub prefix: PrefixSettings,
    /// Seed of the random choices of policies (`power_of_two`, and `score` at a temperature). The same events and seed give the
    /// same decisions.
    pub seed: u64,
    /// Write a note to `decisions.jsonl` for each placement, with every candidate engine and the terms it was ranked by. `dualpool
    /// explain` reads them.
    pub explain: bool,
    /// Cost of one hour of each engine, in any currency: a list in the order of the engines (devices of the prefill pool first,
    /// then of the decode pool). Empty = not known. The policy `score` weighs it by `router.score.cost`. Simulations take their
    /// scenario's costs instead.
    pub cost_per_hour: Vec<f64>,
    pub signals: SignalSettings,
    pub score: ScoreSettings,
    pub cache_aware: CacheAwareSettings,
    pub migration: MigrationSettings,
    pub roles: RoleSettings,
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
    /// What an hour of this engine costs; none where the settings do not say it.
    pub fn cost_per_hour_of(&self, engine: EngineId) -> Option<f64> {
        self.cost_per_hour.get(engine.index()).copied()
    }
}

impl Section for RouterSettings {
    fn rules(&self) -> Vec<Rule> {
        let own = vec![
            count("router.max_in_flight", self.max_in_flight),
            count("router.prefill_ctx_thresh", self.prefill_ctx_thresh),
            count("router.tick_ms", self.tick_ms),
            rule("router.policy", "the name of a policy that needs no pools, such as `least_load`", !self.policy.needs_pools()),
            rule(
                "router.cost_per_hour",
                "a list of numbers of at least 0, one per engine; empty = not known",
                self.cost_per_hour.iter().all(|&cost| is_not_negative(cost)),
            ),
        ];
        let parts: [&dyn Section; 8] = [
            &self.admission,
            &self.prefix,
            &self.signals,
            &self.score,
            &self.cache_aware,
            &self.migration,
            &self.roles,
            &self.auto,
        ];
        own.into_iter().chain(parts.into_iter().flat_map(Section::rules)).collect()
    }
}
