"""Blocks of a store as tensors by field, of the rows of one part: training, validation or test."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._columns import NUMERIC, column
from ppl_vae.data._permutation import Permutation
from ppl_vae.data._stores import Store, place_in
from ppl_vae.data.conform import as_split
from ppl_vae.data.containers import Labelled
from ppl_vae.data.convert import convert
from ppl_vae.data.dataset import columns_of
from ppl_vae.data.schema import Field, Schema
from ppl_vae.errors import UserError

__all__ = ["PARTS", "Parts", "Reader", "relocated"]

AT_ONCE = 4096
"""So many rows are converted at a time."""

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Parts:
    """Which rows are for training, validation and test: a function of a row's number and the seed.

    Example:
        >>> part = Parts(rows=100, test=20, validation=10, seed=0)
        >>> np.bincount(part(np.arange(100))).tolist()
        [70, 10, 20]
    """

    rows: int
    test: int
    validation: int
    seed: int

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """0 for training, 1 for validation, 2 for test."""
        if not self.test + self.validation:
            return np.zeros(len(rows), dtype=np.int64)
        place = Permutation(self.rows, self.seed)(rows)
        return np.where(place < self.test, 2, np.where(place < self.test + self.validation, 1, 0))


@dataclass(frozen=True)
class Reader:
    """Blocks of a store as tensors by field, of the rows of one part."""

    store: Store
    schema: Schema
    parts: Parts
    label: str | None
    columns: tuple[str, ...] | None
    looked_at: bool = True

    def block(self, number: int, part: int, schema: Schema | None = None) -> dict[str, Tensor]:
        """The rows of a block that are in train (0), validation (1) or test (2), by field [row, *shape].

        Raises:
            UserError: for what cannot be read, or does not fit the fields.
        """
        schema = schema or self.schema
        start = sum(self.store.lengths[:number])
        try:
            tensors = self._tensors(self.store.block(number, self.columns), schema)
        except UserError as problem:
            raise relocated(problem, lambda row: place_in(self.store, start + row)) from problem
        chosen = np.flatnonzero(self.parts(np.arange(start, start + self.store.lengths[number])) == part)
        if len(chosen) == self.store.lengths[number]:
            return tensors
        index = torch.from_numpy(chosen)
        return {name: values[index] for name, values in tensors.items()}

    def _tensors(self, piece: Any, schema: Schema) -> dict[str, Tensor]:
        """A block by field: numbers that need no look straight away, all else as any rows are taken."""
        found = {f.name: values for f in schema if (values := self.straight(f, piece)) is not None}
        rest = [f for f in schema if f.name not in found]
        if [f.name for f in rest] == ["y"] and self.label is not None:  # which is no row without other columns
            labels = piece.select([self.label]).to_pandas()[self.label]
            return found | {"y": convert(rest[0], column(self.label, labels, rest[0].kind, label=True))}
        if rest:
            taken = as_split(self._rows(piece, rest), schema=schema.of(rest))
            found |= taken.fields
        return {name: found[name] for name in schema.names}

    def _rows(self, piece: Any, fields: Sequence[Field]) -> Any:
        """A block as other functions of this package take rows, of these fields at least."""
        if isinstance(piece, Mapping):
            return {f.name: piece[f.name] for f in fields if f.name in piece}
        frame = piece.to_pandas()
        return frame if self.label is None else Labelled(frame, self.label)

    def straight(self, field: Field, piece: Any) -> Tensor | None:
        """Numbers that were looked at already and are kept as they are, [row, *shape]; None for others."""
        if not self.looked_at or field.kind not in NUMERIC or field.origin or field.unit:
            return None
        if isinstance(piece, Mapping):
            values = piece.get(field.name)
            if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
                return None
            return torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
        names = columns_of(field)
        several = [names] if isinstance(names, str) else list(names)
        if not several or any(n not in piece.column_names for n in several):
            return None
        columns = [piece.column(n) for n in several]
        if not all(_is_plain(column.type) for column in columns):
            return None
        made, several_numbers = np.empty((len(piece), len(columns)), dtype=np.float32), [c.to_numpy() for c in columns]
        for start in range(0, len(piece), AT_ONCE):  # few enough to stay in the cache of a processor
            rows = slice(start, start + AT_ONCE)
            for place, numbers in enumerate(several_numbers):
                made[rows, place] = numbers[rows]
        tensor = torch.from_numpy(made)
        return tensor[:, 0].contiguous() if isinstance(names, str) else tensor


def _is_plain(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


_ROW = re.compile(r"\brow (\d+)( \(from 0\))?")


def relocated(problem: UserError, place: Callable[[int], str]) -> UserError:
    """What was said of a row of some rows, said of its place among all."""

    def told(found: re.Match[str]) -> str:
        return f"{place(int(found[1]))} (from 0)"

    return UserError(_ROW.sub(told, str(problem)))
