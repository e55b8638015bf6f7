//! One decision for a prompt of 4,096 tokens, with about a million blocks in the index: this router's, Dynamo's, and the indexes alone.
//! Criterion says how long one takes on average; the percentiles are of single decisions, each timed by itself.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rivals::Index;
use rivals::dynamo::{Dynamo, INDEXERS};
use rivals::kv_index::KvIndex;
use rivals::ours::Ours;
use rivals::prompts::{BLOCK, PROMPT, Workload};

use dualpool_types::PolicyKind;

const ENGINES: [usize; 2] = [8, 64];
const SINGLE: usize = 50_000;
/// Prompts on which the indexes must agree before anything is timed.
const COMPARED: usize = 300;

type Call<'a> = Box<dyn FnMut(&[u32]) + 'a>;

fn decisions(c: &mut Criterion) {
    let mut table = Vec::new();
    for engines in ENGINES {
        let workload = Workload::new(engines);
        let mut by_score = Ours::new(&workload, PolicyKind::Score);
        measure(
            c,
            &workload,
            "decision",
            "dualpool/score",
            Box::new(|prompt| drop(black_box(by_score.decide(prompt)))),
            &mut table,
        );
        drop(by_score);
        let mut ours = Ours::new(&workload, PolicyKind::LeastLoad);
        println!("{engines} engines, {} prompts, {} blocks in the index", workload.prompts.len(), ours.blocks());
        let mut cached = vec![0; engines];
        measure(
            c,
            &workload,
            "decision",
            "dualpool/least_load",
            Box::new(|prompt| drop(black_box(ours.decide(prompt)))),
            &mut table,
        );
        measure(c, &workload, "index", "dualpool", Box::new(|prompt| ours.look_up(prompt, black_box(&mut cached))), &mut table);
        let mut other = KvIndex::new(&workload);
        agree(&workload, &mut ours, &mut other, "kv-index");
        measure(c, &workload, "index", "kv-index", Box::new(|prompt| drop(black_box(other.look_up(prompt)))), &mut table);
        drop(other);
        for indexer in INDEXERS {
            let mut dynamo = Dynamo::new(&workload, indexer);
            agree(&workload, &mut ours, &mut dynamo, indexer);
            let name = format!("dynamo/{indexer}");
            measure(c, &workload, "index", &name, Box::new(|prompt| drop(black_box(dynamo.look_up(prompt)))), &mut table);
            measure(c, &workload, "decision", &name, Box::new(|prompt| drop(black_box(dynamo.decide(prompt)))), &mut table);
        }
    }
    println!("\n{:10} {:32} {:>7} {:>9} {:>9} {:>9} {:>9}", "what", "whose", "engines", "prompt", "p50 ns", "p99 ns", "p99.9 ns");
    table.iter().for_each(|line| println!("{line}"));
}

fn measure(c: &mut Criterion, workload: &Workload, kind: &str, name: &str, mut call: Call, table: &mut Vec<String>) {
    let mut group = c.benchmark_group(kind);
    let mut turn = 0;
    group.bench_function(BenchmarkId::new(name, workload.engines), |b| {
        b.iter(|| {
            turn += 1;
            call(black_box(workload.asked(turn)));
        });
    });
    group.finish();
    for asked in ["known", "new"] {
        let mut took: Vec<u128> = (0..SINGLE)
            .map(|turn| {
                let prompt = if asked == "known" { workload.asked(turn) } else { workload.stranger(turn) };
                // The prompt itself has just arrived, so it is in the cache of the processor.
                black_box(prompt.iter().fold(0, |sum: u32, &token| sum.wrapping_add(token)));
                let start = Instant::now();
                call(black_box(prompt));
                start.elapsed().as_nanos()
            })
            .collect();
        took.sort_unstable();
        let at = |share: f64| took[(share * (took.len() - 1) as f64) as usize];
        let (engines, p50, p99, p999) = (workload.engines, at(0.5), at(0.99), at(0.999));
        table.push(format!("{kind:10} {name:32} {engines:7} {asked:>9} {p50:9} {p99:9} {p999:9}"));
    }
}

/// What is as fast as it is wrong is not compared.
fn agree(workload: &Workload, ours: &mut Ours, other: &mut impl Index, name: &str) {
    // This router counts what an engine need not compute, which leaves the last token out.
    let whole = (PROMPT / BLOCK) as u32 - 1;
    for turn in 0..COMPARED {
        for prompt in [workload.asked(turn), workload.stranger(turn)] {
            let theirs: Vec<u32> = other.held(prompt).into_iter().map(|blocks| blocks.min(whole)).collect();
            assert_eq!(ours.held(prompt), theirs, "{name} on {} engines", workload.engines);
        }
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
