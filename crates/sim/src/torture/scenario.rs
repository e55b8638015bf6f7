//! What a seed comes to: a fleet, how it is arranged and set, which requests come, and what goes wrong.

use std::sync::Arc;

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use dualpool_model::{Timing, VirtualSettings};
use dualpool_router::{CostModel, RouterSettings};
use dualpool_types::{
    Arrangement, Class, EngineId, Micros, Objectives, PolicyKind, Priority, Request, RequestId, Rng, Role, Sampling, Time, TokenId,
    Tuning, seeded,
};

use super::settings;
use crate::{ClientsLeave, CutLink, DeathAt, EngineDeath, Faults, LostMessages, Simulation, SlowLink, StaleTelemetry};

/// Engines of a fleet, and requests, at most.
const ENGINES_MAX: usize = 6;
pub(super) const REQUESTS_MAX: usize = 60;
/// A lease that outlasts everything: it runs out only for blocks that were never given back.
pub(super) const LEASE_NEVER_MS: u64 = 3_600_000;
/// Faults that come at a time come within this much of the start, when most requests do.
const FAULTS_WITHIN_MS: u64 = 2_000;

#[derive(Debug)]
pub struct Scenario {
    pub seed: u64,
    pub engines: Vec<VirtualSettings>,
    pub arrangement: Arrangement,
    pub router: RouterSettings,
    pub faults: Faults,
    pub requests: Vec<(Time, Request)>,
}

impl Scenario {
    /// A stream of randomness per part, so that a part drawn in another way leaves the others as they were.
    pub fn draw(seed: u64) -> Scenario {
        let rng = |of: &str| seeded(seed, &format!("torture: {of}"));
        let engines = engines(&mut rng("engines"));
        let router = settings::router(&mut rng("router"));
        Scenario {
            seed,
            arrangement: arrangement(&engines, &mut rng("arrangement")),
            faults: faults(engines.len(), &mut rng("faults")),
            requests: requests(&engines, &mut rng("requests")),
            router,
            engines,
        }
    }

    pub fn simulation(&self) -> Simulation<'_> {
        Simulation {
            engines: &self.engines,
            arrangement: &self.arrangement,
            router: &self.router,
            costs: CostModel::default(),
            faults: &self.faults,
            seed: self.seed,
        }
    }
}

/// Engines that differ in all that may differ. Their text is one, for they serve one model.
fn engines(rng: &mut Rng) -> Vec<VirtualSettings> {
    let vocab_size = *[40, 32_000].choose(rng).unwrap_or(&40);
    let alike = rng.random_bool(0.5);
    let first = engine(vocab_size, rng);
    let count = rng.random_range(1..=ENGINES_MAX);
    (0..count).map(|_| if alike { first.clone() } else { engine(vocab_size, rng) }).collect()
}

fn engine(vocab_size: u32, rng: &mut Rng) -> VirtualSettings {
    let block_size = *[4, 16, 64].choose(rng).unwrap_or(&16);
    let max_model_len: u32 = rng.random_range(64..=512);
    let max_num_seqs = rng.random_range(1..=16);
    let speed = rng.random_range(0.05..1.0);
    let timing = Timing::default();
    VirtualSettings {
        timing: Timing {
            step_us: timing.step_us * speed,
            decode_step_us: timing.decode_step_us * speed,
            decode_us: timing.decode_us * speed,
            prefill_us: timing.prefill_us * speed,
            copy_us_per_token: rng.random_range(0.0..200.0),
            ..timing
        },
        block_size,
        // vLLM starts only with room for one request of the longest kind.
        kv_blocks: max_model_len.div_ceil(block_size) * rng.random_range(1..=6),
        max_model_len,
        max_num_batched_tokens: max_num_seqs + rng.random_range(16..=512),
        max_num_seqs,
        vocab_size,
        prefix_cache: rng.random_bool(0.8),
        ..VirtualSettings::default()
    }
}

fn arrangement(engines: &[VirtualSettings], rng: &mut Rng) -> Arrangement {
    let possible: Vec<PolicyKind> =
        PolicyKind::ALL.into_iter().filter(|policy| engines.len() >= 2 || !policy.needs_pools()).collect();
    let policy = *possible.choose(rng).unwrap_or(&PolicyKind::LeastLoad);
    let mut roles: Vec<Role> = engines
        .iter()
        .map(|_| if policy.needs_pools() { *Role::ALL.choose(rng).unwrap_or(&Role::Shared) } else { Role::Shared })
        .collect();
    if let ([first, .., last], true) = (&mut roles[..], policy.needs_pools()) {
        (*first, *last) = (Role::Prefill, Role::Decode);
    }
    let tuning = |engine: &VirtualSettings, rng: &mut Rng| Tuning {
        max_num_batched_tokens: rng.random_bool(0.5).then(|| rng.random_range(1..=engine.max_num_batched_tokens)),
        long_prefill_token_threshold: rng.random_bool(0.3).then(|| rng.random_range(0..=64)),
    };
    Arrangement {
        name: policy.name().to_owned(),
        policy,
        roles,
        tunings: engines.iter().map(|engine| tuning(engine, rng)).collect(),
        long_prompt_tokens_min: rng.random_range(8..=256),
    }
}

