//! A real engine against a broker that says wrong things. Two of them would end EngineCore with an assertion if the connector
//! passed them on: a release of a leg whose request still runs, and the outcome of a fetch that was not asked for.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, listen, recv, send, socket};

use dualpool_kv::wire::{Half, LegName, MESSAGE_BYTES_MAX, ToBroker, ToEngine};
use dualpool_types::EngineId;

use crate::engine::{Engine, LegParams, Worker};
use crate::python::model;
use crate::watch::leg;

/// The broker's end of one connection, by hand.
struct End(OwnedFd);

impl End {
    fn receive(&self) -> ToBroker {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        serde_json::from_slice(&buffer[..length]).unwrap()
    }

    /// Waits until the other side has ended its half.
    fn is_at_its_end(&self) -> bool {
        recv(self.0.as_raw_fd(), &mut [0; 8], MsgFlags::empty()).unwrap() == 0
    }

    fn send(&self, message: &ToEngine) {
        self.send_bytes(&serde_json::to_vec(message).unwrap());
    }

    fn send_bytes(&self, bytes: &[u8]) {
        send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).unwrap();
    }
}

/// Plays the broker until the engine has registered; its worker half and its scheduler half.
fn greet(listener: &OwnedFd) -> (End, End) {
    let mut ends = [Half::Worker, Half::Scheduler].map(|want| {
        // SAFETY: accept made this descriptor; nothing else owns it.
        let end = End(unsafe { OwnedFd::from_raw_fd(accept(listener.as_raw_fd()).unwrap()) });
        let ToBroker::Hello { half, .. } = end.receive() else { panic!("no hello") };
        assert_eq!(half, want, "vLLM starts the worker first");
        end.send(&ToEngine::Welcome {});
        if half == Half::Worker {
            assert!(matches!(end.receive(), ToBroker::Register(_)));
            end.send(&ToEngine::Registered {});
        }
        Some(end)
    });
    (ends[0].take().unwrap(), ends[1].take().unwrap())
}

fn listener(path: &std::path::Path) -> OwnedFd {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&listener, Backlog::new(4).unwrap()).unwrap();
    listener
}

#[test]
fn wrong_messages_do_not_end_an_engine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = listener(&path);
    let engine = Engine::spawn(&path, 0, &model("tiny-llama"), Worker::InCore);
    let (worker, scheduler) = greet(&listener);
    engine.wait_ready().unwrap();
    let prompt: Vec<u32> = (3..300).collect();

    released_while_it_runs(&engine, &worker, &scheduler, &prompt);
    fetched_twice_and_never_asked(&engine, &worker, &prompt);

    garbage_lets_go_of_nothing_yet(engine, worker, &scheduler, &prompt);
}

/// The engine gives its side of the link up. Only once the broker has closed the other one does it let go of blocks, and then it
/// serves on.
fn garbage_lets_go_of_nothing_yet(engine: Engine, worker: End, scheduler: &End, prompt: &[u32]) {
    let source = Some((EngineId(1), leg(21, 0), 200));
    let pending = engine.generate(prompt, 8, LegParams { leg: Some(leg(21, 1)), hold: false, source });
    assert!(matches!(worker.receive(), ToBroker::Fetch { .. }));
    worker.send_bytes(b"\xfe garbage");
    assert!(worker.is_at_its_end());
    // Many steps later the fetch still waits: a copy could be going on.
    assert_eq!(engine.generate(&[9, 8, 7], 50, LegParams::default()).wait().tokens.len(), 50);
    assert!(!pending.is_over());
    hold(&engine, scheduler, prompt, 20);
    drop(worker);
    let got = pending.wait().tokens;
    engine.wait_idle();
    assert_eq!(got, engine.reference(prompt, 8));
}

/// A refused engine does not start, and says why.
#[test]
fn a_refused_engine_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = listener(&path);
    let engine = Engine::spawn(&path, 0, &model("tiny-llama"), Worker::InCore);
    // SAFETY: accept made this descriptor; nothing else owns it.
    let end = End(unsafe { OwnedFd::from_raw_fd(accept(listener.as_raw_fd()).unwrap()) });
    assert!(matches!(end.receive(), ToBroker::Hello { engine: EngineId(0), half: Half::Worker, .. }));
    end.send(&ToEngine::Refused { why: "the moon is full".into() });
    // vLLM reports only that EngineCore failed; the reason is in its log.
    assert!(engine.wait_ready().is_err());
    assert!(engine.log().contains("dualpool refused engine-0 worker: the moon is full"), "{}", engine.log());
}

fn hold(engine: &Engine, scheduler: &End, prompt: &[u32], request: u64) {
    let params = LegParams { leg: Some(leg(request, 0)), hold: true, source: None };
    assert!(engine.generate(prompt, 3, params).wait().held.is_some());
    assert!(matches!(scheduler.receive(), ToBroker::Held { .. }));
}

/// Releases that come long before the leg ends, twice, and for a leg that never was.
fn released_while_it_runs(engine: &Engine, worker: &End, scheduler: &End, prompt: &[u32]) {
    let release = |request| worker.send(&ToEngine::Release { leg: LegName(leg(request, 0)) });
    let params = LegParams { leg: Some(leg(1, 0)), hold: true, source: None };
    let pending = engine.generate(prompt, 200, params);
    pending.wait_started();
    release(1);
    release(1);
    release(999);
    assert_eq!(pending.wait().tokens.len(), 200);
    assert!(matches!(scheduler.receive(), ToBroker::Held { .. }));
    // Only the release of the leg that is held is acknowledged.
    assert_eq!(worker.receive(), ToBroker::Released { leg: LegName(leg(1, 0)) });
    engine.wait_idle();
    release(1);
    assert_eq!(engine.generate(prompt, 3, LegParams::default()).wait().tokens.len(), 3);
    engine.wait_idle();
}

fn fetched_twice_and_never_asked(engine: &Engine, worker: &End, prompt: &[u32]) {
    let fetched = |request, error: Option<&str>| {
        worker.send(&ToEngine::Fetched { leg: LegName(leg(request, 1)), error: error.map(String::from) });
    };
    fetched(999, None);
    let source = Some((EngineId(1), leg(5, 0), 200));
    let params = LegParams { leg: Some(leg(5, 1)), hold: false, source };
    let pending = engine.generate(prompt, 8, params);
    assert!(matches!(worker.receive(), ToBroker::Fetch { .. }));
    fetched(5, Some("it broke"));
    fetched(5, None);
    fetched(5, Some("it broke"));
    assert_eq!(pending.wait().tokens, engine.reference(prompt, 8));
    // A successful fetch for a request that was aborted meanwhile gives its blocks back.
    let source = Some((EngineId(1), leg(6, 0), 200));
    let params = LegParams { leg: Some(leg(6, 1)), hold: false, source };
    let pending = engine.generate(prompt, 8, params);
    assert!(matches!(worker.receive(), ToBroker::Fetch { .. }));
    pending.abort();
    assert_eq!(pending.wait().finish, "abort");
    fetched(6, None);
    engine.wait_idle();
}
