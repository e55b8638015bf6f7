//! The control socket and the mover, against made-up engines.

use std::os::fd::AsRawFd;

use nix::sys::socket::{Shutdown, shutdown};

use dualpool_cuda::GpuUuid;
use dualpool_kv::wire::{Half, MESSAGE_BYTES_MAX, MemoryKind, PROTOCOL, Register, Segment, Source, ToBroker, ToEngine};
use dualpool_kv::{KV_EVENTS_MAX, KvEvent};
use dualpool_types::{EngineId, Micros};

use crate::fake::{FakeEngine, MEMORY_BYTES, Wire, block, hello, register};
use crate::faults::Fault;
use crate::watch::{LEASE_MS, Watched, leg, start, until};

/// A KV server with two engines that are ready.
fn pair(verify_kv: bool) -> (Watched, FakeEngine, FakeEngine) {
    let mut watched = start(verify_kv);
    let engines = [0, 1].map(|id| {
        let engine = FakeEngine::ready(watched.kv_server.socket_path(), id);
        watched.expect(KvEvent::Ready { engine: EngineId(id) });
        engine
    });
    let [a, b] = engines;
    (watched, a, b)
}

/// A hand-off between these two still works, and leaves nothing held.
fn works(watched: &mut Watched, a: &FakeEngine, b: &FakeEngine, request: u64) {
    a.held(leg(request, 0), 10, &[1, 2, 3]);
    b.fetch(leg(request, 1), a.source(leg(request, 0), 10), 0, &[4, 5, 6]);
    assert_eq!(b.fetched(leg(request, 1)), Ok(()));
    a.expect_release(leg(request, 0));
    a.released(leg(request, 0));
    watched.seen(KvEvent::Released { engine: a.id, leg: leg(request, 0) });
    assert_eq!(watched.kv_server.held_blocks(), 0);
}

#[test]
fn a_hand_off_copies_the_bytes_and_nothing_else() {
    let (mut watched, a, b) = pair(true);
    let (from, mut want) = (a.fill(), b.fill());
    a.held(leg(6, 0), 10, &[1, 2, 9]);
    watched.expect(KvEvent::Held { engine: a.id, leg: leg(6, 0) });
    assert_eq!(watched.kv_server.held_blocks(), 3);
    // The destination has the first block in its prefix cache.
    b.fetch(leg(7, 1), a.source(leg(6, 0), 10), 1, &[14, 3]);
    assert_eq!(b.fetched(leg(7, 1)), Ok(()));
    for (source, target) in [(2, 14), (9, 3)] {
        for layer in 0..2 {
            want[block(layer, target)].copy_from_slice(&from[block(layer, source)]);
        }
    }
    assert_eq!(b.bytes(), want);
    assert_eq!(a.bytes(), from);
    match watched.next() {
        KvEvent::Fetched { leg: l, source, from, to, bytes, byte_ranges, error: None, .. } => {
            assert_eq!((l, source, from, to), (leg(7, 1), leg(6, 0), a.id, b.id));
            assert_eq!((bytes.0, byte_ranges), (4 * 64, 4));
        }
        other => panic!("{other:?}"),
    }
    a.expect_release(leg(6, 0));
    assert_eq!(watched.kv_server.held_blocks(), 3, "the engine has not given them back yet");
    a.released(leg(6, 0));
    watched.expect(KvEvent::Released { engine: a.id, leg: leg(6, 0) });
    assert_eq!(watched.kv_server.held_blocks(), 0);
}

#[test]
fn a_held_that_comes_late_is_waited_for() {
    let (mut watched, a, b) = pair(false);
    b.fetch(leg(1, 1), a.source(leg(1, 0), 10), 0, &[4, 5, 6]);
    a.held(leg(1, 0), 10, &[1, 2, 3]);
    assert_eq!(b.fetched(leg(1, 1)), Ok(()));
    assert_eq!(watched.fetched(leg(1, 1)), Ok(6 * 64));
}

