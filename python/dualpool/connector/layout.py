"""Where each KV block of each layer lies in the engine's memory, read from the strides vLLM gave its tensors.

| view | vLLM |
|---|---|
| `[block, head, token, content]` | 0.32 |
| `[block, 2, token, head, content]` | 0.26: keys and values of a block beside each other |
| `[2, block, token, head, content]` | 0.26: all keys before all values, which are two layers here |
| `[block, token, content]` | 0.26: latent attention |

The axes lie in memory in any order, the layer's own axis (which is not in the view) among them: only strides count. vLLM may split one of
its scheduler's blocks into several kernel blocks, which follow each other in the view.
"""

from collections.abc import Callable
from typing import Any

import torch


def ranges_of_block(shape: tuple[int, ...], strides: tuple[int, ...], item: int) -> list[tuple[int, int]]:
    """The contiguous (offset, length) byte ranges of an array of this shape and these strides (in items), in ascending order."""
    dims = sorted((stride * item, size) for stride, size in zip(strides, shape, strict=True) if size > 1)
    length = item
    while dims and dims[0][0] == length:  # this dimension continues the range
        length *= dims.pop(0)[1]
    offsets = [0]
    for stride, size in reversed(dims):  # outermost first, so that offsets ascend
        offsets = [offset + i * stride for offset in offsets for i in range(size)]
    return [(offset, length) for offset in offsets]


def describe_layer(name: str, view: torch.Tensor, group: int, block_size: int, offset_of: Callable[[int], int]) -> list[dict[str, Any]]:
    """One layer for the `register` message, or two where keys and values lie apart: their distance depends on how many blocks an engine
    has, and engines that differ in that can exchange blocks all the same. Raises ValueError for a view that follows no scheme above."""
    if isinstance(view, torch.Tensor) and view.dim() == 5 and 2 in view.shape[:2]:
        if tuple(view.shape[:2]) == (2, 2):
            raise ValueError(f"dualpool: layer {name} has 2 blocks, so that its shape {tuple(view.shape)} does not tell blocks from keys")
        if view.shape[0] == 2:
            parts = (("keys", view[0]), ("values", view[1]))
            return [describe_view(f"{name}.{part}", half, 1, group, block_size, offset_of) for part, half in parts]
        return [describe_view(name, view, 2, group, block_size, offset_of)]
    if isinstance(view, torch.Tensor) and view.dim() == 4:
        return [describe_view(name, view, 2, group, block_size, offset_of)]
    if isinstance(view, torch.Tensor) and view.dim() == 3:
        return [describe_view(name, view, 1, group, block_size, offset_of)]
    shape = tuple(view.shape) if isinstance(view, torch.Tensor) else type(view).__name__
    raise ValueError(f"dualpool: layer {name} keeps its cache as {shape}, not as [block, head, token, content]")


def describe_view(
    name: str, view: torch.Tensor, token_axis: int, group: int, block_size: int, offset_of: Callable[[int], int]
) -> dict[str, Any]:
    """One layer from a view whose first axis is the block."""
    item, tokens = view.element_size(), view.shape[token_axis]
    if block_size % tokens or view.shape[0] % (block_size // tokens):
        raise ValueError(f"dualpool: layer {name} has {view.shape[0]} kernel blocks of {tokens} tokens; blocks are of {block_size}")
    split = block_size // tokens
    shape, strides = tuple(view.shape), tuple(view.stride())
    return {
        "name": name,
        "group": group,
        "dtype": str(view.dtype).removeprefix("torch."),
        "base": offset_of(view.data_ptr()),
        "block_stride": strides[0] * item * split,
        "blocks": shape[0] // split,
        "ranges": ranges_of_block((split, *shape[1:]), (strides[0], *strides[1:]), item),
    }


def views_of_layers(tensor: torch.Tensor, order: tuple[int, ...], names: list[list[str]]) -> dict[str, torch.Tensor]:
    """vLLM 0.26's one tensor for all layers as a view per layer. It comes with its axes as they lie in memory; `order` says which axis of
    `[layer, ...]` each of them is. `names[i]` are the layers that share the i-th place."""
    views = tensor.permute([order.index(axis) for axis in range(len(order))])
    return {name: views[place] for place, shared in enumerate(names) for name in shared}
