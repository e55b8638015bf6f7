//! The forecast: recent requests once more under another arrangement, on modelled engines that cost what the router has learned.
//!
//! A formula for the mean wait of a queue would be shorter, and blind to what decides here: which requests come in clumps, what a long
//! prompt does to the short ones behind it, whether one step in twenty is over the ITL objective. So the policy itself places the
//! requests, and a scheduler of a few lines batches them: what decodes first, then prompts in chunks, first come first served. Steps in
//! which nothing but decoding goes on are taken several at a time. No memory is asked for once the buffers have grown.

use std::collections::VecDeque;

use dualpool_types::{Arrangement, EngineId, Micros, Objectives, PREFILL_TOKENS_MIN, Time};

use crate::costs::{CopyTable, CostModel};
use crate::fleet::{EngineState, FleetView, LegDemand};

use crate::placement::{Ask, Placement};
use crate::policies::{Policy, build};
use crate::settings::RouterSettings;

use super::requests::Expected;

/// What would come of an arrangement.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Forecast {
    /// Weighted share of the requests within their objectives.
    pub share: f64,
    /// The share, less a little for keeping the engines busy: what to rank by.
    pub score: f64,
}

/// What the engines are like.
#[derive(Clone, Copy)]
pub(crate) struct FleetModel<'a> {
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
/// Steps that one forecast takes at most, over all engines. What is not over by then counts as missed.
const STEPS_MAX: u32 = 20_000;
/// Steps of decoding alone that are taken at once.
const STEPS_AT_ONCE_MAX: f64 = 8.0;

