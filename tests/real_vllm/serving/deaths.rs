//! An engine is killed at the worst moments: every admitted request still gets all its tokens, the right ones.

use std::sync::Arc;
use std::time::Duration;

use dualpool_fleet::{Fleet, Reply};
use dualpool_types::{Clock as _, Micros, MonotonicClock, TokenId};

use super::pair;
use crate::support::faults::Fault;

const MAX_TOKENS: u32 = 40;
/// Long enough for a kill to hit the copy, short beside the patience of a check.
const SLOW_COPY: Micros = Micros(1_500_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_prefill() {
    let Some(_cores) = pair::cores().await else { return };
    killed(0, Fault::None, |_| Moment::After(Duration::from_millis(30))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_source_during_the_copy() {
    let Some(_cores) = pair::cores().await else { return };
    killed(0, Fault::Delay(SLOW_COPY), |_| Moment::AfterFirstToken(Duration::from_millis(300))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_destination_during_the_copy() {
    let Some(_cores) = pair::cores().await else { return };
    killed(1, Fault::Delay(SLOW_COPY), |_| Moment::AfterFirstToken(Duration::from_millis(300))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_decode() {
    let Some(_cores) = pair::cores().await else { return };
    killed(1, Fault::None, |_| Moment::AtToken(10)).await;
}

/// One of two engines that share the load alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_fifty_in_flight() {
    let Some(_cores) = pair::cores().await else { return };
    const REQUESTS: u64 = 50;
    let fleet = pair::start(&pair::settings("tiny-llama"), Fault::None).await;
    let prompts: Vec<Arc<[TokenId]>> = (0..REQUESTS).map(|seed| pair::prompt(30 + 11 * seed as usize, seed + 200)).collect();
    let expected = pair::reference(&fleet, &prompts, MAX_TOKENS).await;
    fleet.record("death", 0, MonotonicClock::new().now()).await;
    let mut clients = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        clients.push(fleet.submit(pair::request(prompt.clone(), MAX_TOKENS, index as u32)).await);
    }
    let mut firsts = Vec::new();
    for client in clients.iter_mut().take(4) {
        match tokio::time::timeout(pair::PATIENCE, client.next()).await.expect("no token came") {
            Some(Reply::Tokens { tokens, .. }) => firsts.push(tokens),
            other => panic!("a request ended before the kill: {other:?}"),
        }
    }
    // SAFETY: a plain kill(2) of a process that this test started.
    assert_eq!(unsafe { libc::kill(pair::pids(&fleet)[0] as i32, libc::SIGKILL) }, 0);
    for (at, (client, expected)) in clients.into_iter().zip(&expected).enumerate() {
        let (rest, end) = pair::finish(client).await;
        let tokens: Vec<TokenId> = firsts.get(at).cloned().unwrap_or_default().into_iter().chain(rest).collect();
        assert_eq!((&tokens, end), (expected, Ok(())), "request {at}");
    }
    let left = fleet.settle(pair::SETTLE).await.unwrap();
    assert!(left.is_quiet(), "{left}");
    let records = fleet.recorded().await.requests;
    assert_eq!(records.len() as u64, REQUESTS, "each ended once");
    let resumed = records.iter().filter(|record| record.legs.iter().any(|leg| leg.engine.0 == 0)).count();
    assert!(records.iter().all(|record| record.legs.last().is_some_and(|leg| leg.engine.0 == 1 || leg.ended_us.is_some())));
    assert!(resumed > 0, "nothing was on the engine that died");
    println!("[real engines]   {resumed} of {REQUESTS} requests had been on the engine that died");
    pair::shut_down(&fleet).await;
}

/// When the engine dies, as seen by the first request's client.
#[derive(Clone, Copy)]
enum Moment {
    After(Duration),
    AfterFirstToken(Duration),
    AtToken(usize),
}

async fn killed(victim: usize, fault: Fault, moment: impl Fn(&Fleet) -> Moment) {
    let fleet = pair::start(&pair::settings("tiny-llama"), fault).await;
    // The first one is watched, the others are "other requests unharmed".
    let prompts: Vec<Arc<[TokenId]>> = [1500, 200, 64, 700].iter().zip(1..).map(|(&n, seed)| pair::prompt(n, seed)).collect();
    let expected = pair::reference(&fleet, &prompts, MAX_TOKENS).await;
    fleet.arrange(&pair::every_prompt_moves()).await.unwrap();

    let mut watched = fleet.submit(pair::request(prompts[0].clone(), MAX_TOKENS, 0)).await;
    let mut others = Vec::new();
    for (index, prompt) in prompts.iter().enumerate().skip(1) {
        others.push(fleet.submit(pair::request(prompt.clone(), MAX_TOKENS, index as u32)).await);
    }
    let mut seen: Vec<TokenId> = Vec::new();
    let wanted = match moment(&fleet) {
        Moment::After(_) => 0,
        Moment::AfterFirstToken(_) => 1,
        Moment::AtToken(n) => n,
    };
    while seen.len() < wanted {
        match tokio::time::timeout(pair::PATIENCE, watched.next()).await.expect("no token came") {
            Some(Reply::Tokens { tokens, .. }) => seen.extend(tokens),
            other => panic!("the watched request ended before the kill: {other:?}"),
        }
    }
    if let Moment::After(wait) | Moment::AfterFirstToken(wait) = moment(&fleet) {
        tokio::time::sleep(wait).await;
    }
    let pids = pair::pids(&fleet);
    // SAFETY: a plain kill(2) of a process that this test started.
    assert_eq!(unsafe { libc::kill(pids[victim] as i32, libc::SIGKILL) }, 0);

    let (rest, end) = pair::finish(watched).await;
    seen.extend(rest);
    assert_eq!((&seen, end), (&expected[0], Ok(())), "the watched request");
    for (replies, expected) in others.into_iter().zip(&expected[1..]) {
        let (tokens, end) = pair::finish(replies).await;
        assert_eq!((&tokens, end), (expected, Ok(())), "another request");
    }
    let left = fleet.settle(pair::SETTLE).await.unwrap();
    assert!(left.is_quiet(), "{left}");
    assert_eq!(fleet.dead_engines().await.len(), 1);

    let (tokens, end) = pair::finish(fleet.submit(pair::request(prompts[1].clone(), MAX_TOKENS, 9)).await).await;
    assert_eq!((&tokens, end), (&expected[1], Ok(())), "the engine that is left serves on");
    pair::shut_down(&fleet).await;
}
