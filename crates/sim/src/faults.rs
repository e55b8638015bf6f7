//! What goes wrong in a simulation, each kind by name. All of it is drawn from the simulation's seed, a stream per kind, so that adding
//! one fault does not change when another strikes.

use rand::Rng as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use dualpool_types::{EngineId, Micros, Rng, Time, seeded};

/// Nothing goes wrong by default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    pub engine_death: EngineDeath,
    /// Links that are slow for a time.
    pub slow_link: Vec<SlowLink>,
    /// Engines whose link to the mover breaks for good.
    pub cut_link: Vec<CutLink>,
    pub stale_telemetry: StaleTelemetry,
    /// What engines give reaches the router this much later, in order.
    pub late_outputs_ms: u64,
    pub lost_messages: LostMessages,
    /// Share of KV copies that fail.
    pub failed_copies: f64,
    pub clients_leave: ClientsLeave,
    /// How long an engine keeps blocks that are neither fetched nor released. The lease is no fault itself: it makes up for some of them.
    pub lease_ms: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Faults {
            engine_death: EngineDeath::default(),
            slow_link: Vec::new(),
            cut_link: Vec::new(),
            stale_telemetry: StaleTelemetry::default(),
            late_outputs_ms: 0,
            lost_messages: LostMessages::default(),
            failed_copies: 0.0,
            clients_leave: ClientsLeave::default(),
            lease_ms: 30_000,
        }
    }
}

/// Engines die with all they hold, and stay dead.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineDeath {
    pub at: Vec<DeathAt>,
    /// Deaths of one engine per hour, at random.
    pub per_hour: f64,
    /// How long the router does not know.
    pub noticed_after_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeathAt {
    pub engine: EngineId,
    pub at_ms: u64,
}

/// Copies from and to an engine take longer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlowLink {
    pub engine: EngineId,
    pub from_ms: u64,
    pub to_ms: u64,
    /// So many times as long.
    pub factor: f64,
}

/// From then on no KV moves from the engine or to it, and it lets go of all it holds. It goes on serving.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutLink {
    pub engine: EngineId,
    pub at_ms: u64,
}

/// What engines report of themselves is old, or does not come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StaleTelemetry {
    pub late_ms: u64,
    /// Share of reports that never come.
    pub dropped: f64,
}

/// Words between the router and the mover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LostMessages {
    /// Share of releases that never reach the engine; its lease frees the blocks.
    pub releases: f64,
    /// Share of the mover's words (a copy is done, blocks are held) that never reach the router.
    pub moves: f64,
    /// The mover's words are late by up to this much.
    pub late_ms: u64,
}

/// Clients cancel their requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientsLeave {
    /// Share of requests.
    pub share: f64,
    /// They leave within this time of arriving.
    pub within_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Error)]
pub enum FaultError {
    #[error("faults.{key} is {value}; it must be {allowed}")]
    Value { key: &'static str, value: f64, allowed: &'static str },
    #[error("faults.{key} names {engine}, but the fleet ends at engine-{last}; name engines of the fleet")]
    UnknownEngine { key: &'static str, engine: EngineId, last: usize },
}

impl Faults {
    /// Refuses what cannot happen to a fleet of this size.
    pub fn check(&self, engines: usize) -> Result<(), FaultError> {
        let shares = [
            ("stale_telemetry.dropped", self.stale_telemetry.dropped),
            ("lost_messages.releases", self.lost_messages.releases),
            ("lost_messages.moves", self.lost_messages.moves),
            ("failed_copies", self.failed_copies),
            ("clients_leave.share", self.clients_leave.share),
        ];
        let require =
            |holds: bool, key, value, allowed| if holds { Ok(()) } else { Err(FaultError::Value { key, value, allowed }) };
        for (key, value) in shares {
            require((0.0..=1.0).contains(&value), key, value, "a share from 0 to 1")?;
        }
        let rate = self.engine_death.per_hour;
        require(rate >= 0.0 && rate.is_finite(), "engine_death.per_hour", rate, "a number of at least 0")?;
        for link in &self.slow_link {
            let sound = link.factor >= 1.0 && link.factor.is_finite();
            require(sound, "slow_link.factor", link.factor, "a number of at least 1")?;
        }
        let deaths = self.engine_death.at.iter().map(|death| ("engine_death.at", death.engine));
        let cuts = self.cut_link.iter().map(|link| ("cut_link", link.engine));
        let named = deaths.chain(cuts).chain(self.slow_link.iter().map(|link| ("slow_link", link.engine)));
        match named.into_iter().find(|(_, engine)| engine.index() >= engines) {
            Some((key, engine)) => Err(FaultError::UnknownEngine { key, engine, last: engines.saturating_sub(1) }),
            None => Ok(()),
        }
    }
}

impl Faults {
    /// How many times as long a copy takes that starts now.
    pub(super) fn slowdown(&self, now: Time, from: EngineId, to: EngineId) -> f64 {
        let during = |link: &&SlowLink| (link.from_ms * 1_000..link.to_ms * 1_000).contains(&now.0);
        let links = self.slow_link.iter().filter(|link| link.engine == from || link.engine == to);
        links.filter(during).map(|link| link.factor).product()
    }
}

/// Draws what goes wrong and when.
pub(super) struct Mishaps<'a> {
    faults: &'a Faults,
    deaths: Rng,
    telemetry: Rng,
    messages: Rng,
    copies: Rng,
    clients: Rng,
}

