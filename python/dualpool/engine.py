"""One vLLM engine: its arguments, its start, and the way of its legs in and out. Importing this module imports vLLM."""

import asyncio
import contextvars
import time

from vllm import SamplingParams, __version__, envs
from vllm.config import KVTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import PrometheusStatLogger

from dualpool.launch import CURRENT, Launch
from dualpool.words import DETACH, KV_SOURCE

CONNECTOR = "DualpoolConnector"
CONNECTOR_MODULE = "dualpool.connector"


class StepStats(PrometheusStatLogger):
    """Sums up an engine's statistics and ends its step: vLLM calls `record` once per message of EngineCore, after it has put
    that message's outputs into their collectors.

    It takes the Prometheus logger's place because vLLM would add that one otherwise, and its registry is one per process.
    """

    def __init__(self, vllm_config, engine_indexes=None) -> None:
        self.lane = None
        self.waiting = self.running = self.steps = 0
        self.kv_usage = 0.0
        self.prefix_queries = self.prefix_hits = self.prompt_tokens = self.output_tokens = 0

    def record(self, scheduler_stats, iteration_stats, *args, **kwargs) -> None:
        if scheduler_stats is not None:
            # Waiting for KV blocks from elsewhere is waiting too; vLLM counts it apart.
            self.waiting = scheduler_stats.num_waiting_reqs + getattr(scheduler_stats, "num_skipped_waiting_reqs", 0)
            self.running = scheduler_stats.num_running_reqs
            self.kv_usage = scheduler_stats.kv_cache_usage
            self.steps = scheduler_stats.step_counter
            self.prompt_tokens = scheduler_stats.current_wave
            self.prefix_queries += scheduler_stats.prefix_cache_stats.queries
            self.prefix_hits += scheduler_stats.prefix_cache_stats.hits
        if iteration_stats is not None:
            self.output_tokens += iteration_stats.num_generation_tokens
        if self.lane is not None:
            self.lane.flush(self)

    def snapshot(self):
        return (
            self.waiting,
            self.running,
            self.kv_usage,
            self.prefix_queries,
            self.prefix_hits,
            self.prompt_tokens,
            self.output_tokens,
            self.steps,
        )

    def log_engine_initialized(self) -> None:
        pass

    def log(self) -> None:
        pass

    def record_sleep_state(self, *args, **kwargs) -> None:
        pass

    def record_admission_rejection(self, reason: str) -> None:
        pass


class Collector:
    """Takes the place of `put` of a request's output queue, whose reader would be one more task per request and token."""

    __slots__ = ("_lane", "_leg", "_started")

    def __init__(self, lane, leg: str) -> None:
        self._lane = lane
        self._leg = leg
        self._started = False

    def put(self, output) -> None:
        lane = self._lane
        if isinstance(output, Exception):
            lane.failed(self._leg, output)
            return
        completion = output.outputs[0]
        tokens = completion.token_ids
        cached = None
        if tokens:
            # The time of the step on EngineCore's clock, which is this machine's monotonic one.
            lane.core_at = output.metrics.last_token_ts
            if not self._started:
                self._started = True
                cached = output.num_cached_tokens
        finish = None
        if completion.finish_reason is not None:
            held = (output.kv_transfer_params or {}).get("dualpool_held")
            finish = (lane.reason(self._leg, completion.finish_reason), held["tokens"] if held else None)
        lane.outputs.append((self._leg, tokens, cached, finish))


