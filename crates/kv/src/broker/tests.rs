//! The broker's promises, whatever happens in whatever order.

use std::collections::BTreeSet;
use std::fs::File;

use proptest::prelude::*;

use dualpool_types::{BlockId, CopyLine, RequestId};

use super::super::cost::{ClassCost, CopyClass, LinkCost};
use super::super::memory::tests::map;
use super::*;

const ENGINES: u16 = 3;

/// Everything that can happen. Numbers are engines, and legs of a small pool.
#[derive(Clone, Debug)]
enum Step {
    Connect(u16),
    Held(u16, u64),
    Fetch {
        engine: u16,
        leg: u64,
        source: u16,
    },
    Skip {
        engine: u16,
        leg: u64,
        source: u16,
    },
    Released(u16, u64),
    Release(u16, u64),
    Lost(u16),
    /// The mover is done with its oldest copy.
    Copied {
        ok: bool,
    },
    /// The mover has let go of the memory that it was to unmap first.
    Unmapped,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (engine, leg) = (|| 0..ENGINES, || 0..6u64);
    prop_oneof![
        2 => engine().prop_map(Step::Connect),
        4 => (engine(), leg()).prop_map(|(e, l)| Step::Held(e, l)),
        6 => (engine(), leg(), engine()).prop_map(|(engine, leg, source)| Step::Fetch { engine, leg, source }),
        1 => (engine(), leg(), engine()).prop_map(|(engine, leg, source)| Step::Skip { engine, leg, source }),
        2 => (engine(), leg()).prop_map(|(e, l)| Step::Released(e, l)),
        2 => (engine(), leg()).prop_map(|(e, l)| Step::Release(e, l)),
        1 => engine().prop_map(Step::Lost),
        5 => any::<bool>().prop_map(|ok| Step::Copied { ok }),
        3 => Just(Step::Unmapped),
        2 => (0..3_000_000u64).prop_map(Step::Wait),
    ]
}

/// What the outside world has seen.
#[derive(Default)]
struct World {
    now: u64,
    connected: BTreeSet<EngineId>,
    copies: Vec<CopyJob>,
    unmaps: Vec<EngineId>,
    /// Fetches asked for and answers given, per engine; an engine that is gone no longer counts.
    asked: BTreeMap<EngineId, usize>,
    answered: BTreeMap<EngineId, usize>,
    fetched: usize,
    /// Answers to fetches, also to engines that are gone.
    told: usize,
    fetches: usize,
    lost: usize,
    closed: usize,
}

fn name(leg: u64) -> LegId {
    LegId { request: RequestId(leg), leg: 0 }
}

impl World {
    fn apply(&mut self, broker: &mut Broker, step: Step) {
        let now = Time(self.now);
        let source = |engine, leg| Source { engine: EngineId(engine), leg: LegName(name(leg)), tokens: 10 };
        match step {
            Step::Connect(id) => {
                let engine = EngineId(id);
                if self.connected.contains(&engine) || broker.is_closing(engine) {
                    return;
                }
                for half in [Half::Worker, Half::Scheduler] {
                    broker.hello(engine, half).expect("not connected yet");
                }
                let fd = File::open("/dev/null").expect("it exists").into();
                broker.register(map(id, 8, 64), Memory::Shm { fd, bytes: 1024 }).expect("not registered yet");
                self.map(broker, engine);
                self.connected.insert(engine);
            }
            Step::Held(engine, leg) if self.connected.contains(&EngineId(engine)) => {
                let _ = broker.held(EngineId(engine), name(leg), vec![vec![Some(BlockId(1)), Some(BlockId(2))]], 10, now);
            }
            Step::Fetch { engine, leg, source: from } if self.connected.contains(&EngineId(engine)) => {
                let groups = vec![FetchGroup { first: 0, blocks: vec![Some(BlockId(4)), Some(BlockId(5))] }];
                broker.fetch(EngineId(engine), name(leg), source(from, leg), groups, now).expect("registered");
                *self.asked.entry(EngineId(engine)).or_default() += 1;
                self.fetches += 1;
            }
            Step::Skip { engine, leg, source: from } if self.connected.contains(&EngineId(engine)) => {
                broker.skip(EngineId(engine), name(leg), source(from, leg), now);
                self.fetches += 1;
            }
            Step::Released(engine, leg) => broker.released(EngineId(engine), name(leg)),
            Step::Release(engine, leg) => broker.release(EngineId(engine), name(leg)),
            Step::Lost(engine) => {
                broker.lost(EngineId(engine), now);
                self.lost += usize::from(self.connected.contains(&EngineId(engine)));
                self.gone(EngineId(engine));
            }
            Step::Copied { ok } if !self.copies.is_empty() => {
                let job = self.copies.remove(0);
                let result = if ok { Ok(()) } else { Err("it broke".to_string()) };
                broker.copied(job.id, nothing_fetched(now, result));
            }
            Step::Unmapped if !self.unmaps.is_empty() => {
                let engine = self.unmaps.remove(0);
                broker.unmapped(engine);
            }
            Step::Wait(us) => {
                self.now += us;
                broker.tick(Time(self.now));
            }
            _ => {}
        }
        self.see(broker);
    }

    /// The mover maps what the engine has registered.
    fn map(&mut self, broker: &mut Broker, engine: EngineId) {
        for effect in broker.take_effects() {
            if let Effect::Map { .. } = effect {
                broker.mapped(engine, Ok(()), Time(self.now));
            }
        }
    }

    fn gone(&mut self, engine: EngineId) {
        self.connected.remove(&engine);
        self.asked.remove(&engine);
        self.answered.remove(&engine);
    }

