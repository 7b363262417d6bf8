"""One pass over streamed rows: a digest of them on which the fields are decided, their moments, a hash, the splits.

The digest is a small table of whole rows: the first ones, and beyond these, for every column, rows that hold its least
and largest value, a missing one, a fractional one and an inexact one, and up to five rows of every name. What a column
is follows from these alone, so the reader of tables in memory decides on the digest as it would on all rows.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ppl_vae.data._stores import Store
from ppl_vae.display.working import stepping
from ppl_vae.errors import UserError

__all__ = ["DAY", "Digest", "Sums", "digest"]
"""Told how many rows are read, and of how many."""

FIRST, FIRST_BYTES = 2**17, 2**26
"""So many rows are in the digest whatever they hold, fewer where they are long."""

NAMES, EACH = 100_000, 5
"""Different names of a column, or numbers of a label, at most; rows of each."""

DAY = 86_400


@dataclass
class Sums:
    """Count, mean and sum of squared deviations of the observed entries of a column, [D], in float64.

    Parts are put together as in Chan, Golub & LeVeque 1979.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, holes: bool) -> Sums:
        """Those of entries [row, D]."""
        values = np.asarray(values, dtype=np.float64)
        if not holes:
            mean = values.mean(0) if len(values) else np.zeros(values.shape[1])
            return cls(np.full(values.shape[1], float(len(values))), mean, np.square(values - mean).sum(0))
        there = ~np.isnan(values)
        count = there.sum(0).astype(np.float64)
        mean = np.where(there, values, 0).sum(0) / np.maximum(count, 1)
        return cls(count, mean, np.where(there, np.square(values - mean), 0).sum(0))

    def __add__(self, other: Sums) -> Sums:
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        squares = self.squares + other.squares + np.square(apart) * self.count * share
        return Sums(count, self.mean + apart * share, squares)


@dataclass
class Digest:
    """What one pass over all rows found.

    Attributes:
        table: the digest, as the store gives blocks.
        rows: the number that each of its rows has among all.
        sums: of the training rows, by column or field.
        counts: rows of every block in train, validation and test, [3, block].
        sha256: of all values.
    """

    table: Any
    rows: np.ndarray
    sums: dict[str, Sums]
    counts: np.ndarray
    sha256: str


@dataclass
class _Column:
    """What was seen of a column so far: which rows stand for it."""

    low: np.ndarray | None = None
    high: np.ndarray | None = None
    rows: dict[tuple[str, int], int] = field(default_factory=dict)
    seen: dict[Any, int] = field(default_factory=dict)
    many: bool = False


