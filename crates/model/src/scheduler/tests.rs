//! What a modelled engine does, step by step.

use dualpool_types::{EngineId, RequestId, Sampling};

use super::*;

fn finish(scheduler: &mut Scheduler) -> Vec<StepOutput> {
    let mut outputs = Vec::new();
    scheduler.finish_step(&mut outputs);
    outputs
}

fn leg(request: u64, prompt: usize, max_tokens: u32) -> Leg {
    let prompt = (0..prompt as TokenId).map(|i| i * 7 + request as TokenId + 1).collect();
    let id = LegId { request: RequestId(request), leg: 0 };
    Leg { id, prompt, max_tokens, ignore_eos: true, sampling: Sampling::default(), kv_source: None, hold: false }
}

/// Steps until nothing is left to do.
fn drain(scheduler: &mut Scheduler) -> Vec<(LegId, TokenId)> {
    let mut tokens = Vec::new();
    while scheduler.begin_step().is_some() {
        let outputs = finish(scheduler);
        tokens.extend(outputs.iter().flat_map(|output| output.token.map(|token| (output.leg, token))));
    }
    tokens
}

#[test]
fn a_step_takes_no_more_than_its_budget_and_chunks_long_prompts() {
    let mut scheduler = Scheduler::new(&VirtualSettings::default());
    scheduler.tune(Tuning { max_num_batched_tokens: Some(100), long_prefill_token_threshold: Some(64) });
    scheduler.submit(leg(0, 200, 2));
    scheduler.submit(leg(1, 50, 2));
    let cost = scheduler.begin_step().unwrap();
    assert_eq!((cost.prompt_tokens, cost.decodes), (100, 0), "64 of the long prompt and 36 of the short one");
    assert!(finish(&mut scheduler).is_empty());
    let cost = scheduler.begin_step().unwrap();
    assert_eq!(cost.prompt_tokens, 64 + 14);
    assert_eq!(finish(&mut scheduler).len(), 1);
    let cost = scheduler.begin_step().unwrap();
    assert_eq!((cost.prompt_tokens, cost.decodes), (64, 1));
}

#[test]
fn handed_over_kv_gives_the_same_tokens_and_wrong_kv_does_not() {
    let settings = VirtualSettings::default();
    let mut alone = Scheduler::new(&settings);
    alone.submit(leg(3, 300, 6));
    let expected: Vec<TokenId> = drain(&mut alone).into_iter().map(|(_, token)| token).collect();

    let (mut from, mut to) = (Scheduler::new(&settings), Scheduler::new(&settings));
    from.submit(Leg { hold: true, ..leg(3, 300, 1) });
    let first = drain(&mut from)[0].1;
    let (tokens, blocks) = from.held_size(leg(3, 0, 1).id).unwrap();
    assert_eq!((tokens, blocks), (300, 3));
    for (damaged, same) in [(false, true), (true, false)] {
        let mut second = leg(3, 300, 5);
        second.id.leg = 1;
        second.prompt = second.prompt.iter().copied().chain([first]).collect();
        let source = KvSource { engine: EngineId(0), leg: leg(3, 0, 1).id, tokens };
        second.kv_source = Some(source);
        to.submit(second.clone());
        assert_eq!(to.begin_step(), None, "it waits for its KV");
        assert_eq!(to.take_fetches(), [FetchRequest { leg: second.id, source }]);
        let kv = from.held(source.leg).unwrap();
        to.fetched(second.id, Some(if damaged { kv.damaged() } else { kv }));
        assert_eq!(to.begin_step().unwrap().prompt_tokens, 1);
        let outputs = finish(&mut to);
        assert_eq!(outputs[0].cached_tokens, Some(300));
        let rest: Vec<TokenId> = outputs[0].token.into_iter().chain(drain(&mut to).into_iter().map(|(_, token)| token)).collect();
        assert_eq!(rest == expected[1..], same);
    }
    assert!(from.release(leg(3, 0, 1).id) && !from.release(leg(3, 0, 1).id));
    assert!(from.is_idle() && to.is_idle());
}

