//! The model of an engine, without time or threads: legs go in, and a step at a time comes out. The caller says how time passes
//! between `begin_step` and `finish_step`.

mod blocks;
mod sequence;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use dualpool_types::{
    EngineStats, FinishReason, HeldKv, IdMap, KvSource, Leg, LegFinish, LegId, LegOutput, Micros, PREFILL_TOKENS_MIN, TokenId,
    Tuning,
};

use super::settings::{StepWork, VirtualSettings};
use super::text::{END, Fingerprint};
use blocks::{BlockPool, Place};
use sequence::{Sequence, SequenceState};

/// One step, as it was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepCost {
    pub prompt_tokens: u32,
    pub decodes: u32,
    pub takes: Micros,
}

/// A leg that has room for its KV and wants it copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    pub leg: LegId,
    pub source: KvSource,
}

/// What a step gave one leg.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutput {
    pub leg: LegId,
    pub token: Option<TokenId>,
    /// Known with the leg's first output.
    pub cached_tokens: Option<u32>,
    pub finish: Option<LegFinish>,
}

impl From<StepOutput> for LegOutput {
    fn from(StepOutput { leg, token, cached_tokens, finish }: StepOutput) -> LegOutput {
        LegOutput { leg, tokens: token.into_iter().collect(), cached_tokens, finish }
    }
}

struct Held {
    tokens: u32,
    blocks: Vec<Place>,
    kv: Fingerprint,
}

/// A sequence's place among all of the engine.
type Slot = u32;

/// Batches legs as vLLM's scheduler does under dualpool's tuning: what decodes gets its tokens first, prompts share the rest, and legs
/// that come with their KV go ahead of those that wait without. A leg is promised the blocks for its prompt and all its output when it is
/// first scheduled, so nothing is ever pre-empted; it takes them one by one as it fills them.
pub struct Scheduler {
    settings: VirtualSettings,
    tuning: Tuning,
    /// All legs that are not over; places of those that are over are used again.
    sequences: Vec<Sequence>,
    vacant: Vec<Slot>,
    by_leg: IdMap<LegId, Slot>,
    /// In order of arrival. Only the first may start; while some have KV to fetch, that is the first of these.
    waiting: VecDeque<Slot>,
    /// Of the waiting, those that have KV to fetch.
    waiting_with_kv: u32,
    /// Have blocks and wait for their KV.
    fetching: u32,
    /// Have their KV, and go in front of all that wait.
    fetched: VecDeque<Slot>,
    running: Vec<Slot>,
    /// The step in progress: tokens per running sequence. A slot may have changed hands since, so the leg is named too.
    step: Vec<(Slot, LegId, u32)>,
    /// Running sequences with prompt to compute; kept for its memory.
    prefilling: Vec<Slot>,
    fetches: Vec<FetchRequest>,
    held: IdMap<LegId, Held>,
    /// Ends that no step produces.
    ended: Vec<LegOutput>,
    blocks: BlockPool,
    stats: EngineStats,
}

impl Scheduler {
    pub fn new(settings: &VirtualSettings) -> Scheduler {
        Scheduler {
            settings: settings.clone(),
            tuning: Tuning::default(),
            sequences: Vec::new(),
            vacant: Vec::new(),
            by_leg: IdMap::default(),
            waiting: VecDeque::new(),
            waiting_with_kv: 0,
            fetching: 0,
            fetched: VecDeque::new(),
            running: Vec::new(),
            step: Vec::new(),
            prefilling: Vec::new(),
            fetches: Vec::new(),
            held: IdMap::default(),
            ended: Vec::new(),
            blocks: BlockPool::new(settings.kv_blocks, settings.prefix_cache),
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
            return self.ends_outside_a_step(leg.id, FinishReason::Error(why));
        }
        let (id, fetches) = (leg.id, leg.kv_source.is_some());
        let sequence = Sequence::new(leg);
        let slot = match self.vacant.pop() {
            Some(slot) => {
                self.sequences[slot as usize] = sequence;
                slot
            }
            None => {
                self.sequences.push(sequence);
                self.sequences.len() as Slot - 1
            }
        };
        self.by_leg.insert(id, slot);
        self.waiting.push_back(slot);
        self.waiting_with_kv += u32::from(fetches);
    }

