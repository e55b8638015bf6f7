"""How an engine's processes come to life, and that they do not outlive dualpool.

vLLM starts its processes through `multiprocessing`'s spawn method, which takes the environment, the standard streams and the
CPU affinity from its parent. Engines start side by side from one parent, so each needs its own: `spawnv_passfds`, the one
function below all of it, is replaced by one that reads them from a context variable.
"""

import ctypes
import multiprocessing.util
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field

PR_SET_PDEATHSIG = 1
SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
MPOL_PREFERRED = 1
# Of the kernel's node masks.
NODES_MAX = 1024


@dataclass
class Launch:
    """What a process spawned from this context gets."""

    # Added to the parent's environment; None removes a variable.
    environment: dict[str, str | None] = field(default_factory=dict)
    cores: list[int] = field(default_factory=list)
    # Takes stdout and stderr; None inherits the parent's.
    output: int | None = None
    # Told the process id.
    spawned: Callable[[int], None] | None = None
    # The NUMA node to take memory from while it has some left; None leaves that to the kernel.
    memory_node: int | None = None


CURRENT: ContextVar[Launch | None] = ContextVar("dualpool_launch", default=None)

# The kernel sends the parent-death signal when the THREAD that forked ends. This pool's only thread never does.
_nursery = ThreadPoolExecutor(1, "dualpool-nursery")
_spawnv_passfds = multiprocessing.util.spawnv_passfds
# In an engine's process: what its workers get.
_inherited: Launch | None = None


def install() -> None:
    """Replaces the spawn function of this process."""
    multiprocessing.util.spawnv_passfds = _spawn


def enter(parent: int, cores: list[int], memory_node: int | None = None) -> None:
    """The first thing a spawned process runs."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the line above
    # The mask comes from the thread that forked, which may have blocked the signals that end an engine in order.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # OpenMP may have bound this thread to one of the cores already, which is narrower and right.
    if cores and not os.sched_getaffinity(0) <= set(cores):
        os.sched_setaffinity(0, cores)
    if memory_node is not None:
        prefer_memory_of(memory_node)
    global _inherited
    _inherited = Launch()
    install()


def prefer_memory_of(node: int) -> None:
    """Takes this thread's memory, and that of all it starts from here on, from one NUMA node while that has some left.

    Not a strict binding: a model that is larger than its node is to run slower, and not to be killed.
    """
    bits = ctypes.sizeof(ctypes.c_ulong) * 8
    mask = (ctypes.c_ulong * (NODES_MAX // bits))()
    number = SET_MEMPOLICY.get(platform.machine())
    if number is None or not 0 <= node < NODES_MAX:
        print(f"dualpool: memory is not bound to NUMA node {node}: not known how to on this machine", file=sys.stderr)
        return
    mask[node // bits] = 1 << node % bits
    libc = ctypes.CDLL(None, use_errno=True)
    # The kernel takes the mask to be one bit shorter than it is told.
    length = ctypes.c_ulong(NODES_MAX + 1)
    if libc.syscall(ctypes.c_long(number), ctypes.c_long(MPOL_PREFERRED), mask, length) != 0:
        # Containers may forbid it. The engine then runs as the kernel sees fit, which is right and may be slower.
        why = os.strerror(ctypes.get_errno())
        print(f"dualpool: memory is not bound to NUMA node {node}: {why}", file=sys.stderr)


def _spawn(path, args, passfds):
    launch = CURRENT.get() or _inherited
    args = [os.fsdecode(arg) for arg in args]
    if any("resource_tracker" in arg for arg in args):
        # It cleans up after processes that died, so it outlives them, ends by itself, and is not to complain of what it found.
        return _nursery.submit(_popen, Launch(output=subprocess.DEVNULL), path, args, passfds).result()
    if launch is None:
        return _spawnv_passfds(path, args, passfds)
    code = args.index("-c") + 1
    args[code] = f"from dualpool.launch import enter; enter({os.getpid()}, {launch.cores!r}, {launch.memory_node!r}); {args[code]}"
    return _nursery.submit(_popen, launch, path, args, passfds).result()


def _popen(launch: Launch, path, args: list[str], passfds) -> int:
    environment = {**os.environ, **launch.environment}
    process = subprocess.Popen(
        args,
        executable=os.fsdecode(path),
        env={name: value for name, value in environment.items() if value is not None},
        pass_fds=tuple(passfds),
        stdin=subprocess.DEVNULL,
        stdout=launch.output,
        stderr=launch.output,
        # A Ctrl-C in the terminal is for dualpool, which then ends its engines in order.
        start_new_session=True,
    )
    if launch.spawned is not None:
        try:
            launch.spawned(process.pid)
        except BaseException:
            # The process is not watched yet, so nothing else would end it.
            process.kill()
            process.wait()
            raise
    process.returncode = 0  # multiprocessing waits for the process, not this object
    return process.pid
