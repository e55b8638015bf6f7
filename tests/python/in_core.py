"""The worker inside EngineCore's own process, instead of one of its own: both placements must work."""

from vllm.v1.executor.uniproc_executor import UniProcExecutor


class InCoreExecutor(UniProcExecutor):
    """vLLM's CPU platform replaces its own single-process executor by name; a subclass it leaves alone."""
