"""How much memory a run of some rows and particles takes, told from four runs on very few of them.

After every operation of a run the bytes are counted that its tensors hold. In a run of B rows and K particles that is
a + b B + d K + c B K, with other constants after every operation: an encoder's layers grow with the rows, a triangular
matrix that all particles share does not grow with the particles. Four small runs give the constants of every operation;
the peak of a large run is the largest of these sums, whichever operation that is then.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Footprint", "footprint", "live_bytes"]


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are made inside and still alive, after every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.history: list[int] = []
        self.storages: dict[int, weakref.ref[Any]] = {}
        """By their identity, which is theirs as long as they are here."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch's own question: else it imports its compiler, which takes a second, and asks it at every operation."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = {id(storage): storage for storage in _storages(result) if id(storage) not in self.storages}
        if made:
            for storage in _storages((args, kwargs)):  # a view, or written in place
                made.pop(id(storage), None)
            for storage in made.values():
                self._count(storage)
        self.history.append(self.bytes)
        return result

    def _count(self, storage: Any) -> None:
        size, name = storage.nbytes(), id(storage)
        self.bytes += size

        def released(_: Any) -> None:
            self.bytes -= size
            del self.storages[name]

        self.storages[name] = weakref.ref(storage, released)


def _storages(values: Any) -> Iterator[Any]:
    """The storages of all tensors in arguments or results: torch's `tree_leaves` takes longer than the operation."""
    if isinstance(values, Tensor):
        yield values.untyped_storage()
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _storages(value)
    elif isinstance(values, dict):
        for value in values.values():
            yield from _storages(value)


def live_bytes(function: Callable[[], object]) -> list[int]:
    """Bytes that the tensors made by a function hold, after each of its operations.

    Example:
        >>> x = torch.zeros(1000)
        >>> live_bytes(lambda: (x + 1).exp().sum())  # x + 1, then exp beside it, then the sum beside exp
        [4000, 8000, 4004]
    """
    collecting = gc.isenabled()
    gc.disable()  # or what is alive after an operation would depend on when Python last looked for cycles
    try:
        with _LiveBytes() as counted:
            function()
    finally:
        if collecting:
            gc.enable()
    return counted.history


@dataclass(frozen=True)
class Footprint:
    """The bytes of a run of `rows` and `particles` after each operation, [operation]: the sum of four parts."""

    constant: Tensor
    per_row: Tensor
    per_particle: Tensor
    per_cell: Tensor

    def peak(self, rows: int, particles: int) -> float:
        """Bytes that a run of so many rows and particles takes at its largest."""
        fixed, each = self._of_rows(rows)
        return float((fixed + each * particles).max())

    def most_particles(self, rows: int, limit: float) -> int:
        """How many particles of so many rows fit into `limit` bytes; at least 1."""
        return _most(*self._of_rows(rows), limit)

    def most_rows(self, particles: int, limit: float) -> int:
        """How many rows of so many particles fit into `limit` bytes; at least 1."""
        fixed = self.constant + self.per_particle * particles
        return _most(fixed, self.per_row + self.per_cell * particles, limit)

    def _of_rows(self, rows: int) -> tuple[Tensor, Tensor]:
        return self.constant + self.per_row * rows, self.per_particle + self.per_cell * rows


def _most(fixed: Tensor, each: Tensor, limit: float) -> int:
    """The largest n of at least 1 with fixed + each n <= limit after every operation."""
    grows = each > 0
    if not bool(grows.any()):
        return 2**62
    return max(1, math.floor(float(((limit - fixed[grows]) / each[grows]).min())))


def footprint(function: Callable[[int, int], object], rows: int, particles: int, enough: float = 0.0) -> Footprint:
    """The memory of `function(rows, particles)`, told from runs on 2 and 4 of them, or on as many as there are.

    Where that many rows and particles take less than `enough` bytes, even if all that the largest of these runs holds
    were for each row and particle, this run alone is looked at, and the footprint is that upper bound.

    Where runs of different sizes are not the same operations (a program that runs once for each particle), their
    peaks stand for all of them.

    Example:
        >>> x = torch.zeros(100, 8)
        >>> found = footprint(lambda rows, particles: (x[:rows] + torch.zeros(particles, rows, 8)).exp(), 100, 1000)
        >>> found.peak(100, 10), found.most_particles(100, 64_000)
        (64000.0, 10)
    """
    few_rows, few_particles = (sorted({min(2, n), min(4, n)}) for n in (rows, particles))
    largest = live_bytes(lambda: function(few_rows[-1], few_particles[-1]))
    each = max(largest, default=0) / (few_rows[-1] * few_particles[-1])
    if each * rows * particles <= enough:
        none = torch.zeros(1, dtype=torch.float64)
        return Footprint(none, none, none, none + each)
    histories = [
        [
            largest if (b, k) == (few_rows[-1], few_particles[-1]) else live_bytes(lambda b=b, k=k: function(b, k))  # type: ignore[misc]
            for k in few_particles
        ]
        for b in few_rows
    ]
    if len({len(h) for row in histories for h in row}) > 1:
        histories = [[[max(h)] for h in row] for row in histories]
    at = torch.tensor(histories, dtype=torch.float64)  # [rows, particles, operation]
    (b, *_), (k, *_) = few_rows, few_particles
    step_b, step_k = few_rows[-1] - b or 1, few_particles[-1] - k or 1
    first, by_row, by_particle = at[0, 0], at[-1, 0] - at[0, 0], at[0, -1] - at[0, 0]
    per_cell = (at[-1, -1] - at[-1, 0] - by_particle) / (step_b * step_k)
    per_row, per_particle = by_row / step_b - per_cell * k, by_particle / step_k - per_cell * b
    constant = first - per_row * b - per_particle * k - per_cell * b * k
    return Footprint(constant, per_row, per_particle, per_cell)
