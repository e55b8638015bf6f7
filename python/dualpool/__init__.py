"""The Python half of dualpool: what runs inside vLLM's processes, and the loop that drives the engines from the Rust process."""
