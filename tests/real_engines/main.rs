//! The whole of dualpool over real vLLM CPU engines with tiny models: hand-off token for token, faults, disconnects, clean ends. The
//! checks run one after the other within one test, because one process embeds one interpreter and engines want their cores to
//! themselves; run with `--nocapture` to see how far it is, and with `REAL_ENGINES=migration` for those checks alone that have this word in
//! their name.
#![cfg(feature = "python")]

mod command_line;
mod deaths;
mod disconnects;
mod exact;
#[path = "../support/faults.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod faults;
mod moving;
mod pair;

use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dualpool_over_real_engines() {
    if pair::gpus_are_in_use() {
        println!("skipped: these checks pin CPU engines, and .venv holds the CUDA build of vLLM");
        return;
    }
    step("exact runs of three models", exact::three_models).await;
    step("a skipped block fails an exact run", exact::a_skipped_block_fails_the_run).await;
    step("random disconnects", disconnects::two_hundred_requests_with_random_disconnects).await;
    step("a death during prefill", deaths::during_prefill).await;
    step("a death of the source during the copy", deaths::of_the_source_during_the_copy).await;
    step("a death of the destination during the copy", deaths::of_the_destination_during_the_copy).await;
    step("a death during decode", deaths::during_decode).await;
    step("a death with fifty requests in flight", deaths::with_fifty_in_flight).await;
    step("live migration", moving::live_migration).await;
    step("Ctrl-C keeps what is finished", command_line::ctrl_c_ends_engines_and_keeps_finished_work).await;
}

async fn step<F: Future<Output = ()>>(what: &str, check: impl FnOnce() -> F) {
    if std::env::var("REAL_ENGINES").is_ok_and(|wanted| !what.contains(&wanted)) {
        return println!("[real engines] {what}: not wanted");
    }
    println!("[real engines] {what} ...");
    let begun = Instant::now();
    check().await;
    println!("[real engines] {what}: ok after {:.1} s", begun.elapsed().as_secs_f64());
}
