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
    """Random layouts: each block's runs are exactly the addresses of the block's elements."""
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
        layer = layout.describe_layer("l", view, 0, shape[2] * split, buffer)
        assert layer["blocks"] == shape[0] // split
        for block in range(layer["blocks"]):
            want = set()
            kernel_blocks = range(block * split, (block + 1) * split)
            for index in itertools.product(kernel_blocks, *(range(n) for n in shape[1:])):
                address = view[index].data_ptr() - buffer.data_ptr()
                want.update(range(address, address + item))
            start = layer["base"] + block * layer["block_stride"]
            runs = [range(start + offset, start + offset + length) for offset, length in layer["runs"]]
            assert sum(map(len, runs)) == len(want) and set(itertools.chain(*runs)) == want, (shape, strides, split)
            assert all(a.stop < b.start for a, b in itertools.pairwise(runs)), "ascending, and merged where they touch"


def views_of_another_shape_are_refused() -> None:
    layout = part("layout")
    buffer = torch.zeros(1024, dtype=torch.int8)
    raises(ValueError, "layer x keeps its cache as (4, 256)", layout.describe_layer, "x", buffer.view(4, 256), 0, 16, buffer)
    raises(ValueError, "layer x keeps its cache as list", layout.describe_layer, "x", [buffer], 0, 16, buffer)
    view = buffer.view(3, 1, 16, -1) if buffer.numel() % 48 == 0 else buffer[:768].view(3, 1, 16, 16)
    raises(ValueError, "3 kernel blocks of 16 tokens", layout.describe_layer, "x", view, 0, 32, buffer)


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
    leg = params.leg_of({"dualpool_leg": "7.0", "dualpool_hold": True, "dualpool_load": source})
    assert leg == params.Leg("7.0", True, params.Source(0, "6.0", 10)) and leg.load.wire() == source
    assert params.leg_of({"dualpool_leg": "7.0"}) == params.Leg("7.0", False, None)
    for other in (None, {}, {"do_remote_decode": True}, {"dualpool_leg": "7.0", "dualpool_load": {"engine": 0}},
                  {"dualpool_leg": "7.0", "dualpool_load": "6.0"}, {"dualpool_leg": "7.0", "dualpool_load": {**source, "tokens": "x"}}):
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
    views_of_another_shape_are_refused()
    versions_outside_the_list_are_refused()
    malformed_params_are_ignored()