/// Each kind of fault in some of the simulations, and none in a few.
fn faults(engines: usize, rng: &mut Rng) -> Faults {
    let engine = |rng: &mut Rng| EngineId(rng.random_range(0..engines) as u16);
    let moment = |rng: &mut Rng| rng.random_range(0..FAULTS_WITHIN_MS);
    let mut faults = Faults { lease_ms: LEASE_NEVER_MS, ..Faults::default() };
    if rng.random_bool(0.1) {
        return faults;
    }
    let lease_ms = rng.random_range(50..=2_000);
    if rng.random_bool(0.5) {
        faults.lease_ms = lease_ms;
    }
    if rng.random_bool(0.4) {
        let deaths = rng.random_range(1..=engines);
        faults.engine_death = EngineDeath {
            at: (0..deaths).map(|_| DeathAt { engine: engine(rng), at_ms: moment(rng) }).collect(),
            per_hour: if rng.random_bool(0.2) { 600.0 } else { 0.0 },
            noticed_after_ms: rng.random_range(0..=300),
        };
    }
    if rng.random_bool(0.3) {
        for _ in 0..rng.random_range(1..=3) {
            let from_ms = moment(rng);
            let to_ms = from_ms + moment(rng);
            faults.slow_link.push(SlowLink { engine: engine(rng), from_ms, to_ms, factor: rng.random_range(1.0..50.0) });
        }
    }
    if rng.random_bool(0.2) {
        faults.cut_link.push(CutLink { engine: engine(rng), at_ms: moment(rng) });
    }
    if rng.random_bool(0.4) {
        faults.stale_telemetry = StaleTelemetry { late_ms: rng.random_range(0..=500), dropped: rng.random_range(0.0..=1.0) };
    }
    if rng.random_bool(0.4) {
        faults.late_outputs_ms = rng.random_range(1..=100);
    }
    if rng.random_bool(0.4) {
        let (releases, moves) = (rng.random_range(0.0..=1.0), rng.random_range(0.0..=1.0));
        faults.lease_ms = lease_ms;
        faults.lost_messages = LostMessages { releases, moves, late_ms: rng.random_range(0..=200) };
    }
    if rng.random_bool(0.4) {
        faults.failed_copies = rng.random_range(0.0..=1.0);
    }
    if rng.random_bool(0.5) {
        faults.clients_leave = ClientsLeave { share: rng.random_range(0.0..=0.6), within_ms: rng.random_range(0..=2_000) };
    }
    faults
}

/// Requests in bursts and one by one, some of them turns of conversations, and some that no engine can serve.
fn requests(engines: &[VirtualSettings], rng: &mut Rng) -> Vec<(Time, Request)> {
    let shortest = engines.iter().map(|engine| engine.max_model_len).min().unwrap_or(64);
    let vocab_size = engines.first().map_or(40, |engine| engine.vocab_size);
    let gap_us = *[1_000, 20_000, 100_000].choose(rng).unwrap_or(&20_000);
    let bursts = rng.random_bool(0.5);
    let mut conversations: Vec<Vec<TokenId>> = vec![Vec::new(); 3];
    let mut at = 0;
    let mut requests = Vec::new();
    for id in 0..rng.random_range(1..=REQUESTS_MAX) as u64 {
        if !bursts || rng.random_bool(0.1) {
            at += rng.random_range(0..=2 * gap_us) * if bursts { 10 } else { 1 };
        }
        let more = if rng.random_bool(0.3) { shortest } else { 24 };
        let mut prompt = match conversations.choose(rng) {
            Some(said) if rng.random_bool(0.4) => said.clone(),
            _ => Vec::new(),
        };
        prompt.extend((0..rng.random_range(1..=more)).map(|_| rng.random_range(1..vocab_size)));
        let longest = if rng.random_bool(0.2) { 60 } else { 12 };
        let mut max_tokens = rng.random_range(1..=longest);
        match rng.random_range(0..100) {
            0 => prompt.clear(),
            1 => max_tokens = 0,
            2 => max_tokens = shortest + 1,
            _ => {
                prompt.truncate(shortest.saturating_sub(max_tokens).max(1) as usize);
                let place = rng.random_range(0..conversations.len());
                conversations[place].clone_from(&prompt);
            }
        }
        let prompt: Arc<[TokenId]> = prompt.into();
        let class = if prompt.len() >= 64 { Class::Long } else { Class::Short };
        let priority = *[Priority::High, Priority::Normal, Priority::Low].choose(rng).unwrap_or(&Priority::Normal);
        let objectives = Objectives {
            ttft_us_max: Micros(rng.random_range(1_000..2_000_000)),
            itl_us_max: Micros(rng.random_range(1_000..500_000)),
        };
        let ignore_eos = rng.random_bool(0.5);
        requests.push((
            Time(at),
            Request {
                id: RequestId(id),
                prompt,
                max_tokens,
                ignore_eos,
                sampling: Sampling::default(),
                class,
                priority,
                objectives,
            },
        ));
    }
    requests
}
