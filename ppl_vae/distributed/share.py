"""Which rows of a batch a process has, and what its part of a mean over all of them counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Share"]


@dataclass(frozen=True)
class Share:
    """The rows of process `rank` of `size`: as many as the others have, or one more, in the order of the batch.

    Where there are fewer rows than processes, one without a row computes the first one of the batch, which counts
    nothing: programs need not know of batches without rows, and whoever gathers finds everybody.

    Example:
        >>> [Share(rank, 2, 5).rows for rank in (0, 1)]
        [slice(0, 2, None), slice(2, 5, None)]
        >>> Share(0, 2, 1).rows, Share(0, 2, 1).weight
        (slice(0, 1, None), 0.0)
    """

    rank: int
    size: int
    total: int

    @property
    def counts(self) -> list[int]:
        """How many rows every process has, 0 included."""
        return [(r + 1) * self.total // self.size - r * self.total // self.size for r in range(self.size)]

    @property
    def rows(self) -> slice:
        """The rows that this process computes."""
        first, last = (r * self.total // self.size for r in (self.rank, self.rank + 1))
        return slice(first, last) if last > first else slice(0, 1)

    @property
    def computed(self) -> int:
        """How many rows this process computes, one at least."""
        return self.rows.stop - self.rows.start

    @property
    def weight(self) -> float:
        """What a mean over the rows of this process counts in the mean over all: their number / B, or 0."""
        return self.counts[self.rank] / self.total

    @property
    def once(self) -> float:
        """What the part that all processes compute alike counts in a sum over them: once in all."""
        return 1 / self.size

    def of(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The rows of this process, of every field."""
        return {name: values[self.rows] for name, values in batch.items()}