#[test]
fn a_failed_fetch_is_computed() {
    let mut scheduler = Scheduler::new(&VirtualSettings::default());
    let mut wants = leg(1, 100, 3);
    wants.kv_source = Some(KvSource { engine: EngineId(1), leg: wants.id, tokens: 99 });
    scheduler.submit(wants.clone());
    assert_eq!(scheduler.begin_step(), None);
    scheduler.fetched(wants.id, None);
    assert_eq!(scheduler.begin_step().unwrap().prompt_tokens, 100);
    assert_eq!(finish(&mut scheduler)[0].cached_tokens, Some(0));
}

#[test]
fn a_leg_whose_kv_is_wrong_fails_and_frees_its_blocks() {
    let mut scheduler = Scheduler::new(&VirtualSettings::default());
    let mut wants = leg(1, 100, 3);
    wants.kv_source = Some(KvSource { engine: EngineId(1), leg: wants.id, tokens: 99 });
    scheduler.submit(wants.clone());
    scheduler.begin_step();
    assert_eq!(scheduler.fetching_prompt(wants.id), Some(&wants.prompt[..]));
    scheduler.fail(wants.id, "block 3 is wrong".into());
    assert!(
        matches!(&scheduler.take_ended()[0].finish.as_ref().unwrap().reason, FinishReason::Error(why) if why == "block 3 is wrong")
    );
    assert!(scheduler.is_idle() && scheduler.fetching_prompt(wants.id).is_none());
}

#[test]
fn an_abort_frees_all_blocks_wherever_the_leg_is() {
    let settings = VirtualSettings { kv_blocks: 4, ..VirtualSettings::default() };
    let mut scheduler = Scheduler::new(&settings);
    for request in 0..3 {
        scheduler.submit(leg(request, 250, 4)); // Two blocks each: the third one waits.
    }
    scheduler.begin_step().unwrap();
    for request in 0..3 {
        scheduler.abort(leg(request, 0, 1).id);
    }
    finish(&mut scheduler);
    let ended = scheduler.take_ended();
    assert_eq!(ended.len(), 3);
    assert!(ended.iter().all(|output| output.finish.as_ref().unwrap().reason == FinishReason::Aborted));
    assert!(scheduler.is_idle());
    scheduler.abort(leg(0, 0, 1).id);
    assert!(scheduler.take_ended().is_empty(), "a leg that is over is ignored");
}

#[test]
fn whatever_decodes_gets_its_token_and_prompts_get_on_however_small_the_step() {
    let mut scheduler = Scheduler::new(&VirtualSettings::default());
    for request in 0..4 {
        scheduler.submit(leg(request, 10, 8));
    }
    scheduler.begin_step().unwrap();
    assert_eq!(finish(&mut scheduler).len(), 4);
    scheduler.tune(Tuning { max_num_batched_tokens: Some(1), ..Tuning::default() });
    scheduler.submit(leg(9, 100, 2));
    let cost = scheduler.begin_step().unwrap();
    assert_eq!((cost.prompt_tokens, cost.decodes), (PREFILL_TOKENS_MIN, 4));
    finish(&mut scheduler);
    // From its second chunk on the prompt is a running leg, and has a token of its own.
    let cost = scheduler.begin_step().unwrap();
    assert_eq!((cost.prompt_tokens, cost.decodes), (PREFILL_TOKENS_MIN + 1, 4));
}

