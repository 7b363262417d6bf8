"""Large tables of numbers into memory, in little more of it than their tensors: read by pieces, put in their places.

Fields are decided on a digest, as of a stream (which says the same of them as all rows would); then every piece goes to
the rows of the splits that it belongs to. What is no plain number (names, dates, numbers that have to be centred) is
read as a whole, by the usual reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._arrays import decided, split_index
from ppl_vae.data._columns import NUMERIC
from ppl_vae.data._digest import FIRST, digest
from ppl_vae.data._options import Options
from ppl_vae.data._reader import Parts, Reader, relocated
from ppl_vae.data.containers import is_table
from ppl_vae.data.dataset import Data, assemble
from ppl_vae.data.schema import Schema
from ppl_vae.errors import UserError

__all__ = ["from_large"]

STEP = 2**15
"""So many rows are read at a time."""

LOOKED_AT = 2**14
"""So many first rows say whether float32 holds a column, of which 10,000 are compared (`_precision.ROWS`)."""

_OTHERS = ("group", "time", "lengths", "separator", "decimal", "encoding", "missing_marks")


class _Pieces:
    """A large table read from its beginning, a few rows at a time."""

    def __init__(self, rows: int, columns: list[str] | None) -> None:
        self.columns = columns
        self.lengths = tuple(min(STEP, rows - start) for start in range(0, rows, STEP))

    def block(self, number: int, columns: Sequence[str] | None) -> Any:
        raise NotImplementedError

    def named(self, number: int) -> str:
        """Nothing: whoever asked knows what it is."""
        return ""


class _Frame(_Pieces):
    """A DataFrame."""

    def __init__(self, frame: Any) -> None:
        super().__init__(len(frame), [str(c) for c in frame.columns])
        self.frame = frame

    def block(self, number: int, columns: Sequence[str] | None) -> Any:
        """Some rows as an Arrow table."""
        import pyarrow as pa

        some = self.frame.iloc[number * STEP : (number + 1) * STEP]
        return pa.Table.from_pandas(some if columns is None else some[list(columns)], preserve_index=False)


class _Array(_Pieces):
    """An array."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(len(array), ["x"])
        self.array = array

    def block(self, number: int, columns: Sequence[str] | None) -> Any:
        """Some rows."""
        return {"x": self.array[number * STEP : (number + 1) * STEP]}


