//! This router: it gets the placements as requests that it sent in turn, and decides by `least_load`, or by `score` with every signal
//! of every engine known.

use dualpool_router::{Action, Ask, EngineFacts, Event, Placement, PrefixTracking, Router, RouterSettings};
use dualpool_router::prefix::{Chain, Tokens};
use dualpool_types::{Arrangement, Class, EngineId, EngineStats, FinishReason, Micros, Objectives, PolicyKind, Priority, Request, RequestId, Sampling, Time, Tuning};

use crate::Index;
use crate::prompts::{BLOCK, BLOCKS, PROMPT, Workload};

const OBJECTIVES: Objectives = Objectives { ttft_us_max: Micros(500_000), itl_us_max: Micros(200_000) };
/// Requests that each engine is busy with while decisions are made; none fills a block, so that none takes a place in the index.
const BUSY: u64 = 4;
const BUSY_FROM: Time = Time(1 << 30);

pub struct Ours {
    router: Router,
    chain: Chain,
    engines: usize,
}

fn request(id: u64, prompt: &[u32]) -> Request {
    Request {
        id: RequestId(id),
        prompt: prompt.into(),
        max_tokens: 32,
        ignore_eos: true,
        sampling: Sampling::default(),
        class: Class::Long,
        priority: Priority::Normal,
        objectives: OBJECTIVES,
    }
}

impl Ours {
    pub fn new(workload: &Workload, policy: PolicyKind) -> Ours {
        let engines = workload.engines;
        let facts = EngineFacts {
            max_model_len: 8192,
            max_num_batched_tokens: 2048,
            max_num_seqs: 64,
            kv_tokens: (BLOCKS / engines * BLOCK) as u64,
            kv_transfer: true,
            prefix_block_tokens: BLOCK as u32,
            cost_per_hour: None,
        };
        let mut settings = RouterSettings { max_in_flight: 4096, ..RouterSettings::default() };
        settings.prefix.track = PrefixTracking::Always;
        settings.prefix.blocks_max = BLOCKS as u32;
        settings.signals.warm_up_requests = 0;
        let mut router = Router::new(&vec![facts; engines], &settings);
        let arrange = |policy: PolicyKind| Arrangement::shared(policy.name(), policy, engines, Tuning::default());
        router.arrange(&arrange(PolicyKind::RoundRobin)).expect("the arrangement fits");
        let mut actions = Vec::new();
        for (id, placement) in workload.placements.iter().enumerate() {
            router.handle(Time(id as u64), Event::Arrived(request(id as u64, workload.tokens(placement))), &mut actions);
            let Some(Action::Submit { engine, leg }) = actions.pop() else { panic!("request {id} was not sent") };
            assert_eq!(engine.index(), placement.engine, "round robin");
            let finish = Some((&FinishReason::Stop, None));
            router.handle(Time(id as u64), Event::Output { leg: leg.id, tokens: &[1], cached_tokens: None, finish }, &mut actions);
            actions.clear();
        }
        router.arrange(&arrange(policy)).expect("nothing is in flight");
        for id in 0..BUSY * engines as u64 {
            router.handle(BUSY_FROM, Event::Arrived(request(1 << 40 | id, &[7; BLOCK - 1])), &mut actions);
        }
        let legs = actions.iter().filter_map(|action| match action {
            Action::Submit { engine, leg } => Some((*engine, leg.id)),
            _ => None,
        });
        for (engine, leg) in legs.collect::<Vec<_>>() {
            for round in 1..4 {
                let now = BUSY_FROM.plus(Micros(20_000 * round));
                router.handle(now, Event::Output { leg, tokens: &[7], cached_tokens: None, finish: None }, &mut actions);
                let (prompt_tokens_computed, output_tokens, steps) = (64 * round, 4 * round, round);
                let stats = EngineStats {
                    running: 4,
                    kv_usage: 0.9,
                    prompt_tokens_computed,
                    output_tokens,
                    steps,
                    ..EngineStats::default()
                };
                router.handle(now, Event::EngineStats { engine, stats }, &mut actions);
            }
        }
        let chain = router.prefixes().expect("tracked").chain(PROMPT as u32);
        Ours { router, chain, engines }
    }

    /// Blocks in the index.
    pub fn blocks(&self) -> u32 {
        let prefixes = self.router.prefixes().expect("tracked");
        (0..self.engines as u16).map(|engine| prefixes.blocks(EngineId(engine))).sum()
    }

    /// The whole decision.
    pub fn decide(&mut self, prompt: &[u32]) -> Option<Placement> {
        let ask = Ask { prompt_tokens: prompt.len() as u32, outputs: 32, objectives: OBJECTIVES };
        self.chain.clear();
        self.router.decide_for(&ask, prompt, &mut self.chain)
    }

    /// Naming the prompt, as far as it takes, and looking it up.
    pub fn look_up(&mut self, prompt: &[u32], cached: &mut [u32]) {
        self.chain.clear();
        let tokens = Tokens { prompt, outputs: &[] };
        self.router.prefixes().expect("tracked").cached(&mut self.chain, tokens, cached);
    }
}

impl Index for Ours {
    fn held(&mut self, prompt: &[u32]) -> Vec<u32> {
        let mut cached = vec![0; self.engines];
        self.look_up(prompt, &mut cached);
        cached.into_iter().map(|tokens| tokens / BLOCK as u32).collect()
    }
}
