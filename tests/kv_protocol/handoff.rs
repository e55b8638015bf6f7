//! Hand-offs between two real vLLM engines on the CPU, through the real KV server.

use rand::Rng;

use dualpool_kv::KvEvent;
use dualpool_types::{Micros, TokenId};

use crate::engine::{Engine, LegParams, Outcome, Pending, Worker, one_pair_at_a_time};
use crate::faults::Fault;
use crate::python::model;
use crate::watch::{LEASE_MS, Watched, leg, start, until};

/// Output tokens of a whole request.
const OUTPUT: usize = 16;

struct Pair {
    watched: Watched,
    engines: [Engine; 2],
    /// The next request's number.
    request: u64,
}

impl Pair {
    fn start(model_name: &str) -> Pair {
        let mut watched = start(true);
        let model = model(model_name);
        let spawn = |id, worker| Engine::spawn(watched.kv_server.socket_path(), id, &model, worker);
        let engines = [spawn(0, Worker::OwnProcess), spawn(1, Worker::InCore)];
        for engine in &engines {
            engine.wait_ready().unwrap();
        }
        for _ in &engines {
            assert!(matches!(watched.next(), KvEvent::Ready { .. }));
        }
        Pair { watched, engines, request: 0 }
    }

    fn prompt(&mut self, tokens: usize) -> (u64, Vec<TokenId>) {
        self.request += 1;
        let mut rng = dualpool_types::seeded(self.request, "kv_protocol");
        (self.request, (0..tokens).map(|_| rng.random_range(3..512)).collect())
    }

    /// The first leg: prefill and one token, blocks held.
    fn prefill(&self, on: usize, request: u64, prompt: &[TokenId]) -> Outcome {
        let params = LegParams { leg: Some(leg(request, 0)), hold: true, source: None };
        let outcome = self.engines[on].generate(prompt, 1, params).wait();
        assert_eq!(outcome.held, Some(prompt.len() as u64));
        outcome
    }

    /// The second leg: fetches what the first one holds, and decodes.
    fn decode(&self, from: usize, request: u64, prompt: &[TokenId], first: &[TokenId]) -> Pending<'_> {
        let source = Some((self.engines[from].id, leg(request, 0), prompt.len() as u64));
        let params = LegParams { leg: Some(leg(request, 1)), hold: false, source };
        self.engines[1 - from].generate(&[prompt, first].concat(), OUTPUT - 1, params)
    }

    /// A whole request with a hand-off: its tokens, and the bytes copied or why they were not.
    fn hand_off(&mut self, from: usize, request: u64, prompt: &[TokenId]) -> (Vec<TokenId>, Result<u64, String>) {
        let first = self.prefill(from, request, prompt).tokens;
        let rest = self.decode(from, request, prompt, &first).wait();
        let copied = self.watched.fetched(leg(request, 1));
        if copied.is_ok() {
            assert_eq!(rest.cached, prompt.len() as u64, "the destination computes nothing but the first token's KV");
        }
        ([first, rest.tokens].concat(), copied)
    }

    /// No block is in use on either engine, and the KV server knows it.
    fn assert_clean(&self) {
        for engine in &self.engines {
            engine.wait_idle();
        }
        until("no held block", || (self.watched.kv_server.held_blocks() == 0).then_some(()));
    }
}

/// The scenarios share one pair of engines, since starting them takes most of the time.
#[test]
fn hand_offs_between_two_engines() {
    let _guard = one_pair_at_a_time();
    let mut pair = Pair::start("tiny-llama");
    tokens_are_those_of_one_engine(&mut pair);
    many_at_a_time(&mut pair);
    a_skipped_block_shows(&mut pair);
    a_failed_copy_is_recomputed(&mut pair);
    blocks_that_no_leg_fetches_are_released(&mut pair);
    a_release_that_comes_first_counts(&mut pair);
    a_lease_runs_out(&mut pair);
    cached_blocks_are_not_copied(&mut pair);
    nothing_to_fetch(&mut pair);
    aborted_during_its_fetch(&mut pair);
    aborted_before_its_fetch(&mut pair);
    aborted_with_a_hold(&mut pair);
    a_source_unknown_to_all(&mut pair);
    // The last one: it takes the KV server away.
    the_control_socket_is_cut(pair);
}

