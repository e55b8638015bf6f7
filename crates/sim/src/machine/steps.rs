//! The engines' side: what they are told, their steps, and what these give.

use rand::Rng as _;

use dualpool_host::Fold;
use dualpool_model::{FetchRequest, StepOutput};
use dualpool_router::Event;
use dualpool_types::{EngineId, EngineStats, LegOutput, Micros, Request, Time};

use super::Machine;
use super::due::{CopyUnderWay, Due, Order};
use super::fleet::Fleet;

/// How much a step's length varies around the model, up or down.
const NOISE: f64 = 0.1;

impl Fleet<'_> {
    /// The whole round trip lies before the engine: what a client and the router see of it is the same as if half of it lay behind.
    pub(super) fn tell(&mut self, engine: EngineId, order: Order) {
        match self.engines[engine.index()].settings.timing.round_trip() {
            Micros::ZERO => self.reaches(engine, order),
            late => self.agenda.schedule(self.now.plus(late), Due::Reaches(engine, Box::new(order))),
        }
    }

    pub(super) fn reaches(&mut self, id: EngineId, order: Order) {
        let engine = &mut self.engines[id.index()];
        if !engine.alive {
            return;
        }
        match order {
            Order::Submit(leg) => engine.scheduler.submit(leg),
            Order::Abort(leg) => engine.scheduler.abort(leg),
            Order::Detach(leg) => engine.scheduler.detach(leg),
        }
        self.notice_ended(id);
        self.kick(id);
    }

    /// The router hears of legs that ended outside of a step as it would of any: not in the midst of what it asked for.
    fn notice_ended(&mut self, id: EngineId) {
        let ended = self.engines[id.index()].scheduler.take_ended();
        if !ended.is_empty() {
            let late = Micros(self.faults.late_outputs_ms * 1_000);
            self.agenda.schedule(self.now.plus(late), Due::Ended(id, ended));
        }
    }

    /// Starts the engine's next step, if it is between steps and has something to do.
    pub(super) fn kick(&mut self, id: EngineId) {
        let engine = &mut self.engines[id.index()];
        if engine.busy || !engine.alive {
            return;
        }
        let step = engine.scheduler.begin_step();
        for FetchRequest { leg, source } in engine.scheduler.take_fetches() {
            let takes = engine.settings.timing.copy(source.tokens);
            let slower = self.faults.slowdown(self.now, source.engine, id);
            let ends = self.now.plus(Micros((takes.0 as f64 * slower) as u64));
            self.copies.push((source.engine, source.leg));
            let copy = CopyUnderWay { leg, source, to: id, started: self.now };
            self.agenda.schedule(ends, Due::CopyEnds(Box::new(copy)));
        }
        if let Some(step) = step {
            engine.busy = true;
            let takes = Micros((step.takes.0 as f64 * self.noise.random_range(1.0 - NOISE..1.0 + NOISE)) as u64);
            engine.totals.busy += takes;
            self.agenda.schedule(self.now.plus(takes), Due::StepEnds(id));
        }
    }

    /// The engine's step is over; what it gave goes into `outputs`. None where the engine died in it, and what it was computing is lost.
    fn step_ends(&mut self, id: EngineId, outputs: &mut Vec<StepOutput>) -> Option<EngineStats> {
        let engine = &mut self.engines[id.index()];
        if !engine.alive {
            return None;
        }
        engine.busy = false;
        engine.scheduler.finish_step(outputs);
        let stats = engine.scheduler.stats();
        for output in outputs.iter().filter(|output| output.finish.as_ref().is_some_and(|finish| finish.held.is_some())) {
            self.held(id, output.leg);
        }
        Some(stats)
    }
}

impl<I: Iterator<Item = (Time, Request)>, F: Fold> Machine<'_, I, F> {
    pub(super) fn step_ends(&mut self, id: EngineId) {
        let mut outputs = std::mem::take(&mut self.outputs);
        let Some(stats) = self.host.backend.step_ends(id, &mut outputs) else {
            return self.outputs = outputs;
        };
        self.totals.steps += 1;
        match self.simulation.faults.late_outputs_ms {
            0 => {
                self.gave(id, &mut outputs, stats);
                self.outputs = outputs;
            }
            late => {
                let fleet = &mut self.host.backend;
                fleet.agenda.schedule(fleet.now.plus(Micros(late * 1_000)), Due::Gave(id, Box::new((outputs, stats))));
            }
        }
        self.host.backend.kick(id);
    }

    /// Tells the router what a step gave, and empties `outputs`.
    pub(super) fn gave(&mut self, id: EngineId, outputs: &mut Vec<StepOutput>, stats: EngineStats) {
        for StepOutput { leg, token, cached_tokens, finish } in outputs.drain(..) {
            let finish = finish.as_ref().map(|finish| (&finish.reason, finish.held));
            self.host.feed(Event::Output { leg, tokens: token.as_slice(), cached_tokens, finish });
        }
        let fleet = &mut self.host.backend;
        match fleet.mishaps.stats() {
            Some(Micros::ZERO) => self.host.feed(Event::EngineStats { engine: id, stats }),
            Some(late) => fleet.agenda.schedule(fleet.now.plus(late), Due::Stats(id, Box::new(stats))),
            None => {}
        }
        self.count_depth(id);
    }

    pub(super) fn legs_ended(&mut self, id: EngineId, ended: &[LegOutput]) {
        for LegOutput { leg, finish, .. } in ended {
            let finish = finish.as_ref().map(|finish| (&finish.reason, finish.held));
            self.host.feed(Event::Output { leg: *leg, tokens: &[], cached_tokens: None, finish });
        }
        self.count_depth(id);
    }
}