impl<'a> Mishaps<'a> {
    pub(crate) fn new(faults: &'a Faults, seed: u64) -> Mishaps<'a> {
        let rng = |of: &str| seeded(seed, &format!("fault: {of}"));
        Mishaps {
            faults,
            deaths: rng("engine_death"),
            telemetry: rng("stale_telemetry"),
            messages: rng("lost_messages"),
            copies: rng("failed_copies"),
            clients: rng("clients_leave"),
        }
    }

    /// When each engine that dies does so. An engine that is to die twice dies at the first time.
    pub(crate) fn deaths(&mut self, engines: usize) -> Vec<(EngineId, Time)> {
        let EngineDeath { at, per_hour, .. } = &self.faults.engine_death;
        let mut deaths: Vec<(EngineId, Time)> = at.iter().map(|death| (death.engine, Time(death.at_ms * 1_000))).collect();
        if *per_hour > 0.0 {
            for engine in 0..engines {
                // The time to the first death of a Poisson process.
                let hours = -(1.0 - self.deaths.random::<f64>()).ln() / per_hour;
                deaths.push((EngineId(engine as u16), Time(Micros::from_secs(hours * 3_600.0).0)));
            }
        }
        deaths
    }

    /// How late an engine's report is; none when it never comes.
    pub(crate) fn stats(&mut self) -> Option<Micros> {
        let StaleTelemetry { late_ms, dropped } = self.faults.stale_telemetry;
        (!happens(&mut self.telemetry, dropped)).then_some(Micros(late_ms * 1_000))
    }

    /// How late the mover's word is; none when it never comes.
    pub(crate) fn mover_says(&mut self) -> Option<Micros> {
        let LostMessages { moves, late_ms, .. } = self.faults.lost_messages;
        if happens(&mut self.messages, moves) {
            return None;
        }
        Some(if late_ms == 0 { Micros::ZERO } else { Micros(self.messages.random_range(0..=late_ms * 1_000)) })
    }

    pub(crate) fn release_is_lost(&mut self) -> bool {
        happens(&mut self.messages, self.faults.lost_messages.releases)
    }

    pub(crate) fn copy_fails(&mut self) -> bool {
        happens(&mut self.copies, self.faults.failed_copies)
    }

    /// How long after its arrival a request is cancelled; none for most.
    pub(crate) fn client_leaves(&mut self) -> Option<Micros> {
        let ClientsLeave { share, within_ms } = self.faults.clients_leave;
        happens(&mut self.clients, share).then(|| Micros(self.clients.random_range(0..=within_ms * 1_000)))
    }
}

/// Draws nothing for what never happens: a simulation without faults spends no time on them.
fn happens(rng: &mut Rng, share: f64) -> bool {
    share > 0.0 && rng.random_bool(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_written_by_name_and_checked() {
        let text = r#"
            failed_copies = 0.1
            slow_link = [{ engine = 1, from_ms = 10, to_ms = 20, factor = 5.0 }]
            [engine_death]
            at = [{ engine = 0, at_ms = 1000 }]
            [lost_messages]
            releases = 0.5
        "#;
        let mut faults: Faults = toml::from_str(text).unwrap();
        assert_eq!(faults.engine_death.at, [DeathAt { engine: EngineId(0), at_ms: 1000 }]);
        assert_eq!(faults.lease_ms, Faults::default().lease_ms);
        assert_eq!(faults.check(2), Ok(()));
        assert!(faults.check(1).unwrap_err().to_string().contains("engine-1"));
        faults.failed_copies = f64::NAN;
        assert!(faults.check(2).unwrap_err().to_string().contains("failed_copies is NaN"));
        assert!(toml::from_str::<Faults>("engine_deaths = 1").is_err());
    }
}