/// Bytes of one block over all four layers: 128 tokens x 2 heads x 64 x (key + value) x 2 bytes.
const LLAMA_BLOCK_BYTES: u64 = 4 * 128 * 2 * 64 * 2 * 2;

fn tokens_are_those_of_one_engine(pair: &mut Pair) {
    for (i, tokens) in [1, 5, 127, 128, 129, 255, 256, 257, 700, 2001].into_iter().enumerate() {
        let (request, prompt) = pair.prompt(tokens);
        let from = i % 2;
        let want = pair.engines[from].reference(&prompt, OUTPUT);
        let (got, copied) = pair.hand_off(from, request, &prompt);
        assert_eq!(got, want, "{tokens} prompt tokens from engine {from}");
        assert_eq!(copied, Ok(tokens.div_ceil(128) as u64 * LLAMA_BLOCK_BYTES), "{tokens} prompt tokens");
        pair.assert_clean();
    }
}

/// Concurrent requests share decode steps, which changes the rounding of bf16 and now and then a token; so this checks that
/// every hand-off happens and ends, not its tokens.
fn many_at_a_time(pair: &mut Pair) {
    let requests: Vec<(u64, Vec<TokenId>)> = (0..8).map(|i| pair.prompt(100 + 83 * i)).collect();
    std::thread::scope(|scope| {
        for (request, prompt) in &requests {
            let pair = &*pair;
            scope.spawn(move || {
                let from = *request as usize % 2;
                let first = pair.prefill(from, *request, prompt).tokens;
                assert_eq!(pair.decode(from, *request, prompt, &first).wait().tokens.len(), OUTPUT - 1);
            });
        }
    });
    let mut fetched = 0;
    while fetched < requests.len() {
        match pair.watched.next() {
            KvEvent::Fetched { error, .. } => {
                assert_eq!(error, None);
                fetched += 1;
            }
            KvEvent::Held { .. } | KvEvent::Released { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    pair.assert_clean();
}

/// The check above can fail: with a part left out, tokens differ, whatever the mover believes.
fn a_skipped_block_shows(pair: &mut Pair) {
    let (request, prompt) = pair.prompt(700);
    let want = pair.engines[0].reference(&prompt, OUTPUT);
    pair.watched.faults.inject(Fault::SkipPart);
    let (got, copied) = pair.hand_off(0, request, &prompt);
    pair.watched.faults.inject(Fault::None);
    assert_eq!(copied, Ok(6 * LLAMA_BLOCK_BYTES));
    assert_ne!(got, want);
    pair.assert_clean();
}

/// The destination then computes prompt and first token itself, in one step, exactly as it would for a new request.
fn a_failed_copy_is_recomputed(pair: &mut Pair) {
    let (request, prompt) = pair.prompt(700);
    pair.watched.faults.inject(Fault::FailCopy);
    let (got, copied) = pair.hand_off(0, request, &prompt);
    pair.watched.faults.inject(Fault::None);
    assert!(copied.unwrap_err().contains("injected"));
    let want = pair.engines[1].reference(&[&prompt[..], &got[..1]].concat(), OUTPUT - 1);
    assert_eq!(got[1..], want);
    pair.assert_clean();
}

fn blocks_that_no_leg_fetches_are_released(pair: &mut Pair) {
    let (request, prompt) = pair.prompt(300);
    pair.prefill(0, request, &prompt);
    pair.watched.seen(KvEvent::Held { engine: pair.engines[0].id, leg: leg(request, 0) });
    assert_eq!(pair.watched.kv_server.held_blocks(), 3);
    pair.watched.kv_server.release(pair.engines[0].id, leg(request, 0));
    pair.watched.kv_server.release(pair.engines[0].id, leg(request, 0));
    pair.watched.seen(KvEvent::Released { engine: pair.engines[0].id, leg: leg(request, 0) });
    pair.assert_clean();
}

fn a_release_that_comes_first_counts(pair: &mut Pair) {
    let (request, prompt) = pair.prompt(300);
    pair.watched.kv_server.release(pair.engines[0].id, leg(request, 0));
    pair.prefill(0, request, &prompt);
    pair.watched.seen(KvEvent::Released { engine: pair.engines[0].id, leg: leg(request, 0) });
    pair.assert_clean();
}

fn a_lease_runs_out(pair: &mut Pair) {
    let (request, prompt) = pair.prompt(300);
    pair.prefill(1, request, &prompt);
    pair.watched.seen(KvEvent::Held { engine: pair.engines[1].id, leg: leg(request, 0) });
    pair.watched.pass_time(Micros(LEASE_MS * 1000));
    pair.watched.seen(KvEvent::LeaseExpired { engine: pair.engines[1].id, leg: leg(request, 0) });
    pair.watched.seen(KvEvent::Released { engine: pair.engines[1].id, leg: leg(request, 0) });
    pair.assert_clean();
}

fn cached_blocks_are_not_copied(pair: &mut Pair) {
    let (request, prompt) = pair.prompt(700);
    pair.engines[1].generate(&prompt[..300], 1, LegParams::default()).wait();
    let (got, copied) = pair.hand_off(0, request, &prompt);
    assert_eq!(got.len(), OUTPUT);
    assert_eq!(copied, Ok(4 * LLAMA_BLOCK_BYTES), "two of six blocks were in the prefix cache");
    pair.assert_clean();
}

/// All tokens are in the destination's prefix cache. Reporting a fetch as received now would kill its EngineCore.
fn nothing_to_fetch(pair: &mut Pair) {
    let (request, prompt) = pair.prompt(256);
    pair.engines[1].generate(&[&prompt[..], &[7]].concat(), 1, LegParams::default()).wait();
    let (got, copied) = pair.hand_off(0, request, &prompt);
    assert_eq!((got.len(), copied), (OUTPUT, Ok(0)));
    pair.watched.seen(KvEvent::Released { engine: pair.engines[0].id, leg: leg(request, 0) });
    pair.assert_clean();
}

fn aborted_during_its_fetch(pair: &mut Pair) {
    let (request, prompt) = pair.prompt(700);
    let first = pair.prefill(0, request, &prompt).tokens;
    pair.watched.seen(KvEvent::Held { engine: pair.engines[0].id, leg: leg(request, 0) });
    pair.watched.faults.inject(Fault::Delay(Micros::from_secs(2.0)));
    let pending = pair.decode(0, request, &prompt, &first);
    // The lease is over for a leg that asks again: the fetch has begun.
    pending.abort();
    assert_eq!(pending.wait().finish, "abort");
    pair.watched.faults.inject(Fault::None);
    assert!(pair.watched.fetched(leg(request, 1)).is_ok());
    pair.assert_clean();
}

/// The destination is full, so the leg waits without blocks when it is aborted; its source must be released all the same.
fn aborted_before_its_fetch(pair: &mut Pair) {
    let (request, prompt) = pair.prompt(300);
    let first = pair.prefill(0, request, &prompt).tokens;
    let busy: Vec<Pending> = (0..16).map(|i| pair.engines[1].generate(&[3 + i, 5, 7], 3000, LegParams::default())).collect();
    for pending in &busy {
        pending.wait_started();
    }
    let pending = pair.decode(0, request, &prompt, &first);
    pending.abort();
    let aborted = pending.wait();
    assert_eq!((aborted.finish.as_str(), aborted.tokens.len()), ("abort", 0));
    assert!(busy.iter().all(|pending| !pending.is_over()), "the engine was full all the time");
    for pending in busy {
        pending.abort();
        pending.wait();
    }
    assert_eq!(pair.watched.fetched(leg(request, 1)), Ok(0));
    pair.watched.seen(KvEvent::Released { engine: pair.engines[0].id, leg: leg(request, 0) });
    pair.assert_clean();
}

fn aborted_with_a_hold(pair: &mut Pair) {
    let (request, prompt) = pair.prompt(300);
    let params = LegParams { leg: Some(leg(request, 0)), hold: true, source: None };
    let pending = pair.engines[0].generate(&prompt, 3000, params);
    pending.wait_started();
    pending.abort();
    let outcome = pending.wait();
    assert_eq!((outcome.finish.as_str(), outcome.held), ("abort", None));
    pair.assert_clean();
}

fn a_source_unknown_to_all(pair: &mut Pair) {
    let (request, prompt) = pair.prompt(300);
    let want = pair.engines[1].reference(&prompt, OUTPUT);
    let source = Some((dualpool_types::EngineId(9), leg(request, 0), 200));
    let params = LegParams { leg: Some(leg(request, 1)), hold: false, source };
    let got = pair.engines[1].generate(&prompt, OUTPUT, params).wait().tokens;
    assert_eq!(got, want, "the same prompt in the same steps");
    assert!(pair.watched.fetched(leg(request, 1)).unwrap_err().contains("engine-9 is not connected"));
    pair.assert_clean();
}

/// The KV server goes while one leg's blocks are held and another's are being copied: both engines give up what they hold, the
/// prompt is computed instead, and both go on serving.
fn the_control_socket_is_cut(mut pair: Pair) {
    let (held, prompt_held) = pair.prompt(300);
    pair.prefill(0, held, &prompt_held);
    let (request, prompt) = pair.prompt(700);
    let first = pair.prefill(0, request, &prompt).tokens;
    pair.watched.seen(KvEvent::Held { engine: pair.engines[0].id, leg: leg(request, 0) });
    pair.watched.faults.inject(Fault::Delay(Micros::from_secs(3600.0)));
    let Pair { watched, engines, .. } = pair;
    let source = Some((engines[0].id, leg(request, 0), prompt.len() as u64));
    let params = LegParams { leg: Some(leg(request, 1)), hold: false, source };
    let whole = [&prompt[..], &first].concat();
    let pending = engines[1].generate(&whole, OUTPUT - 1, params);
    // A later request of the same engine has been served, so the fetch was sent before.
    engines[1].generate(&[9, 8, 7], 2, LegParams::default()).wait();
    assert!(!pending.is_over());
    drop(watched);
    let got = pending.wait().tokens;
    for engine in &engines {
        engine.wait_idle();
    }
    assert_eq!(got, engines[1].reference(&whole, OUTPUT - 1));
    // Legs of before and of now are served like any other request.
    let params = LegParams { leg: Some(leg(request + 1, 0)), hold: true, source: None };
    let outcome = engines[0].generate(&prompt, 3, params).wait();
    assert_eq!((outcome.tokens.len(), outcome.held), (3, None), "nothing is held that cannot be released");
    let params = LegParams { leg: Some(leg(request + 1, 1)), hold: false, source };
    assert_eq!(engines[1].generate(&whole, 3, params).wait().tokens.len(), 3);
    for engine in &engines {
        engine.wait_idle();
    }
}

/// Several KV groups, and block tables with holes where the window has moved past.
#[test]
fn hand_offs_with_sliding_windows() {
    let _guard = one_pair_at_a_time();
    let mut pair = Pair::start("tiny-sliding-window");
    for tokens in [100, 256, 257, 700, 1025, 2001] {
        let (request, prompt) = pair.prompt(tokens);
        let want = pair.engines[0].reference(&prompt, OUTPUT);
        let (got, copied) = pair.hand_off(0, request, &prompt);
        assert_eq!(got, want, "{tokens} prompt tokens");
        assert!(copied.unwrap() > 0);
        pair.assert_clean();
    }
    let (request, prompt) = pair.prompt(700);
    let want = pair.engines[0].reference(&prompt, OUTPUT);
    pair.watched.faults.inject(Fault::SkipPart);
    assert_ne!(pair.hand_off(0, request, &prompt).0, want, "a skipped block shows");
    pair.watched.faults.inject(Fault::FailCopy);
    let (request, prompt) = pair.prompt(700);
    let (got, copied) = pair.hand_off(0, request, &prompt);
    assert!(copied.unwrap_err().contains("injected"));
    assert_eq!(got[1..], pair.engines[1].reference(&[&prompt[..], &got[..1]].concat(), OUTPUT - 1));
    pair.assert_clean();
}