/// A request in a forecast.
#[derive(Clone, Copy, Debug)]
struct Modelled {
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

impl Modelled {
    fn over() -> Modelled {
        let none = Objectives { ttft_us_max: Micros::ZERO, itl_us_max: Micros::ZERO };
        let demand = LegDemand { prefill: 0, long: false, context: 0, outputs: 0, started: false, objectives: none };
        Modelled {
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

    fn to_come(request: &Expected) -> Modelled {
        Modelled { prompt_left: request.uncached_tokens.max(1), outputs_left: request.outputs, ..Modelled::over() }
    }

    fn ask(&self, request: &Expected) -> Ask {
        let made = request.outputs - self.outputs_left;
        let outputs = request.max_tokens.saturating_sub(made).max(1);
        Ask { prompt_tokens: request.prompt_tokens + made, outputs, objectives: request.objectives }
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

/// Buffers that one forecast leaves to the next.
#[derive(Debug, Default)]
pub(super) struct Forecaster {
    now: f64,
    /// Time that engines spent in steps, all together.
    busy_us: f64,
    engines: Vec<EngineState>,
    lines: Vec<Line>,
    modelled: Vec<Modelled>,
    handoffs: Vec<Handoff>,
}

/// What comes next.
enum Upcoming {
    Arrival,
    Handoff(usize),
    StepEnds(usize),
}

impl Forecaster {
    /// What comes of these requests, which are in the order of their arrival.
    pub(super) fn forecast(&mut self, model: FleetModel<'_>, arrangement: &Arrangement, requests: &[Expected]) -> Forecast {
        self.clear(model, arrangement);
        self.modelled.extend(requests.iter().map(Modelled::to_come));
        (0..model.engines.len()).for_each(|engine| self.takes_over(model, engine));
        let mut policy = build(arrangement.policy, model.settings);
        let mut arrivals = requests.iter().zip(0..).peekable();
        let mut steps = 0;
        while let Some((at, upcoming)) = self.next(arrivals.peek().map(|(request, _)| request.at)) {
            self.now = at;
            let until = arrivals.peek().map_or(f64::INFINITY, |(request, _)| request.at);
            match upcoming {
                Upcoming::Arrival => {
                    let Some((request, index)) = arrivals.next() else { break };
                    let long = arrangement.long_prompt_tokens_min;
                    let until = arrivals.peek().map_or(f64::INFINITY, |(request, _)| request.at);
                    match self.enters(model, policy.as_mut(), long, request, index) {
                        Some(engine) => self.begin_step(model.costs, engine, until),
                        None => break,
                    }
                }
                Upcoming::Handoff(place) => {
                    let Handoff { index, to, .. } = self.handoffs.swap_remove(place);
                    // What comes with its KV goes ahead of those that wait without.
                    self.lines[to.index()].waiting.push_front(index);
                    self.begin_step(model.costs, to.index(), until);
                }
                Upcoming::StepEnds(engine) => {
                    steps += self.lines[engine].steps;
                    if steps > STEPS_MAX {
                        break;
                    }
                    self.end_step(model, policy.as_mut(), arrangement.long_prompt_tokens_min, engine, requests);
                    self.begin_step(model.costs, engine, until);
                }
            }
        }
        self.result(requests)
    }

    fn clear(&mut self, model: FleetModel<'_>, arrangement: &Arrangement) {
        self.engines.clear();
        self.engines.extend(model.engines.iter().map(|engine| engine.idle_twin(arrangement)));
        self.lines.resize_with(model.engines.len(), Line::default);
        for line in &mut self.lines {
            line.waiting.clear();
            line.running.clear();
            (line.kv_tokens, line.ends) = (0, f64::INFINITY);
        }
        self.modelled.clear();
        self.handoffs.clear();
        (self.now, self.busy_us) = (0.0, 0.0);
    }

    /// What is on the engine when the forecast begins: it has to be served, too, and stands in the way of what comes. The engine's sums
    /// say how much it is, and it is taken to be evenly spread.
    fn takes_over(&mut self, model: FleetModel<'_>, at: usize) {
        let (engine, demand) = (&model.engines[at], &model.engines[at].demand);
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
                let index = self.modelled.len() as u32;
                let demand = LegDemand { prefill, long, context, outputs, started, objectives };
                let prompt_left = if started { 0 } else { prefill.max(1) };
                let there = Modelled { prompt_left, outputs_left: outputs, demand, ..Modelled::over() };
                self.engines[at].demand.enter(&demand);
                if started {
                    self.lines[at].kv_tokens += u64::from(context) + u64::from(outputs);
                    self.lines[at].running.push(index);
                } else {
                    self.lines[at].waiting.push_back(index);
                }
                self.modelled.push(there);
            }
        }
        self.begin_step(model.costs, at, 0.0);
    }

    fn next(&self, arrival: Option<f64>) -> Option<(f64, Upcoming)> {
        let mut next = arrival.map(|at| (at, Upcoming::Arrival));
        let mut sooner = |at: f64, upcoming: Upcoming| {
            if at.is_finite() && next.as_ref().is_none_or(|(soonest, _)| at < *soonest) {
                next = Some((at, upcoming));
            }
        };
        self.handoffs.iter().enumerate().for_each(|(i, handoff)| sooner(handoff.ready, Upcoming::Handoff(i)));
        self.lines.iter().enumerate().for_each(|(i, line)| sooner(line.ends, Upcoming::StepEnds(i)));
        next
    }

    fn view<'a>(&'a self, model: FleetModel<'a>, long_prompt_tokens_min: u32) -> FleetView<'a> {
        let FleetModel { costs, copies, .. } = model;
        let (engines, now) = (&self.engines[..], Time::default());
        FleetView { engines, costs, copies, cached: &[], long_prompt_tokens_min, now, explaining: None }
    }

    /// The request arrives; returns the engine it goes to.
    fn enters(
        &mut self,
        model: FleetModel<'_>,
        policy: &mut dyn Policy,
        long: u32,
        request: &Expected,
        index: u32,
    ) -> Option<usize> {
        let ask = Ask { prompt_tokens: request.prompt_tokens, outputs: request.max_tokens, objectives: request.objectives };
        let placement = policy.place(&self.view(model, long), &ask)?;
        let (engine, split) = match placement {
            Placement::Whole(engine) => (engine, false),
            Placement::Split(engine) => (engine, request.max_tokens > 1),
        };
        let demand = LegDemand {
            prefill: request.uncached_tokens,
            long: request.uncached_tokens >= long,
            context: request.prompt_tokens,
            outputs: if split { 1 } else { request.max_tokens },
            started: false,
            objectives: request.objectives,
        };
        let modelled = &mut self.modelled[index as usize];
        (modelled.split, modelled.demand, modelled.last_token) = (split, demand, self.now);
        self.engines[engine.index()].demand.enter(&demand);
        self.lines[engine.index()].waiting.push_back(index);
        Some(engine.index())
    }

    /// Starts the engine's next step, if it is between steps and has something to do. `until` is when the next request arrives.
    fn begin_step(&mut self, costs: &CostModel, at: usize, until: f64) {
        let Forecaster { engines, lines, modelled, now, handoffs, .. } = self;
        let (engine, line) = (&engines[at], &mut lines[at]);
        if line.ends.is_finite() {
            return;
        }
        let mut budget = engine.batched_tokens().max((line.running.len() as u32 + PREFILL_TOKENS_MIN).into()) as u32;
        let (mut prompt_tokens, mut decodes, mut fewest_left) = (0, 0u32, u32::MAX);
        for &index in &line.running {
            let leg = &mut modelled[index as usize];
            if leg.prompt_left == 0 {
                leg.takes = budget.min(1);
                budget -= leg.takes;
                decodes += leg.takes;
                fewest_left = fewest_left.min(leg.outputs_left);
            }
        }
        let mut prefill = |leg: &mut Modelled, budget: &mut u32| {
            leg.takes = (engine.chunk_of(leg.prompt_left.into()) as u32).max(1).min(*budget);
            *budget -= leg.takes;
            prompt_tokens += leg.takes;
        };
        for &index in &line.running {
            let leg = &mut modelled[index as usize];
            if leg.prompt_left > 0 {
                prefill(leg, &mut budget);
            }
        }
        while budget > 0 && line.running.len() < engine.facts.max_num_seqs as usize {
            let Some(&index) = line.waiting.front() else { break };
            let leg = &mut modelled[index as usize];
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

    fn end_step(&mut self, model: FleetModel<'_>, policy: &mut dyn Policy, long: u32, at: usize, requests: &[Expected]) {
        let (steps, step_us) = (self.lines[at].steps, self.lines[at].step_us);
        self.lines[at].ends = f64::INFINITY;
        self.busy_us += step_us * f64::from(steps);
        let begun = self.now - step_us * f64::from(steps);
        let mut place = 0;
        while let Some(&index) = self.lines[at].running.get(place) {
            let (leg, engine) = (&mut self.modelled[index as usize], &mut self.engines[at]);
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
                    leg.ttft = self.now - requests.get(index as usize).map_or(0.0, |request| request.at);
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
                self.hands_off(model, policy, long, at, index, requests);
            }
        }
    }

    /// The request has its first token, and goes on where the policy says.
    fn hands_off(
        &mut self,
        model: FleetModel<'_>,
        policy: &mut dyn Policy,
        long: u32,
        from: usize,
        index: u32,
        requests: &[Expected],
    ) {
        let leg = self.modelled[index as usize];
        let (ask, from) = (leg.ask(&requests[index as usize]), EngineId(from as u16));
        let view = self.view(model, long);
        let to = policy.decode_on(&view, &ask, from).unwrap_or(from);
        let handoff = if to == from { 0.0 } else { view.handoff(from, to, ask.prompt_tokens.into()) };
        let leg = &mut self.modelled[index as usize];
        leg.split = false;
        leg.demand.outputs = ask.outputs;
        self.engines[to.index()].demand.enter(&leg.demand);
        self.handoffs.push(Handoff { ready: self.now + handoff.max(0.0), index, to });
    }

    fn result(&self, requests: &[Expected]) -> Forecast {
        let (mut all, mut good) = (0.0, 0.0);
        for (index, request) in requests.iter().enumerate() {
            all += request.weight;
            let Some(leg) = self.modelled.get(index).filter(|leg| leg.outputs_left == 0) else { continue };
            let used = |took: f64, max: f64| if max > 0.0 { took / max } else { f64::INFINITY };
            let ttft = used(leg.ttft, request.objectives.ttft_us_max.0 as f64);
            let itl = used(leg.longest_itl, request.objectives.itl_us_max.0 as f64);
            let in_time = ((1.0 + TTFT_SPREAD - ttft) / (2.0 * TTFT_SPREAD)).clamp(0.0, 1.0);
            let in_step = ((1.0 - itl) / ITL_SPREAD).clamp(0.0, 1.0);
            good += request.weight * in_time * in_step;
        }
        if all <= 0.0 {
            return Forecast::default();
        }
        let alive = self.engines.iter().filter(|engine| engine.alive).count().max(1);
        let busy = self.busy_us / (self.now.max(1.0) * alive as f64);
        Forecast { share: good / all, score: good / all - BUSY_WEIGHT * busy }
    }
}
