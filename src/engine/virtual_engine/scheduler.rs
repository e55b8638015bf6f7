//! The model of an engine, without time or threads: legs go in, and a step at a time comes out. The caller says how time passes
//! between `begin_step` and `finish_step`.

use std::collections::{HashMap, VecDeque};

use crate::core::{
    EngineStats, FinishReason, HeldKv, KvSource, Leg, LegFinish, LegId, LegOutput, Micros, PREFILL_TOKENS_MIN, TokenId, Tuning,
};

use super::settings::{StepWork, VirtualSettings};
use super::text::{END, Fingerprint};

/// One step, as it was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepCost {
    pub work: StepWork,
    pub takes: Micros,
}

/// A leg that has room for its KV and wants it copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadRequest {
    pub leg: LegId,
    pub source: KvSource,
}

struct Sequence {
    leg: Leg,
    /// Prompt tokens whose KV is there.
    computed: u32,
    kv: Fingerprint,
    outputs: Vec<u32>,
    blocks: u32,
    /// Prompt tokens that were loaded.
    cached: u32,
}

impl Sequence {
    fn prompt_left(&self) -> u32 {
        self.leg.prompt.len() as u32 - self.computed
    }

    /// Tokens whose KV is there: the last output's is not.
    fn kv_tokens(&self) -> u32 {
        self.computed + (self.outputs.len() as u32).saturating_sub(1)
    }
}

struct Held {
    tokens: u32,
    blocks: u32,
    kv: Fingerprint,
}

/// The end of a leg that has no blocks.
fn ended(leg: LegId, reason: FinishReason) -> LegOutput {
    LegOutput { leg, tokens: Vec::new(), cached_tokens: None, finish: Some(LegFinish { reason, held: None }) }
}

/// Batches legs as vLLM's scheduler does under dualpool's tuning: what decodes gets its tokens first, prompts share the rest, and legs
/// that come with their KV go ahead of those that wait without. A leg reserves the blocks for its prompt and all its output when it is first scheduled, so
/// nothing is ever pre-empted.
pub struct Scheduler {
    settings: VirtualSettings,
    tuning: Tuning,
    /// In order of arrival. Only the first may start; while some have KV to load, that is the first of these.
    waiting: VecDeque<Sequence>,
    /// Have blocks and wait for their KV.
    loading: Vec<Sequence>,
    /// Have their KV, and go in front of all that wait.
    loaded: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// The step in progress: tokens per running sequence.
    step: Vec<(LegId, u32)>,
    loads: Vec<LoadRequest>,
    held: HashMap<LegId, Held>,
    /// Ends that no step produces.
    ended: Vec<LegOutput>,
    free_blocks: u32,
    stats: EngineStats,
}

impl Scheduler {
    pub fn new(settings: &VirtualSettings) -> Scheduler {
        Scheduler {
            settings: settings.clone(),
            tuning: Tuning::default(),
            waiting: VecDeque::new(),
            loading: Vec::new(),
            loaded: VecDeque::new(),
            running: Vec::new(),
            step: Vec::new(),
            loads: Vec::new(),
            held: HashMap::new(),
            ended: Vec::new(),
            free_blocks: settings.kv_blocks,
            stats: EngineStats::default(),
        }
    }

    pub fn tune(&mut self, tuning: Tuning) {
        self.tuning = tuning;
    }

    pub fn submit(&mut self, leg: Leg) {
        let tokens = leg.prompt.len() as u32 + leg.max_tokens;
        let blocks = tokens.div_ceil(self.settings.block_size);
        if tokens > self.settings.max_model_len || blocks > self.settings.kv_blocks {
            let why = format!("{tokens} tokens do not fit: the context is {} tokens", self.settings.max_model_len);
            return self.ended.push(ended(leg.id, FinishReason::Error(why)));
        }
        self.waiting.push_back(Sequence { leg, computed: 0, kv: Fingerprint::EMPTY, outputs: Vec::new(), blocks, cached: 0 });
    }

