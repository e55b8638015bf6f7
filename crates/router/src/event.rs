//! What the router is told, and what it asks for.

use dualpool_types::records::RouterNote;
use dualpool_types::{
    Bytes, CopyLine, DeviceSignals, EngineId, EngineStats, FinishReason, HeldKv, Leg, LegId, Micros, Request, RequestError,
    RequestId, TokenId, Tuning,
};

/// Something that happened. `Router::handle` takes it with the time at which it did.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    Arrived(Request),
    /// The client no longer wants this request.
    Cancelled(RequestId),
    /// A leg gave tokens, ended, or both.
    Output {
        leg: LegId,
        tokens: &'a [TokenId],
        /// Prompt tokens that the engine did not compute; known with the leg's first output.
        cached_tokens: Option<u32>,
        finish: Option<(&'a FinishReason, Option<HeldKv>)>,
    },
    /// The mover finished (or gave up) the copy that `leg` waits for.
    KvMoved {
        leg: LegId,
        copy: Micros,
        bytes: Bytes,
        ok: bool,
    },
    EngineStats {
        engine: EngineId,
        stats: EngineStats,
    },
    /// What the engine's device said of itself at this time.
    DeviceSignals {
        engine: EngineId,
        signals: DeviceSignals,
    },
    EngineDied {
        engine: EngineId,
        why: &'a str,
    },
    /// The engine's link to the mover is gone for good: no KV moves from it or to it any more.
    KvLost {
        engine: EngineId,
    },
    /// The engine was told to forget all prefixes it had cached, and did.
    PrefixCacheReset {
        engine: EngineId,
    },
    /// What a copy from one engine to another costs by a calibration: one line per way to do it.
    CopyCost {
        from: EngineId,
        to: EngineId,
        lines: &'a [CopyLine],
    },
    /// The engine is to get no new requests, and to lose those it has. Ignored where `Router::can_drain` refuses.
    Drain {
        engine: EngineId,
    },
    /// A drained engine, or one that is being drained, takes requests again.
    Undrain {
        engine: EngineId,
    },
    /// Time has passed. Comes every `router.tick_ms`, so that what is due with time and not with an event is done.
    Tick,
    /// No request is served any more: every one ends.
    ShutDown,
}

/// Something to be done. The router assumes that it will be.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send a leg to an engine. A leg with a KV source makes the engine ask the mover for the blocks, once it has room for them.
    Submit {
        engine: EngineId,
        leg: Leg,
    },
    Abort {
        engine: EngineId,
        leg: LegId,
    },
    /// End this leg with its next token, as if it had been asked for no more, and hold its KV.
    Detach {
        engine: EngineId,
        leg: LegId,
    },
    /// Blocks held for this leg are not needed (any more). Safe to repeat, and safe when nothing is held.
    Release {
        engine: EngineId,
        leg: LegId,
    },
    /// Change an engine's scheduler settings from its next step on.
    Tune {
        engine: EngineId,
        tuning: Tuning,
    },
    /// Something the router decided, for readers of the artifacts. Nothing needs to be done about it.
    Note(Box<RouterNote>),
    /// Tokens for the client, in order.
    Emit {
        request: RequestId,
        tokens: Vec<TokenId>,
    },
    /// The request is over. Exactly one of these per request that arrived.
    Finish {
        request: RequestId,
        result: Result<(), RequestError>,
    },
}
