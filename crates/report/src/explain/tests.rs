use dualpool_types::records::{Candidate, Placed, RouterNote};
use dualpool_types::{EngineId, Micros, PolicyKind, RequestId};

use super::evidence::{Decided, SCORE, least_loaded};
use super::*;

fn candidate(engine: u16, score: f64, terms: &[(&str, f64)]) -> Candidate {
    let terms = terms.iter().map(|&(name, value)| (name.to_string(), value)).collect();
    Candidate { engine: EngineId(engine), score: Some(score), cached_tokens: 30, terms }
}

fn placed(policy: PolicyKind, chosen: u16, candidates: Vec<Candidate>) -> Placed {
    let (request, chosen) = (RequestId(7), EngineId(chosen));
    Placed { request, policy, prompt_tokens: 100, outputs: 10, from: None, chosen, prefill_only: false, candidates }
}

fn weights() -> ScoreSettings {
    ScoreSettings { locality: 2.0, queue: 1.0, ..ScoreSettings::default() }
}

#[track_caller]
fn decides(placed: &Placed, expected: Decided<'_>) {
    assert_eq!(Weights(Some(&weights())).judge(placed).unwrap().decided, expected);
}

#[test]
fn the_term_that_speaks_most_for_the_chosen_engine_decided() {
    // 2 * 0.3 for the cache against 1 * 0.5 for the queue: the weight turns the larger difference into the smaller say.
    let near = candidate(0, -0.6, &[("locality", 0.3), ("queue", 0.0)]);
    let far = candidate(1, 0.5, &[("locality", 0.0), ("queue", 0.5)]);
    decides(&placed(PolicyKind::Score, 0, vec![near.clone(), far.clone()]), Decided::By("locality"));
    // What speaks against it did not.
    let busy = candidate(2, 0.1, &[("locality", 0.0), ("queue", 0.1)]);
    decides(&placed(PolicyKind::Score, 2, vec![busy.clone(), far.clone()]), Decided::By("queue"));
    decides(&placed(PolicyKind::Score, 1, vec![near.clone(), far.clone()]), Decided::NotByScore);
    decides(&placed(PolicyKind::Score, 0, vec![near.clone()]), Decided::OnlyOne);
    decides(&placed(PolicyKind::Score, 0, vec![near.clone(), candidate(1, -0.6, &[])]), Decided::Equal);
    let unweighed = placed(PolicyKind::Score, 0, vec![near, far]);
    assert_eq!(Weights(None).judge(&unweighed).unwrap().decided, Decided::Unknown);
}

#[test]
fn each_policy_is_judged_by_what_it_goes_by() {
    let soon = candidate(0, 50.0, &[("ttft_us", 10.0), ("decode_us", 40.0)]);
    let late = candidate(1, 90.0, &[("ttft_us", 60.0), ("decode_us", 30.0)]);
    decides(&placed(PolicyKind::PredictedLatency, 0, vec![soon, late]), Decided::By("ttft_us"));

    let ranked = |score, load, depth| candidate(0, score, &[("cached", 64.0), ("demand_us", load), ("queue_depth", depth)]);
    let other = |score, cached, depth| candidate(1, score, &[("cached", cached), ("demand_us", 9.0), ("queue_depth", depth)]);
    decides(&placed(PolicyKind::CacheAware, 0, vec![ranked(-64.0, 5.0, 1.0), other(-32.0, 32.0, 1.0)]), Decided::By("cached"));
    decides(&placed(PolicyKind::CacheAware, 0, vec![ranked(5.0, 5.0, 1.0), other(9.0, 64.0, 1.0)]), Decided::By("demand_us"));
    decides(&placed(PolicyKind::CacheAware, 0, vec![ranked(-64.0, 9.0, 1.0), other(-64.0, 64.0, 2.0)]), Decided::By("queue_depth"));

    let turn = vec![candidate(0, 0.0, &[]), candidate(1, 1.0, &[])];
    decides(&placed(PolicyKind::RoundRobin, 0, turn), Decided::Turns);
    let idle = vec![candidate(0, 1.0, &[]), candidate(1, 2.0, &[])];
    decides(&placed(PolicyKind::LeastLoad, 0, idle), Decided::By(SCORE));
}

#[test]
fn the_least_loaded_engine_is_known_where_the_policy_says_loads() {
    let two = || vec![candidate(0, 1.0, &[("queue", 0.9)]), candidate(1, 2.0, &[("queue", 0.1)])];
    assert_eq!(least_loaded(&placed(PolicyKind::Score, 0, two())), Some(false));
    assert_eq!(least_loaded(&placed(PolicyKind::Score, 1, two())), Some(true));
    assert_eq!(least_loaded(&placed(PolicyKind::LeastLoad, 0, two())), Some(true));
    assert_eq!(least_loaded(&placed(PolicyKind::RoundRobin, 0, two())), None);
}