    pub fn abort(&mut self, leg: LegId) {
        let Some(&slot) = self.by_leg.get(&leg) else { return };
        let is = |at: &Slot| *at == slot;
        match self.sequences[slot as usize].state {
            SequenceState::Waiting => {
                self.waiting.retain(|at| !is(at));
                self.waiting_with_kv -= u32::from(self.sequences[slot as usize].leg.kv_source.is_some());
            }
            SequenceState::Fetching => self.fetching -= 1,
            SequenceState::Fetched => self.fetched.retain(|at| !is(at)),
            SequenceState::Running => self.running.retain(|at| !is(at)),
            SequenceState::Over => return,
        }
        self.retire(slot, FinishReason::Aborted);
        self.ends_outside_a_step(leg, FinishReason::Aborted);
    }

    /// Ends a leg with the token of its next step, and holds its KV.
    pub fn detach(&mut self, leg: LegId) {
        let Some(&slot) = self.by_leg.get(&leg) else { return };
        let sequence = &mut self.sequences[slot as usize];
        sequence.leg.max_tokens = sequence.leg.max_tokens.min(sequence.given + 1);
        sequence.leg.hold = true;
    }

    /// The KV that a leg waits for is there; none when it could not be copied, so that the prompt must be computed.
    pub fn fetched(&mut self, leg: LegId, kv: Option<Fingerprint>) {
        let Some(slot) = self.fetching_slot(leg) else { return };
        let sequence = &mut self.sequences[slot as usize];
        if let (Some(kv), Some(source)) = (kv, sequence.leg.kv_source) {
            sequence.take_fetched(kv, source.tokens, &mut self.blocks, self.settings.block_size);
        }
        sequence.state = SequenceState::Fetched;
        self.fetching -= 1;
        self.fetched.push_back(slot);
    }

    fn fetching_slot(&self, leg: LegId) -> Option<Slot> {
        self.by_leg.get(&leg).copied().filter(|&slot| self.sequences[slot as usize].state == SequenceState::Fetching)
    }

    /// The prompt of a leg that waits for its KV.
    pub fn fetching_prompt(&self, leg: LegId) -> Option<&[TokenId]> {
        self.fetching_slot(leg).map(|slot| &self.sequences[slot as usize].leg.prompt[..])
    }

    /// The leg that waits for its KV cannot go on.
    pub fn fail(&mut self, leg: LegId, why: String) {
        let Some(slot) = self.fetching_slot(leg) else { return };
        self.fetching -= 1;
        let reason = FinishReason::Error(why);
        self.sequences[slot as usize].leg.hold = false;
        self.retire(slot, reason.clone());
        self.ends_outside_a_step(leg, reason);
    }

    /// Blocks held for this leg go back to the pool. Returns whether there were any; a leg that is not over will not hold its own.
    pub fn release(&mut self, leg: LegId) -> bool {
        if let Some(held) = self.held.remove(&leg) {
            self.blocks.give_back(&held.blocks);
            return true;
        }
        if let Some(&slot) = self.by_leg.get(&leg) {
            self.sequences[slot as usize].leg.hold = false;
        }
        false
    }

    /// All blocks held for legs that are over go back to the pool.
    pub fn release_all(&mut self) {
        let mut held: Vec<LegId> = self.held.keys().copied().collect();
        // In an order that does not depend on how the map came to be: the cache is overwritten in it.
        held.sort_unstable();
        for leg in held {
            self.release(leg);
        }
    }

    /// The KV held for this leg.
    pub fn held(&self, leg: LegId) -> Option<Fingerprint> {
        self.held.get(&leg).map(|held| held.kv)
    }

    pub fn held_blocks(&self) -> u64 {
        self.held.values().map(|held| held.blocks.len() as u64).sum()
    }

    /// Tokens that are held for this leg, and the blocks they take.
    pub fn held_size(&self, leg: LegId) -> Option<(u32, u32)> {
        self.held.get(&leg).map(|held| (held.tokens, held.blocks.len() as u32))
    }

