//! Scenarios: fleets that need not exist. A scenario says what engines there are and what they cost, how they are linked, by which
//! policy they serve, and what traffic they get. Its rates are assumptions that its author answers for; what comes of them is a
//! forecast.

mod builtin;
mod error;
mod tier;
mod traffic;

use std::path::Path;

use serde::{Deserialize, Serialize};

use dualpool_model::VirtualSettings;
use dualpool_router::CostModel;
use dualpool_types::{Arrangement, LONG_PROMPT_TOKENS_MIN, Micros, Objectives, PolicyKind, Role, Tuning};
use dualpool_workload::ModelLimits;

use super::Faults;
use error::require;

pub use builtin::NAMES;
pub use error::ScenarioError;
pub use tier::{Link, Tier, TierTiming};
pub use traffic::{LengthsSpec, PhaseSpec, TrafficSpec};

/// Engines of one scenario, at most: beyond it a name such as `99999P1D` is a slip of the finger.
const ENGINES_MAX: u32 = 1024;

/// Modelled engines draw tokens from so many; nothing depends on it.
const VOCAB_SIZE: u32 = 32_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What the user called it: a built-in's name, or a file.
    #[serde(skip)]
    pub name: String,
    /// What it shows, and what its rates are derived from.
    pub about: String,
    /// What `optimized` serves by, with the tiers' roles where the policy has pools.
    pub policy: PolicyKind,
    #[serde(default = "long_prompt_tokens_min")]
    pub long_prompt_tokens_min: u32,
    /// Of every engine where all are alike: the tiers' own tunings are for their roles.
    #[serde(default)]
    pub shared_tuning: Tuning,
    pub model: Model,
    pub tiers: Vec<Tier>,
    pub objectives: Slo,
    pub traffic: TrafficSpec,
    /// Settings of the router, as in `[router]` of a settings file.
    #[serde(default)]
    pub router: toml::Table,
    /// What goes wrong; by default nothing.
    #[serde(default)]
    pub faults: Faults,
}

fn long_prompt_tokens_min() -> u32 {
    LONG_PROMPT_TOKENS_MIN
}

/// The model that all engines serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub name: String,
    pub kv_bytes_per_token: u64,
    pub max_model_len: u32,
    /// Tokens per KV block.
    pub block_size: u32,
}

/// When a request counts as served well.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    pub ttft_ms: f64,
    /// Of the longest gap between two tokens.
    pub itl_ms: f64,
}

impl Slo {
    pub fn objectives(&self) -> Objectives {
        Objectives { ttft_us_max: Micros::from_ms(self.ttft_ms), itl_us_max: Micros::from_ms(self.itl_ms) }
    }
}

impl Scenario {
    /// A built-in scenario by its name, or the one in a file.
    pub fn open(name: &str) -> Result<Scenario, ScenarioError> {
        if let Some(built_in) = builtin::get(name) {
            return built_in;
        }
        let path = Path::new(name);
        match std::fs::read_to_string(path) {
            Ok(text) => Scenario::parse(name, &text),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound && path.extension().is_none() => {
                Err(ScenarioError::Unknown { name: name.to_string() })
            }
            Err(source) => Err(ScenarioError::Unreadable { path: path.to_path_buf(), source }),
        }
    }

    /// `name` is how messages call it.
    pub fn parse(name: &str, text: &str) -> Result<Scenario, ScenarioError> {
        let parsed: Scenario = toml::from_str(text).map_err(|error| ScenarioError::syntax(name, text, &error))?;
        let scenario = Scenario { name: name.to_string(), ..parsed };
        scenario.check()?;
        Ok(scenario)
    }

