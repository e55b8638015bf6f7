"""The worker inside EngineCore's own process."""

from vllm.v1.executor.uniproc_executor import UniProcExecutor


class InCoreExecutor(UniProcExecutor):
    """One process per CPU engine instead of two.

    vLLM rewrites the name `uni` to its multi-process executor on CPU, because only there it sets the OpenMP environment of a
    worker. Our engines get that environment when their process is spawned, so the plain executor is right; a class of our own
    keeps vLLM from rewriting it.
    """
