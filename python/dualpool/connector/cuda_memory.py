"""KV memory of a CUDA engine, as another process can import it, and what the engine's stream has done to it.

vLLM and PyTorch allocate it; nothing here allocates. A CUDA IPC handle stands for the whole allocation that an address lies in, so a
piece of memory goes over as handle + offset. The calls go to libcuda itself, which PyTorch has loaded: no package is needed for them.
"""

import ctypes
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

IPC_HANDLE_BYTES = 64
POINTER_DEVICE_ORDINAL = 9
# What cuIpcGetMemHandle says of memory that has no handle.
WITHOUT_HANDLE = (1, 801)


class CudaDriver:
    """The few calls of libcuda that are needed, which raise RuntimeError when they fail."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any, expected: tuple[int, ...] = ()) -> int:
        code = getattr(self._library, name)(*arguments)
        if code and code not in expected:
            raise RuntimeError(f"dualpool: {name} failed with CUDA error {code}")
        return code

    def allocation(self, address: int) -> tuple[int, int]:
        """Where the allocation of this address begins, and its size."""
        base, size = ctypes.c_uint64(), ctypes.c_size_t()
        self.call("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(address))
        return base.value, size.value

    def ipc_handle(self, base: int) -> str | None:
        """None for memory that has none: what the driver's virtual memory calls made, such as PyTorch's expandable segments."""
        handle = (ctypes.c_ubyte * IPC_HANDLE_BYTES)()
        code = self.call("cuIpcGetMemHandle", ctypes.byref(handle), ctypes.c_uint64(base), expected=WITHOUT_HANDLE)
        return None if code else bytes(handle).hex()

    def gpu(self, address: int) -> str:
        """The UUID of the GPU on which this address lies."""
        ordinal, device, uuid = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
        self.call("cuPointerGetAttribute", ctypes.byref(ordinal), POINTER_DEVICE_ORDINAL, ctypes.c_uint64(address))
        self.call("cuDeviceGet", ctypes.byref(device), ordinal)
        self.call("cuDeviceGetUuid_v2", ctypes.byref(uuid), device)
        digits = bytes(uuid).hex()
        return f"GPU-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@dataclass(frozen=True)
class Piece:
    """What is shared of one allocation: `size` bytes from `start` on, which are counted from `place` on in the `register` message."""

    base: int
    start: int
    size: int
    place: int


def pieces_of(spans: Iterable[tuple[int, int]], allocation: Callable[[int], tuple[int, int]]) -> list[Piece]:
    """One piece per allocation, from the first to the last of these (address, bytes) spans in it, in ascending order."""
    ends: dict[int, tuple[int, int]] = {}
    for start, size in spans:
        base, allocated = allocation(start)
        if start + size > base + allocated:
            raise RuntimeError(
                f"dualpool: {size} bytes of KV memory at {start:#x} lie in more than one allocation; that is what expandable segments "
                f"look like. {MEND}"
            )
        first, last = ends.get(base, (start, start + size))
        ends[base] = (min(first, start), max(last, start + size))
    pieces, place = [], 0
    for base in sorted(ends):
        start, end = ends[base]
        pieces.append(Piece(base, start, end - start, place))
        place += end - start
    return pieces


MEND = "Start the engine without `expandable_segments:True` in PYTORCH_CUDA_ALLOC_CONF (or PYTORCH_ALLOC_CONF), and without sleep mode"


class CudaKvMemory:
    kind = "cuda"

    def __init__(self, driver: CudaDriver | None = None) -> None:
        self._driver = driver
        self._pieces: list[Piece] = []

    def share(self, spans: Iterable[tuple[int, int]]) -> tuple[dict[str, Any], tuple[int, ...]]:
        """The `memory` of the `register` message for these (address, bytes) spans; file descriptors go along with other memory only."""
        driver = self._driver or CudaDriver()
        spans = list(spans)
        gpus = {driver.gpu(address) for address, _ in spans}
        if len(gpus) != 1:
            raise RuntimeError(f"dualpool: the KV memory lies on {len(gpus)} GPUs ({sorted(gpus)}); KV is copied between engines of one GPU each")
        self._pieces = pieces_of(spans, driver.allocation)
        segments = []
        for piece in self._pieces:
            handle = driver.ipc_handle(piece.base)
            if handle is None:
                settings = {key: os.environ[key] for key in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF") if key in os.environ}
                raise RuntimeError(
                    f"dualpool: the KV memory at {piece.start:#x} has no CUDA IPC handle, so no other process can reach it; expandable "
                    f"segments have none (environment: {settings}). {MEND}"
                )
            segments.append({"handle": handle, "offset": piece.start - piece.base, "bytes": piece.size})
        return {"kind": "cuda", "uuid": gpus.pop(), "segments": segments}, ()

    def offset_of(self, address: int) -> int:
        """Where an address lies in the shared memory, whose pieces count as if they lay behind each other."""
        for piece in self._pieces:
            if piece.start <= address < piece.start + piece.size:
                return piece.place + address - piece.start
        raise ValueError(f"dualpool: address {address:#x} lies in no shared piece of the KV memory")

    def mark(self) -> torch.cuda.Event:
        """Is reached when the GPU has done all that this engine has queued so far, writes to KV blocks among it."""
        event = torch.cuda.Event()
        event.record()
        return event

    def settle(self) -> bool:
        """Waits for all that this process has queued; False when it has no GPU, hence cannot wait for what another process queued."""
        if not torch.cuda.is_initialized():
            return False
        torch.cuda.synchronize()
        return True

    def close(self) -> None:
        """The handles stay valid for as long as the memory is allocated."""
