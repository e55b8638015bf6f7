"""Words that an engine's front end, its scheduler and its connector have to share."""

# In a request's `kv_transfer_params`: the leg's name, whether its KV is held when it ends, and where its KV can be copied from.
LEG = "dualpool_leg"
HOLD = "dualpool_hold"
KV_SOURCE = "dualpool_kv_source"

# Before a leg's name, where vLLM has the ids of requests to abort: end this leg with its next token and hold its KV.
DETACH = "dualpool-detach:"