#[test]
fn a_leg_that_comes_with_its_kv_does_not_wait_behind_prompts() {
    let mut scheduler = Scheduler::new(&VirtualSettings::default());
    scheduler.tune(Tuning { max_num_batched_tokens: Some(32), ..Tuning::default() });
    scheduler.submit(leg(0, 1000, 2));
    scheduler.begin_step().unwrap();
    finish(&mut scheduler);
    scheduler.submit(leg(1, 1000, 2));
    let mut comes = leg(2, 100, 2);
    comes.kv_source = Some(KvSource { engine: EngineId(1), leg: comes.id, tokens: 99 });
    scheduler.submit(comes.clone());
    scheduler.begin_step().unwrap();
    assert_eq!(scheduler.take_fetches().len(), 1, "its fetch starts beside the prompt that takes all of the step");
    scheduler.fetched(comes.id, Some(Fingerprint::EMPTY));
    finish(&mut scheduler);
    assert_eq!(scheduler.begin_step().unwrap().prompt_tokens, 32);
    assert_eq!(finish(&mut scheduler).iter().map(|output| output.leg).collect::<Vec<_>>(), [comes.id]);
}

#[test]
fn a_release_that_comes_before_the_end_is_not_forgotten() {
    let mut scheduler = Scheduler::new(&VirtualSettings::default());
    scheduler.submit(Leg { hold: true, ..leg(0, 100, 1) });
    assert!(!scheduler.release(leg(0, 0, 1).id));
    drain(&mut scheduler);
    assert!(scheduler.is_idle());
}

#[test]
fn what_can_never_fit_fails_at_once() {
    let mut scheduler = Scheduler::new(&VirtualSettings::default());
    scheduler.submit(leg(0, 5000, 4));
    assert!(matches!(&scheduler.take_ended()[0].finish.as_ref().unwrap().reason, FinishReason::Error(why) if why.contains("5004")));
}

/// Serves one leg alone. Returns its tokens and how much of its prompt was cached.
fn serve(scheduler: &mut Scheduler, leg: Leg) -> (Vec<TokenId>, u32) {
    scheduler.submit(leg);
    let (mut tokens, mut cached) = (Vec::new(), None);
    while scheduler.begin_step().is_some() {
        for output in finish(scheduler) {
            tokens.extend(output.token);
            cached = cached.or(output.cached_tokens);
        }
    }
    (tokens, cached.unwrap())
}

fn small_blocks(kv_blocks: u32) -> VirtualSettings {
    VirtualSettings { block_size: 16, kv_blocks, ..VirtualSettings::default() }
}

/// A leg with these tokens for a prompt.
fn saying(request: u64, prompt: &[TokenId]) -> Leg {
    Leg { prompt: prompt.into(), ..leg(request, 0, 4) }
}

#[test]
fn a_prompt_that_begins_as_an_earlier_one_is_computed_from_where_they_part() {
    let mut scheduler = Scheduler::new(&small_blocks(64));
    let first: Vec<TokenId> = (1..=50).collect();
    let (said, cached) = serve(&mut scheduler, saying(0, &first));
    assert_eq!(cached, 0);
    // The next turn of the conversation: 54 tokens are as before, of which the last one's KV was never computed.
    let second: Vec<TokenId> = first.iter().chain(&said).copied().chain(900..910).collect();
    let (after, cached) = serve(&mut scheduler, saying(1, &second));
    assert_eq!(cached, 48, "three full blocks of sixteen");
    let stats = scheduler.stats();
    assert_eq!((stats.prefix_queries, stats.prefix_hits), (50 + 64, 48));
    assert_eq!(stats.prompt_tokens_computed, 50 + 16);
    let mut elsewhere = Scheduler::new(&VirtualSettings { prefix_cache: false, ..small_blocks(64) });
    assert_eq!(serve(&mut elsewhere, saying(1, &second)), (after, 0), "the text does not depend on the cache");
    assert_eq!(elsewhere.stats().prefix_queries, 0);
}

