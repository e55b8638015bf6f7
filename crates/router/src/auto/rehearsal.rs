//! The forecast: recent requests played once more under another arrangement, on engines that cost what the router has learned.
//!
//! A formula for the mean wait of a queue would be shorter, and blind to what decides here: which requests come in clumps, what a long
//! prompt does to the short ones behind it, whether one step in twenty is over the ITL objective. So the policy itself places the
//! requests, and a scheduler of a few lines batches them: what decodes first, then prompts in chunks, first come first served. Steps in
//! which nothing but decoding goes on are taken several at a time. No memory is asked for once the buffers have grown.

use std::collections::VecDeque;

use dualpool_types::{Arrangement, EngineId, Micros, Objectives, PREFILL_TOKENS_MIN, Time};

use crate::fleet::LegDemand;
use crate::policy::{self, Ask, Placement, Policy};
use crate::{CopyTable, CostModel, EngineState, FleetView, RouterSettings};

/// A request to be played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Microseconds from the first one's arrival.
    pub at: f64,
    pub prompt_tokens: u32,
    /// Of these, what no engine has in its cache.
    pub uncached_tokens: u32,
    /// Output tokens as the policy is told, and as they will be.
    pub max_tokens: u32,
    pub outputs: u32,
    pub objectives: Objectives,
    /// How much it counts.
    pub weight: f64,
}

/// What would come of an arrangement.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Weighted share of the requests within their objectives.
    pub share: f64,
    /// The share, less a little for keeping the engines busy: what to rank by.
    pub score: f64,
}

/// What the engines are like.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    pub engines: &'a [EngineState],
    pub costs: &'a CostModel,
    pub copies: &'a CopyTable,
    pub settings: &'a RouterSettings,
}

/// Engines are not as punctual as their model. A first token predicted at its objective is late in every other case, and this share of
/// the objective sooner or later makes it certain.
const TTFT_SPREAD: f64 = 0.15;
/// The longest of many steps decides on the ITL, and some step is always longer than predicted: a longest ITL predicted at its objective
/// is over it for certain, and one that leaves this share of it free is not.
const ITL_SPREAD: f64 = 0.12;
/// Between arrangements that serve about as many requests well, the one that leaves engines idle longer: it can take what has not come
/// yet. Keeping all of them busy all the time costs this much of the score.
const BUSY_WEIGHT: f64 = 0.04;
/// Steps that one rehearsal takes at most, over all engines. What is not over by then counts as missed.
const STEPS_MAX: u32 = 20_000;
/// Steps of decoding alone that are taken at once.
const STEPS_AT_ONCE_MAX: f64 = 8.0;

/// A request while it is played.
#[derive(Clone, Copy, Debug)]
struct Played {
    prompt_left: u32,
    outputs_left: u32,
    /// Prompt tokens in the step under way; for a leg that decodes, whether it takes part.
    takes: u32,
    split: bool,
    demand: LegDemand,
    ttft: f64,
    last_token: f64,
    longest_itl: f64,
}

impl Played {
    fn over() -> Played {
        let none = Objectives { ttft_us_max: Micros::ZERO, itl_us_max: Micros::ZERO };
        let demand = LegDemand { prefill: 0, long: false, context: 0, outputs: 0, started: false, objectives: none };
        Played {
            prompt_left: 0,
            outputs_left: 0,
            takes: 0,
            split: false,
            demand,
            ttft: f64::INFINITY,
            last_token: 0.0,
            longest_itl: 0.0,
        }
    }

    fn to_come(part: &Part) -> Played {
        Played { prompt_left: part.uncached_tokens.max(1), outputs_left: part.outputs, ..Played::over() }
    }

    fn ask(&self, part: &Part) -> Ask {
        let made = part.outputs - self.outputs_left;
        let outputs = part.max_tokens.saturating_sub(made).max(1);
        Ask { prompt_tokens: part.prompt_tokens + made, outputs, objectives: part.objectives }
    }
}

/// One engine's queue and batch.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<u32>,
    running: Vec<u32>,
    kv_tokens: u64,
    /// When the step under way ends; infinite while there is none.
    ends: f64,
    /// How long each of its `steps` takes.
    step_us: f64,
    steps: u32,
}

#[derive(Clone, Copy, Debug)]
struct Handoff {
    ready: f64,
    index: u32,
    to: EngineId,
}