    /// Whether nothing waits, and all blocks are free or only cached.
    pub fn is_idle(&self) -> bool {
        self.blocks.in_use() == 0 && self.waiting.is_empty()
    }

    /// Blocks that legs use, hold or are promised.
    pub fn blocks_in_use(&self) -> u64 {
        self.blocks.in_use().into()
    }

    /// Cached blocks that were overwritten.
    pub fn evictions(&self) -> u64 {
        self.blocks.evictions()
    }

    /// Forgets all prefixes; false while any block is in use, as with vLLM.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.is_idle() && self.blocks.reset_cache()
    }

    /// Legs that want their KV copied, since the last call.
    pub fn take_fetches(&mut self) -> Vec<FetchRequest> {
        std::mem::take(&mut self.fetches)
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
        // A fetch takes no tokens, but starts only in a step with some to spare.
        let fetch_waits = self.waiting_with_kv > 0;
        let arriving = (self.fetched.len() + usize::from(fetch_waits)).min(seats) as u32;
        let (floor, ceiling) = (self.running.len() as u32 + arriving + PREFILL_TOKENS_MIN, self.settings.max_num_batched_tokens);
        let budget = self.tuning.max_num_batched_tokens.unwrap_or(ceiling).max(floor).min(ceiling);
        let chunk_max = match self.tuning.long_prefill_token_threshold {
            None | Some(0) => u32::MAX,
            Some(threshold) => threshold,
        };
        let mut batch = Batch { budget, chunk_max, work: StepWork::default() };

        self.prefilling.clear();
        for &slot in &self.running {
            let sequence = &self.sequences[slot as usize];
            if sequence.prompt_left() > 0 {
                self.prefilling.push(slot);
            } else if batch.budget > 0 {
                self.step.push((slot, sequence.leg.id, batch.take(sequence, 0)));
            }
        }
        for &slot in &self.prefilling {
            if batch.budget <= arriving {
                break;
            }
            let sequence = &self.sequences[slot as usize];
            self.step.push((slot, sequence.leg.id, batch.take(sequence, arriving)));
        }
        while batch.budget > 0 && self.running.len() < self.settings.max_num_seqs as usize {
            let slot = match self.fetched.pop_front() {
                Some(slot) => slot,
                None => match self.admit() {
                    None => break,
                    Some(slot) => match self.sequences[slot as usize].leg.kv_source {
                        None => slot,
                        Some(source) => {
                            let sequence = &mut self.sequences[slot as usize];
                            sequence.state = SequenceState::Fetching;
                            self.fetches.push(FetchRequest { leg: sequence.leg.id, source });
                            self.fetching += 1;
                            continue;
                        }
                    },
                },
            };
            let sequence = &mut self.sequences[slot as usize];
            sequence.state = SequenceState::Running;
            self.step.push((slot, sequence.leg.id, batch.take(sequence, 0)));
            self.running.push(slot);
        }
        if self.step.is_empty() {
            return None;
        }
        let StepWork { prompt_tokens, decodes, .. } = batch.work;
        Some(StepCost { prompt_tokens, decodes, takes: self.settings.timing.step(&batch.work) })
    }

    /// The waiting leg whose turn it is, if there are blocks for it.
    fn admit(&mut self) -> Option<Slot> {
        let fetches = |slot: &Slot| self.sequences[*slot as usize].leg.kv_source.is_some();
        let first = if self.waiting_with_kv > 0 { self.waiting.iter().position(fetches)? } else { 0 };
        let slot = *self.waiting.get(first)?;
        let sequence = &mut self.sequences[slot as usize];
        if !sequence.admit(&mut self.blocks, self.settings.block_size) {
            return None;
        }
        if sequence.leg.kv_source.is_some() {
            self.waiting_with_kv -= 1;
        } else if self.blocks.caching() {
            self.stats.prefix_queries += u64::from(sequence.prompt_tokens());
            self.stats.prefix_hits += u64::from(sequence.cached);
        }
        self.waiting.remove(first)
    }

    /// Ends the step: what it gave goes to the end of `outputs`.
    pub fn finish_step(&mut self, outputs: &mut Vec<StepOutput>) {
        let mut step = std::mem::take(&mut self.step);
        let mut over = false;
        for (slot, leg, tokens) in step.drain(..) {
            let sequence = &mut self.sequences[slot as usize];
            // A leg that was aborted during the step is gone.
            if sequence.state != SequenceState::Running || !sequence.is(leg) {
                continue;
            }
            if sequence.given > 0 {
                sequence.decode(&mut self.blocks, self.settings.block_size);
            } else {
                sequence.compute(tokens, &mut self.blocks, self.settings.block_size);
                self.stats.prompt_tokens_computed += u64::from(tokens);
                if sequence.prompt_left() > 0 {
                    continue;
                }
            }
            let token = sequence.kv.next(self.settings.vocab_size);
            let cached_tokens = (sequence.given == 0).then_some(sequence.cached);
            (sequence.last, sequence.given) = (token, sequence.given + 1);
            self.stats.output_tokens += 1;
            let reason = if token == END && !sequence.leg.ignore_eos {
                Some(FinishReason::Stop)
            } else {
                (sequence.given == sequence.leg.max_tokens).then_some(FinishReason::Length)
            };
            let finish = reason.map(|reason| {
                over = true;
                self.retire(slot, reason)
            });
            outputs.push(StepOutput { leg, token: Some(token), cached_tokens, finish });
        }
        if over {
            self.running.retain(|&slot| self.sequences[slot as usize].state == SequenceState::Running);
        }
        self.step = step;
        self.stats.steps += 1;
    }

    pub fn stats(&self) -> EngineStats {
        EngineStats {
            waiting: self.waiting.len() as u32 + self.fetching + self.fetched.len() as u32,
            running: self.running.len() as u32,
            kv_usage: self.blocks.in_use() as f32 / self.settings.kv_blocks.max(1) as f32,
            ..self.stats
        }
    }

    /// Frees or holds the blocks of a leg that is over. An aborted leg holds none.
    fn retire(&mut self, slot: Slot, reason: FinishReason) -> LegFinish {
        let sequence = &mut self.sequences[slot as usize];
        sequence.state = SequenceState::Over;
        sequence.forgo(&mut self.blocks);
        let (leg, tokens, kv) = (sequence.leg.id, sequence.kv_tokens(), sequence.kv);
        let blocks = std::mem::take(&mut sequence.blocks);
        let holds = sequence.leg.hold && reason != FinishReason::Aborted;
        if holds {
            self.held.insert(leg, Held { tokens, blocks, kv });
        } else {
            self.blocks.give_back(&blocks);
        }
        self.by_leg.remove(&leg);
        self.vacant.push(slot);
        LegFinish { reason, held: holds.then_some(HeldKv { tokens }) }
    }

    fn ends_outside_a_step(&mut self, leg: LegId, reason: FinishReason) {
        let finish = Some(LegFinish { reason, held: None });
        self.ended.push(LegOutput { leg, tokens: Vec::new(), cached_tokens: None, finish });
    }
}

/// A step being put together.
struct Batch {
    /// Tokens left.
    budget: u32,
    chunk_max: u32,
    work: StepWork,
}

impl Batch {
    /// The sequence's tokens in this step, with so many left for others.
    fn take(&mut self, sequence: &Sequence, reserved: u32) -> u32 {
        let left = sequence.prompt_left();
        let tokens = left.clamp(1, self.chunk_max).min(self.budget - reserved);
        if left == 0 {
            self.work.decodes += 1;
            self.work.context += u64::from(sequence.kv_tokens());
        } else {
            let (before, chunk) = (u64::from(sequence.kv_tokens()), u64::from(tokens));
            self.work.prompt_tokens += tokens;
            // Token i of the chunk reads the context before it and the chunk's tokens up to itself.
            self.work.attention += chunk * before + chunk * (chunk + 1) / 2;
        }
        self.budget -= tokens;
        tokens
    }
}
