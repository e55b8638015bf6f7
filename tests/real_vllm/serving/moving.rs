//! Requests that move while they decode, on real engines: the same tokens, no block left, and what their clients see of it.

use std::sync::Arc;
use std::time::Duration;

use dualpool_bench::Settings;
use dualpool_fleet::{Fleet, NewRequest, Reply, ReplyStream};
use dualpool_report::live_migrations;
use dualpool_types::artifact::{LiveMigrationSummary, MoveStages};
use dualpool_types::records::{HandoffKind, RequestRecord, RouterNote};
use dualpool_types::{Arrangement, Clock as _, EngineId, MonotonicClock, PolicyKind, Sampling, TokenId, Tuning};

use super::pair;
use crate::support::faults::Fault;

const MIGRATIONS: usize = 100;
const MAX_TOKENS: u32 = 240;
const PROMPTS: u64 = 6;

fn settings() -> Settings {
    let mut settings = pair::settings("tiny-llama");
    // How soon a drain begins, and is seen to be over.
    settings.router.tick_ms = 2;
    settings
}

fn shared() -> Arrangement {
    Arrangement::shared("least_load", PolicyKind::LeastLoad, 2, Tuning::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_migration() {
    let Some(_cores) = pair::cores().await else { return };
    let fleet = pair::start(&settings(), Fault::None).await;
    let prompts: Vec<Arc<[TokenId]>> = (0..PROMPTS).map(|seed| pair::prompt(40 + 90 * seed as usize, seed + 50)).collect();
    let expected = pair::reference(&fleet, &prompts, MAX_TOKENS).await;
    fleet.arrange(&shared()).await.unwrap();
    a_hundred_moves_one_after_the_other(&fleet, &prompts, &expected).await;
    a_drain_under_load(&fleet, &prompts, &expected).await;
    the_last_engine_is_not_drained(&fleet).await;
    what_would_get_other_tokens_stays(&fleet).await;
    pair::shut_down(&fleet).await;
}

/// One request at a time decodes, and its engine is drained under it, over and over.
async fn a_hundred_moves_one_after_the_other(fleet: &Fleet, prompts: &[Arc<[TokenId]>], expected: &[Vec<TokenId>]) {
    let mut records: Vec<RequestRecord> = Vec::new();
    let moves = |records: &[RequestRecord]| records.iter().map(|record| record.handoffs.len()).sum::<usize>();
    while moves(&records) < MIGRATIONS {
        let round = records.len();
        assert!(round < 2 * MIGRATIONS, "{} moves in {round} requests", moves(&records));
        let at = round % prompts.len();
        fleet.record("live", round as u32, MonotonicClock::new().now()).await;
        let request = fleet.submit(pair::request(prompts[at].clone(), MAX_TOKENS, round as u32)).await;
        let tokens = to_and_fro(fleet, request).await;
        let left = fleet.settle(pair::SETTLE).await.unwrap();
        assert!(left.is_quiet(), "{left}");
        let recording = fleet.recorded().await;
        let migrated = recording.notes.iter().filter(|note| matches!(note.note, RouterNote::Migrated { .. })).count();
        assert_eq!(migrated, moves(&recording.requests));
        assert_eq!(tokens, expected[at], "request {round}, which moved {migrated} times");
        records.extend(recording.requests);
    }
    assert!(
        records
            .iter()
            .flat_map(|record| &record.handoffs)
            .all(|move_| move_.kind == HandoffKind::LiveMigration && !move_.recomputed)
    );
    let live = live_migrations(&records.iter().collect::<Vec<_>>());
    print(&live);
    for handoff in records.iter().flat_map(|record| &record.handoffs) {
        let times = [Some(handoff.started_us), handoff.copy_started_us, handoff.computed_us, handoff.ended_us];
        assert!(times.iter().all(Option::is_some) && times.is_sorted(), "{handoff:?}");
    }
    assert!(live.downtime_ms.p50.is_some() && live.downtime_ms.p95.is_some() && live.copy_ms.p50.is_some(), "{live:?}");
}

fn print(live: &LiveMigrationSummary) {
    let ms = |figure: Option<f64>| figure.map_or("none".to_owned(), |ms| format!("{ms:.1} ms"));
    println!(
        "[real engines]   {} live migrations: downtime p50 {}, p95 {}; copy p50 {}; median ITL {}",
        live.count,
        ms(live.downtime_ms.p50),
        ms(live.downtime_ms.p95),
        ms(live.copy_ms.p50),
        ms(live.itl_ms_p50),
    );
    let MoveStages { submit, copy, step, deliver } = live.stages_ms_p50;
    println!("[real engines]   medians: submit {}, copy {}, step {}, deliver {}", ms(submit), ms(copy), ms(step), ms(deliver));
}

/// Drains one engine and the other in turn whenever some tokens have come; the request's tokens.
async fn to_and_fro(fleet: &Fleet, mut replies: ReplyStream) -> Vec<TokenId> {
    let (mut tokens, mut drained, mut next) = (Vec::new(), EngineId(1), 3);
    loop {
        match tokio::time::timeout(pair::PATIENCE, replies.next()).await.expect("the request is stuck") {
            Some(Reply::Tokens { tokens: new, .. }) => tokens.extend(new),
            Some(Reply::End(end)) => {
                assert_eq!(end, Ok(()));
                break;
            }
            None => panic!("no end"),
        }
        if tokens.len() >= next {
            fleet.undrain(drained).await.unwrap();
            drained = EngineId(1 - drained.0);
            fleet.drain(drained).await.unwrap();
            next = tokens.len() + 4;
        }
    }
    fleet.undrain(drained).await.unwrap();
    tokens
}

async fn a_drain_under_load(fleet: &Fleet, prompts: &[Arc<[TokenId]>], expected: &[Vec<TokenId>]) {
    fleet.record("drain", 0, MonotonicClock::new().now()).await;
    let mut clients = tokio::task::JoinSet::new();
    for round in 0..24 {
        if round == 12 {
            // Half of them are on their way; the others come while the engine is drained, and after.
            let draining = fleet.clone();
            clients.spawn(async move { draining.drain(EngineId(0)).await.map(|()| None) });
        }
        let at = round % prompts.len();
        let replies = fleet.submit(pair::request(prompts[at].clone(), MAX_TOKENS, round as u32)).await;
        clients.spawn(async move { Ok(Some((at, pair::finish(replies).await))) });
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while let Some(client) = clients.join_next().await {
        if let Some((at, (tokens, end))) = client.unwrap().expect("the drain ends") {
            assert_eq!((&tokens, end), (&expected[at], Ok(())));
        }
    }
    let left = fleet.settle(pair::SETTLE).await.unwrap();
    assert!(left.is_quiet(), "{left}");
    let recording = fleet.recorded().await;
    let drained =
        recording.notes.iter().find(|note| note.note == RouterNote::Drained { engine: EngineId(0) }).expect("a note of it");
    let late = |leg: &&dualpool_types::records::LegRecord| leg.engine == EngineId(0) && leg.ended_us.unwrap() > drained.at_us;
    assert_eq!(recording.requests.iter().flat_map(|record| &record.legs).filter(late).count(), 0, "nothing is on it any more");
    let live = live_migrations(&recording.requests.iter().collect::<Vec<_>>());
    assert!(live.count > 0, "nothing had to move");
    println!("[real engines]   drained under load: {} requests moved", live.count);
    fleet.undrain(EngineId(0)).await.unwrap();
}

async fn the_last_engine_is_not_drained(fleet: &Fleet) {
    fleet.drain(EngineId(0)).await.unwrap();
    let refused = fleet.drain(EngineId(1)).await.unwrap_err().to_string();
    assert!(refused.contains("engine-1 is the last engine"), "{refused}");
    fleet.undrain(EngineId(0)).await.unwrap();
}

/// In an arrangement that moves every request, and on an engine that is drained.
async fn what_would_get_other_tokens_stays(fleet: &Fleet) {
    fleet.reset_prefix_caches().await.unwrap();
    fleet.arrange(&pair::every_prompt_moves()).await.unwrap();
    let seeded = Sampling { temperature: 0.9, seed: Some(11), ..Sampling::default() };
    let penalised = Sampling { presence_penalty: 1.5, frequency_penalty: 0.5, ..Sampling::default() };
    for sampling in [seeded, penalised] {
        let ask = || NewRequest { sampling, ..pair::request(pair::prompt(200, 77), MAX_TOKENS, 0) };
        fleet.record("tied", 0, MonotonicClock::new().now()).await;
        let (first, end) = pair::finish(fleet.submit(ask()).await).await;
        end.unwrap();
        let mut replies = fleet.submit(ask()).await;
        assert!(matches!(replies.next().await, Some(Reply::Tokens { .. })));
        // Its engine is drained, and it goes on to its end there.
        let (drained, (rest, end)) = tokio::join!(fleet.drain(EngineId(0)), pair::finish(replies));
        drained.unwrap();
        end.unwrap();
        fleet.undrain(EngineId(0)).await.unwrap();
        let records = fleet.recorded().await.requests;
        assert!(records.iter().all(|record| record.legs.len() == 1 && record.handoffs.is_empty()), "{sampling:?} moved");
        assert_eq!((first.len(), &first[first.len() - rest.len()..]), (MAX_TOKENS as usize, &rest[..]), "{sampling:?}");
    }
    let greedy = pair::finish(fleet.submit(pair::request(pair::prompt(200, 77), MAX_TOKENS, 0)).await).await.0;
    let ask = NewRequest { sampling: penalised, ..pair::request(pair::prompt(200, 77), MAX_TOKENS, 0) };
    assert_ne!(pair::finish(fleet.submit(ask).await).await.0, greedy, "the engine knows of the penalties");
    assert!(fleet.settle(pair::SETTLE).await.unwrap().is_quiet());
}