class Lane:
    """The way of legs into one engine, and of its steps out of it."""

    def __init__(self, port, spec, llm: AsyncLLM, stats: StepStats) -> None:
        self._port = port
        self._spec = spec
        self._llm = llm
        self._stats = stats
        self._adding = {}
        self._tasks = set()
        self._aborted = set()
        self._closing = False
        self._context = None
        # What the current step gave so far.
        self.outputs = []
        self.core_at = 0.0

    async def open(self) -> None:
        """Called on the loop: from here on the engine's messages are read."""
        self._context = contextvars.copy_context()  # so that what vLLM logs for a leg names this engine
        self._stats.lane = self
        self._llm._run_output_handler()
        self._llm.output_handler.add_done_callback(self._handler_ended)
        await self._llm.get_supported_tasks()  # asked for, and remembered, by vLLM before the first request

    def info(self) -> dict:
        config = self._llm.vllm_config
        return {
            "backend": f"vllm {__version__}",
            "max_model_len": config.model_config.max_model_len,
            "vocab_size": config.model_config.get_vocab_size(),
            "block_size": config.cache_config.block_size,
            "kv_blocks": config.cache_config.num_gpu_blocks,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "max_num_seqs": config.scheduler_config.max_num_seqs,
        }

    def submit(self, leg: str, prompt: list[int], sampling: dict, kv: dict | None) -> None:
        task = asyncio.get_running_loop().create_task(self._add(leg, prompt, sampling, kv), context=self._context)
        self._adding[leg] = task

    async def _add(self, leg, prompt, sampling, kv) -> None:
        collector = Collector(self, leg)
        try:
            params = SamplingParams(
                **sampling,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
                extra_args=None if kv is None else {"kv_transfer_params": kv},
            )
            # With `type` the prompt counts as rendered; without, vLLM would take it through a thread of its own.
            # A leg that comes with its KV is in the middle of its output: it does not queue behind prompts.
            priority = -1 if kv is not None and KV_SOURCE in kv else 0
            rendered = {"type": "token", "prompt_token_ids": prompt}
            queue = await self._llm.add_request(leg, rendered, params, priority=priority)
        except Exception as error:
            self.failed(leg, error)
            self.flush(None)
        else:
            queue.put = collector.put
            if queue.output is not None:  # came while the request was on its way to the engine
                collector.put(queue.output)
                self.flush(None)
        finally:
            del self._adding[leg]

    def abort(self, leg: str) -> None:
        self._run(self._abort(leg))

    def detach(self, leg: str) -> None:
        self._run(self._detach(leg))

    def _run(self, work) -> None:
        task = asyncio.get_running_loop().create_task(work, context=self._context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _abort(self, leg: str) -> None:
        if adding := self._adding.get(leg):
            await asyncio.wait([adding])
        self._aborted.add(leg)
        try:
            await self._llm.abort(leg)
        except EngineDeadError:
            pass  # the engine's death is told once, not per leg
        self._aborted.discard(leg)
        self.flush(None)

    async def _detach(self, leg: str) -> None:
        if adding := self._adding.get(leg):
            await asyncio.wait([adding])
        try:
            # Past vLLM's front end, which would take it for the leg's end. An abort is the only message that names requests to a running
            # scheduler, which handles it before a step's outputs; ours takes this one out (`finish_requests`).
            await self._llm.engine_core.abort_requests_async([DETACH + leg])
        except EngineDeadError:
            pass

    def reason(self, leg: str, reason: str) -> str:
        if reason in ("length", "stop") or (reason == "abort" and leg in self._aborted):
            return reason
        return f"error: vLLM ended the request by itself with finish reason `{reason}`"

    def failed(self, leg: str, error: Exception) -> None:
        if not isinstance(error, EngineDeadError):
            self.outputs.append((leg, [], None, (f"error: {error}", None)))

    def flush(self, stats: StepStats | None) -> None:
        """Hands the step to Rust."""
        if stats is None and not self.outputs:
            return
        outputs, self.outputs = self.outputs, []
        core_at, self.core_at = self.core_at or time.monotonic(), 0.0
        self._port.step(core_at, outputs, None if stats is None else stats.snapshot())

    def _handler_ended(self, task: asyncio.Task) -> None:
        # vLLM ends this task when the engine died, which the engine's process itself tells Rust, or on a fault of its own:
        # then the engine's outputs are not read any more, and it must not go on as if alive.
        if not self._closing and not task.cancelled():
            self._port.broken("vLLM stopped reading the engine's outputs")

    async def reset_prefix_cache(self) -> bool:
        return bool(await self._llm.reset_prefix_cache())

    def close(self) -> None:
        """Ends the engine's process and waits for it; called off the loop."""
        self._closing = True
        (self._context or contextvars.copy_context()).run(self._llm.shutdown)


# Where the engine that is being started has its sockets. vLLM takes this from the environment, which all engines share.
FOLDER: contextvars.ContextVar = contextvars.ContextVar("dualpool_folder")
envs.environment_variables["VLLM_RPC_BASE_PATH"] = FOLDER.get


def start(port, spec: dict) -> Lane:
    """Starts the engine's process and waits until it is ready; called off the loop."""
    FOLDER.set(spec["folder"])
    launch = Launch(spec["environment"], spec["cores"], port.output_fd(), port.spawned, spec["memory_node"])
    token = CURRENT.set(launch)
    try:
        config = arguments(spec).create_engine_config()
        # Named after vLLM has made its choice, which a scheduler given in the arguments would change.
        kind = "TunableAsyncScheduler" if config.scheduler_config.async_scheduling else "TunableScheduler"
        config.scheduler_config.scheduler_cls = f"dualpool.scheduler.{kind}"
        stats = []

        class Stats(StepStats):
            def __init__(self, *args, **kwargs) -> None:
                super().__init__(*args, **kwargs)
                stats.append(self)

        # Only vLLM's default loggers are disabled by this: a logger of our own turns the statistics on.
        llm = AsyncLLM.from_vllm_config(config, stat_loggers=[Stats], disable_log_stats=True)
    finally:
        CURRENT.reset(token)
    return Lane(port, spec, llm, stats[0])


def arguments(spec: dict) -> AsyncEngineArgs:
    if spec["gpu"] is None:
        device = {
            "distributed_executor_backend": "dualpool.executor.InCoreExecutor",
            "kv_cache_memory_bytes": spec["kv_cache_bytes"],
            # Compiling costs a minute per start on CPU and gains nothing measurable at these model sizes.
            "enforce_eager": True,
        }
    else:
        device = {"device_ids": [spec["gpu"]], "gpu_memory_utilization": spec["gpu_memory_utilization"]}
    if spec["block_size"]:
        device["block_size"] = spec["block_size"]
    if spec["control"] is not None:
        device["kv_transfer_config"] = KVTransferConfig(
            kv_connector=CONNECTOR,
            kv_connector_module_path=CONNECTOR_MODULE,
            kv_role="kv_both",
            engine_id=spec["name"],
            kv_connector_extra_config={"control": spec["control"], "engine": spec["id"]},
            kv_load_failure_policy="recompute",
        )
    return AsyncEngineArgs(
        model=spec["model"],
        dtype=spec["dtype"],
        skip_tokenizer_init=True,
        max_model_len=spec["max_model_len"],
        max_num_seqs=spec["max_num_seqs"],
        max_num_batched_tokens=spec["max_num_batched_tokens"],
        enable_prefix_caching=spec["enable_prefix_caching"],
        scheduling_policy="priority",
        additional_config={"dualpool": {"tuning": spec["tuning"], "steps": spec["steps"]}},
        **device,
    )