    pub fn abort(&mut self, leg: LegId) {
        let is = |sequence: &Sequence| sequence.leg.id == leg;
        if let Some(at) = self.waiting.iter().position(is) {
            // Not scheduled yet: it has no blocks.
            self.waiting.remove(at);
            return self.ended.push(ended(leg, FinishReason::Aborted));
        }
        let with_blocks = self.loading.extract_if(.., |sequence| is(sequence)).next();
        let with_blocks = with_blocks.or_else(|| self.running.extract_if(.., |sequence| is(sequence)).next());
        let with_blocks = with_blocks.or_else(|| self.loaded.iter().position(is).and_then(|at| self.loaded.remove(at)));
        if let Some(sequence) = with_blocks {
            self.abort_sequence(sequence);
        }
    }

    /// The KV that a leg waits for is there; none when it could not be copied, so that the prompt must be computed.
    pub fn loaded(&mut self, leg: LegId, kv: Option<Fingerprint>) {
        let Some(at) = self.loading.iter().position(|sequence| sequence.leg.id == leg) else { return };
        let mut sequence = self.loading.remove(at);
        if let (Some(kv), Some(source)) = (kv, sequence.leg.load) {
            sequence.kv = kv;
            // At least the last token is computed, for there is no output without it.
            sequence.computed = source.tokens.min(sequence.leg.prompt.len() as u32 - 1);
            sequence.cached = sequence.computed;
        }
        self.loaded.push_back(sequence);
    }

    /// The prompt of a leg that waits for its KV.
    pub fn loading_prompt(&self, leg: LegId) -> Option<&[TokenId]> {
        self.loading.iter().find(|sequence| sequence.leg.id == leg).map(|sequence| &sequence.leg.prompt[..])
    }

    /// The leg that waits for its KV cannot go on.
    pub fn fail(&mut self, leg: LegId, why: String) {
        let Some(at) = self.loading.iter().position(|sequence| sequence.leg.id == leg) else { return };
        self.free_blocks += self.loading.remove(at).blocks;
        self.ended.push(ended(leg, FinishReason::Error(why)));
    }

    /// Blocks held for this leg go back to the pool. Returns whether there were any; a leg that is not over will not hold its own.
    pub fn release(&mut self, leg: LegId) -> bool {
        if let Some(held) = self.held.remove(&leg) {
            self.free_blocks += held.blocks;
            return true;
        }
        let here = self.waiting.iter_mut().chain(&mut self.loading).chain(&mut self.loaded).chain(&mut self.running);
        here.filter(|sequence| sequence.leg.id == leg).for_each(|sequence| sequence.leg.hold = false);
        false
    }

    /// The KV held for this leg.
    pub fn held(&self, leg: LegId) -> Option<Fingerprint> {
        self.held.get(&leg).map(|held| held.kv)
    }

    pub fn held_blocks(&self) -> u64 {
        self.held.values().map(|held| u64::from(held.blocks)).sum()
    }

    /// Tokens that are held for this leg, and the blocks they take.
    pub fn held_size(&self, leg: LegId) -> Option<(u32, u32)> {
        self.held.get(&leg).map(|held| (held.tokens, held.blocks))
    }

    /// Whether all blocks are free.
    pub fn is_idle(&self) -> bool {
        self.free_blocks == self.settings.kv_blocks && self.waiting.is_empty()
    }

    /// Legs that want their KV copied, since the last call.
    pub fn take_loads(&mut self) -> Vec<LoadRequest> {
        std::mem::take(&mut self.loads)
    }

    /// Legs that ended outside a step, since the last call.
    pub fn take_ended(&mut self) -> Vec<LegOutput> {
        std::mem::take(&mut self.ended)
    }

