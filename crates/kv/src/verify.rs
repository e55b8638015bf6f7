//! `--verify-kv`: after a copy, the bytes at both ends must be the same.

use thiserror::Error;

use dualpool_types::EngineId;

use super::copy_plan::ByteRange;
use super::transport::{Stop, Transport, TransportError};

#[derive(Debug, Error)]
pub(crate) enum VerifyError {
    #[error("checksums differ after the copy: {from} has {source_sum:016x}, {to} has {target_sum:016x}")]
    Differ { from: EngineId, to: EngineId, source_sum: u64, target_sum: u64 },
    #[error(transparent)]
    Transport(#[from] TransportError),
}

pub(crate) fn verify(
    transport: &mut dyn Transport,
    plan: &[ByteRange],
    from: EngineId,
    to: EngineId,
    stop: &Stop,
) -> Result<(), VerifyError> {
    let source_sum = transport.checksum(from, &mut plan.iter().map(|span| (span.source, span.length)), stop)?;
    let target_sum = transport.checksum(to, &mut plan.iter().map(|span| (span.target, span.length)), stop)?;
    if source_sum == target_sum { Ok(()) } else { Err(VerifyError::Differ { from, to, source_sum, target_sum }) }
}
