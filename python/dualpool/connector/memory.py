"""KV memory of a CPU engine that other processes can map. `cuda_memory.py` is the same for a GPU."""

import mmap
import os
from collections.abc import Iterable
from typing import Any

import fcntl
import torch
from torch.overrides import TorchFunctionMode

MADV_POPULATE_WRITE = 23


class Reached:
    """The mark in a stream of work that is over already: on the CPU a step has ended before the next one begins."""

    def query(self) -> bool:
        return True


class ShmKvMemory(TorchFunctionMode):
    """vLLM backs all layers by one `torch.zeros(bytes, dtype=int8)`. While this mode is active (vLLM enters it around that
    allocation only) that call gets memory of a memfd instead; everything else passes through."""

    kind = "shm"

    def __init__(self) -> None:
        super().__init__()
        self.fd = -1
        self.buffer: torch.Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        flat = kwargs.get("dtype") is torch.int8 and len(args) == 1 and isinstance(args[0], int)
        if func is not torch.zeros or not flat:
            return func(*args, **kwargs)
        if self.buffer is not None:
            raise RuntimeError("dualpool: vLLM allocated a second KV buffer; only one can be shared")
        self.buffer = self._allocate(args[0])
        return self.buffer

    def _allocate(self, size: int) -> torch.Tensor:
        self.fd = os.memfd_create("dualpool-kv", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        # Sealed against shrinking, so that the mover, which maps it, can never run into a hole (SIGBUS).
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        mapping = mmap.mmap(self.fd, size)
        try:
            # As torch.zeros would: pages are there, on the engine's own NUMA node, before the first block is written.
            # A copy into pages that do not exist yet is five times slower.
            mapping.madvise(MADV_POPULATE_WRITE)
        except OSError:
            pass  # Linux before 5.14: pages come on first touch.
        # The tensor keeps the mapping alive through the buffer protocol.
        return torch.frombuffer(mapping, dtype=torch.int8)

    def share(self, spans: Iterable[tuple[int, int]]) -> tuple[dict[str, Any], tuple[int, ...]]:
        """The `memory` of the `register` message, and the file descriptors that go along. All spans lie in the one buffer."""
        if self.buffer is None:
            raise RuntimeError("dualpool: vLLM did not allocate its KV memory in one piece under the connector's allocation hook")
        return {"kind": "shm", "bytes": self.buffer.numel()}, (self.fd,)

    def offset_of(self, address: int) -> int:
        return address - self.buffer.data_ptr()

    def mark(self) -> Reached:
        return Reached()

    def settle(self) -> bool:
        return True

    def close(self) -> None:
        """The mapping lives on; only the file descriptor is closed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