    fn see(&mut self, broker: &mut Broker) {
        for effect in broker.take_effects() {
            match effect {
                Effect::Copy(job) => self.copies.push(job),
                Effect::Send { engine, message: ToEngine::Fetched { .. }, .. } => {
                    self.told += 1;
                    assert!(self.told <= self.fetched, "an engine knows of a copy's end before the fleet does");
                    if self.connected.contains(&engine) {
                        *self.answered.entry(engine).or_default() += 1;
                    }
                }
                Effect::Unmap { engine } => {
                    let touches = |job: &CopyJob| job.from.engine == engine || job.to.engine == engine;
                    assert!(!self.copies.iter().any(touches), "{engine} let go while a copy touches it");
                    assert!(!self.unmaps.contains(&engine), "{engine} is let go twice");
                    self.unmaps.push(engine);
                }
                Effect::Close { engine } => {
                    assert!(!self.unmaps.contains(&engine), "{engine} is told while its memory is mapped");
                    self.closed += 1;
                }
                Effect::Emit(KvEvent::Fetched { .. }) => self.fetched += 1,
                _ => {}
            }
        }
        for job in &self.copies {
            let lost = |engine| !self.connected.contains(&engine);
            assert!(!(lost(job.from.engine) || lost(job.to.engine)) || job.stop.is_set(), "a copy goes on for a lost engine");
        }
    }
}

proptest! {
    /// Every fetch gets one answer, every fetch and skip one event, no lease outlives its end, no memory is unmapped under a copy, and an
    /// engine that is lost is told so once, when its memory is unmapped.
    #[test]
    fn promises_hold(steps in proptest::collection::vec(step(), 0..120)) {
        let (mut broker, mut world) = (Broker::new(Micros(1_000_000), EngineLinks::default()), World::default());
        for step in steps {
            world.apply(&mut broker, step);
        }
        while !world.copies.is_empty() {
            world.apply(&mut broker, Step::Copied { ok: true });
        }
        while !world.unmaps.is_empty() {
            world.apply(&mut broker, Step::Unmapped);
        }
        prop_assert_eq!(world.lost, world.closed);
        world.apply(&mut broker, Step::Wait(10_000_000));
        prop_assert_eq!(&world.asked, &world.answered);
        prop_assert_eq!(world.fetched, world.fetches);
        prop_assert_eq!(broker.next_deadline(), None);
        for engine in 0..ENGINES {
            for leg in 0..6 {
                world.apply(&mut broker, Step::Released(engine, leg));
            }
        }
        prop_assert_eq!(broker.held_blocks(), 0);
    }
}

/// An engine that takes an id again finds nothing of its predecessor's under it: neither its memory nor the outcome of mapping that.
#[test]
fn an_id_is_free_again_once_its_memory_is_unmapped() {
    let mut broker = Broker::new(Micros(1_000_000), EngineLinks::default());
    let connect = |broker: &mut Broker| {
        for half in [Half::Worker, Half::Scheduler] {
            broker.hello(EngineId(0), half)?;
        }
        let fd = File::open("/dev/null").unwrap().into();
        broker.register(map(0, 8, 64), Memory::Shm { fd, bytes: 1024 })
    };
    connect(&mut broker).unwrap();
    broker.take_effects();
    broker.lost(EngineId(0), Time(0));
    let effects = broker.take_effects();
    assert!(matches!(effects[..], [Effect::Emit(KvEvent::Disconnected { .. }), Effect::Unmap { .. }]), "{effects:?}");
    for outcome in [Ok(()), Err("no memory".to_string())] {
        broker.mapped(EngineId(0), outcome, Time(0));
        assert!(broker.take_effects().is_empty());
    }
    assert_eq!(connect(&mut broker), Err(Violation::Closing { engine: EngineId(0) }));
    broker.unmapped(EngineId(0));
    assert!(matches!(broker.take_effects()[..], [Effect::Close { .. }]));
    connect(&mut broker).unwrap();
    broker.mapped(EngineId(0), Ok(()), Time(0));
    assert!(broker.take_effects().iter().any(|e| matches!(e, Effect::Emit(KvEvent::Ready { .. }))));
}

/// Costs are told once both ends are there, in the tokens of their layout, and only for links that were measured.
#[test]
fn what_a_copy_costs_is_told_once_both_ends_are_ready() {
    let cost = ClassCost { submit_us: 7.0, range_us: 2.0, bytes_per_s: 1e6 };
    let link = LinkCost::new([(CopyClass::Direct, cost)].into()).unwrap();
    let mut broker = Broker::new(Micros(1_000_000), [((EngineId(0), EngineId(1)), link)].into_iter().collect());
    let mut connect = |id: u16| {
        for half in [Half::Worker, Half::Scheduler] {
            broker.hello(EngineId(id), half).unwrap();
        }
        let fd = File::open("/dev/null").unwrap().into();
        broker.register(map(id, 8, 64), Memory::Shm { fd, bytes: 1024 }).unwrap();
        broker.mapped(EngineId(id), Ok(()), Time(0));
        let costs = |e| if let Effect::Emit(KvEvent::CopyCost { from, to, lines }) = e { Some((from, to, lines)) } else { None };
        broker.take_effects().into_iter().filter_map(costs).collect::<Vec<_>>()
    };
    assert_eq!(connect(0), []);
    // Two layers of 64 bytes, in blocks of 128 tokens: one byte and two ranges / 128 for each token.
    let line = CopyLine { fixed_us: 7.0, us_per_token: 1.0 + 2.0 * 2.0 / 128.0 };
    assert_eq!(connect(1), [(EngineId(0), EngineId(1), vec![line])]);
    assert_eq!(connect(2), []);
}