class _Parquet(_Pieces):
    """A Parquet file, of which no row group is in memory as a whole."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.file: Any = pq.ParquetFile(path, buffer_size=2**16, pre_buffer=False)
        names = [str(c) for c in self.file.schema_arrow.empty_table().to_pandas().columns]
        super().__init__(self.file.metadata.num_rows, names)
        self.next, self.pieces = 0, iter(())

    def block(self, number: int, columns: Sequence[str] | None) -> Any:
        """The next rows; from the beginning where those come again."""
        import pyarrow as pa

        if number == 0:
            self.pieces = self._read(columns)
        return pa.Table.from_batches([next(self.pieces)])

    def _read(self, columns: Sequence[str] | None) -> Iterator[Any]:
        import pyarrow as pa

        held: list[Any] = []
        for batch in self.file.iter_batches(STEP, columns=None if columns is None else [*columns], use_threads=False):
            held.append(batch)
            table = pa.Table.from_batches(held)
            while len(table) >= STEP:
                yield table.slice(0, STEP).combine_chunks().to_batches()[0]
                table = table.slice(STEP)
            held = table.to_batches()
        if held:
            yield pa.Table.from_batches(held).combine_chunks().to_batches()[0]


class _Numpy(_Pieces):
    """A .npy file, read and not mapped: pages of a map are memory of the process too."""

    def __init__(self, path: Path, mapped: np.ndarray) -> None:
        super().__init__(len(mapped), ["x"])
        self.path, self.dtype, self.shape = path, mapped.dtype, mapped.shape[1:]
        self.offset: int = mapped.offset  # type: ignore[attr-defined]
        self.width = int(np.prod(self.shape, dtype=int))

    def block(self, number: int, columns: Sequence[str] | None) -> Any:
        """Some rows."""
        count = self.lengths[number] * self.width
        at = self.offset + number * STEP * self.width * self.dtype.itemsize
        found = np.fromfile(self.path, dtype=self.dtype, count=count, offset=at)
        return {"x": found.reshape(self.lengths[number], *self.shape)}


def from_large(source: Any, options: Options) -> Data | None:
    """A data set of a large table of numbers; None for all that is small or anything else.

    Raises:
        UserError: as `load` does.
    """
    if options.rows is None or options.binarise in ("dynamic", "static"):
        return None
    if any(getattr(options, name) is not None for name in _OTHERS):
        return None
    path = source if isinstance(source, Path) else None
    pieces = _pieces(source)
    if pieces is None:
        return None
    columns = _asked(options, pieces.columns)
    if columns is None:
        return None
    found = digest(pieces, lambda rows: np.zeros(len(rows), dtype=np.int64), columns, ["y"], first_rows=LOOKED_AT)
    numbers = found.rows
    table = found.table if isinstance(found.table, dict) else found.table.to_pandas()
    try:
        fields = decided(table, options)[0]
    except UserError as problem:
        told = relocated(problem, lambda row: f"row {int(numbers[min(row, len(numbers) - 1)])}")
        raise UserError(str(told) if path is None else f"{path}: {told}") from problem
    if any(f.kind not in NUMERIC or f.origin or f.unit for f in fields):
        return None
    import pyarrow

    rows = sum(pieces.lengths)
    schema = Schema(fields)
    del table, found
    pyarrow.default_memory_pool().release_unused()
    reader = Reader(pieces, schema, Parts(rows, 0, 0, 0), None, tuple(columns))
    index = split_index(rows, options)
    filled = _filled(reader, index)
    if filled is None:
        return None
    name, origin = ("array", {"name": "array"}) if path is None else (path.name, _origin(path, options))
    return assemble(name, schema, filled, frozenset(), origin)


def _pieces(source: Any) -> Any:
    """A large table of numbers by pieces; None for others."""
    if is_table(source):
        plain = all(getattr(d, "kind", "O") in "fiub" and isinstance(d, np.dtype) for d in source.dtypes)
        names = [str(c) for c in source.columns]
        usual = plain and all(isinstance(c, str) for c in source.columns) and len({*names}) == len(names)
        return _Frame(source) if usual and len(source) > FIRST else None
    if isinstance(source, np.ndarray) and not isinstance(source, np.ma.MaskedArray):
        large = source.dtype.kind in "fiub" and source.ndim > 1 and len(source) > FIRST
        return _Array(source) if large else None
    if not isinstance(source, Path) or source.suffix.lower() not in (".parquet", ".npy"):
        return None
    try:
        if source.suffix.lower() == ".npy":
            mapped = np.load(source, mmap_mode="r", allow_pickle=False)
            usual = mapped.dtype.kind in "fiub" and mapped.ndim > 1 and mapped.flags.c_contiguous
            return _Numpy(source, mapped) if usual and len(mapped) > FIRST else None
        found = _Parquet(source)
    except (OSError, ValueError, EOFError):
        return None  # the usual reader says what is wrong
    kinds = [found.file.schema_arrow.field(name).type for name in found.columns or ()]
    import pyarrow as pa

    plain = all(pa.types.is_floating(k) or pa.types.is_integer(k) for k in kinds)
    return found if plain and sum(found.lengths) > FIRST else None


def _asked(options: Options, known: list[str] | None) -> list[str] | None:
    """The columns to read; None where one is not there."""
    if options.fields is not None:
        asked = [c for group in options.fields.values() for c in ([group] if isinstance(group, str) else group)]
    else:
        asked = list(options.columns) if options.columns is not None else list(known or ())
    if options.label is not None:
        return None  # of which the codes are those of all its classes
    return list(dict.fromkeys(asked)) if asked and {*asked} <= {*(known or ())} else None


def _filled(reader: Reader, index: dict[str, Tensor]) -> dict[str, dict[str, Tensor]] | None:
    """The rows of every split by field; None where a field is no plain number after all."""
    rows = sum(reader.store.lengths)
    split = np.zeros(rows, dtype=np.int8)
    place = np.zeros(rows, dtype=np.int32 if rows < 2**31 else np.int64)
    for number, chosen in enumerate(index.values()):
        split[chosen.numpy()] = number
        place[chosen.numpy()] = np.arange(len(chosen))
    tensors: dict[str, dict[str, Tensor]] = {name: {} for name in index}
    start = 0
    for number, length in enumerate(reader.store.lengths):
        piece = reader.store.block(number, reader.columns)
        here, at = split[start : start + length], place[start : start + length]
        for field in reader.schema:
            values = reader.straight(field, piece)
            if values is None:
                return None
            for which, (name, chosen) in enumerate(index.items()):
                kept = tensors[name].setdefault(field.name, values.new_empty((len(chosen), *values.shape[1:])))
                those = np.flatnonzero(here == which)
                kept[torch.from_numpy(at[those]).long()] = values[torch.from_numpy(those)]
        start += length
    return tensors


def _origin(path: Path, options: Options) -> dict[str, Any]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": str(path.resolve()), "options": options.to_json(), "sha256": sha256}