def digest(
    store: Store,
    part_of: Callable[[np.ndarray], np.ndarray],
    columns: Sequence[str] | None = None,
    labels: Sequence[str] = (),
    first_rows: int | None = None,
) -> Digest:
    """Read all rows once.

    Args:
        store: where they are.
        part_of: 0, 1 or 2 for the rows of train, validation and test, by their numbers.
        columns: those that are read; None for all.
        labels: the columns whose numbers may be classes.
        first_rows: so many first rows are in the digest; by default FIRST, or fewer of long ones.

    Raises:
        UserError: for a column with too many names.
    """
    known: dict[str, _Column] = {}
    sums: dict[str, Sums] = {}
    extremes: dict[int, Any] = {}
    names: dict[int, Any] = {}
    first: list[Any] = []
    counts = np.zeros((3, len(store.lengths)), dtype=np.int64)
    hashed, start, total, most = hashlib.blake2b(), 0, sum(store.lengths), 0
    with stepping("reading rows", total) as read:
        for number, length in enumerate(store.lengths):
            piece = store.block(number, columns)
            parts = part_of(np.arange(start, start + length))
            counts[:, number] = np.bincount(parts, minlength=3)
            if not most:
                most = first_rows or max(1000, min(FIRST, FIRST_BYTES * length // max(_bytes(piece), 1)))
            if start < most:
                first.append(_slice(piece, 0, min(length, most - start)))
            train = None if counts[0, number] == length else np.flatnonzero(parts == 0)
            extreme, named = set[int](), set[int]()
            for name, values in _columns(piece):
                column = known.setdefault(name, _Column())
                hashed.update(f"{name} {length}".encode())
                numbers = _numbers(values, hashed)
                if numbers is None:
                    named |= _new_names(name, column, values, hashed)
                    continue
                holes, fresh = _witnesses(column, numbers, start)
                extreme |= fresh
                if name in labels and numbers.shape[1] == 1 and not column.many:
                    named |= _new_numbers(column, numbers[:, 0])
                found = Sums.of(numbers if train is None else numbers[train], holes)
                sums[name] = sums[name] + found if name in sums else found
            for found_rows, kept in ((extreme, extremes), (named, names)):
                kept |= {start + row: _slice(piece, row, 1) for row in sorted(found_rows) if start + row >= most}
            needed = {row for column in known.values() for row in column.rows.values()}
            extremes = {row: content for row, content in extremes.items() if row in needed}
            start += length
            read(start)
    beyond = dict(sorted((extremes | names).items()))
    rows = np.concatenate([np.arange(min(most, total)), np.array([*beyond], dtype=np.int64)])
    return Digest(_joined([*first, *beyond.values()]), rows, sums, counts, hashed.hexdigest()[:64])


# -- witnesses -----------------------------------------------------------------------------------------------------


def _witnesses(column: _Column, values: np.ndarray, start: int) -> tuple[bool, set[int]]:
    """Whether a column [row, D] has holes here, and the rows that from now on stand for it."""
    fresh: set[int] = set()

    def stands(what: str, entry: int, row: int) -> None:
        column.rows[what, entry] = start + row
        fresh.add(row)

    floats = values.dtype.kind == "f"
    low, high = values.min(0), values.max(0)
    holes = bool(floats and np.isnan(low).any())
    if holes:
        gone = np.isnan(values)
        low, high = np.where(gone, np.inf, values).min(0), np.where(gone, -np.inf, values).max(0)
        for entry in np.flatnonzero(gone.any(0)).tolist():
            if ("hole", entry) not in column.rows:
                stands("hole", entry, int(gone[:, entry].argmax()))
    for what, bound, best in (("low", low, column.low), ("high", high, column.high)):
        better = np.ones(len(bound), dtype=bool) if best is None else bound < best if what == "low" else bound > best
        for entry in np.flatnonzero(better & np.isfinite(bound) if floats else better).tolist():
            stands(what, entry, int((values[:, entry] == bound[entry]).argmax()))
        for entry in np.flatnonzero(np.isinf(bound)).tolist() if floats else ():
            hit = values[:, entry] == bound[entry]
            if ("infinite", entry) not in column.rows and hit.any():
                stands("infinite", entry, int(hit.argmax()))
    column.low = low if column.low is None else np.minimum(column.low, low)
    column.high = high if column.high is None else np.maximum(column.high, high)
    for entry in range(values.shape[1]):
        if floats and ("part", entry) not in column.rows:
            with np.errstate(invalid="ignore"):
                odd = np.floor(values[:, entry]) != values[:, entry]
            odd &= np.isfinite(values[:, entry])
            if odd.any():
                stands("part", entry, int(odd.argmax()))
        if values.dtype.kind in "iu" and ("inexact", entry) not in column.rows and _beyond(low[entry], high[entry]):
            each = values[:, entry]
            odd = np.array([int(float(v)) != int(v) for v in each.tolist()])
            if odd.any():
                stands("inexact", entry, int(odd.argmax()))
    return holes, fresh


def _beyond(low: Any, high: Any) -> bool:
    return int(high) > 2**53 or int(low) < -(2**53)


def _new_numbers(column: _Column, values: np.ndarray) -> set[int]:
    """Rows of numbers of a label that were seen fewer than five times."""
    whole = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    levels, found = np.unique(whole), set[int]()
    if len(column.seen) + len(levels) > NAMES:
        column.many = True
        return found
    for level in levels.tolist():
        before = column.seen.get(level, 0)
        if before < EACH:
            places = np.flatnonzero(values == level)[: EACH - before]
            column.seen[level] = before + len(places)
            found |= set(places.tolist())
    return found


def _new_names(name: str, column: _Column, values: Any, hashed: Any) -> set[int]:
    """Rows of names that were seen fewer than five times; and the first of those without."""
    import pyarrow as pa

    try:
        values.dictionary_encode()
    except pa.ArrowNotImplementedError:  # lists and the like, which the reader of tables refuses
        return {0}
    encoded = values.dictionary_encode().combine_chunks() if hasattr(values, "chunks") else values.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    words = encoded.dictionary.to_pylist()
    hashed.update(np.ascontiguousarray(codes).tobytes())
    hashed.update("\x00".join(map(str, words)).encode())
    found = set[int]()
    for code, word in [*enumerate(words), (-1, None)]:
        key = word if isinstance(word, str | int | float | bool | None) else str(word)
        before = column.seen.get(key, 0)
        if before < EACH:
            places = np.flatnonzero(codes == code)[: EACH - before]
            if len(places):
                column.seen[key] = before + len(places)
                found |= set(places.tolist())
    if len(column.seen) > NAMES:
        raise UserError(
            f"column {name!r} expects categories, got more than {NAMES:,} different strings: keep other columns with "
            "columns=[...] (command line --columns), or make it numeric"
        )
    return found


# -- pieces --------------------------------------------------------------------------------------------------------


def _columns(piece: Any) -> Iterator[tuple[str, Any]]:
    """The columns of a table, or the fields of a dict, by name."""
    import pyarrow as pa

    if isinstance(piece, pa.Table):
        yield from zip(piece.column_names, piece.columns, strict=True)
        return
    for name, values in piece.items():
        if hasattr(values, "columns"):  # a table that is one field, of genes
            yield name, values.to_numpy()
        elif isinstance(values, torch.Tensor):
            yield name, values.numpy()
        elif isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
            yield name, values
        elif type(values).__module__.startswith("pandas") and getattr(values.dtype, "kind", "O") in "biuf":
            yield name, values.to_numpy()
        else:
            yield name, pa.array(list(values))


def _numbers(values: Any, hashed: Any) -> np.ndarray | None:
    """A column as numbers [row, D], NaN where there is none; None where it holds names or other things."""
    if isinstance(values, np.ndarray):
        flat = values.reshape(len(values), -1)
        hashed.update(np.ascontiguousarray(flat).data)
        return flat.astype(np.uint8) if flat.dtype.kind == "b" else flat
    import pyarrow as pa

    kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_duration(kind):
        return _days(values, hashed)
    if pa.types.is_decimal(kind):
        values = values.cast(pa.float64())
    elif pa.types.is_boolean(kind):
        values = values.cast(pa.uint8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    found: np.ndarray = values.to_numpy() if hasattr(values, "chunks") else values.to_numpy(zero_copy_only=False)
    hashed.update(np.ascontiguousarray(found).data)
    return found[:, None]


def _days(values: Any, hashed: Any) -> np.ndarray:
    """Times as numbers of days, NaN where there is none."""
    import pyarrow as pa

    if pa.types.is_duration(values.type):
        times = values.cast(pa.duration("ns")).to_numpy().astype("timedelta64[ns]")
    else:
        bare = values.cast(pa.timestamp("ns", tz=getattr(values.type, "tz", None)))
        times = bare.to_numpy().astype("datetime64[ns]")
    hashed.update(np.ascontiguousarray(times).view(np.int64).data)
    found = times.astype(np.int64).astype(np.float64) / (DAY * 1e9)
    found[np.isnat(times)] = np.nan
    return found[:, None]


def _bytes(piece: Any) -> int:
    if not isinstance(piece, Mapping):
        return int(piece.nbytes)
    return sum(
        v.nbytes if hasattr(v, "itemsize") or isinstance(v, torch.Tensor) else 8 * v.size for v in piece.values()
    )


def _slice(piece: Any, start: int, rows: int) -> Any:
    """Some rows of a piece, in memory of their own."""
    if isinstance(piece, Mapping):
        at = slice(start, start + rows)
        return {n: v.iloc[at].copy() if hasattr(v, "iloc") else copy.copy(v[at]) for n, v in piece.items()}
    import pyarrow as pa

    return piece.take(pa.array(range(start, start + rows), pa.int64()))


def _joined(pieces: Sequence[Any]) -> Any:
    """Pieces of one kind, one below the other."""
    if not isinstance(pieces[0], Mapping):
        import pyarrow as pa

        return pa.concat_tables([p.unify_dictionaries() for p in pieces]).unify_dictionaries()
    found: dict[str, Any] = {}
    for name, like in pieces[0].items():
        parts = [piece[name] for piece in pieces]
        if isinstance(like, torch.Tensor):
            found[name] = torch.cat(parts)
        elif isinstance(like, np.ndarray):
            found[name] = np.concatenate(parts)
        elif type(like).__module__.startswith("pandas"):
            import pandas

            found[name] = pandas.concat(parts, ignore_index=True)
        else:
            found[name] = [item for part in parts for item in part]
    return found
