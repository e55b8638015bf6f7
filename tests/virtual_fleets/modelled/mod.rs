//! The policies against each other on modelled engines and simulated time: the same router code that serves, thousands of times
//! faster and the same on every machine. The model is calibrated on real engines (two of them, one core each); what it says about a
//! policy is a reason to measure it, not a measurement. `cargo test --test modelled -- --nocapture` prints the tables.

mod figures;
mod workload;

use dualpool_types::{Arrangement, EngineId, PolicyKind, Tuning};

use figures::Figures;
use workload::Load;

const SEEDS: u64 = 40;

fn tuned(max_num_batched_tokens: u32, long_prefill_token_threshold: u32) -> Tuning {
    Tuning {
        max_num_batched_tokens: Some(max_num_batched_tokens),
        long_prefill_token_threshold: Some(long_prefill_token_threshold),
    }
}

fn shared(policy: PolicyKind, tuning: Tuning) -> Arrangement {
    Arrangement::shared(policy.name(), policy, 2, tuning)
}

fn split(policy: PolicyKind, prefill: Tuning, decode: Tuning) -> Arrangement {
    Arrangement::pools(policy.name(), policy, &[EngineId(0)], &[EngineId(1)], 2, prefill, decode, 256).unwrap()
}

fn serve(arrangement: &Arrangement, load: &Load) -> Figures {
    let figures = Figures::pooled((0..SEEDS).map(|seed| figures::run(arrangement, seed, &load.requests(seed))));
    let tuning = |engine: usize| {
        let Tuning { max_num_batched_tokens, long_prefill_token_threshold } = arrangement.tunings[engine];
        format!("{}/{}", max_num_batched_tokens.unwrap_or(2048), long_prefill_token_threshold.unwrap_or(0))
    };
    println!("{:20} {:>8} {:>8} | {figures}", arrangement.name, tuning(0), tuning(1));
    figures
}

/// Seven tenths and nine tenths of what the engines can do.
const RATES: [f64; 2] = [7.76, 9.9];

#[test]
fn a_split_keeps_both_tails_short_where_a_shared_pool_trades_them() {
    for rate in RATES {
        let load = Load::balanced(rate, 200.0);
        println!("\n{rate} requests/s, ITL objective 200 ms (first engine, second engine: tokens per step / per long prompt)");
        let default = serve(&shared(PolicyKind::LeastLoad, Tuning::default()), &load);
        serve(&shared(PolicyKind::RoundRobin, Tuning::default()), &load);
        serve(&shared(PolicyKind::LeastLoad, tuned(128, 0)), &load);
        let best_shared = serve(&shared(PolicyKind::Balanced, tuned(224, 64)), &load);
        serve(&split(PolicyKind::Dedicated, Tuning::default(), Tuning::default()), &load);
        let full = serve(&split(PolicyKind::FullDisaggregation, Tuning::default(), Tuning::default()), &load);
        serve(&split(PolicyKind::DualPool, Tuning::default(), Tuning::default()), &load);
        let dual = serve(&split(PolicyKind::DualPool, tuned(256, 0), tuned(144, 0)), &load);

        assert!(dual.short_ttft(0.95) <= 0.85 * best_shared.short_ttft(0.95));
        assert!(dual.itl(0.99) <= 0.8 * best_shared.itl(0.99));
        assert!(dual.itl(0.99) <= 0.2 * default.itl(0.99));
        assert!(dual.output_tokens_per_s() >= 0.95 * best_shared.output_tokens_per_s());
        assert!(dual.goodput() >= best_shared.goodput() - 0.01);
        assert!(full.itl(0.99) < dual.itl(0.99), "the decode engine of a full split never computes a prompt");
    }
}

#[test]
fn under_a_tight_itl_objective_a_split_serves_most() {
    // A step that answers come first in keeps a shared pool within the objective too, while it is not near its limit.
    for (rate, margin) in RATES.into_iter().zip([1.0, 1.3]) {
        let load = Load::balanced(rate, 50.0);
        println!("\n{rate} requests/s, ITL objective 50 ms");
        let shared: Vec<Figures> = [(224, 64), (96, 32), (64, 32), (48, 32), (40, 24), (40, 16), (32, 16)]
            .map(|(batched, long)| serve(&shared(PolicyKind::Balanced, tuned(batched, long)), &load))
            .to_vec();
        let best_shared = shared.iter().map(Figures::goodput).fold(0.0, f64::max);
        let dual = serve(&split(PolicyKind::DualPool, tuned(256, 0), tuned(40, 24)), &load).goodput();
        assert!(dual >= 0.65 && dual > margin * best_shared, "{dual:.2} against {best_shared:.2}");
        // Untuned, the decode engine breaks the objective with every prompt it computes, so the router sends prompts elsewhere.
        let untuned = serve(&split(PolicyKind::DualPool, tuned(256, 0), Tuning::default()), &load).goodput();
        let plain = serve(&split(PolicyKind::Dedicated, Tuning::default(), Tuning::default()), &load).goodput();
        assert!(untuned > 2.0 * plain, "{untuned:.2} against {plain:.2}");
    }
}

#[test]
fn what_weighs_a_request_by_its_cost_is_no_worse_than_what_counts_work() {
    for rate in RATES {
        let load = Load::balanced(rate, 200.0);
        println!("\n{rate} requests/s, two engines alike");
        let figures = [
            PolicyKind::RoundRobin,
            PolicyKind::LeastLoad,
            PolicyKind::PowerOfTwo,
            PolicyKind::CacheAware,
            PolicyKind::Score,
            PolicyKind::PredictedLatency,
        ]
        .map(|policy| serve(&shared(policy, Tuning::default()), &load));
        let [_, least_load, .., score, predicted] = &figures;
        assert!(score.goodput() >= least_load.goodput() - 0.01 && score.short_ttft(0.95) <= 1.05 * least_load.short_ttft(0.95));
        assert!(predicted.goodput() >= least_load.goodput() && predicted.short_ttft(0.95) <= least_load.short_ttft(0.95));
    }
}

#[test]
fn two_engines_per_pool_are_used_alike() {
    let ids = [0, 1, 2, 3].map(EngineId);
    let (prefill, decode) = ids.split_at(2);
    let load = Load::balanced(2.0 * RATES[0], 200.0);
    let policy = PolicyKind::DualPool;
    let of_four = Arrangement::pools("dual_pool of 4", policy, prefill, decode, 4, tuned(256, 0), tuned(144, 0), 256).unwrap();
    let four = serve(&of_four, &load);
    let two = serve(&split(policy, tuned(256, 0), tuned(144, 0)), &Load::balanced(RATES[0], 200.0));
    assert!(four.goodput() >= two.goodput() - 0.01);
    assert!(four.long_ttft(0.95) < two.long_ttft(0.95), "two prefill engines share one queue's variance");
    assert!(four.short_ttft(0.95) < 1.1 * two.short_ttft(0.95));
}