    /// Checks all that its own parts can tell; the workload's lengths are checked when its requests are made.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        require(self, "model.block_size", self.model.block_size, self.model.block_size > 0, "at least 1")?;
        let context = self.model.max_model_len;
        require(self, "model.max_model_len", context, context >= 2, "at least 2: a token of prompt and one of output")?;
        require(self, "objectives.ttft_ms", self.objectives.ttft_ms, positive(self.objectives.ttft_ms), "a number over 0")?;
        require(self, "objectives.itl_ms", self.objectives.itl_ms, positive(self.objectives.itl_ms), "a number over 0")?;
        require(self, "tiers", self.tiers.len(), !self.tiers.is_empty(), "at least one [[tiers]]")?;
        for (i, tier) in self.tiers.iter().enumerate() {
            tier.check(self)?;
            let unique = self.tiers[..i].iter().all(|other| other.name != tier.name);
            require(self, "tiers.name", &tier.name, unique, "a name of its own for each tier")?;
        }
        let engines = self.tiers.iter().map(|tier| u64::from(tier.count)).sum::<u64>();
        require(self, "tiers.count", engines, engines <= ENGINES_MAX.into(), format!("at most {ENGINES_MAX} engines together"))?;
        self.faults.check(engines as usize).map_err(|source| ScenarioError::Faults { scenario: self.name.clone(), source })?;
        let priced = !self.router.contains_key("cost_per_hour");
        require(self, "router.cost_per_hour", "given", priced, "left out: engines cost what their tiers say")?;
        self.traffic.check(self)?;
        self.optimized(self.policy.name(), self.policy).map(drop)
    }

    /// The tier of every engine, by `EngineId`: the tiers' engines follow each other in the order of the file.
    pub fn tier_of(&self) -> Vec<&Tier> {
        self.tiers.iter().flat_map(|tier| std::iter::repeat_n(tier, tier.count as usize)).collect()
    }

    /// Every engine as the simulation takes it. Engines that prefill decode `decode_cost_penalty` times as slowly as their tier says:
    /// those of every role but `decode`.
    pub fn engines(&self, arrangement: &Arrangement, decode_cost_penalty: f64) -> Vec<VirtualSettings> {
        let engine = |(tier, role): (&Tier, &Role)| {
            let penalty = if *role == Role::Decode { 1.0 } else { decode_cost_penalty };
            VirtualSettings {
                timing: tier.timing(self.model.kv_bytes_per_token, penalty),
                block_size: self.model.block_size,
                kv_blocks: tier.kv_blocks,
                max_model_len: self.model.max_model_len,
                max_num_batched_tokens: tier.max_num_batched_tokens,
                max_num_seqs: tier.max_num_seqs,
                vocab_size: VOCAB_SIZE,
                kv_bytes_per_token: self.model.kv_bytes_per_token,
                ..VirtualSettings::default()
            }
        };
        self.tier_of().into_iter().zip(&arrangement.roles).map(engine).collect()
    }

    /// All engines alike.
    pub fn baseline(&self, name: &str, policy: PolicyKind) -> Arrangement {
        let engines = self.tier_of().len();
        Arrangement::shared(name, policy, engines, self.shared_tuning).long_prompts_from(self.long_prompt_tokens_min)
    }

    /// The tiers' roles and tunings where the policy tells pools apart, all engines alike where it does not.
    pub fn optimized(&self, name: &str, policy: PolicyKind) -> Result<Arrangement, ScenarioError> {
        if !policy.needs_pools() {
            return Ok(self.baseline(name, policy));
        }
        let tiers = self.tier_of();
        let (roles, tunings) = tiers.iter().map(|tier| (tier.role, tier.tuning)).unzip();
        let long_prompt_tokens_min = self.long_prompt_tokens_min;
        let arrangement = Arrangement { name: name.to_string(), policy, roles, tunings, long_prompt_tokens_min };
        arrangement.validate(tiers.len()).map_err(|source| ScenarioError::Arrangement { scenario: self.name.clone(), source })?;
        Ok(arrangement)
    }

    /// What the router starts from, as if it had served this fleet before: the mean of the engines that prefill and of those that
    /// decode.
    pub fn costs(&self, arrangement: &Arrangement, engines: &[VirtualSettings]) -> CostModel {
        let mean = |idle: Role, cost: fn(&VirtualSettings) -> f64| {
            let at_work = engines.iter().zip(&arrangement.roles).filter(|(_, role)| **role != idle);
            let (sum, count) = at_work.fold((0.0, 0.0), |(sum, count), (engine, _)| (sum + cost(engine), count + 1.0));
            sum / f64::max(count, 1.0)
        };
        CostModel {
            prefill_us: mean(Role::Decode, |engine| engine.timing.prefill_us),
            step_us: mean(Role::Prefill, |engine| engine.timing.step_us + engine.timing.decode_step_us),
            decode_us: mean(Role::Prefill, |engine| engine.timing.decode_us),
            handoff_us: mean(Role::Prefill, |engine| engine.timing.copy_us),
            handoff_us_per_token: mean(Role::Prefill, |engine| engine.timing.copy_us_per_token),
        }
    }

    /// What an hour of the whole fleet costs; none where any tier leaves it open.
    pub fn cost_per_hour(&self) -> Option<f64> {
        self.tiers.iter().map(|tier| Some(tier.cost_per_hour? * f64::from(tier.count))).sum()
    }

    /// What an hour of each engine costs; empty where any tier leaves it open.
    pub fn costs_per_hour(&self) -> Vec<f64> {
        self.tier_of().iter().map(|tier| tier.cost_per_hour).collect::<Option<_>>().unwrap_or_default()
    }

    pub fn limits(&self) -> ModelLimits {
        ModelLimits { vocab_size: VOCAB_SIZE, max_model_len: self.model.max_model_len }
    }

    /// Its settings of the router: keys such as `router.explain`, and their values as text.
    pub fn router_settings(&self) -> Vec<(String, String)> {
        fn walk(prefix: &str, table: &toml::Table, out: &mut Vec<(String, String)>) {
            for (name, value) in table {
                let key = format!("{prefix}.{name}");
                match value {
                    toml::Value::Table(inner) => walk(&key, inner, out),
                    toml::Value::String(text) => out.push((key, text.clone())),
                    leaf => out.push((key, leaf.to_string())),
                }
            }
        }
        let mut out = Vec::new();
        walk("router", &self.router, &mut out);
        out
    }
}
