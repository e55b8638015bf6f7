"""The loop that drives all engines from one thread of the Rust process.

Rust and Python meet in two places only. Commands wait in Rust until an eventfd wakes this loop, which takes all of them in one
call. Outputs go back in one call per engine step. So no Rust thread ever waits for the interpreter lock on a request's way.
"""

import asyncio
import importlib
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

from dualpool import launch

# Engines that may start, stop or tokenize at the same moment.
WORKERS_MAX = 64

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_COLOR": "0",
    # A forked child would inherit the locks of dualpool's threads, and the pinning of none of them.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Small enough that one step's outputs never span two turns of the loop.
    "VLLM_V1_OUTPUT_PROC_CHUNK_SIZE": "4096",
}

# The engine that the running code works for, so that its log lines name it.
PORT: ContextVar = ContextVar("dualpool_port", default=None)


class LogStream:
    """Takes the place of stdout and stderr: whatever Python prints in this process becomes a log line of an engine."""

    encoding = "utf-8"

    def __init__(self, inbox) -> None:
        self._inbox = inbox
        self._partial = threading.local()

    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._partial, "text", "") + text).split("\n")
        self._partial.text = rest
        for line in lines:
            (PORT.get() or self._inbox).log(line)
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


class Pump:
    def __init__(self, inbox) -> None:
        self._inbox = inbox
        self._lanes = {}
        self._tasks = set()
        self._engine = None
        self._tokenizers = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(WORKERS_MAX, "dualpool-worker"))
        loop.add_reader(self._inbox.fd(), self._drain)
        await asyncio.Event().wait()

    def _drain(self) -> None:
        for kind, *args in self._inbox.drain():
            getattr(self, kind)(*args)

    def submit(self, key, *leg) -> None:
        # An engine that is gone has said so itself; its legs are not answered one by one.
        if lane := self._lanes.get(key):
            lane.submit(*leg)

    def abort(self, key, leg) -> None:
        if lane := self._lanes.get(key):
            lane.abort(leg)

    def detach(self, key, leg) -> None:
        if lane := self._lanes.get(key):
            lane.detach(leg)

    def start(self, port, spec, reply) -> None:
        self._answer(reply, self._start(port, json.loads(spec)))

    def call(self, key, method, argument, reply) -> None:
        self._answer(reply, getattr(self, f"_{method}")(key, argument))

    def _answer(self, reply, work) -> None:
        async def answer():
            try:
                reply.ok(json.dumps(await work))
            except Exception as error:
                reply.fail(f"{type(error).__name__}: {error}")

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, port, spec):
        PORT.set(port)
        if self._engine is None:
            # One import for all: two threads inside vLLM's circular imports would deadlock.
            self._engine = asyncio.ensure_future(asyncio.to_thread(importlib.import_module, "dualpool.engine"))
        try:
            engine = await asyncio.shield(self._engine)
        except Exception:
            self._engine = None
            raise
        lane = await asyncio.to_thread(engine.start, port, spec)
        if port.closing():  # given up while it started; its process is being killed
            await asyncio.to_thread(lane.close)
            raise RuntimeError("the start was given up")
        await lane.open()
        self._lanes[port.key()] = lane
        return lane.info()

    async def _reset_prefix_cache(self, key, _argument):
        return await self._lanes[key].reset_prefix_cache()

    async def _tokenize(self, _key, argument):
        model, text = json.loads(argument)
        if model not in self._tokenizers:
            self._tokenizers[model] = asyncio.ensure_future(asyncio.to_thread(load_tokenizer, model))
        tokenizer = await asyncio.shield(self._tokenizers[model])
        return None if tokenizer is None else await asyncio.to_thread(tokenizer.encode, text)

    async def _close(self, key, _argument):
        if lane := self._lanes.pop(key, None):
            await asyncio.to_thread(lane.close)


def load_tokenizer(model: str):
    """The model folder's tokenizer; None when it has none."""
    if not any(os.path.exists(os.path.join(model, name)) for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def serve(inbox) -> None:
    """Runs for the rest of the process's life, on Python's main thread."""
    os.environ.update(ENVIRONMENT)
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would overrule the KV cache's size in the settings
    sys.stdout = sys.stderr = LogStream(inbox)
    launch.install()
    asyncio.run(Pump(inbox).run())
