//! Fleets as a test wants them, and fleets as chance wants them: for decisions alone, without a router around them.

use std::cell::RefCell;

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use dualpool_types::records::Candidate;
use dualpool_types::{DeviceSignals, EngineId, EngineStats, Micros, Objectives, PolicyKind, Rng, Role, Time};

use crate::fleet::LegDemand;
use crate::placement::{Ask, Placement};
use crate::policies::{self, Policy};
use crate::{
    CopyTable, CostModel, EngineFacts, EngineSignals, EngineState, Explanation, FleetView, RouterSettings, SignalSettings,
};

pub const FACTS: EngineFacts = EngineFacts {
    max_model_len: 4096,
    max_num_batched_tokens: 2048,
    max_num_seqs: 64,
    kv_tokens: 32_768,
    kv_transfer: true,
    prefix_block_tokens: 16,
    cost_per_hour: None,
};

pub const OBJECTIVES: Objectives = Objectives { ttft_us_max: Micros(3_000_000), itl_us_max: Micros(200_000) };

pub fn ask(prompt_tokens: u32, outputs: u32) -> Ask {
    Ask { prompt_tokens, outputs, objectives: OBJECTIVES }
}

pub struct Made {
    pub engines: Vec<EngineState>,
    pub costs: CostModel,
    pub copies: CopyTable,
    pub cached: Vec<u32>,
    pub now: Time,
    pub explanation: RefCell<Explanation>,
}

impl Made {
    /// Idle engines of which nothing is known but that they are warm.
    pub fn new(engines: usize) -> Made {
        Made::of(&vec![FACTS; engines])
    }

    pub fn of(facts: &[EngineFacts]) -> Made {
        let signals = EngineSignals::new(&SignalSettings { warm_up_requests: 0, ..SignalSettings::default() });
        let engines = facts.iter().enumerate().map(|(i, &facts)| EngineState::new(EngineId(i as u16), facts, signals.clone()));
        Made {
            engines: engines.collect(),
            costs: CostModel::default(),
            copies: CopyTable::new(facts.len()),
            cached: vec![0; facts.len()],
            now: Time(60_000_000),
            explanation: RefCell::default(),
        }
    }

    pub fn pools(roles: &[Role]) -> Made {
        let mut made = Made::new(roles.len());
        made.engines.iter_mut().zip(roles).for_each(|(engine, &role)| engine.role = role);
        made
    }

    /// So many requests are decoding there, or wait with a prompt of this length.
    pub fn decoding(&mut self, engine: usize, requests: usize) {
        self.legs(engine, requests, 0);
    }

    pub fn waiting(&mut self, engine: usize, requests: usize, prompt_tokens: u32) {
        self.legs(engine, requests, prompt_tokens);
    }

    fn legs(&mut self, engine: usize, requests: usize, prefill: u32) {
        let (started, long) = (prefill == 0, prefill >= 256);
        let leg = LegDemand { prefill, long, context: prefill.max(64), outputs: 16, started, objectives: OBJECTIVES };
        (0..requests).for_each(|_| self.engines[engine].demand.enter(&leg));
    }

    pub fn view(&self) -> FleetView<'_> {
        FleetView {
            engines: &self.engines,
            costs: &self.costs,
            copies: &self.copies,
            cached: &self.cached,
            long_prompt_tokens_min: 256,
            now: self.now,
            explaining: None,
        }
    }

    pub fn explaining(&self) -> FleetView<'_> {
        self.explanation.borrow_mut().clear();
        FleetView { explaining: Some(&self.explanation), ..self.view() }
    }

    pub fn explained(&self) -> Vec<Candidate> {
        let mut explanation = self.explanation.borrow_mut();
        explanation.decided_with(&self.cached);
        explanation.take()
    }

    /// Where a policy that has decided nothing yet sends it.
    pub fn place(&self, kind: PolicyKind, ask: &Ask) -> Option<Placement> {
        fresh(kind).place(&self.view(), ask)
    }

    /// The same fleet with its engines in another order: the one at `order[i]` comes to be the `i`-th.
    pub fn reordered(&self, order: &[usize]) -> Made {
        let mut made = Made::new(order.len());
        made.now = self.now;
        made.costs = self.costs;
        for (place, &old) in order.iter().enumerate() {
            made.engines[place] = self.engines[old].clone();
            made.engines[place].id = EngineId(place as u16);
            made.cached[place] = self.cached[old];
        }
        made
    }
}