#[test]
fn answers_are_found_too_and_the_last_token_is_always_computed() {
    let mut scheduler = Scheduler::new(&small_blocks(64));
    let prompt: Vec<TokenId> = (1..=30).collect();
    let (said, _) = serve(&mut scheduler, saying(0, &prompt));
    let longer: Vec<TokenId> = prompt.iter().chain(&said).copied().chain([7]).collect();
    assert_eq!(serve(&mut scheduler, saying(1, &longer)).1, 32, "two tokens of the second block were the answer's");
    let whole: Vec<TokenId> = longer[..32].to_vec();
    assert_eq!(serve(&mut scheduler, saying(2, &whole)).1, 16, "all but its last block, for it needs an output");
}

#[test]
fn blocks_that_were_unused_longest_are_overwritten_first() {
    let mut scheduler = Scheduler::new(&small_blocks(6));
    let prompt = |from: u32| -> Vec<TokenId> { (from..from + 33).collect() };
    // Three blocks each, of which two are full.
    for (request, from) in [(0, 1000), (1, 2000)] {
        serve(&mut scheduler, saying(request, &prompt(from)));
    }
    assert_eq!(scheduler.evictions(), 0);
    assert_eq!(serve(&mut scheduler, saying(2, &prompt(1000))).1, 32, "used again, so now the other one is older");
    serve(&mut scheduler, saying(3, &prompt(3000)));
    assert!(scheduler.evictions() > 0);
    assert_eq!(serve(&mut scheduler, saying(4, &prompt(1000))).1, 32);
    assert_eq!(serve(&mut scheduler, saying(5, &prompt(2000))).1, 0);
    assert!(scheduler.is_idle());
}

#[test]
fn legs_that_run_beside_each_other_share_their_prefix() {
    let mut scheduler = Scheduler::new(&small_blocks(8));
    let prompt: Vec<TokenId> = (1..=60).collect();
    serve(&mut scheduler, saying(0, &prompt));
    // Four blocks for each alone; together three for both and one for each.
    scheduler.submit(saying(1, &prompt));
    scheduler.submit(saying(2, &prompt));
    let cost = scheduler.begin_step().unwrap();
    assert_eq!((cost.prompt_tokens, scheduler.blocks_in_use()), (24, 5));
    let tokens = |leg: u64, outputs: &[(LegId, TokenId)]| -> Vec<TokenId> {
        outputs.iter().filter(|(id, _)| id.request.0 == leg).map(|&(_, token)| token).collect()
    };
    let mut outputs: Vec<_> = finish(&mut scheduler).iter().map(|output| (output.leg, output.token.unwrap())).collect();
    outputs.extend(drain(&mut scheduler));
    assert_eq!(tokens(1, &outputs), tokens(2, &outputs));
    assert!(scheduler.is_idle());
}

#[test]
fn a_cache_is_reset_only_while_no_block_is_in_use() {
    let mut scheduler = Scheduler::new(&small_blocks(64));
    let prompt: Vec<TokenId> = (1..=50).collect();
    serve(&mut scheduler, Leg { hold: true, ..saying(0, &prompt) });
    assert!(!scheduler.reset_prefix_cache(), "blocks are held");
    assert!(scheduler.release(leg(0, 0, 1).id) && scheduler.reset_prefix_cache());
    assert_eq!(serve(&mut scheduler, saying(1, &prompt)).1, 0);
}

#[test]
fn fetched_kv_can_be_found_by_others_unless_it_is_wrong() {
    let prompt: Vec<TokenId> = (1..=50).collect();
    for wrong in [false, true] {
        let mut scheduler = Scheduler::new(&small_blocks(64));
        let mut comes = saying(0, &prompt);
        comes.kv_source = Some(KvSource { engine: EngineId(1), leg: comes.id, tokens: 49 });
        scheduler.submit(comes.clone());
        scheduler.begin_step();
        let kv = Fingerprint::EMPTY.extend(&prompt[..49]);
        scheduler.fetched(comes.id, Some(if wrong { kv.damaged() } else { kv }));
        drain(&mut scheduler);
        assert_eq!(serve(&mut scheduler, saying(1, &prompt)).1, if wrong { 0 } else { 48 });
    }
}
