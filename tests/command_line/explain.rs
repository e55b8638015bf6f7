//! `dualpool explain` as a user runs it, over what virtual runs and simulations leave.

use std::path::Path;

use dualpool_router::ScoreSettings;
use dualpool_types::records::{NoteRecord, Placed, RouterNote};

use crate::support::program::{dualpool, prints, text};
use crate::support::schemas;

#[track_caller]
fn refused(folder: &Path, args: &[&str], code: i32) -> String {
    let output = dualpool(folder, args).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(code), ""), "{}", text(&output.stderr));
    text(&output.stderr)
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is not in\n{text}");
    }
}

fn placements(file: &Path) -> Vec<(String, Placed)> {
    let text = std::fs::read_to_string(file).unwrap();
    let notes = text.lines().map(|line| serde_json::from_str::<NoteRecord>(line).unwrap());
    let placed = notes.filter_map(|record| match record.note {
        RouterNote::Placed(placed) => Some((record.arm, placed)),
        _ => None,
    });
    placed.collect()
}

#[test]
fn a_virtual_run_is_explained_by_workload_arm_and_request() {
    let here = tempfile::tempdir().unwrap();
    let args =
        ["run", "dynamic_router", "--quick", "--device", "virtual", "--set", "virtual.speed=20", "--explain", "--out", "here"];
    prints(here.path(), &[&args[..], &["--workload", "prefix_sessions", "--policy", "score"]].concat());
    let shown = prints(here.path(), &["explain", "here"]);
    let words = ["== prefix_sessions ==", "dynamic_router, policy score: ", "round_robin_control", "on the least loaded engine, %"];
    has(&shown, &words);

    let fit = schemas::all_fit(&here.path().join("here/prefix_sessions"));
    assert!(fit.iter().any(|name| name == "decisions.jsonl"), "{fit:?}");
    let placed = placements(&here.path().join("here/prefix_sessions/decisions.jsonl"));
    let (arm, last) = placed.last().unwrap();
    let told = prints(here.path(), &["explain", "here", "--request", &last.request.0.to_string()]);
    has(&told, &[&format!("{arm}, repetition "), &format!("{} *", last.chosen), "in the end done"]);
    let said = refused(here.path(), &["explain", "here", "--request", "99999999"], 2);
    has(&said, &["there is no request 99999999", "its requests are "]);
}

#[test]
fn a_simulation_is_explained_with_its_pools_and_rejections() {
    let here = tempfile::tempdir().unwrap();
    let serve = ["simulate", "--requests", "80", "--policy", "dual_pool,score,cache_aware", "--out", "out"];
    prints(here.path(), &[&serve[..], &["--explain", "--set", "router.max_in_flight=20"]].concat());
    let shown = prints(here.path(), &["explain", "out"]);
    let fit = schemas::all_fit(&here.path().join("out"));
    assert_eq!(fit, ["decisions.jsonl", "simulated_requests.jsonl", "simulation.json"]);
    let words =
        ["that only prefill there", "rejected: too_many_in_flight", "score, policy score: ", "dual_pool, policy dual_pool: "];
    has(&shown, &words);
    // Every placement of an arm is one that something decided.
    for arm in ["score", "cache_aware"] {
        let table = shown.split(&format!("{arm}, policy {arm}: ")).nth(1).unwrap();
        let all: u64 = table.split_whitespace().next().unwrap().parse().unwrap();
        let rows = table.lines().skip(4).take_while(|line| !line.starts_with('─'));
        let decided: u64 = rows.map(|row| row.split_whitespace().rev().nth(1).unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(decided, all, "{table}");
    }
}

/// What says which term decided must weigh terms as the policy did that noted them.
#[test]
fn scores_are_the_sums_of_their_weighted_terms() {
    let here = tempfile::tempdir().unwrap();
    let serve = ["simulate", "--scenario", "flagship_vs_mid", "--requests", "200", "--policy", "score", "--out", "out"];
    prints(here.path(), &[&serve[..], &["--explain"]].concat());
    let (placed, weights) = (placements(&here.path().join("out/decisions.jsonl")), ScoreSettings::default());
    assert!(placed.len() >= 200);
    for (_, placed) in placed {
        // What is left is what terms that are no question here say of all alike.
        let rest = placed.candidates.iter().map(|candidate| {
            let sum: f64 = candidate.terms.iter().map(|(name, value)| weights.weight(name).unwrap() * value).sum();
            candidate.score.unwrap() + sum
        });
        let rest: Vec<f64> = rest.collect();
        assert!(rest.iter().all(|other| (other - rest[0]).abs() < 1e-9), "{rest:?} of {placed:?}");
    }
}

#[test]
fn what_was_not_noted_and_what_is_broken_is_said() {
    let here = tempfile::tempdir().unwrap();
    prints(here.path(), &["simulate", "--requests", "20", "--mode", "baseline", "--out", "mute"]);
    has(&refused(here.path(), &["explain", "mute"], 2), &["mute has no decisions.jsonl", "with --explain"]);
    has(&refused(here.path(), &["explain", "nowhere"], 2), &["nowhere is not a folder"]);
    std::fs::write(here.path().join("mute/decisions.jsonl"), "{\"arm\": \"x\"}\n").unwrap();
    has(&refused(here.path(), &["explain", "mute"], 1), &["decisions.jsonl line 1: ", "delete the line"]);
}
