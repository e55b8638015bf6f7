"""The vLLM versions this connector was written against. Its base class changes between releases, so others are refused."""

import vllm

# Minor version -> platforms. 0.26 has no allocation hook (`get_mem_pool_context`), without which CPU memory cannot be shared.
SUPPORTED = {"0.32": ("cpu", "cuda"), "0.26": ("cuda",)}


def check_version(platform: str, version: str = vllm.__version__) -> None:
    """Raises RuntimeError, with the list of supported versions, for any other version or platform."""
    minor = ".".join(version.split(".")[:2])
    if platform not in SUPPORTED.get(minor, ()):
        listed = ", ".join(f"{v}.x on {' and '.join(p)}" for v, p in SUPPORTED.items())
        raise RuntimeError(f"dualpool does not support vLLM {version} on {platform}; supported: {listed}")