/// Buffers that one rehearsal leaves to the next.
#[derive(Debug, Default)]
pub struct Rehearsal {
    now: f64,
    /// Time that engines spent in steps, all together.
    busy_us: f64,
    engines: Vec<EngineState>,
    lines: Vec<Line>,
    played: Vec<Played>,
    handoffs: Vec<Handoff>,
}

/// What comes next.
enum Cue {
    Arrival,
    Handoff(usize),
    StepEnds(usize),
}

impl Rehearsal {
    /// Plays these requests, which are in the order of their arrival.
    pub fn play(&mut self, stage: Stage<'_>, arrangement: &Arrangement, parts: &[Part]) -> Forecast {
        self.clear(stage, arrangement);
        self.played.extend(parts.iter().map(Played::to_come));
        (0..stage.engines.len()).for_each(|engine| self.takes_over(stage, engine));
        let mut policy = policy::build(arrangement.policy, stage.settings);
        let mut arrivals = parts.iter().zip(0..).peekable();
        let mut steps = 0;
        while let Some((at, cue)) = self.next(arrivals.peek().map(|(part, _)| part.at)) {
            self.now = at;
            let until = arrivals.peek().map_or(f64::INFINITY, |(part, _)| part.at);
            match cue {
                Cue::Arrival => {
                    let Some((part, index)) = arrivals.next() else { break };
                    let long = arrangement.long_prompt_tokens_min;
                    let until = arrivals.peek().map_or(f64::INFINITY, |(part, _)| part.at);
                    match self.enters(stage, policy.as_mut(), long, part, index) {
                        Some(engine) => self.begin_step(stage.costs, engine, until),
                        None => break,
                    }
                }
                Cue::Handoff(place) => {
                    let Handoff { index, to, .. } = self.handoffs.swap_remove(place);
                    // What comes with its KV goes ahead of those that wait without.
                    self.lines[to.index()].waiting.push_front(index);
                    self.begin_step(stage.costs, to.index(), until);
                }
                Cue::StepEnds(engine) => {
                    steps += self.lines[engine].steps;
                    if steps > STEPS_MAX {
                        break;
                    }
                    self.end_step(stage, policy.as_mut(), arrangement.long_prompt_tokens_min, engine, parts);
                    self.begin_step(stage.costs, engine, until);
                }
            }
        }
        self.forecast(parts)
    }

    fn clear(&mut self, stage: Stage<'_>, arrangement: &Arrangement) {
        self.engines.clear();
        self.engines.extend(stage.engines.iter().map(|engine| engine.idle_twin(arrangement)));
        self.lines.resize_with(stage.engines.len(), Line::default);
        for line in &mut self.lines {
            line.waiting.clear();
            line.running.clear();
            (line.kv_tokens, line.ends) = (0, f64::INFINITY);
        }
        self.played.clear();
        self.handoffs.clear();
        (self.now, self.busy_us) = (0.0, 0.0);
    }

    /// What is on the engine when the curtain rises: it has to be served, too, and stands in the way of what comes. The engine's sums
    /// say how much it is, and it is taken to be evenly spread.
    fn takes_over(&mut self, stage: Stage<'_>, at: usize) {
        let (engine, demand) = (&stage.engines[at], &stage.engines[at].demand);
        if !engine.alive || demand.depth() == 0 {
            return;
        }
        let outputs = (demand.output_tokens / demand.depth()).max(1) as u32;
        let context = (demand.context_tokens / demand.depth()) as u32;
        let left = (engine.backlog() / (demand.prompt_tokens.max(1) as f64)).min(1.0);
        let objectives = Objectives { ttft_us_max: Micros(u64::MAX), itl_us_max: Micros(u64::MAX) };
        let shorts = demand.waiting - demand.long_prefills;
        let of_longs = demand.long_prompt_tokens / demand.long_prefills.max(1);
        let of_shorts = (demand.prompt_tokens - demand.long_prompt_tokens) / shorts.max(1);
        for (count, prompt, long, started) in
            [(demand.running, 0, false, true), (demand.long_prefills, of_longs, true, false), (shorts, of_shorts, false, false)]
        {
            let prefill = (prompt as f64 * left) as u32;
            for _ in 0..count {
                let index = self.played.len() as u32;
                let demand = LegDemand { prefill, long, context, outputs, started, objectives };
                let prompt_left = if started { 0 } else { prefill.max(1) };
                let there = Played { prompt_left, outputs_left: outputs, demand, ..Played::over() };
                self.engines[at].demand.enter(&demand);
                if started {
                    self.lines[at].kv_tokens += u64::from(context) + u64::from(outputs);
                    self.lines[at].running.push(index);
                } else {
                    self.lines[at].waiting.push_back(index);
                }
                self.played.push(there);
            }
        }
        self.begin_step(stage.costs, at, 0.0);
    }

