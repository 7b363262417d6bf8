"""Data sets from memory and from files: arrays, tables, .npy .npz .csv .tsv .jsonl .parquet, split by a seed."""

from __future__ import annotations

import gzip
import hashlib
import json
import numbers
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._grouped import into_groups, without_group
from ppl_vae.data._tables import column_name, raw_fields
from ppl_vae.data.conform import by_name
from ppl_vae.data.containers import is_table
from ppl_vae.data.convert import guess, refuse_missing
from ppl_vae.data.dataset import SPLITS, Data, assemble, count_rows
from ppl_vae.data.schema import KINDS, Schema
from ppl_vae.data.text import TextForm, read_cells, read_text
from ppl_vae.errors import UserError, check_choice, check_several, check_whole, shown, unknown_name

__all__ = [
    "BINARISE",
    "EXTENSIONS",
    "Options",
    "binarised",
    "contents",
    "from_arrays",
    "from_path",
    "read_source",
    "spelled",
]

BINARISE = ("dynamic", "static", "none")
# numpy seed of the one fixed draw of validation and test rows (Norouzi et al. 2020, arXiv 2004.04795)
FIXED_DRAW = 777


@dataclass(frozen=True)
class Options:
    """The options of `load`, checked; they go into `Data.source` as JSON."""

    seed: int = 0
    binarise: str | None = None
    label: str | None = None
    columns: Sequence[str] | None = None
    missing: str = "refuse"
    test: float | None = None
    validation: float | None = None
    kinds: Mapping[str, str] | None = None
    fields: Mapping[str, str | Sequence[str]] | None = None
    labels: int | None = None
    outliers: Sequence[str] | None = None
    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    missing_marks: Sequence[str] | None = None
    group: str | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_whole("seed", self.seed, 0))
        if self.binarise is not None:
            check_choice("binarise", self.binarise, BINARISE)
        check_choice("missing", self.missing, ("refuse", "allow"))
        if self.labels is not None:
            check_whole("labels, the number of training rows that keep theirs,", self.labels)
        if isinstance(self.columns, str):
            object.__setattr__(self, "columns", [self.columns])
        if isinstance(self.label, tuple):
            object.__setattr__(self, "label", column_name(self.label))
        if self.columns is not None:
            several = check_several("columns", self.columns, "names of columns")
            object.__setattr__(self, "columns", [column_name(c) for c in several])
        object.__setattr__(self, "missing_marks", self.form.missing_marks)
        if self.time is not None and self.group is None:
            raise UserError(f"time={self.time!r} orders the rows of groups: say which rows are one, group=")
        for name in ("kinds", "fields"):
            if not isinstance(getattr(self, name), Mapping | None):
                raise UserError(f"{name} expects a dict by name, got {shown(getattr(self, name))}")
        for kind in (self.kinds or {}).values():
            if not isinstance(kind, str) or kind not in KINDS:
                raise unknown_name("kind", kind, KINDS)

    @property
    def form(self) -> TextForm:
        """How a text file is written."""
        return TextForm(self.separator, self.decimal, self.encoding, self.missing_marks)

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults, and the seed, as plain JSON values."""
        plain = {name: value for name, value in asdict(self).items() if value != getattr(Options, name)}
        if self.columns is not None:
            plain["columns"] = list(self.columns)
        for name in ("outliers", "missing_marks"):
            if getattr(self, name) is not None:
                plain[name] = list(getattr(self, name))
        if self.fields is not None:
            plain["fields"] = {n: c if isinstance(c, str) else list(c) for n, c in self.fields.items()}
        return {**plain, "seed": int(self.seed)}


def from_arrays(source: Any, options: Options, name: str = "array", origin: dict[str, Any] | None = None) -> Data:
    """A data set from an array, tensor, DataFrame or dict of arrays; see `load` for the rules."""
    kinds = options.kinds or {}
    # A kind for a single column says that the columns are fields of their own.
    apart = True if set(kinds) - {"x", "y"} else None
    source, rows = (source, None) if options.group is None else without_group(source, options.group, options.time)
    raws = raw_fields(
        source,
        options.label,
        None if rows is not None and is_table(source) else options.columns,
        apart=apart,
        fields=options.fields if rows is None or not is_table(source) else _each_column(source, options),
        kinds=kinds,
        form=options.form,
    )
    for key in kinds:
        if key not in raws:
            raise unknown_name("field", key, raws)
    fields, tensors = [], {}
    for key, raw in raws.items():
        said = key == options.label or (key == "y" and options.label is not None)
        found, tensors[key] = guess(key, raw, kind=kinds.get(key), label=said or by_name(key, raw))
        if key == "x" and options.binarise in ("dynamic", "static") and found.kind == "real" and "x" not in kinds:
            found, tensors[key] = guess(key, raw, kind="unit") if _is_grey(tensors[key]) else (found, tensors[key])
        if options.missing == "refuse":
            refuse_missing(found, tensors[key])
        fields.append(found)
    schema, draws = Schema(tuple(fields)), frozenset[str]()
    if rows is not None and options.group is not None:
        count_rows({**tensors, options.group: rows.group})
        schema, tensors = into_groups(fields, tensors, rows, options.group, options.time)
    index = _split_index(count_rows(tensors), options)
    parts = {
        split: {key: values[rows.to(values.device)] for key, values in tensors.items()} for split, rows in index.items()
    }
    if options.binarise in ("dynamic", "static"):
        _check_grey(schema)
        drawn, draws = binarised({split: part["x"] for split, part in parts.items()}, options.binarise)
        parts = {split: {**part, "x": drawn[split]} for split, part in parts.items()}
        schema = Schema(tuple(replace(f, kind="binary") if f.name == "x" else f for f in fields))
    return assemble(name, schema, parts, draws, origin or {"name": name})


def _each_column(table: Any, options: Options) -> Mapping[str, str | Sequence[str]]:
    """Every column as a field of its own, whatever its name, where nobody says otherwise."""
    if options.fields is not None:
        return options.fields
    names = [column_name(c) for c in table.columns]
    for name in options.columns or ():
        if name not in names:
            raise unknown_name("column", name, names)
    return {name: name for name in options.columns or names if name != options.label}


def _is_grey(values: Tensor) -> bool:
    """Whether all lie in [0, 1]: to be binarised is a reason for them to."""
    return bool((((values >= 0) & (values <= 1)) | values.isnan()).all())


def _check_grey(schema: Schema) -> None:
    if "x" not in schema or schema["x"].kind != "unit":
        came = f"kind {schema['x'].kind}" if "x" in schema else "no field x"
        raise UserError(
            f"binarise expects field 'x' of kind unit (grey levels in [0, 1]), got {came}:"
            " divide bytes by 255, or leave binarise out"
        )


def binarised(greys: Mapping[str, Tensor], mode: str) -> tuple[dict[str, Tensor], frozenset[str]]:
    """Grey levels `[row, ...]` by split as 0 and 1, and the fields that train draws anew at every use.

    Validation, then test, then (mode static) train come from one stream of `numpy.random.RandomState(777)`,
    so validation and test are the same rows in both modes. NaN stays NaN.
    """
    stream = np.random.RandomState(FIXED_DRAW)
    drawn = dict(greys)
    for split in ("validation", "test") if mode == "dynamic" else ("validation", "test", "train"):
        if split in greys:
            grey = greys[split].double().cpu().numpy()
            values = stream.binomial(1, np.nan_to_num(grey)).astype("float64")
            values[np.isnan(grey)] = np.nan
            drawn[split] = torch.from_numpy(values).to(greys[split])
    return drawn, frozenset({"x"}) if mode == "dynamic" else frozenset()


def _split_index(rows: int, options: Options) -> dict[str, Tensor]:
    """A seeded permutation of the rows, cut into test, validation and train."""
    test = _count("test", options.test, 0.2, rows)
    validation = _count("validation", options.validation, 0.1, rows)
    if test + validation >= rows:
        raise UserError(
            f"expected at least one row to train on, got {rows} rows with {test} for test and"
            f" {validation} for validation: make test= and validation= smaller"
        )
    order = torch.from_numpy(np.random.default_rng(int(options.seed)).permutation(rows))
    cut = test + validation
    index = {"train": order[cut:], "validation": order[test:cut], "test": order[:test]}
    return {split: index[split] for split in SPLITS if len(index[split])}


def _count(name: str, given: float | None, default: float, rows: int) -> int:
    if given is None:
        given = default if rows >= 3 else 0
    if isinstance(given, bool) or not isinstance(given, numbers.Real) or given < 0:
        raise UserError(f"{name} expects a share of the rows below 1 or a number of rows, got {given!r}")
    if isinstance(given, numbers.Integral):
        return int(given)
    if not given < 1:
        raise UserError(f"{name} expects a share below 1.0, got {given}: pass an int for a number of rows")
    return max(round(given * rows), 1) if given > 0 and rows >= 3 else round(given * rows)


def from_path(path: str | Path, options: Options) -> Data:
    """A data set from a .npy, .npz, .csv or .parquet file; nothing in it is ever unpickled."""
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"expected a file, found nothing at {path}: check the path")
    if path.is_dir():
        raise UserError(f"expected a file, got the folder {path}: pass one of its files")
    content = _content(path)
    source = contents(content, path, options.form)
    origin = {
        "path": str(path.resolve()),
        "options": options.to_json(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    try:
        return from_arrays(source, options, path.name, origin)
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from problem


def read_source(path: Path, form: TextForm | None = None) -> Any:
    """What is in a file, unchecked: a table, a dict of arrays or an array; `as_split` checks it against a schema."""
    return contents(_content(path), path, form or TextForm())


def spelled(path: Path, form: TextForm | None = None) -> tuple[Any, str] | None:
    """The cells of a text file as they are spelled, and what separates them; None if it is no such file."""
    content = _content(path)
    if path.suffix.lower() == ".gz":
        content, path = gzip.decompress(content), path.with_suffix("")
    return read_cells(content, path, form or TextForm()) if EXTENSIONS.get(path.suffix.lower()) is read_text else None


def _content(path: Path) -> bytes:
    if path.suffix.lower() not in EXTENSIONS:
        raise UserError(f"expected a file ending in {', '.join(EXTENSIONS)}, got {path}: convert it")
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise UserError(f"cannot read {path} ({problem}): check the path") from problem
    if not content:
        raise UserError(f"expected rows, got the empty file {path}: write it again")
    return content


def contents(content: bytes, path: Path, form: TextForm) -> Any:
    """What the bytes of a file with this name hold.

    Raises:
        UserError: if they are damaged or of another format.
    """
    try:
        return EXTENSIONS[path.suffix.lower()](content, path, form)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as problem:
        why = " ".join(str(problem).split())[:200]
        hint = "save numbers, not objects" if "pickle" in why else "write it again"
        raise UserError(f"cannot read {path} as {path.suffix.lower()} ({why}): {hint}") from problem


def _numpy(content: bytes, path: Path, form: TextForm) -> np.ndarray | dict[str, np.ndarray]:
    loaded = np.load(BytesIO(content), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded as archive:
        if not archive.files:
            raise UserError(f"expected arrays by field name, got none in {path}: np.savez(path, x=array)")
        return {name: archive[name] for name in archive.files}


def _parquet(content: bytes, path: Path, form: TextForm) -> Any:
    import pandas

    frame = pandas.read_parquet(BytesIO(content))
    if not len(frame):
        raise UserError(f"expected rows, got none in {path}: write it again")
    return frame


def _json_lines(content: bytes, path: Path, form: TextForm) -> Any:
    """One JSON object a line: nested objects are columns with points in their names."""
    import pandas

    records = [json.loads(line) for line in content.decode(form.encoding or "utf-8-sig").splitlines() if line.strip()]
    if not records or not all(isinstance(record, dict) for record in records):
        raise UserError(f"expected one JSON object a line in {path}: write rows as {{'name': value, ...}}")
    return pandas.json_normalize(records)


def _gzip(content: bytes, path: Path, form: TextForm) -> Any:
    inner = path.with_suffix("")
    if inner.suffix.lower() not in EXTENSIONS or inner.suffix.lower() == ".gz":
        raise UserError(f"expected a compressed file such as .csv.gz, got {path}: decompress it, or rename it")
    return contents(gzip.decompress(content), inner, form)


EXTENSIONS: dict[str, Callable[[bytes, Path, TextForm], Any]] = {
    ".npz": _numpy,
    ".npy": _numpy,
    ".csv": read_text,
    ".parquet": _parquet,
    ".tsv": read_text,
    ".jsonl": _json_lines,
    ".gz": _gzip,
}
