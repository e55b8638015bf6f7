"""The connector class vLLM loads: once with the scheduler, once with the worker. Each half is a class of its own; this one
only hands calls on."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import vllm
from vllm.distributed.kv_transfer.kv_connector.v1 import base
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorRole, SupportsHMA
from vllm.platforms import current_platform

from .cuda_memory import CudaKvMemory
from .layout import views_of_layers
from .link import Link
from .memory import ShmKvMemory
from .scheduler_half import SchedulerHalf
from .versions import check_version
from .worker_half import WorkerHalf

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig


class DualpoolConnector(KVConnectorBase_V1, SupportsHMA):
    def __init__(self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig") -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        extra = self._kv_transfer_config.kv_connector_extra_config
        missing = [key for key in ("control", "engine") if key not in extra]
        if missing:
            raise ValueError(f"dualpool: kv_connector_extra_config lacks {missing}; it needs `control` and `engine`")
        engine = int(extra["engine"])
        check_version(current_platform.device_type)
        check_supported(vllm_config, kv_cache_config, engine)
        self._failed_blocks: set[int] = set()
        self.scheduler: SchedulerHalf | None = None
        self.worker: WorkerHalf | None = None
        memory = CudaKvMemory() if on_cuda() else ShmKvMemory()
        if role == KVConnectorRole.SCHEDULER:
            self.scheduler = SchedulerHalf(Link(extra["control"], engine, "scheduler"), kv_cache_config, memory.settle)
        else:
            self.worker = WorkerHalf(Link(extra["control"], engine, "worker"), kv_cache_config, memory)

    def shutdown(self) -> None:
        for half in (self.scheduler, self.worker):
            if half is not None:
                half.shutdown()

    # ---- worker

    def get_mem_pool_context(self) -> Any:
        """vLLM 0.32. CUDA memory can be shared as vLLM allocates it."""
        return None if on_cuda() else self.worker.memory

    @property
    def prefer_cross_layer_blocks(self) -> bool:
        """vLLM 0.26: with all layers of a block beside each other a hand-off takes a copy per block, not one per block and layer."""
        return on_cuda()

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: "VllmConfig") -> str | None:
        """The same for vLLM 0.32, which goes by another layout where the attention backend cannot have this one."""
        return "BLHNC" if on_cuda() and hasattr(vllm_config.cache_config, "kv_cache_layout") else None

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        self.worker.register(kv_caches, layout_of(self._vllm_config), backend_of(self._vllm_config, kv_caches))

    def register_cross_layers_kv_cache(self, kv_cache: Any, attn_backend: Any) -> None:
        """vLLM 0.26, instead of the above."""
        order = tuple(attn_backend.get_kv_cache_stride_order(include_num_layers_dimension=True))
        names = [list(tensor.shared_by) for tensor in self._kv_cache_config.kv_cache_tensors]
        self.register_kv_caches(views_of_layers(kv_cache, order, names))

    def bind_connector_metadata(self, connector_metadata: Any) -> None:
        super().bind_connector_metadata(connector_metadata)
        self.worker.step(connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Nothing: fetches were sent when the step began (see `WorkerHalf.step`)."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: a request runs only once all its layers are there."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing: blocks are read where they lie."""

    def wait_for_save(self) -> None:
        """Nothing: there are no saves."""

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """vLLM 0.26; it learns of failed fetches from the blocks below."""
        report = self.worker.report()
        self._failed_blocks |= report.failed_blocks
        return report.sent or None, report.received or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        blocks, self._failed_blocks = self._failed_blocks, set()
        return blocks

    def get_transfer_results(self, finished_req_ids: set[str]) -> Any:
        """vLLM 0.32; failures are told per request, which works with several KV groups too (their block ids may coincide)."""
        report = self.worker.report()
        return base.KVConnectorTransferResults(report.sent, report.received, report.failed)

    # ---- scheduler

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        self.scheduler.null_block = gpu_block_pool.null_block.block_id

    def get_loaded_kv_cache_group_ids(self, request: Any) -> tuple[int, ...]:
        return tuple(range(len(self._kv_cache_config.kv_cache_groups)))

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        tokens = self.scheduler.fetchable_tokens(request, num_computed_tokens)
        return tokens, tokens > 0

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self.scheduler.allocated(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> Any:
        return self.scheduler.take_metadata(idle=scheduler_output.total_num_scheduled_tokens == 0)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self.scheduler.finished(request, (block_ids,))

    def request_finished_all_groups(self, request: Any, block_ids: tuple[list[int], ...]) -> tuple[bool, dict[str, Any] | None]:
        return self.scheduler.finished(request, block_ids)


def check_supported(config: "VllmConfig", kv_cache_config: "KVCacheConfig", engine: int) -> None:
    """Raises for engines whose KV memory dualpool cannot reach or address."""
    groups = len(kv_cache_config.kv_cache_groups)
    if groups > 1 and not hasattr(base, "KVConnectorTransferResults"):
        raise NotImplementedError(
            f"dualpool: engine-{engine} has {groups} KV cache groups, and vLLM {vllm.__version__} ends an engine of more than one with its "
            "first failed fetch; use vLLM 0.32, or a model whose layers are all of one kind"
        )
    parallel = config.parallel_config
    if parallel.world_size > 1:
        raise NotImplementedError(
            f"dualpool: engine-{engine} has {parallel.world_size} workers (tensor_parallel_size={parallel.tensor_parallel_size}, "
            f"pipeline_parallel_size={parallel.pipeline_parallel_size}); KV is copied between engines of one worker each"
        )
    if config.kv_transfer_config.kv_load_failure_policy != "recompute":
        raise ValueError(
            f"dualpool: engine-{engine} has kv_load_failure_policy={config.kv_transfer_config.kv_load_failure_policy!r}; set it to "
            '"recompute", or a failed copy ends the request'
        )


def on_cuda() -> bool:
    return current_platform.device_type == "cuda"


def layout_of(config: "VllmConfig") -> str:
    return str(getattr(config.cache_config, "kv_cache_layout", None) or "unnamed")


def backend_of(config: "VllmConfig", layers: Iterable[str]) -> str:
    """What decides how the bytes within a block are arranged, beyond what strides tell."""
    if not on_cuda():
        # CPU kernels of different instruction sets arrange K and V differently.
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"
    modules = config.compilation_config.static_forward_context
    names = {modules[name].get_attn_backend().get_name() for name in layers if hasattr(modules.get(name), "get_attn_backend")}
    return f"cuda {'+'.join(sorted(names)) or 'unnamed'}, vLLM {'.'.join(vllm.__version__.split('.')[:2])}"