#[test]
fn a_held_that_never_comes_fails_the_fetch_and_is_released_if_it_does() {
    let (watched, a, b) = pair(false);
    b.fetch(leg(1, 1), a.source(leg(1, 0), 10), 0, &[4, 5, 6]);
    // The clock moves on only after the fetch is known to wait: this answer comes after it.
    b.fetch(leg(2, 1), Source { engine: b.id, ..a.source(leg(2, 0), 10) }, 0, &[7]);
    assert!(b.fetched(leg(2, 1)).unwrap_err().contains("cannot fetch from itself"));
    watched.pass_time(Micros(2_000_000));
    let why = b.fetched(leg(1, 1)).unwrap_err();
    assert!(why.contains("engine-0") && why.contains("1.0"), "{why}");
    a.held(leg(1, 0), 10, &[1, 2, 3]);
    a.expect_release(leg(1, 0));
}

#[test]
fn fetches_that_cannot_be_say_why() {
    let (mut watched, a, b) = pair(false);
    let mut why = |request: u64, source: Source, first: u32, blocks: &[u32]| {
        b.fetch(leg(request, 1), source, first, blocks);
        let why = b.fetched(leg(request, 1)).unwrap_err();
        assert_eq!(watched.fetched(leg(request, 1)), Err(why.clone()));
        why
    };
    for request in 1..=3 {
        a.held(leg(request, 0), 10, &[1, 2, 3]);
    }
    assert!(why(1, a.source(leg(1, 0), 11), 0, &[4, 5, 6]).contains("covers 10 tokens, 11 were asked for"));
    assert!(why(2, a.source(leg(2, 0), 10), 1, &[4, 5, 6]).contains("no block at position 3"));
    assert!(why(3, a.source(leg(3, 0), 10), 0, &[4, 5, 16]).contains("block 16 of KV group 0 is outside engine-1"));
    assert!(why(4, Source { engine: EngineId(9), ..a.source(leg(4, 0), 10) }, 0, &[4]).contains("engine-9 is not connected"));
    assert!(why(5, a.source(leg(3, 0), 10), 0, &[4]).contains("taken or released"));
    for request in 1..=3 {
        a.expect_release(leg(request, 0));
        a.released(leg(request, 0));
        watched.seen(KvEvent::Released { engine: a.id, leg: leg(request, 0) });
    }
    assert_eq!(watched.kv_server.held_blocks(), 0);
    works(&mut watched, &a, &b, 10);
}

