"""What everything that goes through rows asks of them, wherever they live: in memory or in files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ppl_vae.errors import UserError, shown

if TYPE_CHECKING:
    from ppl_vae.data.dataset import Split
    from ppl_vae.data.schema import Schema

__all__ = ["Moments", "Rows", "chosen_rows", "shuffled", "sizes_of"]


class Moments(NamedTuple):
    """Mean and variance [D] of the observed entries of a field, flattened; 0 where none is observed."""

    mean: Tensor
    variance: Tensor


@runtime_checkable
class Rows(Protocol):
    """Rows with a schema, one after the other or in any order; `Split` holds them as tensors.

    `fit`, its validation, `evaluate`, `predict`, `impute` and `encode` go through rows by these methods alone.

    Example:
        >>> from ppl_vae.data import load
        >>> isinstance(load("digits").train, Rows)
        True
    """

    @property
    def schema(self) -> Schema:
        """What the fields are."""

    @property
    def name(self) -> str:
        """`train`, `validation`, `test` or `rows`."""

    @property
    def is_one_unit(self) -> bool:
        """Whether all data are one unit, without rows."""

    @property
    def device(self) -> torch.device:
        """Where batches are."""

    @property
    def head(self) -> Split:
        """Rows in memory from which a model is made: all of them, or the first of very many."""

    @property
    def sample(self) -> Split:
        """Rows in memory that programs are read on: with the least and largest value of every entry, and its holes."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor | slice | None = None, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """These rows by field name, [row, *field.shape]."""

    def scan(self, rows: int) -> Iterator[dict[str, Tensor]]:
        """All rows in their order, so many at a time."""

    def stored(self, name: str, rows: int) -> Iterator[Tensor]:
        """The stored values of a field in the order of the rows, those of so many rows at a time."""

    def batches(self, size: int, generator: torch.Generator) -> Sequence[Tensor]:
        """The numbers of the rows of every batch of an epoch, in an order that the generator gives."""

    def served(
        self, batches: Sequence[Tensor], generator: torch.Generator | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The batches of an epoch from number `start` on: the numbers of their rows, and the rows."""

    def moments(self, name: str) -> Moments:
        """Mean and variance of a field of numbers."""

    def fingerprint(self) -> str:
        """A hash of all values, in their order."""


def sizes_of(batches: Sequence[Tensor]) -> list[int]:
    """How many rows every batch has; of batches that are made when they are asked for, without making them."""
    known: list[int] | None = getattr(batches, "sizes", None)
    return [len(index) for index in batches] if known is None else known


def shuffled(rows: int, size: int, generator: torch.Generator, device: torch.device) -> list[Tensor]:
    """All rows once in random order, in batches; a last batch of one row goes into the one before it.

    Example:
        >>> [len(index) for index in shuffled(9, 4, torch.Generator(), torch.device("cpu"))]
        [4, 5]
    """
    batches = list(torch.randperm(rows, generator=generator, device=device).split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:  # one row has no variance (BatchNorm), and a step of noise
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def chosen_rows(asked: Any, count: int) -> Tensor:
    """Rows that somebody asks for among so many: their numbers, or a truth value for each.

    Raises:
        UserError: for anything else.

    Example:
        >>> chosen_rows([0, -1], 3), chosen_rows([True, False, True], 3)
        (tensor([ 0, -1]), tensor([ True, False,  True]))
    """
    try:
        found = torch.as_tensor(asked)
        if found.dtype == torch.bool and found.shape == (count,):
            return found
        numbers = found.long()
        if found.dim() == 1 and torch.equal(numbers, found) and bool(((-count <= numbers) & (numbers < count)).all()):
            return numbers
    except (TypeError, ValueError, RuntimeError):  # what torch says of what is no list of numbers
        pass
    raise UserError(f"expected numbers of rows, 0 to {count - 1}, or a truth value for each, got {shown(asked)}")
