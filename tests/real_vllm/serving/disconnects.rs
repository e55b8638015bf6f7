//! Clients that go away at random moments: no block stays held, no request is stuck, and the engines serve on.

use std::time::Duration;

use rand::Rng as _;

use dualpool_types::seeded;

use super::pair;
use crate::support::faults::Fault;

const REQUESTS: usize = 200;
const MAX_TOKENS: u32 = 24;
/// Requests at one time, and the longest a client that goes away stays.
const AT_ONCE: usize = 16;
const STAY_MS_MAX: u64 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_requests_with_random_disconnects() {
    let Some(_cores) = pair::cores().await else { return };
    let seed = rand::rng().random();
    println!("[real engines]   seed {seed}");
    let mut rng = seeded(seed, "disconnects");
    let fleet = pair::start(&pair::settings("tiny-llama"), Fault::None).await;
    let check = [pair::prompt(300, 1), pair::prompt(40, 2)];
    let expected = pair::reference(&fleet, &check, MAX_TOKENS).await;
    fleet.arrange(&pair::every_prompt_moves()).await.unwrap();

    let mut clients = tokio::task::JoinSet::new();
    let (mut stayed, mut left) = (0, 0);
    let mut count = |went_away: bool| if went_away { left += 1 } else { stayed += 1 };
    for index in 0..REQUESTS {
        if clients.len() >= AT_ONCE {
            count(clients.join_next().await.unwrap().unwrap());
        }
        let prompt = pair::prompt(rng.random_range(1..1200), index as u64 + 10);
        let leaves = rng.random_bool(0.7).then(|| Duration::from_millis(rng.random_range(0..STAY_MS_MAX)));
        let replies = fleet.submit(pair::request(prompt, MAX_TOKENS, index as u32)).await;
        clients.spawn(async move {
            match leaves {
                // Dropping the stream is what a disconnect is.
                Some(after) => tokio::time::timeout(after, pair::finish(replies)).await.is_err(),
                None => {
                    let (tokens, end) = pair::finish(replies).await;
                    assert_eq!((tokens.len() as u32, end), (MAX_TOKENS, Ok(())));
                    false
                }
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        count(client.unwrap());
    }
    println!("[real engines]   {stayed} answered, {left} disconnected");
    assert!(stayed > 0 && left > 0, "the storm was none: {stayed} stayed, {left} left");
    let left = fleet.settle(pair::SETTLE).await.unwrap();
    assert!(left.is_quiet(), "{left}");

    fleet.reset_prefix_caches().await.expect("every block of an idle engine is free");
    for (prompt, expected) in check.iter().zip(expected) {
        let (tokens, end) = pair::finish(fleet.submit(pair::request(prompt.clone(), MAX_TOKENS, 0)).await).await;
        assert_eq!((tokens, end), (expected, Ok(())), "the engines do not serve as before");
    }
    assert!(fleet.settle(pair::SETTLE).await.unwrap().is_quiet());
    pair::shut_down(&fleet).await;
}
