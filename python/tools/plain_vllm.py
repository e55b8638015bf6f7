"""What one vLLM CPU engine does when plain Python drives it: the yardstick for dualpool's embedding.

    .venv/bin/python python/tools/plain_vllm.py MODEL [--cores 0] [--streams 64] [--max-tokens 64] [--rounds 3]

Prints one JSON object: seconds from the start of the process to a ready engine, and the output tokens per second of each round
of `--streams` concurrent greedy requests.
"""

import time

STARTED = time.monotonic()

import argparse  # noqa: E402  (the clock above must run before the imports it measures)
import asyncio  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402

PROMPT_TOKENS = 32


def prompt(stream: int) -> list[int]:
    """The same prompts as dualpool's measurement sends (`examples/embedding.rs`)."""
    return [(stream * 7 + k) % 200 + 10 for k in range(PROMPT_TOKENS)]


async def one_stream(engine, params, stream: int, name: str) -> int:
    tokens = 0
    async for output in engine.generate({"prompt_token_ids": prompt(stream)}, params, name):
        tokens += len(output.outputs[0].token_ids)
    return tokens


async def measure(args: argparse.Namespace) -> dict:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=args.model,
            skip_tokenizer_init=True,
            max_model_len=2048,
            max_num_seqs=64,
            max_num_batched_tokens=2048,
            enforce_eager=True,
            kv_cache_memory_bytes=256 << 20,
        )
    )
    start_s = time.monotonic() - STARTED
    params = SamplingParams(
        temperature=0,
        max_tokens=args.max_tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    rates = []
    for round_no in range(args.rounds + 1):  # the first round warms up
        begun = time.monotonic()
        streams = (one_stream(engine, params, s, f"{round_no}-{s}") for s in range(args.streams))
        tokens = sum(await asyncio.gather(*streams))
        rates.append(tokens / (time.monotonic() - begun))
    engine.shutdown()
    return {"start_s": start_s, "tokens_per_s": rates[1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--cores", default="0", help="cores the engine is pinned to")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ.update(
        VLLM_CPU_OMP_THREADS_BIND=args.cores,
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_NO_USAGE_STATS="1",
        HF_HUB_OFFLINE="1",
        VLLM_WORKER_MULTIPROC_METHOD="spawn",
    )
    print(json.dumps(asyncio.run(measure(args))))


if __name__ == "__main__":
    main()
