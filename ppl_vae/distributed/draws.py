"""The draws of a process are its rows of the draws that one process would make for the whole batch.

Every process has the generator of all. A random call on the rows of a process is made for all rows of the batch, from
the same state, and the process keeps its own part: noise is a function of step and row, not of the process. What a
sampler is told of other rows does not matter where it takes as many random numbers whatever it is told (normal,
uniform, ...). Where it does (gamma, Dirichlet, Poisson), the processes tell each other their rows first. Gradients
through draws are those of torch, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from ppl_vae.distributed.calls import Axis, Call, Reading, Site, is_random, unshared
from ppl_vae.distributed.group import Group
from ppl_vae.distributed.share import Share

__all__ = ["SharedDraws"]

_aten = torch.ops.aten
_OF_OTHERS = (_aten._standard_gamma, _aten._sample_dirichlet, _aten.poisson, _aten.binomial)
"""Samplers that take more or fewer random numbers for a row by what its parameters are."""


class SharedDraws:
    """The random calls of a run on the rows of a process, made as one process makes them on all rows.

    Args:
        reading: the calls of such a run.
        group: the processes.
        dim: of the rows' plate.
    """

    def __init__(self, reading: Reading, group: Group, dim: int) -> None:
        self.reading, self.group, self.dim = reading, group, dim

    @property
    def asks_others(self) -> bool:
        """Whether processes tell each other their rows while they draw."""
        return any(call.is_of_rows and call.op.overloadpacket in _OF_OTHERS for call in self.reading.calls)

    @contextmanager
    def __call__(self, share: Share) -> Iterator[None]:
        """Around a run of the programs on the rows of `share`.

        Raises:
            UserError: the run makes other random calls than were read.
        """
        site = Site(self.dim)
        made = _Whole(self.reading, self.group, share, site)
        with _Functions(self.reading, made), site:
            yield
        if made.place != len(self.reading.calls):
            raise unshared(site.last, "as often as its values ask for")


class _Functions(TorchFunctionMode):
    """Looks into those functions of torch in which something is drawn; all others run as they are."""

    def __init__(self, reading: Reading, whole: _Whole) -> None:
        super().__init__()
        self.drawing, self.whole = reading.functions, whole

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self.drawing:
            return func(*args, **(kwargs or {}))
        with self.whole:
            return func(*args, **(kwargs or {}))


class _Whole(TorchDispatchMode):
    """Makes random operations for all rows of the batch, and gives those of a share."""

    def __init__(self, reading: Reading, group: Group, share: Share, site: Site) -> None:
        super().__init__()
        self.calls, self.group, self.share, self.site = reading.calls, group, share, site
        self.place = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not is_random(func):
            return func(*args, **kwargs)
        call = self.calls[self.place] if self.place < len(self.calls) else None
        if call is None or call.op != func:
            raise unshared(self.site.name, "as often as its values ask for")
        self.place += 1
        found = self._for_all(call, args, kwargs) if call.is_of_rows else func(*args, **kwargs)
        for value, shape, axis in zip(tree_leaves(found), call.shapes, call.gave, strict=True):
            if _beside(value.shape, axis) != _beside(shape, axis):
                raise unshared(call.site, "as many numbers as its values ask for")
        return found

    def _for_all(self, call: Call, args: Any, kwargs: Any) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        given, sizes = iter(call.given), iter(call.sizes)
        asks = call.op.overloadpacket in _OF_OTHERS
        whole = []
        for leaf in leaves:
            axis = next(given if isinstance(leaf, Tensor) else sizes)
            if axis is None:
                whole.append(leaf)
            elif isinstance(leaf, Tensor):
                whole.append(self._whole(call, leaf, axis, asks))
            else:
                whole.append(self._size(call, leaf, axis))
        own, more = tree_unflatten(whole, spec)
        found = call.op(*own, **more)
        axes = iter(call.gave)
        kept = tree_map_only(Tensor, lambda value: self._own(value, next(axes)), found)
        if call.op._schema.is_mutable:  # `normal_` and its like give the tensor that they were given
            return args[0].copy_(kept)
        return kept

    def _size(self, call: Call, size: int, axis: Axis) -> int:
        if size != axis.outer * self.share.computed * axis.inner:
            raise unshared(call.site, "as many numbers as its values ask for")
        return axis.outer * self.share.total * axis.inner

    def _whole(self, call: Call, own: Tensor, axis: Axis, asks: bool) -> Tensor:
        """A tensor of all rows from that of some, laid out in memory as it is: the others' rows, or ones."""
        size = self._size(call, own.shape[axis.dim], axis)
        if asks:
            apart = own.unflatten(axis.dim, (axis.outer, -1, axis.inner)).movedim(axis.dim + 1, 0)
            rows = self.group.rows(apart.contiguous(), self.share.counts)
            return rows.movedim(0, axis.dim + 1).flatten(axis.dim, axis.dim + 2).contiguous()
        shape = [*own.shape[: axis.dim], size, *own.shape[axis.dim + 1 :]]
        order = list(range(own.dim()))
        if not own.is_contiguous():  # numbers are drawn in the order in which they lie in memory
            order.sort(key=own.stride, reverse=True)
        whole = own.new_ones([shape[i] for i in order]).permute([order.index(i) for i in range(own.dim())])
        self._part(whole, axis).copy_(own.unflatten(axis.dim, (axis.outer, self.share.computed, axis.inner)))
        return whole

    def _part(self, whole: Tensor, axis: Axis) -> Tensor:
        """The rows of the share in a tensor of all rows, [..., outer, row, inner, ...]."""
        apart = whole.unflatten(axis.dim, (axis.outer, self.share.total, axis.inner))
        return apart.narrow(axis.dim + 1, self.share.rows.start, self.share.computed)

    def _own(self, value: Tensor, axis: Axis | None) -> Tensor:
        """The rows of the share, of a result for all rows."""
        if axis is None:
            return value
        return self._part(value, axis).flatten(axis.dim, axis.dim + 2).clone()


def _beside(shape: Sequence[int], axis: Axis | None) -> list[int]:
    """The sizes of all other dims."""
    return [n for i, n in enumerate(shape) if axis is None or i != axis.dim]
