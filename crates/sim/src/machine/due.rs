//! What is due, and how it is carried out when its time has come.

use dualpool_host::Fold;
use dualpool_model::StepOutput;
use dualpool_router::Event;
use dualpool_types::{Bytes, EngineId, EngineStats, KvSource, Leg, LegId, LegOutput, Micros, Request, RequestId, Time};

use super::Machine;

pub(super) enum Due {
    /// A leg, or the word that one is to end, reaches its engine.
    Reaches(EngineId, Box<Order>),
    StepEnds(EngineId),
    /// What a step gave reaches the router.
    Gave(EngineId, Box<(Vec<StepOutput>, EngineStats)>),
    /// The router hears of legs that ended outside of a step.
    Ended(EngineId, Vec<LegOutput>),
    CopyEnds(Box<CopyUnderWay>),
    /// The mover's word of a copy reaches the router.
    Moved {
        leg: LegId,
        copy: Micros,
        bytes: Bytes,
        ok: bool,
    },
    /// The mover's word that blocks are held reaches the router's shell.
    Held(EngineId, LegId),
    LeaseEnds(EngineId, LegId),
    Stats(EngineId, Box<EngineStats>),
    Leaves(RequestId),
    LinkBreaks(EngineId),
    Dies(EngineId),
    DeathNoticed(EngineId),
    Tick,
    Sample,
}

/// What an engine is told.
pub(super) enum Order {
    Submit(Leg),
    Abort(LegId),
    Detach(LegId),
}

pub(super) struct CopyUnderWay {
    pub leg: LegId,
    pub source: KvSource,
    pub to: EngineId,
    pub started: Time,
}

impl<I: Iterator<Item = (Time, Request)>, F: Fold> Machine<'_, I, F> {
    pub(super) fn happens(&mut self, due: Due) {
        match due {
            Due::Reaches(engine, order) => self.host.backend.reaches(engine, *order),
            Due::StepEnds(engine) => self.step_ends(engine),
            Due::Gave(engine, given) => {
                let (mut outputs, stats) = *given;
                self.gave(engine, &mut outputs, stats);
            }
            Due::Ended(engine, ended) => self.legs_ended(engine, &ended),
            Due::CopyEnds(copy) => self.copy_ends(&copy),
            Due::Moved { leg, copy, bytes, ok } => self.host.feed(Event::KvMoved { leg, copy, bytes, ok }),
            Due::Held(engine, leg) => {
                // The leg may have been given up before its engine got to hold anything.
                if !self.host.router().needs_blocks_of(leg) {
                    self.host.backend.release(engine, leg);
                }
            }
            Due::LeaseEnds(engine, leg) => self.host.backend.lease_ends(engine, leg),
            Due::Stats(engine, stats) => self.host.feed(Event::EngineStats { engine, stats: *stats }),
            Due::Leaves(request) => {
                if self.host.backend.in_flight.contains(&request) {
                    self.host.feed(Event::Cancelled(request));
                }
            }
            Due::LinkBreaks(engine) => self.link_breaks(engine),
            Due::Dies(engine) => self.dies(engine),
            Due::DeathNoticed(engine) => self.host.feed(Event::EngineDied { engine, why: "the simulation killed it" }),
            Due::Tick => self.tick(),
            Due::Sample => self.sample(),
        }
    }
}
