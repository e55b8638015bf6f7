//! Whether settings can work: what each section says of itself, and what sections demand of each other.

use dualpool_machine::DeviceKind;
use dualpool_types::settings::{Problem, Rule, Section, listed, require, values, written};
use thiserror::Error;

use super::Settings;

/// Settings that cannot work, each with its key, its value and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", listed(.0))]
pub struct SettingsError(Vec<Wrong>);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{key}` is {value}; allowed: {allowed}")]
struct Wrong {
    key: &'static str,
    value: String,
    allowed: String,
}

impl Settings {
    fn sections(&self) -> [&dyn Section; 10] {
        let Settings { engine, pools, router, kv, workload, objectives, run, dynamic_router, telemetry, virtual_engines } = self;
        [engine, pools, router, kv, workload, objectives, run, dynamic_router, telemetry, virtual_engines]
    }

    fn rules(&self) -> impl Iterator<Item = Rule> {
        self.sections().into_iter().flat_map(Section::rules)
    }

    /// What a setting allows beyond its type, in words; none where the type says it all.
    pub fn allowed(key: &str) -> Option<String> {
        Settings::default().rules().find(|rule| rule.key == key).map(|rule| rule.allowed.into_owned())
    }

    /// Refuses settings that cannot work on any device: for those that come from a program and not from a user.
    pub fn check(&self) -> Result<(), SettingsError> {
        let problems = self.problems(None);
        if problems.is_empty() {
            return Ok(());
        }
        let values = values(self);
        let wrong = |Problem { key, allowed }| Wrong { key, value: values.get(key).map(written).unwrap_or_default(), allowed };
        Err(SettingsError(problems.into_iter().map(wrong).collect()))
    }

    /// Everything that is wrong with these settings, on this kind of device where it is known.
    pub fn problems(&self, device: Option<DeviceKind>) -> Vec<Problem> {
        let broken: Vec<Problem> = self.rules().filter_map(|rule| rule.problem()).collect();
        // Relations between values that are themselves wrong would only repeat it.
        if !broken.is_empty() {
            return broken;
        }
        let within = self.sections().into_iter().flat_map(Section::relations);
        let lengths = self.workload.relations_with(self.engine.max_model_len);
        let placed = device.map(|device| self.relations_on(device)).unwrap_or_default();
        within.chain(lengths).chain(placed).collect()
    }

    /// What settings demand of each other on this kind of device.
    fn relations_on(&self, device: DeviceKind) -> Vec<Problem> {
        let (engines, prices) = (self.pools.engines(), self.router.cost_per_hour.len());
        let priced = require(
            prices == 0 || prices == engines,
            "router.cost_per_hour",
            format!("a cost for each of the {engines} engines of the pools, or none"),
        );
        let blocks = require(
            device != DeviceKind::Cpu || self.engine.block_size.is_multiple_of(32),
            "engine.block_size",
            "0 or a multiple of 32 on CPU",
        );
        let memory = self.pools.device_of_both().filter(|_| device == DeviceKind::Gpu).and_then(|gpu| {
            // Two engines on one GPU work if both fit; it is for trying things out, not for speed.
            require(
                self.engine.gpu_memory_utilization <= 0.5,
                "engine.gpu_memory_utilization",
                format!("at most 0.5 while GPU {gpu} is in pools.prefill_gpus and in pools.decode_gpus, so that both engines fit"),
            )
        });
        [priced, blocks, memory].into_iter().flatten().chain(self.pools.relations_on(device)).collect()
    }
}
