"""Where each KV block of each layer lies in the engine's one buffer, read from the strides vLLM gave its tensors.

Every layer is a view `[block, head, token, content]`. vLLM may split one of its scheduler's blocks into several kernel blocks,
which follow each other in the view.
"""

from typing import Any

import torch


def runs_of_block(shape: tuple[int, ...], strides: tuple[int, ...], item: int) -> list[tuple[int, int]]:
    """The contiguous (offset, length) byte runs of an array of this shape and these strides (in items), in ascending order."""
    dims = sorted((stride * item, size) for stride, size in zip(strides, shape, strict=True) if size > 1)
    length = item
    while dims and dims[0][0] == length:  # this dimension continues the run
        length *= dims.pop(0)[1]
    offsets = [0]
    for stride, size in reversed(dims):  # outermost first, so that offsets ascend
        offsets = [offset + i * stride for offset in offsets for i in range(size)]
    return [(offset, length) for offset in offsets]


def describe_layer(name: str, view: torch.Tensor, group: int, block_size: int, buffer: torch.Tensor) -> dict[str, Any]:
    """One layer for the `register` message. Raises ValueError for a view that does not follow the scheme above."""
    if not isinstance(view, torch.Tensor) or view.dim() != 4:
        shape = tuple(view.shape) if isinstance(view, torch.Tensor) else type(view).__name__
        raise ValueError(f"dualpool: layer {name} keeps its cache as {shape}, not as [block, head, token, content]")
    item, tokens = view.element_size(), view.shape[2]
    if block_size % tokens or view.shape[0] % (block_size // tokens):
        raise ValueError(f"dualpool: layer {name} has {view.shape[0]} kernel blocks of {tokens} tokens; blocks are of {block_size}")
    split = block_size // tokens
    base = view.data_ptr() - buffer.data_ptr()
    shape, strides = tuple(view.shape), tuple(view.stride())
    return {
        "name": name,
        "group": group,
        "dtype": str(view.dtype).removeprefix("torch."),
        "base": base,
        "block_stride": strides[0] * item * split,
        "blocks": shape[0] // split,
        "runs": runs_of_block((split, *shape[1:]), (strides[0], *strides[1:]), item),
    }
