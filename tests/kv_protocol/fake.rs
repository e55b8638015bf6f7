//! An engine that is nothing but two sockets and a memfd.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, sendmsg, socket,
};

use dualpool_kv::wire::{
    FetchGroup, Group, Half, Layer, LegName, MESSAGE_BYTES_MAX, MemoryKind, PROTOCOL, Register, Source, ToBroker, ToEngine,
};
use dualpool_types::{BlockId, EngineId, LegId};

use crate::watch::PATIENCE;

/// Two layers of this many blocks of this many bytes.
pub const BLOCKS: u32 = 16;
pub const BLOCK_BYTES: u64 = 64;
pub const MEMORY_BYTES: u64 = 2 * BLOCKS as u64 * BLOCK_BYTES;

/// One connection to the control socket.
pub struct Wire(pub OwnedFd);

impl Wire {
    pub fn connect(path: &Path) -> Wire {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Wire(fd)
    }

    pub fn send(&self, message: &ToBroker) {
        self.send_bytes(&serde_json::to_vec(message).unwrap());
    }

    pub fn send_bytes(&self, bytes: &[u8]) {
        send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).unwrap();
    }

    /// The next message; none once the broker has closed the connection.
    pub fn receive(&self) -> Option<ToEngine> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
        assert_eq!(ready, 1, "waited {PATIENCE:?} in vain for a message of the broker");
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) | Err(Errno::ECONNRESET) => None,
            Ok(length) => Some(serde_json::from_slice(&buffer[..length]).unwrap()),
            Err(error) => panic!("recv: {error}"),
        }
    }

    /// The reason the broker gives before it closes the connection.
    pub fn refusal(&self) -> String {
        let Some(ToEngine::Refused { why }) = self.receive() else { panic!("expected a refusal") };
        assert_eq!(self.receive(), None, "the connection is closed after a refusal");
        why
    }

    /// Nothing is there to read. What the broker did before this call has been sent by now only if the test knows so.
    pub fn is_silent(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 0
    }
}

pub struct FakeEngine {
    pub id: EngineId,
    pub scheduler: Wire,
    pub worker: Wire,
    pub memory: File,
}

pub fn hello(engine: EngineId, half: Half) -> ToBroker {
    ToBroker::Hello { protocol: PROTOCOL, engine, half, pid: std::process::id(), vllm: "0.32.0".into() }
}

pub fn register() -> Register {
    let layer = |i: u64| Layer {
        name: format!("layers.{i}"),
        group: 0,
        dtype: "bfloat16".into(),
        base: i * MEMORY_BYTES / 2,
        block_stride: BLOCK_BYTES,
        blocks: BLOCKS,
        ranges: vec![(0, BLOCK_BYTES)],
    };
    Register {
        memory: MemoryKind::Shm { bytes: MEMORY_BYTES },
        layout: "LBHNC".into(),
        backend: "cpu AVX512".into(),
        groups: vec![Group { block_size: 4 }],
        layers: vec![layer(0), layer(1)],
    }
}

pub fn memfd(name: &str, bytes: u64) -> File {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let file = File::from(fd);
    file.set_len(bytes).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
    file
}

impl FakeEngine {
    /// Both halves said hello; no memory yet.
    pub fn connect(path: &Path, id: u16) -> FakeEngine {
        let id = EngineId(id);
        let (scheduler, worker) = (Wire::connect(path), Wire::connect(path));
        for (wire, half) in [(&worker, Half::Worker), (&scheduler, Half::Scheduler)] {
            wire.send(&hello(id, half));
            assert_eq!(wire.receive(), Some(ToEngine::Welcome {}));
        }
        FakeEngine { id, scheduler, worker, memory: memfd(&format!("dualpool-fake-{id}"), MEMORY_BYTES) }
    }

    pub fn ready(path: &Path, id: u16) -> FakeEngine {
        let engine = FakeEngine::connect(path, id);
        engine.register(register());
        assert_eq!(engine.worker.receive(), Some(ToEngine::Registered {}));
        engine
    }

    pub fn register(&self, register: Register) {
        let bytes = serde_json::to_vec(&ToBroker::Register(register)).unwrap();
        let fds = [self.memory.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(self.worker.0.as_raw_fd(), &[IoSlice::new(&bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None).unwrap();
    }

    pub fn held(&self, leg: LegId, tokens: u32, blocks: &[u32]) {
        let groups = vec![blocks.iter().map(|b| Some(BlockId(*b))).collect()];
        self.scheduler.send(&ToBroker::Held { leg: LegName(leg), tokens, groups });
    }

    pub fn fetch(&self, leg: LegId, source: Source, first: u32, blocks: &[u32]) {
        let groups = vec![FetchGroup { first, blocks: blocks.iter().map(|b| Some(BlockId(*b))).collect() }];
        self.worker.send(&ToBroker::Fetch { leg: LegName(leg), source, groups });
    }

    pub fn released(&self, leg: LegId) {
        self.worker.send(&ToBroker::Released { leg: LegName(leg) });
    }

    pub fn expect_release(&self, leg: LegId) {
        assert_eq!(self.worker.receive(), Some(ToEngine::Release { leg: LegName(leg) }));
    }

    /// The outcome of a fetch.
    pub fn fetched(&self, want: LegId) -> Result<(), String> {
        match self.worker.receive() {
            Some(ToEngine::Fetched { leg, error }) if leg.0 == want => error.map_or(Ok(()), Err),
            other => panic!("expected the outcome of leg {want}, got {other:?}"),
        }
    }

    pub fn source(&self, leg: LegId, tokens: u32) -> Source {
        Source { engine: self.id, leg: LegName(leg), tokens }
    }

    /// Fills the memory with bytes that tell blocks, layers and engines apart.
    pub fn fill(&self) -> Vec<u8> {
        let bytes: Vec<u8> = (0..MEMORY_BYTES).map(|i| (i * 31 + i / 256 + u64::from(self.id.0) * 7 + 1) as u8).collect();
        self.memory.write_all_at(&bytes, 0).unwrap();
        bytes
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; MEMORY_BYTES as usize];
        self.memory.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

/// Where a block of a layer lies.
pub fn block(layer: u64, block: u32) -> std::ops::Range<usize> {
    let start = (layer * MEMORY_BYTES / 2 + u64::from(block) * BLOCK_BYTES) as usize;
    start..start + BLOCK_BYTES as usize
}
