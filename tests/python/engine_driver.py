"""One vLLM CPU engine, driven over stdin and stdout: a JSON object per line, answers carry the `id` of their command.

    {"id": 1, "do": "generate", "request": "a", "prompt": [..], "max_tokens": 8, "params": {..}}  -> {"id": 1, "tokens": [..], ...}
    {"id": 2, "do": "abort", "request": "a"}   {"id": 3, "do": "reset"}   {"id": 4, "do": "stop"}

The first line out is {"ready": true, "pids": [<all processes of the engine>]}, or {"failed": <why>}.
"""

import argparse
import asyncio
import ctypes
import json
import os
import signal
import sys



def die_with_parent() -> None:
    """A killed test must not leave engines behind: they ignore the end of their parent."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() == 1:
        os._exit(1)


# vLLM's children are spawned or forked as it sees fit: a spawned one runs this file again, a forked one the hook.
die_with_parent()
os.register_at_fork(after_in_child=die_with_parent)

# The answers' own descriptor; whatever else is printed goes to stderr.
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

os.environ.update(VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", VLLM_CPU_OMP_THREADS_BIND="nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

import psutil  # noqa: E402
from vllm import SamplingParams  # noqa: E402
from vllm.config import KVTransferConfig  # noqa: E402
from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: E402
from vllm.sampling_params import RequestOutputKind  # noqa: E402
from vllm.v1.engine.async_llm import AsyncLLM  # noqa: E402


def say(**answer: object) -> None:
    ANSWERS.write(json.dumps(answer) + "\n")


def start(args: argparse.Namespace) -> AsyncLLM:
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    transfer = KVTransferConfig(
        kv_connector="DualpoolConnector",
        kv_connector_module_path="dualpool.connector",
        kv_role="kv_both",
        kv_load_failure_policy="recompute",
        kv_connector_extra_config={"control": args.control, "engine": args.engine},
    )
    engine_args = AsyncEngineArgs(
        model=args.model,
        skip_tokenizer_init=True,
        max_model_len=4096,
        enforce_eager=True,
        kv_cache_memory_bytes=args.kv_mib << 20,
        block_size=args.block_size or None,
        max_num_seqs=16,
        max_num_batched_tokens=2048,
        kv_transfer_config=transfer,
        distributed_executor_backend="in_core.InCoreExecutor" if args.in_core else None,
    )
    return AsyncLLM.from_vllm_config(engine_args.create_engine_config())


class Driver:
    def __init__(self, engine: AsyncLLM) -> None:
        self.engine = engine
        self.running: set[str] = set()

    async def generate(self, command: dict) -> dict:
        params = SamplingParams(
            temperature=0,
            max_tokens=command["max_tokens"],
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={"kv_transfer_params": command["params"]} if command.get("params") else None,
        )
        tokens, last = [], None
        self.running.add(command["request"])
        try:
            async for output in self.engine.generate({"prompt_token_ids": command["prompt"]}, params, command["request"]):
                tokens += output.outputs[0].token_ids
                if last is None:
                    say(id=command["id"], started=True)
                last = output
        finally:
            self.running.discard(command["request"])
        return {
            "tokens": tokens,
            "finish": last.outputs[0].finish_reason,
            "cached": last.num_cached_tokens,
            "returned": last.kv_transfer_params,
        }

    async def abort(self, command: dict) -> dict:
        # vLLM ignores an abort of a request that is still on its way into the engine.
        while command["request"] in self.running:
            await self.engine.abort(command["request"])
            await asyncio.sleep(0.001)
        return {}

    async def reset(self, command: dict) -> dict:
        """Succeeds only while no block is in use, held blocks included."""
        return {"reset": await self.engine.reset_prefix_cache()}

    async def run(self, command: dict) -> None:
        try:
            say(id=command["id"], done=True, **await getattr(self, command["do"])(command))
        except BaseException as error:
            say(id=command["id"], done=True, error=f"{type(error).__name__}: {error}")


async def main(args: argparse.Namespace) -> None:
    try:
        driver = Driver(start(args))
    except Exception as error:
        say(failed=f"{type(error).__name__}: {error}")
        raise
    say(ready=True, pids=[child.pid for child in psutil.Process().children(recursive=True)])
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()
    # End of input: the test is gone, and so must this engine be.
    while line := await reader.readline():
        task = asyncio.create_task(driver.run(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    driver.engine.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", required=True)
    parser.add_argument("--engine", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kv-mib", type=int, default=64)
    parser.add_argument("--block-size", type=int, default=0)
    parser.add_argument("--in-core", action="store_true")
    asyncio.run(main(parser.parse_args()))
