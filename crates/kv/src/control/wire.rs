//! The messages of the control socket, as JSON objects tagged by `type`. `docs/kv-protocol.md` describes them;
//! `python/dualpool/connector` speaks the other end.

use serde::{Deserialize, Serialize};

use dualpool_cuda::{GpuUuid, IpcHandle, IpcHandleError};
use dualpool_types::{BlockId, Bytes, EngineId, LegId};

/// Both ends must speak the same number.
pub const PROTOCOL: u32 = 2;

/// The longest message. Below Linux's default socket buffer (212,992 bytes), which a datagram must fit into whole.
pub const MESSAGE_BYTES_MAX: usize = 196_608;

/// Which half of an engine's connector: the one beside vLLM's scheduler, or the one beside its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Half {
    Scheduler,
    Worker,
}

impl std::fmt::Display for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Half::Scheduler => "scheduler half",
            Half::Worker => "worker half",
        })
    }
}

/// Connector -> broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToBroker {
    /// The first message of every connection.
    Hello { protocol: u32, engine: EngineId, half: Half, pid: u32, vllm: String },
    /// Worker: the KV memory.
    Register(Register),
    /// Scheduler: a leg ended, and its blocks stay until they are released. One list per KV group, by position in the prompt;
    /// `null` where a sliding window has moved past.
    Held { leg: LegName, tokens: u32, groups: Vec<Vec<Option<BlockId>>> },
    /// Worker: these blocks wait for the source's content.
    Fetch { leg: LegName, source: Source, groups: Vec<FetchGroup> },
    /// Scheduler: the leg needs nothing of its source after all.
    Skip { leg: LegName, source: Source },
    /// Worker: the blocks went back to the engine.
    Released { leg: LegName },
}

/// Broker -> connector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToEngine {
    /// Answers `Hello`.
    Welcome {},
    /// Answers `Register`, once the memory is mapped.
    Registered {},
    /// Answers `Hello` or `Register`; the connection is closed next.
    Refused { why: String },
    /// Answers `Fetch`: the blocks have their content, or `error` says why not.
    Fetched { leg: LegName, error: Option<String> },
    /// Give the leg's blocks back.
    Release { leg: LegName },
}

/// How the memory can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum MemoryKind {
    /// A memfd, passed by `SCM_RIGHTS` with the message.
    Shm { bytes: u64 },
    /// Memory of one GPU. Offsets of layers count through the segments as if they lay behind each other in this order.
    Cuda { uuid: GpuUuid, segments: Vec<Segment> },
}

impl MemoryKind {
    pub fn name(&self) -> &'static str {
        match self {
            MemoryKind::Shm { .. } => "shm",
            MemoryKind::Cuda { .. } => "cuda",
        }
    }

    /// The size of the memory; none when no memory can be that large.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            MemoryKind::Shm { bytes } => Some(*bytes),
            MemoryKind::Cuda { segments, .. } => segments.iter().try_fold(0u64, |sum, segment| sum.checked_add(segment.bytes)),
        }
    }
}

/// A piece of one allocation on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// What `cuIpcGetMemHandle` gave for the whole allocation (CUDA has none for a part of one), in hexadecimal digits.
    pub handle: String,
    /// Where the piece begins in the allocation.
    pub offset: u64,
    pub bytes: u64,
}

impl Segment {
    pub fn ipc(&self, uuid: GpuUuid) -> Result<IpcHandle, IpcHandleError> {
        IpcHandle::from_parts(&self.handle, Bytes(self.offset), Bytes(self.bytes), uuid)
    }
}

impl From<&IpcHandle> for Segment {
    fn from(handle: &IpcHandle) -> Segment {
        Segment { handle: handle.digits(), offset: handle.offset.0, bytes: handle.size.0 }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    pub memory: MemoryKind,
    pub layout: String,
    pub backend: String,
    pub groups: Vec<Group>,
    pub layers: Vec<Layer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Tokens per block.
    pub block_size: u32,
}

/// Block `b` of this layer is, for each range `(offset, length)`, the bytes from `base + b * block_stride + offset`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    pub name: String,
    pub group: u16,
    pub dtype: String,
    pub base: u64,
    pub block_stride: u64,
    pub blocks: u32,
    pub ranges: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub engine: EngineId,
    pub leg: LegName,
    pub tokens: u32,
}

/// Blocks to fill, from position `first` of the group's block table on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchGroup {
    pub first: u32,
    pub blocks: Vec<Option<BlockId>>,
}

/// A leg id in its text form, as vLLM's request parameters carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegName(pub LegId);

impl Serialize for LegName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LegName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map(LegName).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_documented() {
        let held: ToBroker = serde_json::from_str(r#"{"type":"held","leg":"6.0","tokens":130,"groups":[[null,7]]}"#).unwrap();
        let leg = LegName("6.0".parse().unwrap());
        assert_eq!(held, ToBroker::Held { leg, tokens: 130, groups: vec![vec![None, Some(BlockId(7))]] });
        let fetched = serde_json::to_string(&ToEngine::Fetched { leg, error: None }).unwrap();
        assert_eq!(fetched, r#"{"type":"fetched","leg":"6.0","error":null}"#);
    }

    #[test]
    fn gpu_memory_reads_as_documented() {
        let (uuid, handle) = ("GPU-7e4c7a1e-0f3b-5c2d-9a41-2f6d8b3c1e05", "0a".repeat(64));
        let text = format!(
            r#"{{"kind":"cuda","uuid":"{uuid}","segments":[{{"handle":"{handle}","offset":512,"bytes":4096}},{{"handle":"{handle}","offset":0,"bytes":1}}]}}"#
        );
        let memory: MemoryKind = serde_json::from_str(&text).unwrap();
        assert_eq!((serde_json::to_string(&memory).unwrap(), memory.bytes()), (text.clone(), Some(4097)));
        let MemoryKind::Cuda { uuid: parsed, mut segments } = memory else { panic!("not GPU memory") };
        let ipc = segments[0].ipc(parsed).unwrap();
        assert_eq!((ipc.gpu.to_string(), ipc.offset, Segment::from(&ipc)), (uuid.to_string(), Bytes(512), segments[0].clone()));
        segments[0].handle.pop();
        assert!(segments[0].ipc(parsed).unwrap_err().to_string().contains("64 bytes"));
        assert!(serde_json::from_str::<MemoryKind>(&text.replace("GPU-", "GPU")).unwrap_err().to_string().contains("no UUID"));
        segments[1].bytes = u64::MAX;
        assert_eq!(MemoryKind::Cuda { uuid: parsed, segments }.bytes(), None);
    }

    #[test]
    fn unknown_messages_and_fields_are_errors() {
        for text in
            [r#"{"type":"steal"}"#, r#"{"type":"released","leg":"6"}"#, r#"{"type":"released","leg":"6.0","x":1}"#, "[]", ""]
        {
            assert!(serde_json::from_str::<ToBroker>(text).is_err(), "{text}");
        }
    }
}