#[test]
fn engines_that_differ_are_told_what_differs() {
    let mut watched = start(false);
    let a = FakeEngine::ready(watched.kv_server.socket_path(), 0);
    let b = FakeEngine::connect(watched.kv_server.socket_path(), 1);
    let mut other = register();
    other.layout = "BLHNC".into();
    b.register(other);
    assert_eq!(b.worker.receive(), Some(ToEngine::Registered {}));
    a.held(leg(1, 0), 10, &[1, 2, 3]);
    b.fetch(leg(1, 1), a.source(leg(1, 0), 10), 0, &[4, 5, 6]);
    let why = b.fetched(leg(1, 1)).unwrap_err();
    assert!(why.contains(r#""LBHNC" on engine-0"#) && why.contains(r#""BLHNC" on engine-1"#), "{why}");
    a.expect_release(leg(1, 0));
    watched.seen(KvEvent::Held { engine: a.id, leg: leg(1, 0) });
}

#[test]
fn leases_run_out() {
    let (mut watched, a, _b) = pair(false);
    a.held(leg(1, 0), 10, &[1, 2, 3]);
    watched.expect(KvEvent::Held { engine: a.id, leg: leg(1, 0) });
    watched.pass_time(Micros(LEASE_MS * 1000));
    watched.expect(KvEvent::LeaseExpired { engine: a.id, leg: leg(1, 0) });
    a.expect_release(leg(1, 0));
    a.released(leg(1, 0));
    watched.expect(KvEvent::Released { engine: a.id, leg: leg(1, 0) });
    assert_eq!(watched.kv_server.held_blocks(), 0);
}

#[test]
fn releases_may_come_early_twice_and_for_nothing() {
    let (mut watched, a, b) = pair(false);
    watched.kv_server.release(a.id, leg(1, 0));
    watched.kv_server.release(EngineId(77), leg(5, 0));
    a.held(leg(2, 0), 10, &[4]);
    watched.expect(KvEvent::Held { engine: a.id, leg: leg(2, 0) });
    a.held(leg(1, 0), 10, &[1, 2, 3]);
    a.expect_release(leg(1, 0));
    watched.kv_server.release(a.id, leg(2, 0));
    watched.kv_server.release(a.id, leg(2, 0));
    watched.kv_server.release(a.id, leg(1, 0));
    a.expect_release(leg(2, 0));
    for request in [1, 2] {
        a.released(leg(request, 0));
        watched.expect(KvEvent::Released { engine: a.id, leg: leg(request, 0) });
    }
    a.released(leg(2, 0));
    // The next message to the engine belongs to this hand-off, so nothing was released twice.
    works(&mut watched, &a, &b, 3);
}

#[test]
fn a_skip_releases_the_source_without_a_copy() {
    let (mut watched, a, b) = pair(false);
    a.held(leg(1, 0), 10, &[1, 2, 3]);
    let skip = ToBroker::Skip { leg: dualpool_kv::wire::LegName(leg(1, 1)), source: a.source(leg(1, 0), 10) };
    b.scheduler.send(&skip);
    assert_eq!(watched.fetched(leg(1, 1)), Ok(0));
    a.held(leg(2, 0), 10, &[1]);
    a.expect_release(leg(1, 0));
    assert!(b.worker.is_silent(), "a fetch of nothing is not answered");
}

#[test]
fn strangers_that_break_the_rules_are_refused_by_name() {
    let (mut watched, a, b) = pair(false);
    let path = watched.kv_server.socket_path().to_path_buf();
    let refusal = |bytes: &[u8]| {
        let stranger = Wire::connect(&path);
        stranger.send_bytes(bytes);
        stranger.refusal()
    };
    let said = |message: &ToBroker| serde_json::to_vec(message).unwrap();
    assert!(refusal(b"\xff\x00 what?").contains("garbage"));
    assert!(refusal(br#"{"type":"hello"}"#).contains("missing field"));
    let wrong = ToBroker::Hello { protocol: 7, engine: EngineId(2), half: Half::Worker, pid: 1, vllm: "0.32.0".into() };
    assert!(refusal(&said(&wrong)).contains(&format!("protocol 7, this dualpool {PROTOCOL}")));
    assert!(refusal(&said(&hello(EngineId(60_000), Half::Worker))).contains("60000"));
    assert!(refusal(&said(&hello(a.id, Half::Worker))).contains("worker half of engine-0 is connected already"));
    assert!(refusal(&said(&ToBroker::Released { leg: dualpool_kv::wire::LegName(leg(1, 0)) })).contains("not `hello`"));
    assert!(refusal(&vec![b' '; MESSAGE_BYTES_MAX + 1]).contains("over 196608 bytes"));
    // Gone without a word.
    drop(Wire::connect(&path));
    works(&mut watched, &a, &b, 1);
}

#[test]
fn an_engine_that_breaks_the_rules_loses_its_connections_and_others_do_not() {
    for garbage in ["{", r#"{"type":"released","leg":"1.0"}"#] {
        let (mut watched, a, b) = pair(false);
        let c = FakeEngine::ready(watched.kv_server.socket_path(), 2);
        watched.expect(KvEvent::Ready { engine: c.id });
        c.held(leg(1, 0), 10, &[1, 2, 3]);
        watched.expect(KvEvent::Held { engine: c.id, leg: leg(1, 0) });
        // The second one is a message that only the worker half may send.
        c.scheduler.send_bytes(garbage.as_bytes());
        assert!(!c.scheduler.refusal().is_empty());
        assert_eq!(c.worker.receive(), None);
        watched.expect(KvEvent::Disconnected { engine: c.id });
        assert_eq!(watched.kv_server.held_blocks(), 0);
        works(&mut watched, &a, &b, 2);
        // Its successor is welcome.
        let c = FakeEngine::ready(watched.kv_server.socket_path(), 2);
        works(&mut watched, &c, &a, 3);
    }
}

#[test]
fn a_connection_is_closed_only_after_the_copies_that_touch_its_engine() {
    for guilty in [0, 1] {
        let (mut watched, a, b) = pair(false);
        watched.faults.inject(Fault::Delay(Micros::from_secs(3600.0)));
        a.held(leg(1, 0), 10, &[1, 2, 3]);
        b.fetch(leg(1, 1), a.source(leg(1, 0), 10), 0, &[4, 5, 6]);
        // The copy runs once a later fetch has been answered.
        b.fetch(leg(2, 1), Source { engine: b.id, ..a.source(leg(2, 0), 10) }, 0, &[7]);
        assert!(b.fetched(leg(2, 1)).is_err());
        [&a, &b][guilty].scheduler.send_bytes(b"garbage");
        // The copy is stopped and answered, and only then is the connection closed.
        if guilty == 1 {
            assert!(b.fetched(leg(1, 1)).unwrap_err().contains("stopped"));
            assert_eq!(b.worker.receive(), None);
            a.expect_release(leg(1, 0));
            a.released(leg(1, 0));
        } else {
            assert!(b.fetched(leg(1, 1)).unwrap_err().contains("stopped"));
            assert_eq!(a.worker.receive(), None);
        }
        watched.seen(KvEvent::Disconnected { engine: EngineId(guilty as u16) });
        until("no held block", || (watched.kv_server.held_blocks() == 0).then_some(()));
    }
}

#[test]
fn an_engine_that_died_is_forgotten() {
    let (mut watched, a, b) = pair(false);
    let mapped = |id: u16| {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        // Another test of this process may have mapped a memory of this name, so look for this very file.
        let inode = std::os::unix::fs::MetadataExt::ino(&[&a, &b][id as usize].memory.metadata().unwrap());
        maps.lines().any(|line| line.split_whitespace().nth(4) == Some(&inode.to_string()))
    };
    assert!(mapped(0) && mapped(1));
    a.held(leg(1, 0), 10, &[1, 2, 3]);
    b.fetch(leg(2, 1), a.source(leg(2, 0), 10), 0, &[4, 5, 6]);
    watched.expect(KvEvent::Held { engine: a.id, leg: leg(1, 0) });
    watched.kv_server.forget(a.id);
    assert!(b.fetched(leg(2, 1)).is_err());
    let next = watched.next();
    assert!(matches!(next, KvEvent::Fetched { error: Some(_), .. }), "the caller knows that the engine is gone: {next:?}");
    assert_eq!((a.worker.receive(), a.scheduler.receive()), (None, None));
    assert!(!mapped(0) && mapped(1), "its connections are closed when its memory is unmapped, not before");
    until("no held block", || (watched.kv_server.held_blocks() == 0).then_some(()));
}

#[test]
fn memory_that_will_not_do_is_refused() {
    let watched = start(false);
    let refused = |edit: &dyn Fn(&mut FakeEngine), message: fn() -> dualpool_kv::wire::Register| {
        let mut engine = FakeEngine::connect(watched.kv_server.socket_path(), 3);
        edit(&mut engine);
        engine.register(message());
        let why = engine.worker.refusal();
        assert_eq!(engine.scheduler.receive(), None);
        why
    };
    let outside = || {
        let mut register = register();
        register.layers[1].base += 1;
        register
    };
    assert!(refused(&|_| {}, outside).contains("beyond the memory's"));
    assert!(refused(&|e| e.memory = crate::fake::memfd("short", MEMORY_BYTES - 1), register).contains("2047 bytes, not the 2048"));
    assert!(refused(&|e| e.memory = std::fs::File::open("/dev/null").unwrap(), register).contains("not a memfd"));
    // Without any file descriptor.
    let engine = FakeEngine::connect(watched.kv_server.socket_path(), 3);
    engine.worker.send(&ToBroker::Register(register()));
    assert!(engine.worker.refusal().contains("without a file descriptor"));
}

#[test]
fn slow_readers_lose_nothing() {
    let (mut watched, a, _b) = pair(false);
    // More events than the channel holds, and more releases than the socket's buffer takes.
    let legs = KV_EVENTS_MAX as u64 + 500;
    std::thread::scope(|scope| {
        let a = &a;
        scope.spawn(move || (0..legs).for_each(|request| a.held(leg(request, 0), 4, &[1])));
        for request in 0..legs {
            watched.expect(KvEvent::Held { engine: a.id, leg: leg(request, 0) });
        }
    });
    assert_eq!(watched.kv_server.held_blocks(), legs);
    watched.pass_time(Micros(LEASE_MS * 1000));
    // Not one of them is read before all are on their way.
    watched.seen(KvEvent::LeaseExpired { engine: a.id, leg: leg(legs - 1, 0) });
    std::thread::scope(|scope| {
        let a = &a;
        scope.spawn(move || {
            for request in 0..legs {
                a.expect_release(leg(request, 0));
                a.released(leg(request, 0));
            }
        });
        watched.seen(KvEvent::Released { engine: a.id, leg: leg(legs - 1, 0) });
    });
    assert_eq!(watched.kv_server.held_blocks(), 0);
}

/// How an engine gives its side up: the other side ends when no copy touches the engine any more, and after the outcome of its fetch.
#[test]
fn a_half_closed_connection_ends_after_its_copies() {
    let (mut watched, a, b) = pair(false);
    let before = b.fill();
    watched.faults.inject(Fault::Delay(Micros::from_secs(3600.0)));
    a.held(leg(1, 0), 10, &[1, 2, 3]);
    watched.expect(KvEvent::Held { engine: a.id, leg: leg(1, 0) });
    b.fetch(leg(1, 1), a.source(leg(1, 0), 10), 0, &[4, 5, 6]);
    shutdown(b.worker.0.as_raw_fd(), Shutdown::Write).unwrap();
    let said: Vec<ToEngine> = std::iter::from_fn(|| b.worker.receive()).collect();
    assert!(matches!(&said[..], [ToEngine::Refused { .. }, ToEngine::Fetched { error: Some(_), .. }]), "{said:?}");
    assert_eq!(b.scheduler.receive(), None);
    assert!(watched.fetched(leg(1, 1)).unwrap_err().contains("stopped"));
    assert_eq!(b.bytes(), before);
    a.expect_release(leg(1, 0));
    a.released(leg(1, 0));
    // Its successor of the same id is served.
    watched.faults.inject(Fault::None);
    let b = FakeEngine::ready(watched.kv_server.socket_path(), 1);
    works(&mut watched, &a, &b, 2);
}

#[test]
fn nothing_is_left_of_a_dropped_kv_server() {
    let (watched, a, b) = pair(false);
    let run_dir = watched.kv_server.run_dir().to_path_buf();
    assert!(run_dir.join("control.sock").exists());
    watched.faults.inject(Fault::Delay(Micros::from_secs(3600.0)));
    a.held(leg(1, 0), 10, &[1, 2, 3]);
    b.fetch(leg(1, 1), a.source(leg(1, 0), 10), 0, &[4, 5, 6]);
    drop(watched);
    assert!(!run_dir.exists());
    for engine in [&a, &b] {
        while engine.worker.receive().is_some() {}
        assert_eq!(engine.scheduler.receive(), None);
    }
}

#[test]
fn gpu_memory_that_cannot_be_reached_ends_its_engine_and_no_other() {
    let (mut watched, a, b) = pair(false);
    let segment = |digits: usize| Segment { handle: "0".repeat(digits), offset: 0, bytes: MEMORY_BYTES };
    let memory = |segment| MemoryKind::Cuda { uuid: GpuUuid::from_bytes([9; 16]), segments: vec![segment] };
    for (id, segment, why) in [(2, segment(127), "64 bytes"), (3, segment(128), "cannot map the KV memory of engine-3")] {
        let engine = FakeEngine::connect(watched.kv_server.socket_path(), id);
        engine.worker.send(&ToBroker::Register(Register { memory: memory(segment), ..register() }));
        let refusal = engine.worker.refusal();
        assert!(refusal.contains(why), "{refusal}");
        watched.seen(KvEvent::Disconnected { engine: EngineId(id) });
    }
    works(&mut watched, &a, &b, 50);
}
