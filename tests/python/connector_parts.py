"""Checks of parts that need no engine. Those of the connector are loaded by their path: importing the package loads all of vLLM."""

import importlib.util
import itertools
import os
import platform
import random
import sys
from pathlib import Path

import torch

from dualpool import launch

PACKAGE = Path(__file__).parents[2] / "python" / "dualpool" / "connector"


def part(name: str):
    spec = importlib.util.spec_from_file_location(f"part_{name}", PACKAGE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def raises(kind, containing, call, *args) -> None:
    try:
        call(*args)
    except kind as error:
        assert containing in str(error), error
    else:
        raise AssertionError(f"{call} raised nothing")


def layers_lie_where_their_strides_say() -> None:
    """Random layouts: each block's byte ranges are exactly the addresses of the block's elements."""
    layout = part("layout")
    seed = random.randrange(1 << 32)
    print("seed", seed, file=sys.stderr)
    rng = random.Random(seed)
    for _ in range(200):
        shape = [rng.choice((2, 4, 6)), *(rng.randint(1, 4) for _ in range(3))]
        order = rng.sample(range(4), 4)
        split = rng.choice([s for s in (1, 2) if shape[0] % s == 0])
        dtype = rng.choice((torch.bfloat16, torch.float32, torch.int8))
        item = torch.empty(0, dtype=dtype).element_size()
        skip, pad = rng.randint(0, 3) * item, rng.randint(0, 2)
        # Memory order is `order`; the innermost dimension may be padded, which leaves gaps.
        sizes = [shape[d] for d in order]
        sizes[-1] += pad
        strides = [0] * 4
        stride = 1
        for dim, size in reversed(list(zip(order, sizes, strict=True))):
            strides[dim], stride = stride, stride * size
        buffer = torch.zeros(skip + stride * item, dtype=torch.int8)
        view = torch.as_strided(buffer[skip:].view(dtype), shape, strides)
        [layer] = layout.describe_layer("l", view, 0, shape[2] * split, lambda address: address - buffer.data_ptr())
        assert layer["blocks"] == shape[0] // split
        for block in range(layer["blocks"]):
            want = set()
            kernel_blocks = range(block * split, (block + 1) * split)
            for index in itertools.product(kernel_blocks, *(range(n) for n in shape[1:])):
                address = view[index].data_ptr() - buffer.data_ptr()
                want.update(range(address, address + item))
            start = layer["base"] + block * layer["block_stride"]
            ranges = [range(start + offset, start + offset + length) for offset, length in layer["ranges"]]
            assert sum(map(len, ranges)) == len(want) and set(itertools.chain(*ranges)) == want, (shape, strides, split)
            assert all(a.stop < b.start for a, b in itertools.pairwise(ranges)), "ascending, and merged where they touch"


def bytes_of(layers: list[dict], block: int) -> list[range]:
    starts = [(layer["base"] + block * layer["block_stride"], layer["ranges"]) for layer in layers]
    return [range(start + offset, start + offset + length) for start, ranges in starts for offset, length in ranges]


def addresses(view: torch.Tensor, buffer: torch.Tensor) -> set[int]:
    item, base = view.element_size(), buffer.data_ptr()
    starts = (view[index].data_ptr() - base for index in itertools.product(*map(range, view.shape)))
    return {start + i for start in starts for i in range(item)}


def layouts_of_vllm_0_26() -> None:
    """Keys and values as an axis of their own, latent attention, and one tensor for all layers: each block's byte ranges are exactly the
    addresses of its elements, in whatever order the axes lie in memory."""
    layout = part("layout")
    blocks, tokens, heads, content = 6, 4, 3, 2
    shapes = {(2, blocks, tokens, heads, content): 1, (blocks, 2, tokens, heads, content): 0, (blocks, tokens, content): 0}
    for shape, block_axis in shapes.items():
        for order in itertools.permutations(range(len(shape))):
            buffer = torch.zeros(1024, dtype=torch.float16)
            memory = buffer[: torch.Size(shape).numel()].view([shape[axis] for axis in order])
            view = memory.permute([order.index(axis) for axis in range(len(shape))])
            assert tuple(view.shape) == shape
            layers = layout.describe_layer("l", view, 0, tokens, lambda address: address - buffer.data_ptr())
            assert [layer["name"] for layer in layers] == (["l.keys", "l.values"] if block_axis else ["l"])
            for block in range(blocks):
                ranges = bytes_of(layers, block)
                want = addresses(view.select(block_axis, block), buffer)
                assert sum(map(len, ranges)) == len(want) and set(itertools.chain(*ranges)) == want, (shape, order)


def one_tensor_for_all_layers_becomes_a_view_per_layer() -> None:
    layout = part("layout")
    # As FlashAttention's: [layer, 2, block, token, head, content], with blocks outermost in memory and layers next.
    order, shape = (2, 0, 1, 3, 4, 5), (3, 2, 5, 4, 2, 8)
    buffer = torch.zeros(torch.Size(shape).numel(), dtype=torch.bfloat16)
    tensor = buffer.view([shape[axis] for axis in order])
    views = layout.views_of_layers(tensor, order, [["a"], ["b", "shares b"], ["c"]])
    assert list(views) == ["a", "b", "shares b", "c"] and all(tuple(view.shape) == shape[1:] for view in views.values())
    layers = [layer for name in "abc" for layer in layout.describe_layer(name, views[name], 0, 4, lambda a: a - buffer.data_ptr())]
    block_bytes = 3 * 2 * 4 * 2 * 8 * 2
    for block in range(5):
        ranges = sorted(bytes_of(layers, block), key=lambda piece: piece.start)
        assert ranges[0].start == block * block_bytes and ranges[-1].stop == (block + 1) * block_bytes
        assert all(a.stop == b.start for a, b in itertools.pairwise(ranges)), "a whole block is one stretch of memory"


def views_of_another_shape_are_refused() -> None:
    layout = part("layout")
    buffer = torch.zeros(1024, dtype=torch.int8)
    describe = lambda view, block_size: layout.describe_layer("x", view, 0, block_size, lambda address: address - buffer.data_ptr())  # noqa: E731
    raises(ValueError, "layer x keeps its cache as (4, 256)", describe, buffer.view(4, 256), 16)
    raises(ValueError, "layer x keeps its cache as list", describe, [buffer], 16)
    raises(ValueError, "3 kernel blocks of 16 tokens", describe, buffer[:768].view(3, 1, 16, 16), 32)
    raises(ValueError, "does not tell blocks from keys", describe, buffer.view(2, 2, 16, 4, 4), 16)
    raises(ValueError, "keeps its cache as (4, 4, 4, 4, 4)", describe, buffer.view(4, 4, 4, 4, 4), 16)


class Driver:
    """Two allocations of 4096 bytes, at 0x10000 and 0x20000, on one GPU; the third has no IPC handle and the fourth is elsewhere."""

    def allocation(self, address: int) -> tuple[int, int]:
        return address & ~0xFFFF, 4096

    def ipc_handle(self, base: int) -> str | None:
        return None if base == 0x30000 else f"{base:0128x}"

    def gpu(self, address: int) -> str:
        return "GPU-1" if address < 0x40000 else "GPU-2"


def gpu_memory_is_named_by_allocation_and_offset() -> None:
    memory = part("cuda_memory").CudaKvMemory(Driver())
    shared, fds = memory.share([(0x20100, 256), (0x10400, 512), (0x10200, 128), (0x20100, 256)])
    assert fds == () and shared == {
        "kind": "cuda",
        "uuid": "GPU-1",
        "segments": [
            {"handle": f"{0x10000:0128x}", "offset": 0x200, "bytes": 0x400},
            {"handle": f"{0x20000:0128x}", "offset": 0x100, "bytes": 0x100},
        ],
    }
    # Counted through both pieces as if they lay behind each other.
    assert [memory.offset_of(address) for address in (0x10200, 0x105FF, 0x20100, 0x201FF)] == [0, 0x3FF, 0x400, 0x4FF]
    raises(ValueError, "0x10600 lies in no shared piece", memory.offset_of, 0x10600)


def memory_that_cannot_be_shared_is_refused_with_the_mend() -> None:
    share = part("cuda_memory").CudaKvMemory(Driver()).share
    raises(RuntimeError, "no CUDA IPC handle", share, [(0x30000, 16)])
    raises(RuntimeError, "without `expandable_segments:True` in PYTORCH_CUDA_ALLOC_CONF", share, [(0x30000, 16)])
    raises(RuntimeError, "more than one allocation", share, [(0x10F00, 512)])
    raises(RuntimeError, "2 GPUs", share, [(0x10000, 16), (0x40000, 16)])


def versions_outside_the_list_are_refused() -> None:
    check = part("versions").check_version
    check("cpu", "0.32.0")
    check("cuda", "0.32.7")
    check("cuda", "0.26.1")
    for platform, version in (("cpu", "0.26.0"), ("cpu", "0.33.0"), ("cuda", "0.3.2"), ("rocm", "0.32.0")):
        raises(RuntimeError, "supported: 0.32.x on cpu and cuda, 0.26.x on cuda", check, platform, version)


def malformed_params_are_ignored() -> None:
    params = part("params")
    source = {"engine": 0, "leg": "6.0", "tokens": 10}
    leg = params.leg_of({"dualpool_leg": "7.0", "dualpool_hold": True, "dualpool_kv_source": source})
    assert leg == params.Leg("7.0", True, params.KvSource(0, "6.0", 10)) and leg.source.wire() == source
    assert params.leg_of({"dualpool_leg": "7.0"}) == params.Leg("7.0", False, None)
    for other in (None, {}, {"do_remote_decode": True}, {"dualpool_leg": "7.0", "dualpool_kv_source": {"engine": 0}},
                  {"dualpool_leg": "7.0", "dualpool_kv_source": "6.0"}, {"dualpool_leg": "7.0", "dualpool_kv_source": {**source, "tokens": "x"}}):
        assert params.leg_of(other) is None, other


def a_process_that_cannot_be_watched_is_ended() -> None:
    pids = []

    def fails(pid: int) -> None:
        pids.append(pid)
        raise OSError("too many open files")

    raises(OSError, "too many", launch._popen, launch.Launch(spawned=fails), b"/bin/sleep", ["sleep", "3600"], ())
    raises(ProcessLookupError, "", os.kill, pids[0], 0)


def memory_comes_from_the_chosen_node() -> None:
    """A process started with a memory node has a policy that prefers it, and one without has none."""
    numbers = {"x86_64": 239, "aarch64": 236}
    ask = f"""
import ctypes, sys
mode, mask = ctypes.c_int(-1), (ctypes.c_ulong * 16)()
failed = ctypes.CDLL(None).syscall({numbers[platform.machine()]}, ctypes.byref(mode), mask, ctypes.c_ulong(1025), 0, 0)
print(failed, mode.value, mask[0], flush=True)
"""
    for node, expected in [(0, [0, launch.MPOL_PREFERRED, 1]), (None, [0, 0, 0])]:
        reader, writer = os.pipe()
        token = launch.CURRENT.set(launch.Launch(output=writer, memory_node=node))
        pid = launch._spawn(sys.executable, [sys.executable, "-c", ask], ())
        launch.CURRENT.reset(token)
        os.close(writer)
        with open(reader) as said:
            lines = said.read().splitlines()
        os.waitpid(pid, 0)
        assert lines and list(map(int, lines[-1].split())) == expected, lines


if __name__ == "__main__":
    memory_comes_from_the_chosen_node()
    a_process_that_cannot_be_watched_is_ended()
    layers_lie_where_their_strides_say()
    layouts_of_vllm_0_26()
    one_tensor_for_all_layers_becomes_a_view_per_layer()
    views_of_another_shape_are_refused()
    gpu_memory_is_named_by_allocation_and_offset()
    memory_that_cannot_be_shared_is_refused_with_the_mend()
    versions_outside_the_list_are_refused()
    malformed_params_are_ignored()
