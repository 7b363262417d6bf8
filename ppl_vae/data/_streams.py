"""A data set whose rows are streamed: one pass decides what the fields are, as the reader of rows in memory would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._arrays import decided, held_out
from ppl_vae.data._digest import DAY, Digest, digest
from ppl_vae.data._options import Options
from ppl_vae.data._order import BlockOrder
from ppl_vae.data._reader import PARTS, Parts, Reader, relocated
from ppl_vae.data._stores import Store, place_in, store_of
from ppl_vae.data.dataset import Data, Streamed, columns_of
from ppl_vae.data.rows import Moments
from ppl_vae.data.schema import Field, Schema
from ppl_vae.data.stream import Stream
from ppl_vae.errors import UserError, option

__all__ = ["from_stream"]

BUFFER_BYTES = 2**25
"""So many bytes of rows are shuffled at a time."""

HEAD, HEAD_BYTES = 2**17, 2**26
"""Models are made from the first so many training rows, fewer where they are long."""

_WHOLE = ("group", "time", "lengths", "labels", "outliers", "separator", "decimal", "encoding", "missing_marks")
"""Options that are about rows in memory, or about text."""


def from_stream(source: Any, options: Options) -> Data:
    """A data set from files or views that is read block by block; see `load`.

    Raises:
        UserError: as `load` does, with the file, the column and the row; and for options that need all rows in memory.
    """
    for name in _WHOLE:
        if getattr(options, name) is not None:
            raise UserError(f"{option(name)} is for rows in memory: leave it out, or load without stream")
    if options.rows is None or options.binarise in ("dynamic", "static"):
        name = "rows" if options.rows is None else "binarise"
        raise UserError(f"{option(name)} is for rows in memory: leave it out, or load without stream")
    said, store = options, store_of(source, options.label)
    if options.label is not None and getattr(store, "label", None) is not None:
        options = replace(options, label="y")
    rows = sum(store.lengths)
    test, validation = held_out(rows, options)
    parts = Parts(rows, test, validation, options.seed)
    columns = _columns(store, options)
    labels = [n for n in (options.label, "y", *_categorical(options)) if n is not None]
    found = digest(store, parts, columns, labels)
    try:
        fields, sample = decided(_opened(found.table), options)
    except UserError as problem:
        told = relocated(problem, lambda row: place_in(store, int(found.rows[min(row, len(found.rows) - 1)])))
        where = f"{source}: " if isinstance(source, str | Path) else ""
        raise UserError(f"{where}{told}") from problem
    schema = Schema(fields)
    table = not isinstance(found.table, dict)
    reader = Reader(store, schema, parts, options.label if table else None, None if columns is None else tuple(columns))
    known = _known(found, schema, sample, options, [int(c) for c in found.counts[0]])
    splits: dict[str, Any] = {
        name: Stream(reader, name, counts, known, found.sha256)
        for name, counts in zip(PARTS, found.counts.tolist(), strict=True)
        if sum(counts)
    }
    described: dict[str, Any] = {"name": "stream"}
    if isinstance(source, str | Path):
        path = str(Path(source).expanduser().absolute())
        described = {"path": path, "options": said.to_json() | {"stream": True}, "sha256": found.sha256}
    name = Path(source).name if isinstance(source, str | Path) else "stream"
    return Data(name, schema, splits["train"], splits.get("validation"), splits.get("test"), described)


def _categorical(options: Options) -> list[str]:
    return [name for name, kind in (options.kinds or {}).items() if kind == "categorical"]


def _columns(store: Store, options: Options) -> list[str] | None:
    """The columns to read; None for all fields of a store without columns."""
    known = store.columns
    asked: list[str] | None = None
    if options.fields is not None:
        asked = [c for group in options.fields.values() for c in ([group] if isinstance(group, str) else group)]
    elif options.columns is not None:
        asked = list(options.columns)
    if asked is not None and options.label is not None and options.label not in asked:
        asked.append(options.label)
    return asked if asked is not None and known is not None and all(name in known for name in asked) else known


def _opened(table: Any) -> Any:
    return table if isinstance(table, dict) else table.to_pandas()


def _known(
    found: Digest, schema: Schema, sample: dict[str, Tensor], options: Options, counts: Sequence[int]
) -> Streamed:
    width = sum(4 * field.size for field in schema)
    moments = {f.name: m for f in schema if (m := _moments(f, found, options, sample[f.name])) is not None}
    head = min(HEAD, max(1000, HEAD_BYTES // width))
    return Streamed(BlockOrder(tuple(counts), max(1, BUFFER_BYTES // width)), moments, head, sample)


def _moments(field: Field, found: Digest, options: Options, values: Tensor) -> Moments | None:
    """Mean and variance of a field of numbers, as they are stored."""
    if field.kind == "categorical" and (field.missing or not field.shape):
        return None
    names = columns_of(field)
    several = [names] if isinstance(names, str) else list(names)
    label = [options.label] if field.name == "y" and options.label is not None else []
    keys = next((k for k in ([field.name], several, label) if k and all(n in found.sums for n in k)), None)
    if keys is None:
        return None
    parts = [found.sums[key] for key in keys]
    count, mean, squares = (np.concatenate([getattr(p, n) for p in parts]) for n in ("count", "mean", "squares"))
    if len(mean) != field.size:
        return None
    variance = squares / np.maximum(count, 1)
    if field.unit:  # times were counted in days
        word, _, first = field.unit.partition(" since ")
        step = 1.0 if word == "days" else DAY
        begin = np.datetime64(first).astype("datetime64[ns]").astype(np.float64) / (DAY * 1e9) if first else 0.0
        mean, variance = (mean - begin) * step, variance * step**2
    mean = mean - np.array(field.origin) if field.origin else mean
    dtype = torch.promote_types(values.dtype, torch.get_default_dtype())
    return Moments(torch.from_numpy(mean).to(dtype), torch.from_numpy(variance).to(dtype))
