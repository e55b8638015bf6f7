"""The Python side of dualpool: what runs inside vLLM's processes."""
