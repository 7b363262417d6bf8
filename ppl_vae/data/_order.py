"""Shuffling of rows that come in blocks: the order of the blocks, and of the rows within as many as a buffer holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, overload

import torch
from torch import Tensor

__all__ = ["BlockOrder", "BufferedBatches"]


@dataclass(frozen=True)
class BlockOrder:
    """How rows are shuffled: blocks (row groups) in random order, then rows within a buffer of neighbouring ones.

    Attributes:
        counts: how many rows each block has.
        buffer: so many rows are in memory and shuffled at a time, or those of one block where it has more.
    """

    counts: tuple[int, ...]
    buffer: int

    def batches(self, size: int, generator: torch.Generator) -> BufferedBatches:
        """The batches of an epoch, of which the generator gives the order."""
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        return BufferedBatches(self, size, seed)


class BufferedBatches(Sequence[Tensor]):
    """The numbers of the rows of every batch of an epoch: a function of the seed, computed when it is asked for.

    Example:
        >>> batches = BlockOrder((4, 3, 5), buffer=6).batches(5, torch.Generator())
        >>> [len(index) for index in batches], sorted(torch.cat([*batches]).tolist()) == list(range(12))
        ([5, 5, 2], True)
    """

    def __init__(self, order: BlockOrder, size: int, seed: int) -> None:
        self.order, self.size, self.seed = order, size, seed
        starts = [0, *accumulate(order.counts)]
        self.rows = starts[-1]
        self.windows: list[list[int]] = []
        held = order.buffer
        for block in torch.randperm(len(order.counts), generator=_seeded(seed, -1)).tolist():
            if not order.counts[block]:
                continue
            if held >= order.buffer:
                self.windows.append([])
                held = 0
            self.windows[-1].append(block)
            held += order.counts[block]
        self.edges = [0, *accumulate(sum(order.counts[b] for b in window) for window in self.windows)]
        self._starts = starts
        self.window = lru_cache(maxsize=2)(self._window)
        steps = -(-self.rows // size)
        # one row has no variance (BatchNorm), and a step of noise
        self._steps = steps - 1 if steps > 1 and self.rows % size == 1 else steps

    @property
    def sizes(self) -> list[int]:
        """How many rows every batch has."""
        return [self.size] * (self._steps - 1) + [self.rows - self.size * (self._steps - 1)]

    def __len__(self) -> int:
        return self._steps

    @overload
    def __getitem__(self, place: int) -> Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        low, high = self.span(place % len(self))
        parts = []
        for number in range(self.window_at(low), len(self.windows)):
            first, last = self.edges[number : number + 2]
            if first >= high:
                break
            parts.append(self.window(number)[max(low - first, 0) : high - first])
            if last >= high:
                break
        return torch.cat(parts)

    def span(self, place: int) -> tuple[int, int]:
        """Where a batch begins and ends among the rows in the order of the epoch."""
        low = place * self.size
        return low, self.rows if place == len(self) - 1 else low + self.size

    def window_at(self, row: int) -> int:
        """The buffer in which a row of the epoch is."""
        import bisect

        return bisect.bisect_right(self.edges, row) - 1

    def shuffle(self, number: int) -> Tensor:
        """The order of the rows within a buffer."""
        size = self.edges[number + 1] - self.edges[number]
        return torch.randperm(size, generator=_seeded(self.seed, number))

    def _window(self, number: int) -> Tensor:
        """The numbers of the rows of a buffer, in their order."""
        parts = [torch.arange(self._starts[b], self._starts[b + 1]) for b in self.windows[number]]
        return torch.cat(parts)[self.shuffle(number)]


def _seeded(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15 * (number + 1)) % 2**63)