    fn next(&self, arrival: Option<f64>) -> Option<(f64, Cue)> {
        let mut next = arrival.map(|at| (at, Cue::Arrival));
        let mut sooner = |at: f64, cue: Cue| {
            if at.is_finite() && next.as_ref().is_none_or(|(soonest, _)| at < *soonest) {
                next = Some((at, cue));
            }
        };
        self.handoffs.iter().enumerate().for_each(|(i, handoff)| sooner(handoff.ready, Cue::Handoff(i)));
        self.lines.iter().enumerate().for_each(|(i, line)| sooner(line.ends, Cue::StepEnds(i)));
        next
    }

    fn view<'a>(&'a self, stage: Stage<'a>, long_prompt_tokens_min: u32) -> FleetView<'a> {
        let Stage { costs, copies, .. } = stage;
        let (engines, now) = (&self.engines[..], Time::default());
        FleetView { engines, costs, copies, cached: &[], long_prompt_tokens_min, now, explaining: None }
    }

    /// The request arrives; returns the engine it goes to.
    fn enters(&mut self, stage: Stage<'_>, policy: &mut dyn Policy, long: u32, part: &Part, index: u32) -> Option<usize> {
        let ask = Ask { prompt_tokens: part.prompt_tokens, outputs: part.max_tokens, objectives: part.objectives };
        let plan = policy.place(&self.view(stage, long), &ask)?;
        let (engine, split) = match plan {
            Placement::Whole(engine) => (engine, false),
            Placement::Split(engine) => (engine, part.max_tokens > 1),
        };
        let demand = LegDemand {
            prefill: part.uncached_tokens,
            long: part.uncached_tokens >= long,
            context: part.prompt_tokens,
            outputs: if split { 1 } else { part.max_tokens },
            started: false,
            objectives: part.objectives,
        };
        let played = &mut self.played[index as usize];
        (played.split, played.demand, played.last_token) = (split, demand, self.now);
        self.engines[engine.index()].demand.enter(&demand);
        self.lines[engine.index()].waiting.push_back(index);
        Some(engine.index())
    }

    /// Starts the engine's next step, if it is between steps and has something to do. `until` is when the next request arrives.
    fn begin_step(&mut self, costs: &CostModel, at: usize, until: f64) {
        let Rehearsal { engines, lines, played, now, handoffs, .. } = self;
        let (engine, line) = (&engines[at], &mut lines[at]);
        if line.ends.is_finite() {
            return;
        }
        let mut budget = engine.batched_tokens().max((line.running.len() as u32 + PREFILL_TOKENS_MIN).into()) as u32;
        let (mut prompt_tokens, mut decodes, mut fewest_left) = (0, 0u32, u32::MAX);
        for &index in &line.running {
            let leg = &mut played[index as usize];
            if leg.prompt_left == 0 {
                leg.takes = budget.min(1);
                budget -= leg.takes;
                decodes += leg.takes;
                fewest_left = fewest_left.min(leg.outputs_left);
            }
        }
        let mut prefill = |leg: &mut Played, budget: &mut u32| {
            leg.takes = (engine.chunk_of(leg.prompt_left.into()) as u32).max(1).min(*budget);
            *budget -= leg.takes;
            prompt_tokens += leg.takes;
        };
        for &index in &line.running {
            let leg = &mut played[index as usize];
            if leg.prompt_left > 0 {
                prefill(leg, &mut budget);
            }
        }
        while budget > 0 && line.running.len() < engine.facts.max_num_seqs as usize {
            let Some(&index) = line.waiting.front() else { break };
            let leg = &mut played[index as usize];
            let kv = line.kv_tokens + u64::from(leg.demand.context) + u64::from(leg.demand.outputs);
            if kv > engine.facts.kv_tokens && !line.running.is_empty() {
                break;
            }
            line.kv_tokens = kv;
            line.waiting.pop_front();
            line.running.push(index);
            if leg.prompt_left > 0 {
                prefill(leg, &mut budget);
            } else {
                leg.takes = 1;
                budget -= 1;
                decodes += 1;
                fewest_left = fewest_left.min(leg.outputs_left);
            }
        }
        if decodes == 0 && prompt_tokens == 0 {
            return;
        }
        line.step_us = costs.step(prompt_tokens.into(), decodes.into()).max(1.0);
        let until = handoffs.iter().map(|handoff| handoff.ready).fold(until, f64::min);
        let room = ((until - *now) / line.step_us).ceil().clamp(1.0, STEPS_AT_ONCE_MAX) as u32;
        line.steps = if prompt_tokens == 0 && line.waiting.is_empty() { room.min(fewest_left) } else { 1 };
        line.ends = *now + line.step_us * f64::from(line.steps);
    }