    /// Decides the next step; none when there is nothing to compute. Aborts until `finish_step` take effect with it.
    pub fn begin_step(&mut self) -> Option<StepCost> {
        self.step.clear();
        // However small the step is wanted, it has a token for each leg that runs or comes with its KV, and some for prompts.
        let seats = (self.settings.max_num_seqs as usize).saturating_sub(self.running.len());
        // A load takes no tokens, but starts only in a step with some to spare.
        let load_waits = self.waiting.iter().any(|sequence| sequence.leg.load.is_some());
        let arriving = (self.loaded.len() + usize::from(load_waits)).min(seats) as u32;
        let (floor, ceiling) = (self.running.len() as u32 + arriving + PREFILL_TOKENS_MIN, self.settings.max_num_batched_tokens);
        let mut budget = self.tuning.max_num_batched_tokens.unwrap_or(ceiling).max(floor).min(ceiling);
        let chunk_max = match self.tuning.long_prefill_token_threshold {
            None | Some(0) => u32::MAX,
            Some(threshold) => threshold,
        };
        let mut work = StepWork::default();
        let mut take = |sequence: &Sequence, most: u32| {
            let left = sequence.prompt_left();
            let tokens = left.clamp(1, chunk_max).min(most);
            if left == 0 {
                work.decodes += 1;
                work.context += u64::from(sequence.kv_tokens());
            } else {
                let (before, part) = (u64::from(sequence.computed), u64::from(tokens));
                work.prompt_tokens += tokens;
                // Token i of the part reads the context before it and the part's tokens up to itself.
                work.attention += part * before + part * (part + 1) / 2;
            }
            (sequence.leg.id, tokens)
        };
        for decoding in [true, false] {
            let reserved = if decoding { 0 } else { arriving };
            for sequence in self.running.iter().filter(|sequence| (sequence.prompt_left() == 0) == decoding) {
                if budget <= reserved {
                    break;
                }
                let (leg, tokens) = take(sequence, budget - reserved);
                budget -= tokens;
                self.step.push((leg, tokens));
            }
        }
        while budget > 0 && self.running.len() < self.settings.max_num_seqs as usize {
            let sequence = match self.loaded.pop_front() {
                Some(sequence) => sequence,
                None => match self.admit() {
                    None => break,
                    Some(sequence) => match sequence.leg.load {
                        None => sequence,
                        Some(source) => {
                            self.loads.push(LoadRequest { leg: sequence.leg.id, source });
                            self.loading.push(sequence);
                            continue;
                        }
                    },
                },
            };
            let (leg, tokens) = take(&sequence, budget);
            budget -= tokens;
            self.step.push((leg, tokens));
            self.running.push(sequence);
        }
        if self.step.is_empty() {
            return None;
        }
        Some(StepCost { work, takes: self.settings.timing.step(&work) })
    }

    /// The waiting leg whose turn it is, if there are blocks for it.
    fn admit(&mut self) -> Option<Sequence> {
        let first = self.waiting.iter().position(|sequence| sequence.leg.load.is_some()).unwrap_or(0);
        let blocks = self.waiting.get(first)?.blocks;
        self.free_blocks = self.free_blocks.checked_sub(blocks)?;
        self.waiting.remove(first)
    }

    /// Ends the step: what it gave, and the engine's figures after it.
    pub fn finish_step(&mut self) -> (Vec<LegOutput>, EngineStats) {
        let mut outputs = Vec::with_capacity(self.step.len());
        for (leg, tokens) in std::mem::take(&mut self.step) {
            // A leg that was aborted during the step is gone.
            let Some(at) = self.running.iter().position(|sequence| sequence.leg.id == leg) else { continue };
            let sequence = &mut self.running[at];
            if let Some(&last) = sequence.outputs.last() {
                sequence.kv = sequence.kv.push(last);
            } else {
                let (from, to) = (sequence.computed as usize, (sequence.computed + tokens) as usize);
                sequence.kv = sequence.kv.extend(&sequence.leg.prompt[from..to]);
                sequence.computed += tokens;
                self.stats.prompt_tokens_computed += u64::from(tokens);
                if sequence.prompt_left() > 0 {
                    continue;
                }
            }
            let token = sequence.kv.next(self.settings.vocab_size);
            let cached_tokens = sequence.outputs.is_empty().then_some(sequence.cached);
            sequence.outputs.push(token);
            self.stats.output_tokens += 1;
            let reason = if token == END && !sequence.leg.ignore_eos {
                Some(FinishReason::Stop)
            } else {
                (sequence.outputs.len() as u32 == sequence.leg.max_tokens).then_some(FinishReason::Length)
            };
            let mut output = LegOutput { leg, tokens: vec![token], cached_tokens, finish: None };
            if let Some(reason) = reason {
                let sequence = self.running.remove(at);
                output.finish = Some(self.retire(sequence, reason));
            }
            outputs.push(output);
        }
        self.stats.steps += 1;
        (outputs, self.stats())
    }