/// A folder as a simulation leaves it.
fn folder(notes: &[NoteRecord], requests: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = notes.iter().map(|note| serde_json::to_string(note).unwrap() + "\n").collect();
    std::fs::write(dir.path().join(DECISIONS), lines).unwrap();
    std::fs::write(dir.path().join(REQUESTS), requests).unwrap();
    std::fs::write(dir.path().join("simulation.json"), r#"{"schema_version": 2, "router": {"score": {"locality": 2.0}}}"#).unwrap();
    dir
}

fn note(note: RouterNote) -> NoteRecord {
    NoteRecord { arm: "warm".into(), repetition: 1, at_us: Micros(1_500_000), note }
}

fn two_placements() -> Vec<NoteRecord> {
    let near = || candidate(0, -0.6, &[("locality", 0.3), ("queue", 0.0)]);
    let far = || candidate(1, 0.5, &[("locality", 0.0), ("queue", 0.5)]);
    let first = placed(PolicyKind::Score, 0, vec![near(), far()]);
    let second = Placed { request: RequestId(9), prefill_only: true, ..first.clone() };
    let moved = RouterNote::Migrated {
        request: RequestId(9),
        from: EngineId(0),
        to: EngineId(1),
        tokens: 0,
        why: dualpool_types::records::MigrationReason::Drain,
    };
    [RouterNote::Placed(first), RouterNote::Placed(second), moved].map(note).to_vec()
}

const FATES: &str = r#"{"arm": "warm", "index": 7, "prompt_tokens": 100, "cached_tokens": 25, "engines": [0], "outcome": {"status": "done"}}
{"arm": "warm", "index": 8, "prompt_tokens": 50, "cached_tokens": 0, "engines": [], "outcome": {"status": "failed", "error": {"kind": "rejected", "reason": "no_engine"}}}
"#;

#[test]
fn a_run_is_summed_up_by_arm_and_term() {
    let dir = folder(&two_placements(), FATES);
    let explained = explain(dir.path()).unwrap();
    let [(arm, tally)] = &explained[0].arms[..] else { panic!("{explained:?}") };
    assert_eq!((arm.as_str(), tally.placements, tally.prefill_only, tally.engines[&EngineId(0)]), ("warm", 2, 1, 2));
    assert_eq!((tally.believed_tokens, tally.placed_tokens), (60, 200));
    assert_eq!((tally.cached_tokens, tally.prompt_tokens), (25, 100), "the request that was turned away does not count");
    assert_eq!((tally.moved.drain, tally.moved.computed_again, tally.rejected["no_engine"]), (1, 1, 1));
    let policy = &tally.policies["score"];
    assert_eq!((policy.terms["locality"].decided, policy.terms["queue"].decided), (2, 0));
    assert_eq!(policy.terms["queue"].higher.mean(), Some(-0.5));
    let text = table(&explained[0]);
    for words in ["on engine-0, % of them", "2 (100)", "rejected: no_engine", "warm, policy score: 2 placements", "-0.50 ± 0"] {
        assert!(text.contains(words), "`{words}` is not in\n{text}");
    }
}

#[test]
fn the_first_choice_of_auto_is_said_to_have_no_forecast() {
    let to = dualpool_types::Arrangement::shared("least_load", PolicyKind::LeastLoad, 2, dualpool_types::Tuning::default());
    let chosen = |forecast: Option<f64>| {
        note(RouterNote::Rearranged {
            from: "auto".into(),
            to: to.clone(),
            forecast_from: forecast.map(|share| share - 0.1),
            forecast_to: forecast,
            requests: 40,
        })
    };
    let dir = folder(&[chosen(None)], "");
    let text = table(&explain(dir.path()).unwrap()[0]);
    assert!(text.contains("1 x, before any forecast") && !text.contains("n/m to"), "{text}");
    let dir = folder(&[chosen(None), chosen(Some(0.9))], "");
    let text = table(&explain(dir.path()).unwrap()[0]);
    assert!(text.contains("2 x, 80.0 to 90.0"), "{text}");
}

#[test]
fn a_request_is_told_decision_by_decision() {
    let dir = folder(&two_placements(), FATES);
    let text = told(dir.path(), RequestId(9)).unwrap();
    for words in ["engine-0 *", "decided by `locality` over engine-1", "which only prefills it", "its engine is drained"] {
        assert!(text.contains(words), "`{words}` is not in\n{text}");
    }
    assert!(told(dir.path(), RequestId(8)).unwrap().contains("in the end rejected: no engine"), "it was never placed");
    let said = told(dir.path(), RequestId(40)).unwrap_err().to_string();
    assert!(said.contains("no request 40") && said.contains("7 to 9"), "{said}");
}

#[test]
fn what_cannot_be_read_is_named_with_its_line_and_mend() {
    let dir = tempfile::tempdir().unwrap();
    let said = explain(&dir.path().join("gone")).unwrap_err().to_string();
    assert!(said.contains("gone is not a folder"), "{said}");
    let said = explain(dir.path()).unwrap_err().to_string();
    assert!(said.contains("no decisions.jsonl") && said.contains("--explain"), "{said}");

    let dir = folder(&two_placements(), FATES);
    let (path, whole) = (dir.path().join(DECISIONS), std::fs::read_to_string(dir.path().join(DECISIONS)).unwrap());
    std::fs::write(&path, whole.replacen("\"prefill_only\"", "\"prefil_only\"", 1)).unwrap();
    for said in [explain(dir.path()).unwrap_err().to_string(), told(dir.path(), RequestId(7)).unwrap_err().to_string()] {
        assert!(
            said.contains("decisions.jsonl line 1") && said.contains("prefill_only") && said.contains("delete the line"),
            "{said}"
        );
    }
    // A writer that was stopped leaves a part of its last line.
    std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    let explained = explain(dir.path()).unwrap();
    assert_eq!(explained[0].arms[0].1.moved.drain, 0);
    assert!(table(&explained[0]).contains("The last line of decisions.jsonl was cut off"));
}
