"""The half beside vLLM's scheduler: decides which requests fetch KV and which hold it, and tells the worker half through the step's
metadata. It owns no blocks: vLLM keeps a held request's blocks until the WORKER half reports them as sent."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata
from vllm.v1.request import RequestStatus

from .link import Link
from .params import KvSource, leg_of

if TYPE_CHECKING:
    from vllm.v1.kv_cache_interface import KVCacheConfig

logger = logging.getLogger("vllm.dualpool")


NEVER_HELD = (RequestStatus.FINISHED_ABORTED, RequestStatus.FINISHED_ERROR, RequestStatus.FINISHED_IGNORED)


@dataclass
class FetchOrder:
    """Blocks of this request that wait for their content. Per KV group: the position of the first one in the request's block
    table, and block ids from there on (None = a position outside a sliding window, which has no block)."""

    request: str
    leg: str
    source: KvSource
    groups: list[tuple[int, list[int | None]]]


@dataclass
class StepMetadata(KVConnectorMetadata):
    """What the worker half has to know of this step."""

    fetches: list[FetchOrder] = field(default_factory=list)
    # Nothing is computed in it.
    idle: bool = False
    # Request id -> leg, of requests that ended and whose blocks vLLM now keeps for us.
    holds: dict[str, str] = field(default_factory=dict)


class SchedulerHalf:
    def __init__(self, link: Link, kv_cache_config: "KVCacheConfig", settle: Callable[[], bool] = lambda: True) -> None:
        self.link = link
        # Waits until the device has done all that was queued so far; False when it cannot.
        self._settle = settle
        self.block_sizes = [group.kv_cache_spec.block_size for group in kv_cache_config.kv_cache_groups]
        self.null_block = 0
        self._metadata = StepMetadata()
        # Requests whose fetch was ordered or turned out to be needless. vLLM asks again when it resumes a pre-empted request
        # and when it retries after a failed fetch; by then the source is released.
        self._settled: set[str] = set()

        # Request id -> tokens this engine had computed when vLLM last asked what could be fetched on top.
        self._computed: dict[str, int] = {}

    def fetchable_tokens(self, request: Any, computed: int) -> int:
        """Tokens beyond the `computed` ones that another engine holds. vLLM may ask many times before it allocates."""
        leg = leg_of(request.kv_transfer_params)
        if leg is None or leg.source is None or request.request_id in self._settled:
            return 0
        self.link.receive()  # notices a cut link
        if not self.link.alive:
            return 0
        self._computed[request.request_id] = computed
        return max(0, min(leg.source.tokens, request.num_tokens) - computed)

    def allocated(self, request: Any, blocks: Any, external: int) -> None:
        leg = leg_of(request.kv_transfer_params)
        if leg is None or leg.source is None or request.request_id in self._settled:
            return
        self._settled.add(request.request_id)
        computed = self._computed.pop(request.request_id, 0)
        if external == 0:
            # All of it is in this engine's prefix cache. A fetch of nothing must not reach the worker: reporting it as received
            # would kill EngineCore, since this request never waits.
            self.link.send({"type": "skip", "leg": leg.name, "source": leg.source.wire()})
            return
        # What is computed here ends on a block boundary (vLLM shows connectors whole blocks only), so no block is half ours.
        groups = []
        for ids, size in zip(blocks.get_block_ids(), self.block_sizes, strict=True):
            first, end = computed // size, blocks_of(computed + external, size)
            groups.append((first, self._table(ids[first:end])))
        self._metadata.fetches.append(FetchOrder(request.request_id, leg.name, leg.source, groups))

    def finished(self, request: Any, block_ids: tuple[list[int], ...]) -> tuple[bool, dict[str, Any] | None]:
        """Called once per request, before its blocks are freed. True keeps them until the worker half reports them as sent."""
        leg = leg_of(request.kv_transfer_params)
        if leg is None:
            return False, None
        if leg.source is not None and request.request_id not in self._settled:
            # It ended before it ran, so the blocks at its source are not needed any more.
            self.link.send({"type": "skip", "leg": leg.name, "source": leg.source.wire()})
        self._settled.discard(request.request_id)
        self._computed.pop(request.request_id, None)
        # An aborted leg's KV has no further use: its client is gone, or the request is resumed elsewhere by computing it.
        if not leg.hold or request.status in NEVER_HELD or not any(block_ids):
            return False, None
        # The last output was read from the device after the step that gave it, so all tokens before are in the blocks. A step in flight
        # beyond it still writes behind them: the last block must not be read before it ends. The broker may read it from `held` on.
        if request.num_in_flight_tokens and not self._settle():
            logger.warning("dualpool: leg %s is not held: its last step runs in another process, whose GPU cannot be waited for", leg.name)
            return False, None
        # Tokens of a step still in flight are not in the blocks yet.
        tokens = request.num_computed_tokens - request.num_in_flight_tokens
        groups = [self._table(ids[: blocks_of(tokens, size)]) for ids, size in zip(block_ids, self.block_sizes, strict=True)]
        # The broker must know of the blocks before another engine can ask for them, hence before vLLM emits the leg's last output.
        if not self.link.send({"type": "held", "leg": leg.name, "tokens": tokens, "groups": groups}):
            return False, None
        self._metadata.holds[request.request_id] = leg.name
        return True, {"dualpool_held": {"tokens": tokens}}

    def take_metadata(self, idle: bool) -> StepMetadata:
        metadata, self._metadata = self._metadata, StepMetadata()
        metadata.idle = idle
        return metadata

    def shutdown(self) -> None:
        self.link.close()

    def _table(self, ids: list[int]) -> list[int | None]:
        return [None if block == self.null_block else block for block in ids]


def blocks_of(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)
