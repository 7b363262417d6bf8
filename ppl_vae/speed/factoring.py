"""A linear map of joined features, of which some are the same for many rows: their products are taken once.

Where a label is summed out, a network reads [x, label] for every value of the label: h = W [x, y] = W_x x + W_y y. The
first part, by far the larger, does not depend on the label. The same holds for the gradient of W. Rounding differs
from the product as it was written, so that this is done to a graph before it is compiled, and not to a captured one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import fx

__all__ = ["factored"]

_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten._unsafe_view.default)

WORTH = 0.75
"""A product is taken apart if that leaves at most this share of its arithmetic."""


class _Part(NamedTuple):
    """A piece of joined features: its tensor before it was expanded (and rounded), and which columns it is."""

    source: fx.Node
    shape: tuple[int, ...]
    start: int
    width: int
    rounded: dict[str, Any]

    def matrix(self, graph: fx.Graph) -> fx.Node:
        """Its own rows, [row, feature]."""
        found = graph.call_function(_aten.reshape.default, (self.source, [-1, self.width]))
        return graph.call_function(_aten._to_copy.default, (found,), self.rounded) if self.rounded else found


def factored(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of a graph with matrix products of joined, repeated features taken apart, forwards and backwards."""
    module = fx.GraphModule(module, copy.deepcopy(module.graph))
    for node in list(module.graph.nodes):
        if node.target is _aten.addmm.default and len(node.args) == 3 and not node.kwargs:
            joined = _joined(node.args[1])
            if joined is not None:
                _forwards(module.graph, node, *joined)
        elif node.target is _aten.mm.default:
            joined = _joined(node.args[1])
            if joined is not None and node.args[0].target is _aten.t.default:
                _backwards(module.graph, node, *joined)
    module.graph.eliminate_dead_code(lambda node: node.is_impure())
    module.graph.lint()
    module.recompile()
    return module


def _joined(node: Any) -> tuple[tuple[int, ...], list[_Part]] | None:
    """The rows' shape and the parts behind a matrix of joined features, if it is worth while to take it apart."""
    if not isinstance(node, fx.Node) or node.target not in _VIEWS:
        return None
    rounded: dict[str, Any] = {}
    cat: Any = node.args[0]
    if isinstance(cat, fx.Node) and cat.target is _aten._to_copy.default and set(cat.kwargs) == {"dtype"}:
        cat, rounded = cat.args[0], dict(cat.kwargs)  # factors in bfloat16
    shape = _shape(cat)
    if not isinstance(cat, fx.Node) or cat.target is not _aten.cat.default or shape is None:
        return None
    last = cat.args[1] if len(cat.args) > 1 else 0
    if last not in (-1, len(shape) - 1) or _shape(node) != (math.prod(shape[:-1]), shape[-1]):
        return None
    parts, start = [], 0
    for piece in cat.args[0]:  # type: ignore[union-attr]
        source = piece.args[0] if piece.target is _aten.expand.default else piece  # type: ignore[union-attr]
        own, whole = _shape(source), _shape(piece)
        if own is None or whole is None or own[-1] != whole[-1]:
            return None
        own = (1,) * (len(shape) - len(own)) + own
        parts.append(_Part(source, own, start, whole[-1], rounded))  # type: ignore[arg-type]
        start += whole[-1]
    rows = math.prod(shape[:-1])
    left = sum(p.width * math.prod(p.shape[:-1]) for p in parts)
    return (shape[:-1], parts) if left <= WORTH * rows * start else None


def _shape(node: Any) -> tuple[int, ...] | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, torch.Tensor) or not all(isinstance(n, int) for n in value.shape):
        return None
    return tuple(value.shape)


def _forwards(graph: fx.Graph, node: fx.Node, rows: tuple[int, ...], parts: Sequence[_Part]) -> None:
    """b + [x, y] W as x W_x + y W_y + b, where each product has only the rows that differ."""
    bias, _, weight = node.args
    size = _shape(node)[1]  # type: ignore[index]
    with graph.inserting_before(node):
        total: Any = bias
        for part in parts:
            slab = graph.call_function(_aten.slice.Tensor, (weight, 0, part.start, part.start + part.width))
            product = graph.call_function(_aten.mm.default, (part.matrix(graph), slab))
            placed = graph.call_function(_aten.reshape.default, (product, [*part.shape[:-1], size]))
            total = graph.call_function(_aten.add.Tensor, (placed, total))
        total = graph.call_function(_aten.expand.default, (total, [*rows, size]))
        result = graph.call_function(_aten.reshape.default, (total, [math.prod(rows), size]))
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _backwards(graph: fx.Graph, node: fx.Node, rows: tuple[int, ...], parts: Sequence[_Part]) -> None:
    """G' [x, y] as [(sum of G over the repetitions of x)' x, ...]."""
    gradient = node.args[0].args[0]  # type: ignore[union-attr]
    size = _shape(node)[0]  # type: ignore[index]
    with graph.inserting_before(node):
        spread = graph.call_function(_aten.reshape.default, (gradient, [*rows, size]))
        products = []
        for part in parts:
            dims = [i for i, (a, b) in enumerate(zip(part.shape, rows, strict=False)) if a != b]
            summed = graph.call_function(_aten.sum.dim_IntList, (spread, dims, True)) if dims else spread
            flat = graph.call_function(_aten.reshape.default, (summed, [-1, size]))
            left = graph.call_function(_aten.t.default, (flat,))
            products.append(graph.call_function(_aten.mm.default, (left, part.matrix(graph))))
        result = graph.call_function(_aten.cat.default, (products, 1))
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.erase_node(node)
