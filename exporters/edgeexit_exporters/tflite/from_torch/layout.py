"""Channel order of 4-D tensors (first in torch, last in TFLite), derived from the operations."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import fx

NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
"""Axes that bring channels last, and first again."""
_PICTURE_OPS = {
    "conv2d", "convolution", "_convolution", "conv_transpose2d", "max_pool2d", "max_pool2d_with_indices", "avg_pool2d",
    "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "batch_norm", "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training", "_batch_norm_with_update", "instance_norm", "group_norm",
    "native_group_norm", "upsample_nearest2d", "upsample_bilinear2d", "pixel_shuffle", "pixel_unshuffle",
}  # fmt: skip
_OTHER_AXES = {
    "permute", "transpose", "t", "view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze",
    "movedim", "matmul", "bmm", "einsum", "scaled_dot_product_attention", "stack", "unbind", "select", "embedding",
}  # fmt: skip
"""Operations whose outputs' axes are not those of their inputs."""
_ANY_AXES = {
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "elu", "leaky_relu", "sigmoid", "tanh",
    "clamp", "abs", "exp", "sqrt", "neg", "add", "sub", "mul", "div", "maximum", "minimum",
}  # fmt: skip
"""Operations element by element: the same in any order of axes."""


def op_name(node: fx.Node) -> str:
    """`conv2d` of a node that calls `aten.conv2d.default`."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet.__name__) if packet is not None else str(getattr(node.target, "__name__", node.target))


def value(node: fx.Node) -> torch.Tensor | None:
    """The example of the tensor that a node gives (shape and type only); None = it gives none, or several."""
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


def permute(graph: fx.Graph, node: fx.Node, axes: tuple[int, ...]) -> fx.Node:
    return graph.call_function(torch.ops.aten.permute.default, (node, list(axes)))


def graph_outputs(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that a graph returns, flat."""
    (last,) = [n for n in graph.nodes if n.op == "output"]
    return [n for n in torch.utils._pytree.tree_leaves(last.args[0]) if isinstance(n, fx.Node)]


def pictures(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose tensors are (batch, channels, height, width).

    Tensors with 4 axes that are connected through operations which keep the axes (element by element, padding,
    pooling ...) are of one kind; a kind with a convolution, a pooling or a batch norm in it is pictures. So attention
    masks, and inputs that the model itself permutes from channels last, are not.
    """
    parent: dict[fx.Node, fx.Node] = {}

    def root(node: fx.Node) -> fx.Node:
        parent.setdefault(node, node)
        while parent[node] is not node:
            node = parent[node]
        return node

    seeds: list[fx.Node] = []
    for node in graph.nodes:
        if node.op != "call_function" or not (node.target is operator.getitem or _four(node)):
            continue
        name = op_name(node)
        sources = [] if name in _OTHER_AXES else [n for n in node.all_input_nodes if n.op != "get_attr" and _four(n)]
        for source in sources:
            parent[root(source)] = root(node)
        if name in _PICTURE_OPS:
            seeds.append(node)
    roots = {root(node) for node in seeds}
    return {node for node in parent if root(node) in roots and _four(node)}


def flat_for_linear(node: fx.Node, spatial: set[fx.Node]) -> tuple[int, int, int] | None:
    """(channels, height, width) of pictures that a node flattens for nothing but linear layers; None = it does not."""
    if op_name(node) not in {"view", "reshape", "flatten", "_unsafe_view"} or not isinstance(node.args[0], fx.Node):
        return None
    source, flat = value(node.args[0]), value(node)
    if node.args[0] not in spatial or source is None or flat is None or source.ndim != 4:
        return None
    channels, height, width = (int(n) for n in source.shape[1:])
    linear = all(
        u.op == "call_function"
        and op_name(u) == "linear"
        and u.args[0] is node
        and isinstance(u.args[1], fx.Node)
        and u.args[1].op == "get_attr"
        for u in node.users
    )
    fits = tuple(flat.shape) == (source.shape[0], channels * height * width)
    return (channels, height, width) if linear and fits and channels > 1 and height * width > 1 else None


def channels_last(graph: fx.Graph, node: fx.Node, last: Mapping[fx.Node, fx.Node]) -> fx.Node | None:
    """The operation written for channels last, where all that it reads is at hand so (`last`); else None.

    The converter's greedy pass works from convolutions on, and would leave a transpose before a padding that reads
    the edge of a stage.
    """
    name = op_name(node)
    if node.op != "call_function" or not node.all_input_nodes or any(n not in last for n in node.all_input_nodes):
        return None
    args = list(node.args)
    if name in {"pad", "constant_pad_nd"}:
        mode = args[2] if name == "pad" and len(args) > 2 else "constant"
        amounts = args[1]
        if mode != "constant" or not isinstance(amounts, list | tuple) or len(amounts) > 6:
            return None
        width, height, channels = (list(amounts) + [0] * 6)[0:2], (list(amounts) + [0] * 6)[2:4], list(amounts)[4:6]
        args[1] = [*(channels or [0, 0]), *width, *height]
    elif name == "cat":
        axis = args[1] if len(args) > 1 else 0
        if not isinstance(axis, int):
            return None
        args[1:] = [NHWC.index(axis % 4)]
    elif name not in _ANY_AXES:
        return None
    return graph.call_function(
        node.target,  # type: ignore[arg-type]
        fx.map_arg(tuple(args), lambda n: last[n]),
        fx.map_arg(dict(node.kwargs), lambda n: last[n]),
    )


def pooled(node: fx.Node, spatial: set[fx.Node]) -> list[int] | None:
    """For a mean (sum, maximum) over all places of pictures: its axes where channels come last; else None."""
    if op_name(node) not in {"mean", "sum", "amax", "amin"} or len(node.args) < 2 or node.args[0] not in spatial:
        return None
    axes, keep = node.args[1], node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    if keep or not isinstance(axes, list | tuple) or {int(str(a)) % 4 for a in axes} != {2, 3}:
        return None
    return [1, 2]


def rows_last_channels(weight: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """`(out, channels * height * width)` of a linear layer for features in (height, width, channels) order."""
    return weight.detach().reshape(-1, *shape).permute(0, 2, 3, 1).flatten(1).contiguous()


def _four(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, torch.Tensor) and value.ndim == 4
