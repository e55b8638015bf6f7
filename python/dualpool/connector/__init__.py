"""A vLLM KV connector that lends its engine's KV memory to dualpool, which copies blocks between engines.

Use it with `kv_connector="DualpoolConnector"`, `kv_connector_module_path="dualpool.connector"`, `kv_role="kv_both"`,
`kv_load_failure_policy="recompute"` and `kv_connector_extra_config={"control": <socket path>, "engine": <number>}`.
A request takes part through `kv_transfer_params`; `params.py` describes them, `docs/kv-protocol.md` the protocol.
"""

from .connector import DualpoolConnector

__all__ = ["DualpoolConnector"]