    fn end_step(&mut self, stage: Stage<'_>, policy: &mut dyn Policy, long: u32, at: usize, parts: &[Part]) {
        let (steps, step_us) = (self.lines[at].steps, self.lines[at].step_us);
        self.lines[at].ends = f64::INFINITY;
        self.busy_us += step_us * f64::from(steps);
        let begun = self.now - step_us * f64::from(steps);
        let mut place = 0;
        while let Some(&index) = self.lines[at].running.get(place) {
            let (leg, engine) = (&mut self.played[index as usize], &mut self.engines[at]);
            let takes = std::mem::take(&mut leg.takes);
            if takes == 0 {
                place += 1;
                continue;
            }
            let before = leg.demand;
            let first = leg.prompt_left > 0;
            if first {
                leg.prompt_left = leg.prompt_left.saturating_sub(takes);
                leg.demand.prefill = leg.demand.prefill.saturating_sub(takes);
            }
            if leg.prompt_left == 0 {
                let given = if first { 1 } else { steps };
                if first {
                    leg.ttft = self.now - parts.get(index as usize).map_or(0.0, |part| part.at);
                } else {
                    leg.longest_itl = leg.longest_itl.max(begun + step_us - leg.last_token).max(step_us);
                }
                leg.last_token = self.now;
                leg.outputs_left -= given.min(leg.outputs_left);
                let outputs = leg.demand.outputs.saturating_sub(given);
                leg.demand = LegDemand { prefill: 0, started: true, context: leg.demand.context + given, outputs, ..leg.demand };
            }
            engine.demand.leave(&before);
            engine.demand.enter(&leg.demand);
            let over = leg.outputs_left == 0;
            if leg.prompt_left > 0 || !(over || leg.split) {
                place += 1;
                continue;
            }
            engine.demand.leave(&leg.demand);
            let line = &mut self.lines[at];
            line.running.remove(place);
            line.kv_tokens -= u64::from(before.context) + u64::from(before.outputs);
            if !over {
                self.moves_on(stage, policy, long, at, index, parts);
            }
        }
    }

    /// The request has its first token, and goes on where the policy says.
    fn moves_on(&mut self, stage: Stage<'_>, policy: &mut dyn Policy, long: u32, from: usize, index: u32, parts: &[Part]) {
        let leg = self.played[index as usize];
        let (ask, from) = (leg.ask(&parts[index as usize]), EngineId(from as u16));
        let view = self.view(stage, long);
        let to = policy.decode_on(&view, &ask, from).unwrap_or(from);
        let handoff = if to == from { 0.0 } else { view.handoff(from, to, ask.prompt_tokens.into()) };
        let leg = &mut self.played[index as usize];
        leg.split = false;
        leg.demand.outputs = ask.outputs;
        self.engines[to.index()].demand.enter(&leg.demand);
        self.handoffs.push(Handoff { ready: self.now + handoff.max(0.0), index, to });
    }

    fn forecast(&self, parts: &[Part]) -> Forecast {
        let (mut all, mut good) = (0.0, 0.0);
        for (index, part) in parts.iter().enumerate() {
            all += part.weight;
            let Some(leg) = self.played.get(index).filter(|leg| leg.outputs_left == 0) else { continue };
            let used = |took: f64, max: f64| if max > 0.0 { took / max } else { f64::INFINITY };
            let ttft = used(leg.ttft, part.objectives.ttft_us_max.0 as f64);
            let itl = used(leg.longest_itl, part.objectives.itl_us_max.0 as f64);
            let in_time = ((1.0 + TTFT_SPREAD - ttft) / (2.0 * TTFT_SPREAD)).clamp(0.0, 1.0);
            let in_step = ((1.0 - itl) / ITL_SPREAD).clamp(0.0, 1.0);
            good += part.weight * in_time * in_step;
        }
        if all <= 0.0 {
            return Forecast::default();
        }
        let alive = self.engines.iter().filter(|engine| engine.alive).count().max(1);
        let busy = self.busy_us / (self.now.max(1.0) * alive as f64);
        Forecast { share: good / all, score: good / all - BUSY_WEIGHT * busy }
    }
}
