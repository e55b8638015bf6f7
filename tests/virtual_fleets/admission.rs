//! What admission is worth under overload: a recorded hour's first requests, twice as fast as two prefill engines and a decode engine can
//! serve them, on modelled engines. `cargo test --test admission -- --nocapture` prints the table.

use std::path::Path;

use dualpool_model::VirtualSettings;
use dualpool_report::measure;
use dualpool_router::{AdmissionSettings, CostModel, EarlyRejection, RouterSettings, WindowKind};
use dualpool_types::records::{Outcome, RequestRecord};
use dualpool_types::{Arrangement, EngineId, Micros, Objectives, PolicyKind, Request, RequestError, Time, Tuning};
use dualpool_workload::ModelLimits;
use dualpool_workload::trace::{Replay, ReplayOptions, open};

const OBJECTIVES: Objectives = Objectives { ttft_us_max: Micros(5_000_000), itl_us_max: Micros(100_000) };
const SEEDS: u64 = 4;

fn engine() -> VirtualSettings {
    VirtualSettings { kv_blocks: 1_024, ..VirtualSettings::default() }
}

/// The trace asks for 3,200 prompt and 900 output tokens per second. Two engines prefill 2,900, and one decodes about 900 within the ITL
/// objective: at its own speed it is a full load.
fn requests(speed: f64) -> Vec<(Time, Request)> {
    let trace = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/traces/azure-2023-conv-first-300.csv");
    let engine = engine();
    let limits = ModelLimits { vocab_size: engine.vocab_size, max_model_len: engine.max_model_len };
    let options = ReplayOptions { speed, ..ReplayOptions::new(limits) };
    Replay::new(open(&trace).unwrap(), options).unwrap().map(|item| item.unwrap().asked(OBJECTIVES)).collect()
}

fn serve(admission: AdmissionSettings, requests: &[(Time, Request)], seed: u64) -> Vec<RequestRecord> {
    let engines = [0, 1, 2].map(EngineId);
    let (tuning, policy) = (Tuning::default(), PolicyKind::FullDisaggregation);
    let pools = Arrangement::pools("2P1D", policy, &engines[..2], &engines[2..], 3, tuning, tuning, 256).unwrap();
    let router = RouterSettings { max_in_flight: 10_000, admission, ..RouterSettings::default() };
    dualpool_sim::serve_by(&router, &pools, &engine(), CostModel::default(), requests, seed).unwrap().requests
}

/// Requests within their objectives, and requests rejected, over all seeds.
fn goodput(name: &str, admission: &AdmissionSettings) -> (usize, usize) {
    let requests = requests(2.0);
    let (mut good, mut rejected, mut late, mut jerky) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        for record in serve(admission.clone(), &requests, seed) {
            match record.outcome {
                Outcome::Done if measure::within_objectives(&record) => good += 1,
                Outcome::Done if measure::ttft_ms(&record) > Some(OBJECTIVES.ttft_us_max.as_ms()) => late += 1,
                Outcome::Done => jerky += 1,
                Outcome::Failed { error: RequestError::Rejected { reason } } => {
                    assert!(reason.retry_after_ms().is_some(), "{reason}");
                    assert!(record.admitted_us.is_none() && record.tokens.is_empty());
                    rejected += 1;
                }
                Outcome::Failed { error } => panic!("{}: {error}", record.id),
            }
        }
    }
    println!("{name:28} {good:4} within objectives, {late:4} with a late TTFT, {jerky:4} with a late ITL, {rejected:4} rejected");
    (good, rejected)
}

#[test]
fn twice_the_load_serves_more_with_early_rejection_and_most_with_foresight() {
    let settings = |reject| AdmissionSettings { reject, ..AdmissionSettings::default() };
    let (none, rejected) = goodput("admit everything", &settings(EarlyRejection::Off));
    assert_eq!(rejected, 0);
    let (naive, _) = goodput("reject by what decodes now", &settings(EarlyRejection::Naive));
    let (predictive, _) = goodput("reject by what will decode", &settings(EarlyRejection::Predictive));
    assert!(none < naive && naive < predictive, "seeds 0 to {SEEDS}: {none}, {naive}, {predictive}");
    let queued = AdmissionSettings { queue_max: 64, window: WindowKind::Aimd, ..settings(EarlyRejection::Predictive) };
    let (queued, _) = goodput("the same, behind a window", &queued);
    assert!(queued > none);
}

#[test]
fn a_window_keeps_the_engines_queues_short_and_the_wait_counts_as_ttft() {
    let prefill_ms = |record: &RequestRecord| {
        let first = record.token_us.first()?;
        Some((*first - record.admitted_us?).as_ms())
    };
    let late = |window| {
        let admission = AdmissionSettings { queue_max: 1_000, window, ..AdmissionSettings::default() };
        let records = serve(admission, &requests(2.0), 1);
        assert!(records.iter().all(|record| record.outcome == Outcome::Done));
        let waited = records.iter().filter(|record| record.admitted_us > Some(record.arrived_us)).count();
        let ttft = records.iter().filter_map(measure::ttft_ms).fold(0.0, f64::max);
        // From the middle on, when the window has found its width.
        let settled: Vec<f64> = records[150..].iter().filter_map(prefill_ms).collect();
        let late = settled.iter().filter(|&&ms| ms > OBJECTIVES.ttft_us_max.as_ms()).count();
        println!("{window:?}: {waited} waited, {late} of {} late after dispatch, longest TTFT {ttft:.0} ms", settled.len());
        (waited, late, ttft)
    };
    let (waited, all_late, _) = late(WindowKind::Off);
    assert!(waited == 0 && all_late > 100, "{all_late}");
    let (waited, few_late, ttft) = late(WindowKind::Aimd);
    assert!(waited > 100 && few_late < all_late / 5, "{few_late} of {all_late}");
    assert!(ttft > 2.0 * OBJECTIVES.ttft_us_max.as_ms(), "the wait for admission is part of the TTFT");
}
