//! A decision allocates nothing: neither for naming the prompt, nor for looking it up, nor for choosing. In a test program of its own,
//! for it counts what the whole program allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use dualpool_router::{Action, Ask, EngineFacts, Event, PrefixTracking, Router, RouterSettings};
use dualpool_types::{
    Arrangement, Class, EngineId, Micros, Objectives, PolicyKind, Priority, Request, RequestId, Sampling, Time, TokenId, Tuning,
};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all of it is done by `System`; counting touches no memory that is handed out.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as for `System`, to which the caller's promises are passed on.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: see above.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as for `System`, to which the caller's promises are passed on.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: see above.
        unsafe { System.dealloc(pointer, layout) }
    }

    // SAFETY: as for `System`, to which the caller's promises are passed on.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: see above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const FACTS: EngineFacts = EngineFacts {
    max_model_len: 8192,
    max_num_batched_tokens: 2048,
    max_num_seqs: 64,
    kv_tokens: 1 << 18,
    kv_transfer: true,
    prefix_block_tokens: 16,
    cost_per_hour: None,
};
const OBJECTIVES: Objectives = Objectives { ttft_us_max: Micros(500_000), itl_us_max: Micros(200_000) };

/// A prompt whose beginning all have, and whose rest few have.
fn prompt(number: u32) -> Vec<TokenId> {
    (0..4096).map(|i| if i < 1000 { i } else { i * 31 + number % 8 }).collect()
}

fn router(policy: PolicyKind, engines: usize) -> Router {
    let mut settings = RouterSettings { max_in_flight: 4096, ..RouterSettings::default() };
    settings.prefix.track = PrefixTracking::Always;
    let mut router = Router::new(&vec![FACTS; engines], &settings);
    let ids: Vec<EngineId> = (0..engines as u16).map(EngineId).collect();
    let (prefill, decode) = ids.split_at(engines / 2);
    let (name, tuning) = (policy.name(), Tuning::default());
    let arrangement = if policy.needs_pools() {
        Arrangement::pools(name, policy, prefill, decode, engines, tuning, tuning, 256).expect("both pools have engines")
    } else {
        Arrangement::shared(name, policy, engines, tuning)
    };
    router.arrange(&arrangement).expect("the arrangement fits the fleet");
    let mut actions = Vec::new();
    for number in 0..engines as u32 {
        let request = Request {
            id: RequestId(number.into()),
            prompt: prompt(number).into(),
            max_tokens: 8,
            ignore_eos: true,
            sampling: Sampling::default(),
            class: Class::Long,
            priority: Priority::Normal,
            objectives: OBJECTIVES,
        };
        router.handle(Time(1), Event::Arrived(request), &mut actions);
    }
    for action in std::mem::take(&mut actions) {
        if let Action::Submit { leg, .. } = action {
            let output = Event::Output { leg: leg.id, tokens: &[1], cached_tokens: None, finish: None };
            router.handle(Time(2), output, &mut actions);
        }
    }
    router
}

#[test]
fn decisions_allocate_nothing() {
    for policy in PolicyKind::ALL {
        for engines in [8, 64, 130] {
            let mut router = router(policy, engines);
            let mut chain = router.prefixes().expect("caches are tracked").chain(4096);
            let ask = Ask { prompt_tokens: 4096, outputs: 8, objectives: OBJECTIVES };
            let prompts = [prompt(0), prompt(5), (0..4096).rev().collect()];
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            for prompt in prompts.iter().cycle().take(30) {
                chain.clear();
                let plan = router.decide_for(&ask, prompt, &mut chain);
                assert!(plan.is_some(), "engines are alive");
            }
            let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
            assert_eq!(allocated, 0, "{} on {engines} engines", policy.name());
        }
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    drop(std::hint::black_box(vec![1u8; 100]));
    assert_ne!(ALLOCATIONS.load(Ordering::Relaxed), before, "allocations are counted");
}