pub fn fresh(kind: PolicyKind) -> Box<dyn Policy> {
    policies::build(kind, &RouterSettings::default())
}

pub fn engine_of(plan: Placement) -> EngineId {
    match plan {
        Placement::Whole(engine) | Placement::Split(engine) => engine,
    }
}

/// Anything that could come up, and some that could not.
pub fn any_fleet(rng: &mut Rng) -> Made {
    let facts: Vec<EngineFacts> = (0..rng.random_range(1..80))
        .map(|_| EngineFacts {
            max_model_len: 4096,
            max_num_batched_tokens: *[1, 64, 2048].choose(rng).unwrap_or(&1),
            max_num_seqs: *[0, 1, 16, 256].choose(rng).unwrap_or(&1),
            kv_tokens: *[0, 500, 32_768, u64::MAX].choose(rng).unwrap_or(&1),
            kv_transfer: rng.random_bool(0.8),
            prefix_block_tokens: 16,
            cost_per_hour: *[None, Some(0.0), Some(2.5), Some(f64::NAN), Some(-1.0), Some(f64::MAX)].choose(rng).unwrap_or(&None),
        })
        .collect();
    let mut made = Made::of(&facts);
    let pooled = rng.random_bool(0.5);
    let figure = |rng: &mut Rng| *[0.0, 1e-320, 1.0, 800.0, 1e300].choose(rng).unwrap_or(&1.0);
    if rng.random_bool(0.3) {
        let (prefill_us, step_us, decode_us) = (figure(rng), figure(rng), figure(rng));
        made.costs = CostModel { prefill_us, step_us, decode_us, ..CostModel::default() };
    }
    for i in 0..facts.len() {
        made.engines[i].alive = rng.random_bool(0.9);
        made.engines[i].kv_lost = rng.random_bool(0.1);
        if pooled {
            made.engines[i].role = *Role::ALL.choose(rng).unwrap_or(&Role::Shared);
        }
        made.decoding(i, rng.random_range(0..20));
        made.waiting(i, rng.random_range(0..4), *[1, 64, 1000].choose(rng).unwrap_or(&64));
        made.cached[i] = *[0, 0, 16, 512, u32::MAX].choose(rng).unwrap_or(&0);
        let at = Time(made.now.0 - rng.random_range(0..20_000_000));
        let (took, figure) = (Micros(rng.random_range(0..5_000_000)), figure(rng));
        let signals = &mut made.engines[i].signals;
        signals.first_token(at, rng.random_bool(0.7).then_some((took, figure)));
        signals.more_tokens(at, took, rng.random_range(0..3));
        signals.stepped(at, took, figure);
        let lost = rng.random_bool(0.05);
        made.engines[i].device_said(made.now, DeviceSignals { lost, busy: Some(f32::NAN), ..DeviceSignals::default() });
        for report in 0..2 {
            let kv_usage = *[0.3, f32::NAN, -2.0, 9.0].choose(rng).unwrap_or(&0.3);
            let (steps, tokens) = (report, 400 * report * u64::from(rng.random_bool(0.5)));
            let stats = EngineStats {
                running: 3,
                kv_usage,
                steps,
                prompt_tokens_computed: tokens,
                output_tokens: tokens,
                ..Default::default()
            };
            made.engines[i].report(at.plus(Micros(report * 20_000)), stats);
        }
    }
    made
}

pub fn any_ask(rng: &mut Rng) -> Ask {
    let objective = |rng: &mut Rng| Micros(*[0, 1, 200_000, u64::MAX].choose(rng).unwrap_or(&1));
    let (prompt_tokens, outputs) = (*[0, 1, 64, 300, 4000, u32::MAX].choose(rng).unwrap_or(&1), rng.random_range(0..500));
    Ask { prompt_tokens, outputs, objectives: Objectives { ttft_us_max: objective(rng), itl_us_max: objective(rng) } }
}
