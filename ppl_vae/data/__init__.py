"""Where rows come from: named data sets, arrays, DataFrames, files; their schema, splits and batches."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.data._aligned import with_alignment
from ppl_vae.data._arrays import from_arrays
from ppl_vae.data._labels import hide_labels
from ppl_vae.data._large import from_large
from ppl_vae.data._one_unit import OneUnit, WholeBatch, as_one_unit, device_of, is_unit, units_in
from ppl_vae.data._options import Options
from ppl_vae.data._outliers import hold_out, listed
from ppl_vae.data._stores import is_streamable
from ppl_vae.data._streams import from_stream
from ppl_vae.data.conform import as_split
from ppl_vae.data.dataset import Data, Split
from ppl_vae.data.files import EXTENSIONS, from_path
from ppl_vae.data.named import NAMES, is_named, no_downloads, read
from ppl_vae.data.rows import Rows, sizes_of
from ppl_vae.data.schema import Field, Schema
from ppl_vae.data.stream import Stream
from ppl_vae.display.working import showing
from ppl_vae.errors import StreamWarning, UserError, check_flag, shown, told_by, unknown_name

__all__ = [
    "Data",
    "Field",
    "OneUnit",
    "Rows",
    "Schema",
    "Split",
    "Stream",
    "WholeBatch",
    "as_one_unit",
    "as_split",
    "device_of",
    "is_named",
    "is_streamable",
    "is_unit",
    "load",
    "names",
    "rebuild",
    "sizes_of",
    "units_in",
]

names = NAMES

LARGE = 2**31
"""A file or a memory map of so many bytes is streamed without being asked."""


def load(
    source: Any = "digits",
    y: Any = None,
    *,
    seed: int = 0,
    binarise: str | None = None,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    missing: str = "refuse",
    test: float | None = None,
    validation: float | None = None,
    root: str | Path | None = None,
    kinds: Mapping[str, str] | None = None,
    fields: Mapping[str, str | Sequence[str]] | None = None,
    labels: int | None = None,
    outliers: str | int | Sequence[str | int] | None = None,
    separator: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    missing_marks: Sequence[str] | None = None,
    group: str | None = None,
    time: str | None = None,
    lengths: str | None = None,
    rows: str | None = "auto",
    pairs: str | None = None,
    stream: bool | None = None,
    progress: Any = "auto",
) -> Data:
    """Load rows from a data set by name, a file, an array or a table, and split them into train, validation and test.

    Floats become float32 (float64 tensors are kept), categories int64; missing entries are NaN or -1.

    Args:
        source: a name (`ppl_vae.data.names`), with options where it has some ("sprites:side=32,positions=16"); a path
            (.npz .npy .csv .tsv .jsonl .parquet, .csv.gz); an array `[row, ...]`, tensor or table (pandas, polars,
            Arrow); a dict of arrays by name; a list of sequences of unequal length; a pair (X, y); sparse matrices,
            AnnData, bunches, data sets of torch;
            `Data` is returned as it is. A table whose columns are all bool, all integers or all floats is one field x;
            of any other every column is a field of its own, strings being categories and dates numbers of days or
            seconds. Columns that float32 would not hold are centred first (`Field.origin`). Integers of a tensor stay
            int64, but for field x.
        y: the label or response of an array or table, in the order of its rows: load(X, y) is load((X, y)).
        seed: of the split of arrays and files; named sets have one fixed split, whatever the seed.
        binarise: grey levels of x in [0, 1] to 0 and 1: "dynamic" draws train anew at every use, "static"
            once, "none" keeps them. Validation and test are drawn once, with numpy seed 777. The default is
            "dynamic" for the two MNISTs, "none" elsewhere.
        label: the column of a table that becomes field y, or the field of a dict that holds categories.
        columns: keep only these columns of a table, or fields of a dict.
        missing: "refuse" or "allow" NaN entries and labels -1 or None.
        test, validation: fraction (float) or number (int) of rows, by default 0.2 and 0.1; 0 for none.
        root: folder in which to look for the two MNISTs and for dSprites, or into which to download; also PPL_VAE_DATA.
        kinds: the kind of a field by its name, if the detected kind is wrong (`positive` is never detected); naming a
            column of a DataFrame makes every column a field.
        fields: columns of a table by field name, for a model that observes several fields: a list makes a
            vector of every row, a name alone one number.
        labels: number of training rows that keep their y, balanced over categories, drawn with the seed. All other
            labels, also those of validation and test, are -1, and are kept in `split.hidden` for scoring.
        outliers: one or several categories of y to hold out: their rows are removed from train and validation and stay
            in test, marked by `test.outliers`; the labels of test are kept in `test.hidden`.
        separator, decimal, encoding: of a text file, if they cannot be detected; decimal is "." or ",".
        missing_marks: words that mark a missing entry, such as "?". In text files, columns of numbers know the usual
            ones (NA, NaN, None, ...); among names these are refused unless this argument decides ([]: they are names).
        group: the column of a long table, or the field of a dict of long arrays, with group identifiers (the patient of
            a visit, the series of a step): each group becomes one row. A column that is constant within every group is
            a field of the group. Any other has a first axis with one entry per row of the group, as long as the largest
            group, and is missing after the last one. Splits are made of whole groups.
        time: the column that orders the rows of a group; by default they keep their order.
        lengths: the field of a dict of padded arrays [row, T, ...] with the number of steps of each row: what comes
            after them is missing. A list of arrays [T_i, ...] or of tables of unequal length, alone or as a field of a
            dict, needs no such field: each is a row, as a group of its steps.
        rows: None takes all data as one unit (a series, a random field), in their order; nothing is held out. Every
            column of a table is a field of its own; fields of a dict or an .npz may have different lengths. `fit` and
            the other functions then treat the data as one unit.
        pairs: "aligned" gives half of the rows the last view of another row (of another class, if rows have a label y),
            and all rows a field `aligned` that says which: a target that needs no labelling.
        stream: read rows block by block while they are gone through, instead of holding all of them: Parquet files, a
            folder or a pattern of them ("rows/*.parquet"), .npy, .zarr, .h5ad, memory maps, data sets of torch with a
            length, of Hugging Face, AnnData on disk. One pass over all rows determines the fields. None streams
            folders, patterns, stores on disk and, with a warning, files and memory maps of 2 GiB or more.
        progress: "auto" shows a bar on a terminal and in a notebook where reading takes more than a second, True
            elsewhere, too, False or None nothing; a function is called after every block of a stream with the number of
            rows read and the total.

    Raises:
        UserError: whatever is wrong with the rows or options, in one line with the remedy.

    Example:
        >>> data = load("digits")
        >>> len(data.train), len(data.validation), len(data.test), data.schema["x"].shape
        (1000, 350, 447, (8, 8))
        >>> load({"x": [[0.5], [1.5], [2.5]], "y": ["a", "b", "a"]}).schema["y"].names
        ('a', 'b')
        >>> few = load("digits", labels=50)
        >>> (few.train["y"] >= 0).sum().item(), (few.test["y"] >= 0).sum().item(), few.test.truth("y")[:3].tolist()
        (50, 0, [3, 4, 6])
        >>> load("digits", outliers="9").test.outliers.sum().item()
        45
    """
    if y is not None:
        if isinstance(source, str | Path | Data | Mapping):
            raise UserError(f"y goes with an array or a table of X; the label of {shown(source)} is said by label=")
        source = (source, y)
    if isinstance(source, Data):
        for option, value in (("labels", labels), ("outliers", outliers), ("pairs", pairs)):
            if value is not None:
                raise UserError(
                    f"{option}={value} expects a name, a file or arrays, got a data set that is loaded already"
                )
        return source
    apart = None if outliers is None else listed(outliers)
    options = Options(
        seed,
        binarise,
        label,
        columns,
        missing,
        test,
        validation,
        kinds,
        fields,
        labels,
        apart,
        separator=separator,
        decimal=decimal,
        encoding=encoding,
        missing_marks=missing_marks,
        group=group,
        time=time,
        lengths=lengths,
        rows=rows,
        pairs=pairs,
    )
    if callable(progress):
        progress = told_by("progress", progress, "how many rows are read, and of how many")
    streamed = _is_streamed(source, stream)
    with showing(None if callable(progress) and not streamed else progress):
        if streamed:
            if pairs is not None:
                raise UserError('pairs="aligned" exchanges rows that are in memory: load with stream=False')
            return from_stream(source, options)
        data = _read(source, options, root)
    data = data if pairs is None else with_alignment(data, options.seed)
    data = data if apart is None else hold_out(data, apart)
    return data if labels is None else hide_labels(data, labels, seed)


def _read(source: Any, options: Options, root: str | Path | None) -> Data:
    if isinstance(source, str) and is_named(source):
        return read(source, options, root)
    if isinstance(source, (str, Path)):
        if isinstance(source, str) and not _looks_like_path(source):
            raise unknown_name("data set", source, NAMES)
        return from_path(source, options)
    large = from_large(source, options)
    return from_arrays(source, options) if large is None else large


def _is_streamed(source: Any, stream: bool | None) -> bool:
    """Whether rows are streamed; of large files this is said."""
    if stream is not None:
        return check_flag("stream", stream)
    if isinstance(source, str) and is_named(source):
        return False
    if is_streamable(source):
        return True
    if isinstance(source, np.memmap):
        return _is_large("a memory map", source.nbytes)
    path = Path(source).expanduser() if isinstance(source, str | Path) else None
    if path is None or path.suffix.lower() not in (".parquet", ".npy") or not path.is_file():
        return False
    return _is_large(path, path.stat().st_size)


def _is_large(what: str | Path, size: int) -> bool:
    """Whether so many bytes are streamed without being asked, which is said."""
    if size < LARGE:
        return False
    warnings.warn(
        f"{what} has {size / 2**30:.1f} GiB and is streamed: stream=False holds it in memory", StreamWarning, 4
    )
    return True


def rebuild(source: Mapping[str, Any]) -> Data:
    """The data set that `Data.source` describes, loaded again.

    A description comes out of a file that somebody else may have written: it chooses options of `load`, but no folder
    to look in, and nothing is downloaded.

    Raises:
        UserError: it was an array in memory, or its file is gone or has changed.

    Example:
        >>> len(rebuild(load("digits").source).test)
        447
    """
    told = source.get("options", {}) if "path" in source else source
    options = {field.name: told[field.name] for field in fields_of(Options) if field.name in told}
    if told.get("stream") is True:
        options["stream"] = True
    if "path" in source:
        data = load(Path(source["path"]), **options)
        if source.get("sha256", data.source["sha256"]) != data.source["sha256"]:
            raise UserError(f"{source['path']} has changed since it was loaded: restore it, or load it anew")
        return data
    if not (isinstance(source.get("name"), str) and is_named(source["name"])):
        raise UserError(f"data from memory ({source.get('name')!r}) cannot be loaded again: pass the rows")
    with no_downloads():
        return load(source["name"], **options)


def _looks_like_path(source: str) -> bool:
    return "/" in source or "\\" in source or Path(source).suffix.lower() in EXTENSIONS or Path(source).exists()