    pub fn stats(&self) -> EngineStats {
        let used = self.settings.kv_blocks - self.free_blocks;
        EngineStats {
            waiting: (self.waiting.len() + self.loading.len() + self.loaded.len()) as u32,
            running: self.running.len() as u32,
            kv_usage: used as f32 / self.settings.kv_blocks.max(1) as f32,
            ..self.stats
        }
    }

    /// Frees or holds the blocks of a leg that is over. An aborted leg holds none.
    fn retire(&mut self, sequence: Sequence, reason: FinishReason) -> LegFinish {
        let tokens = sequence.kv_tokens();
        if !sequence.leg.hold || reason == FinishReason::Aborted {
            self.free_blocks += sequence.blocks;
            return LegFinish { reason, held: None };
        }
        let blocks = tokens.div_ceil(self.settings.block_size);
        self.free_blocks += sequence.blocks - blocks;
        self.held.insert(sequence.leg.id, Held { tokens, blocks, kv: sequence.kv });
        LegFinish { reason, held: Some(HeldKv { tokens }) }
    }

    fn abort_sequence(&mut self, sequence: Sequence) {
        let leg = sequence.leg.id;
        let finish = self.retire(sequence, FinishReason::Aborted);
        self.ended.push(LegOutput { leg, tokens: Vec::new(), cached_tokens: None, finish: Some(finish) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{EngineId, RequestId};

    fn leg(request: u64, prompt: usize, max_tokens: u32) -> Leg {
        let prompt = (0..prompt as TokenId).map(|i| i * 7 + request as TokenId + 1).collect();
        let id = LegId { request: RequestId(request), leg: 0 };
        Leg { id, prompt, max_tokens, ignore_eos: true, load: None, hold: false }
    }

    /// Steps until nothing is left to do.
    fn drain(scheduler: &mut Scheduler) -> Vec<(LegId, TokenId)> {
        let mut tokens = Vec::new();
        while scheduler.begin_step().is_some() {
            let (outputs, _) = scheduler.finish_step();
            tokens.extend(outputs.iter().flat_map(|output| output.tokens.iter().map(|&token| (output.leg, token))));
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
        assert_eq!((cost.work.prompt_tokens, cost.work.decodes), (100, 0), "64 of the long prompt and 36 of the short one");
        assert!(scheduler.finish_step().0.is_empty());
        let cost = scheduler.begin_step().unwrap();
        assert_eq!(cost.prompt_tokens, 64 + 14);
        assert_eq!(scheduler.finish_step().0.len(), 1);
        let cost = scheduler.begin_step().unwrap();
        assert_eq!((cost.work.prompt_tokens, cost.work.decodes), (64, 1));
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
            second.load = Some(source);
            to.submit(second.clone());
            assert_eq!(to.begin_step(), None, "it waits for its KV");
            assert_eq!(to.take_loads(), [LoadRequest { leg: second.id, source }]);
            let kv = from.held(source.leg).unwrap();
            to.loaded(second.id, Some(if damaged { kv.damaged() } else { kv }));
            assert_eq!(to.begin_step().unwrap().prompt_tokens, 1);
            let (outputs, _) = to.finish_step();
            assert_eq!(outputs[0].cached_tokens, Some(300));
            let rest: Vec<TokenId> =
                outputs[0].tokens.iter().copied().chain(drain(&mut to).into_iter().map(|(_, token)| token)).collect();
            assert_eq!(rest == expected[1..], same);
        }
        assert!(from.release(leg(3, 0, 1).id) && !from.release(leg(3, 0, 1).id));
        assert!(from.is_idle() && to.is_idle());
    }

    #[test]
    fn a_failed_load_is_computed() {
        let mut scheduler = Scheduler::new(&VirtualSettings::default());
        let mut wants = leg(1, 100, 3);
        wants.load = Some(KvSource { engine: EngineId(1), leg: wants.id, tokens: 99 });
        scheduler.submit(wants.clone());
        assert_eq!(scheduler.begin_step(), None);
        scheduler.loaded(wants.id, None);
        assert_eq!(scheduler.begin_step().unwrap().prompt_tokens, 100);
        assert_eq!(scheduler.finish_step().0[0].cached_tokens, Some(0));
    }

    #[test]
    fn a_leg_whose_kv_is_wrong_fails_and_frees_its_blocks() {
        let mut scheduler = Scheduler::new(&VirtualSettings::default());
        let mut wants = leg(1, 100, 3);
        wants.load = Some(KvSource { engine: EngineId(1), leg: wants.id, tokens: 99 });
        scheduler.submit(wants.clone());
        scheduler.begin_step();
        assert_eq!(scheduler.loading_prompt(wants.id), Some(&wants.prompt[..]));
        scheduler.fail(wants.id, "block 3 is wrong".into());
        assert!(
            matches!(&scheduler.take_ended()[0].finish.as_ref().unwrap().reason, FinishReason::Error(why) if why == "block 3 is wrong")
        );
        assert!(scheduler.is_idle() && scheduler.loading_prompt(wants.id).is_none());
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
        scheduler.finish_step();
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
        assert_eq!(scheduler.finish_step().0.len(), 4);
        scheduler.tune(Tuning { max_num_batched_tokens: Some(1), ..Tuning::default() });
        scheduler.submit(leg(9, 100, 2));
        let cost = scheduler.begin_step().unwrap();
        assert_eq!((cost.work.prompt_tokens, cost.work.decodes), (PREFILL_TOKENS_MIN, 4));
        scheduler.finish_step();
        // From its second chunk on the prompt is a running leg, and has a token of its own.
        let cost = scheduler.begin_step().unwrap();
        assert_eq!((cost.work.prompt_tokens, cost.work.decodes), (PREFILL_TOKENS_MIN + 1, 4));
    }

    #[test]
    fn a_leg_that_comes_with_its_kv_does_not_wait_behind_prompts() {
        let mut scheduler = Scheduler::new(&VirtualSettings::default());
        scheduler.tune(Tuning { max_num_batched_tokens: Some(32), ..Tuning::default() });
        scheduler.submit(leg(0, 1000, 2));
        scheduler.begin_step().unwrap();
        scheduler.finish_step();
        scheduler.submit(leg(1, 1000, 2));
        let mut comes = leg(2, 100, 2);
        comes.load = Some(KvSource { engine: EngineId(1), leg: comes.id, tokens: 99 });
        scheduler.submit(comes.clone());
        scheduler.begin_step().unwrap();
        assert_eq!(scheduler.take_loads().len(), 1, "its load starts beside the prompt that takes all of the step");
        scheduler.loaded(comes.id, Some(Fingerprint::EMPTY));
        scheduler.finish_step();
        assert_eq!(scheduler.begin_step().unwrap().prompt_tokens, 32);
        assert_eq!(scheduler.finish_step().0.iter().map(|output| output.leg).collect::<Vec<_>>(), [comes.id]);
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
        assert!(
            matches!(&scheduler.take_ended()[0].finish.as_ref().unwrap().reason, FinishReason::Error(why) if why.contains("5004"))
        );
    }
}
