"""The half beside the worker, which owns the KV memory: registers it, fetches blocks through the broker, and reports to vLLM what
was sent and received.

A GPU works behind the steps: when a step begins, earlier ones may still be writing to blocks that vLLM has given to another request
since, or clearing them. So a fetch is sent only when the GPU has passed a mark set at the begin of the step that ordered it.

vLLM trusts these reports blindly; two kinds of wrong report end EngineCore with an assertion:
  - "sent" for a request its scheduler does not know as finished. So a release counts only once the step's metadata has said
    that the request is held; one that arrives earlier waits in `_early`.
  - "received" for a request that has nothing to fetch. So only requests in `_fetching` are ever reported.
"""

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .layout import describe_layer
from .link import Link

if TYPE_CHECKING:
    from vllm.v1.kv_cache_interface import KVCacheConfig

    from .cuda_memory import CudaKvMemory
    from .memory import ShmKvMemory
    from .scheduler_half import FetchOrder, StepMetadata

logger = logging.getLogger("vllm.dualpool")

# Releases that may wait for their request to be known as held. The broker releases only legs that were reported as held, so
# at most those of one step wait here; more than this means that it sends nonsense.
EARLY_RELEASES_MAX = 4096
# How long a step that computes nothing waits for the outcome of its fetches; most copies are over within this time. An outcome that comes
# too late is taken in at the end of the next step, and where requests are running, that one computes.
FETCH_WAIT_S = 0.005
# How often such a step looks whether the GPU has passed a mark.
MARK_POLL_S = 0.0001


@dataclass
class Report:
    """Request ids for vLLM. Failed requests are among the received ones too, or they would wait for ever."""

    sent: set[str] = field(default_factory=set)
    received: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    failed_blocks: set[int] = field(default_factory=set)


class WorkerHalf:
    def __init__(self, link: Link, kv_cache_config: "KVCacheConfig", memory: "ShmKvMemory | CudaKvMemory") -> None:
        self.link = link
        self.memory = memory
        self._groups = kv_cache_config.kv_cache_groups
        self._held: dict[str, str] = {}  # leg -> request id, vLLM keeps its blocks
        self._early: dict[str, None] = {}  # legs to release that are not held yet, oldest first
        self._fetching: dict[str, FetchOrder] = {}  # leg -> what it waits for
        # Fetches that the broker does not know of yet, and the marks they wait for, oldest first. All are in `_fetching`.
        self._ordered: deque[tuple[Any, FetchOrder]] = deque()
        # Legs that the step under way waits for.
        self._awaited: set[str] = set()
        self._report = Report()

    def register(self, kv_caches: dict[str, Any], layout: str, backend: str) -> None:
        """Tells the broker where every block lies. Raises when it does not take this memory: the engine must not start then,
        or every hand-off would fail."""
        storages = [kv_caches[name].untyped_storage() for group in self._groups for name in group.layer_names if is_tensor(kv_caches[name])]
        memory, fds = self.memory.share({(storage.data_ptr(), storage.nbytes()) for storage in storages})
        layers = []
        for group, spec in enumerate(self._groups):
            size = spec.kv_cache_spec.block_size
            for name in spec.layer_names:
                layers += describe_layer(name, kv_caches[name], group, size, self.memory.offset_of)
        message = {
            "type": "register",
            "memory": memory,
            "layout": layout,
            "backend": backend,
            "groups": [{"block_size": group.kv_cache_spec.block_size} for group in self._groups],
            "layers": layers,
        }
        self.link.ask(message, "registered", fds)
        self.memory.close()

    def step(self, metadata: "StepMetadata") -> None:
        """A step begins. It does not touch blocks that wait for a fetch, so nothing but the mover writes to them once every earlier
        step has ended: asking before the forward pass instead of after saves a step's time."""
        self._awaited = {order.leg for order in metadata.fetches} if metadata.idle else set()
        for request, leg in metadata.holds.items():
            self._held[leg] = request
        if metadata.fetches:
            mark = self.memory.mark()
            for order in metadata.fetches:
                self._fetching[order.leg] = order
                self._ordered.append((mark, order))
        self._ask()

    def _ask(self) -> None:
        """Fetches the blocks that no step writes to any more."""
        while self._ordered and self._ordered[0][0].query():
            _, order = self._ordered.popleft()
            groups = [{"first": first, "blocks": blocks} for first, blocks in order.groups]
            if not self.link.send({"type": "fetch", "leg": order.leg, "source": order.source.wire(), "groups": groups}):
                # No copy will write to these blocks: the broker never heard of them.
                self._fetched(order.leg, "the broker could not be told")

    def report(self) -> Report:
        """Takes in what the broker said since the last step and hands over what came of it. Steps that compute never wait."""
        self._ask()
        self._take_in()
        until = time.monotonic() + FETCH_WAIT_S
        while self._awaited & self._fetching.keys() and not self.link.closed and (left := until - time.monotonic()) > 0:
            self._wait(left)
            self._take_in()
        for leg in [leg for leg in self._early if leg in self._held]:
            del self._early[leg]
            self._release(leg)
        if self.link.closed:
            self._let_go()
        report, self._report = self._report, Report()
        return report

    def _wait(self, seconds: float) -> None:
        """Until the broker says something, or so long."""
        end = time.monotonic() + seconds
        while self._ordered and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, MARK_POLL_S))  # a poll of the link would wait for a whole millisecond
            self._ask()
        self.link.wait(max(0.0, end - time.monotonic()))

    def shutdown(self) -> None:
        self.link.close()

    def _take_in(self) -> None:
        for message in self.link.receive():
            if message.get("type") == "fetched":
                self._fetched(str(message.get("leg")), message.get("error"))
            elif message.get("type") == "release":
                self._release(str(message.get("leg")))
            elif message.get("type") == "refused":
                # The connection is closed once no copy touches this engine; until then its blocks must stay as they are.
                logger.warning("dualpool: the broker closes this engine's connection: %s", message.get("why"))
            else:
                logger.warning("dualpool: ignoring an unknown message from the broker: %r", message)

    def _fetched(self, leg: str, error: str | None) -> None:
        order = self._fetching.pop(leg, None)
        if order is None:
            logger.warning("dualpool: the broker answered a fetch that was not asked for: leg %r", leg)
            return
        self._report.received.add(order.request)
        if error is not None:
            logger.warning("dualpool: leg %s computes its prompt itself, because its KV was not fetched: %s", leg, error)
            self._report.failed.add(order.request)
            self._report.failed_blocks.update(block for _, blocks in order.groups for block in blocks if block is not None)

    def _release(self, leg: str) -> None:
        request = self._held.pop(leg, None)
        if request is not None:
            self._report.sent.add(request)
            self.link.send({"type": "released", "leg": leg})
        else:
            self._early[leg] = None
            if len(self._early) > EARLY_RELEASES_MAX:
                self._early.pop(next(iter(self._early)))

    def _let_go(self) -> None:
        """The broker has closed its end. It does so only after its last copy from or to this engine, and a dead dualpool
        copies nothing, so no block is being read or written: give back what is held, and compute what was to be fetched. A link that
        only this side has given up is not enough."""
        self._ordered.clear()
        for leg in list(self._held):
            self._release(leg)
        for leg in list(self._fetching):
            self._fetched(leg, "the control connection is cut")


def is_tensor(cache: Any) -> bool:
    """Other caches (lists of states) are refused by name when they are described."""
    return isinstance(cache, torch.Tensor)
