"""Where streamed rows are: blocks of neighbouring rows in files and containers, read one at a time."""

from __future__ import annotations

import glob
import importlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ppl_vae.data.containers import opened
from ppl_vae.errors import UserError, unknown_name

__all__ = ["ArrayStore", "ItemStore", "ParquetStore", "Store", "TableStore", "is_streamable", "place_in", "store_of"]

BLOCK_BYTES = 2**25
"""So many bytes of an array are a block."""

ITEMS = 4096
"""So many items of a data set of torch are a block."""


class Store(Protocol):
    """Rows in blocks: an Arrow table, a pandas table, or a dict of arrays for each."""

    lengths: tuple[int, ...]

    @property
    def columns(self) -> list[str] | None:
        """The names of the columns or fields; None where they cannot be chosen."""

    def block(self, number: int, columns: Sequence[str] | None) -> Any:
        """The rows of a block, of these columns alone where the store has columns."""

    def named(self, number: int) -> str:
        """The file, or whatever else, that a block is of, in words; empty where there is but one thing."""


def place_in(store: Store, row: int) -> str:
    """Where a row is, in words: its number within its file."""
    ends = [*accumulate(store.lengths)]
    block = bisect_right(ends, row)
    name = store.named(block)
    first = next((i for i in range(len(store.lengths)) if store.named(i) == name), 0)
    inside = row - (ends[first - 1] if first else 0)
    return f"row {inside} of {name}" if name else f"row {inside}"


class ParquetStore:
    """Parquet files, one, several or a folder of them; a block is a row group.

    Raises:
        UserError: for files that are none, are empty, or have other columns than the first.
    """

    def __init__(self, paths: Sequence[Path], root: Path | None = None) -> None:
        import pyarrow as pa
        import pyarrow.dataset as ds

        self.paths, self.root = [str(p) for p in paths], root
        options: Any = {"partitioning": "hive", "partition_base_dir": str(root)} if root is not None else {}
        try:
            self.dataset = ds.dataset(self.paths, format="parquet", **options)
            whole: list[Any] = list(self.dataset.get_fragments())
            for fragment in whole:
                self._refuse_others(fragment)
            self.groups: list[Any] = [part for f in whole for part in f.split_by_row_group()]
            self.lengths = tuple(int(g.row_groups[0].num_rows) for g in self.groups)
        except (pa.ArrowException, OSError) as problem:
            raise UserError(f"cannot read {paths[0]} as .parquet ({_said(problem)}): write it again") from problem
        if not sum(self.lengths):
            raise UserError(f"expected rows, got none in {paths[0]}: write it again")

    def _refuse_others(self, fragment: Any) -> None:
        """Raise for a file whose columns are not those of the first, by name and type."""
        theirs = fragment.physical_schema
        for field in self.dataset.schema:
            at = theirs.get_field_index(field.name)
            if at < 0 and not (self.root is not None and f"{field.name}=" in fragment.path):
                raise UserError(f"{fragment.path} has no column {field.name!r}, which {self.paths[0]} has: align them")
            if at >= 0 and theirs.field(at).type != field.type:
                raise UserError(
                    f"column {field.name!r} is {theirs.field(at).type} in {fragment.path} and {field.type} in "
                    f"{self.paths[0]}: write them with one type"
                )

    @property
    def columns(self) -> list[str]:
        """The names of the columns; an index that pandas wrote is none."""
        return [str(c) for c in self.dataset.schema.empty_table().to_pandas().columns]

    def block(self, number: int, columns: Sequence[str] | None) -> Any:
        """The rows of a row group."""
        import pyarrow as pa

        group = self.groups[number]
        try:
            return group.to_table(
                schema=self.dataset.schema, columns=None if columns is None else list(columns), use_threads=False
            )
        except (pa.ArrowException, OSError) as problem:
            raise UserError(f"cannot read {group.path} ({_said(problem)}): write it again") from problem

    def named(self, number: int) -> str:
        """The file that a row group is of."""
        return str(self.groups[number].path)

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ParquetStore.__init__(self, [Path(p) for p in state["paths"]], state["root"])


def _said(problem: Exception) -> str:
    return " ".join(str(problem).split())[:200]


class ArrayStore:
    """Arrays by field name that are sliced without being read whole: memory maps of .npy files, arrays of zarr.

    Raises:
        UserError: for fields of different lengths, or without rows.
    """

    def __init__(self, fields: Mapping[str, Any], files: Mapping[str, Path] | None = None) -> None:
        self.files = dict(files or {})
        self.fields = {n: _mapped(p) for n, p in self.files.items()} if files else dict(fields)
        counts = {name: int(values.shape[0]) if values.shape else 0 for name, values in self.fields.items()}
        if not counts or min(counts.values()) < 1 or len(set(counts.values())) > 1:
            told = ", ".join(f"{name} with {count}" for name, count in counts.items()) or "no fields"
            raise UserError(f"expected fields with equally many rows, got {told}: align them by row")
        rows = next(iter(counts.values()))
        each = sum(int(np.prod(v.shape[1:], dtype=float)) * v.dtype.itemsize for v in self.fields.values())
        step = max(1, BLOCK_BYTES // max(each, 1))
        self.lengths = tuple(min(step, rows - start) for start in range(0, rows, step))
        self.step = step

    @property
    def columns(self) -> list[str]:
        """The names of the fields."""
        return list(self.fields)

    def block(self, number: int, columns: Sequence[str] | None) -> Any:
        """A slice of every field."""
        at = slice(number * self.step, number * self.step + self.lengths[number])
        return {n: np.asarray(v[at]) for n, v in self.fields.items() if columns is None or n in columns}

    def named(self, number: int) -> str:
        """The file, if it is one."""
        return str(next(iter(self.files.values()))) if len(self.files) == 1 else ""

    def __getstate__(self) -> dict[str, Any]:
        return {"fields": {} if self.files else self.fields, "files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ArrayStore.__init__(self, state["fields"], state["files"])


def _mapped(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return found
    except (OSError, ValueError, EOFError) as problem:
        hint = "save numbers, not objects" if "pickle" in str(problem) or "object" in str(problem) else "write it again"
        raise UserError(f"cannot read {path} as .npy ({_said(problem)}): {hint}") from problem


class ItemStore:
    """Anything with a length and items, such as a data set of torch: rows, pairs (row, label), or dicts by field."""

    def __init__(self, items: Any) -> None:
        self.items = items
        rows = len(items)
        if rows < 1:
            raise UserError("expected at least one row, got an empty data set: pass some rows")
        self.lengths = tuple(min(ITEMS, rows - start) for start in range(0, rows, ITEMS))
        self.columns: list[str] | None = None

    def block(self, number: int, columns: Sequence[str] | None) -> Any:
        """Some items, stacked."""
        start = number * ITEMS
        rows = range(start, start + self.lengths[number])
        found = opened(torch.utils.data.Subset(self.items, list(rows)))
        found = found if isinstance(found, Mapping) else {"x": found}
        return {name: v for name, v in found.items() if columns is None or name in columns}

    def named(self, number: int) -> str:
        """Nothing: an item is named by its number."""
        return ""


class TableStore:
    """Slices of something that makes tables of them: a data set of Hugging Face, an AnnData on disk."""

    def __init__(self, source: Any, rows: int, columns: list[str] | None, width: int, label: str | None = None) -> None:
        self.source, self.columns, self.label = source, columns, label
        step = max(1, min(2**16, BLOCK_BYTES // max(8 * width, 1)))
        self.step, self.lengths = step, tuple(min(step, rows - start) for start in range(0, rows, step))

    def block(self, number: int, columns: Sequence[str] | None) -> Any:
        """A slice, as an Arrow table or a dict of tables and arrays."""
        start = number * self.step
        part = self.source[start : start + self.lengths[number]]
        if not hasattr(part, "to_memory"):
            return part if columns is None else part.select(list(columns))
        found = opened(part.to_memory())
        if self.label is not None:
            if self.label not in found:
                raise unknown_name("field", self.label, found)
            found = found.labelled(self.label)
        return {name: v for name, v in found.items() if columns is None or name in columns}

    def named(self, number: int) -> str:
        """Nothing: a row is named by its number."""
        return ""


def is_streamable(source: Any) -> bool:
    """Whether this is read block by block without being asked: folders and patterns of files, stores on disk.

    Example:
        >>> is_streamable("rows/*.parquet"), is_streamable("rows.parquet"), is_streamable(np.zeros(3))
        (True, False, False)
    """
    if isinstance(source, str | Path):
        return any(c in str(source) for c in "*?[") or Path(source).expanduser().is_dir()
    if _module(source) in ("zarr", "datasets"):
        return True
    return _module(source) == "anndata" and bool(getattr(source, "isbacked", False))


def _module(source: Any) -> str:
    return type(source).__module__.split(".")[0]


def store_of(source: Any, label: str | None = None) -> Store:
    """The store of a path, a pattern, a folder, memory maps, arrays of zarr, or a data set with a length.

    Raises:
        UserError: for what cannot be read block by block.
    """
    if isinstance(source, str | Path):
        return _of_files(Path(source).expanduser(), label)
    if _module(source) == "datasets" and callable(getattr(source, "with_format", None)) and hasattr(source, "__len__"):
        names = [str(name) for name in source.column_names]
        return TableStore(source.with_format("arrow"), len(source), names, len(names))
    if _module(source) == "anndata" and hasattr(source, "obs"):
        return TableStore(source, source.n_obs, None, source.n_vars + len(source.obs.columns), label)
    if _module(source) == "zarr" and not hasattr(source, "shape"):
        return ArrayStore({str(name): array for name, array in source.arrays()})
    if isinstance(source, np.ndarray) or (_module(source) == "zarr" and hasattr(source, "shape")):
        return ArrayStore({"x": source})
    if isinstance(source, Mapping) and source and all(hasattr(v, "shape") for v in source.values()):
        return ArrayStore({str(n): v for n, v in source.items()})
    if isinstance(source, torch.utils.data.IterableDataset) or not hasattr(source, "__getitem__"):
        raise UserError(
            f"a stream expects rows with a length and numbers, got a {type(source).__name__}: pass files, memory maps, "
            "or a data set with __len__ and __getitem__"
        )
    here = isinstance(source, list | tuple | torch.Tensor) or _module(source) in ("pandas", "polars", "pyarrow")
    if hasattr(source, "__len__") and not here:
        return ItemStore(source)
    raise UserError(
        f"a stream expects files, memory maps or a data set with a length, got a {type(source).__name__}, which is in "
        "memory already: load it without stream=True"
    )


def _of_files(path: Path, label: str | None) -> Store:
    """Files by their endings: .parquet, .npy or a store of zarr; a folder or pattern of Parquet, a folder of .npy."""
    if any(c in str(path) for c in "*?["):
        found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]
        if not found:
            raise UserError(f"expected files, found nothing at {path}: check the pattern")
        return _of_several(found, None, label)
    if not path.exists():
        raise UserError(f"expected a file, found nothing at {path}: check the path")
    if not path.is_dir():
        return _of_several([path], None, label)
    if path.suffix == ".zarr" or any((path / mark).exists() for mark in ("zarr.json", ".zarray", ".zgroup")):
        return _of_zarr(path)
    hidden = [p for p in sorted(path.rglob("*")) if p.is_file()]
    found = [p for p in hidden if not any(part.startswith((".", "_")) for part in p.relative_to(path).parts)]
    if not found:
        raise UserError(f"expected .parquet or .npy files, got the folder {path}, which has none: check the path")
    return _of_several(found, path, label)


def _of_several(files: list[Path], folder: Path | None, label: str | None) -> Store:
    endings = {p.suffix.lower() for p in files}
    if endings == {".parquet"}:
        return ParquetStore(files, folder)
    if endings == {".npy"} and (folder is not None or len(files) == 1):
        return ArrayStore({}, {"x": files[0]} if folder is None else {p.stem: p for p in files})
    if endings == {".h5ad"} and len(files) == 1:
        return store_of(_extra("anndata", files[0]).read_h5ad(files[0], backed="r"), label)
    other = next((p for p in files if p.suffix.lower() not in (".parquet", ".npy")), files[0])
    raise UserError(
        f"a stream expects .parquet files (one, a folder, a pattern), or .npy, .zarr, .h5ad, got {other}: convert it "
        "to Parquet, or load it in memory"
    )


def _of_zarr(path: Path) -> Store:
    return store_of(_extra("zarr", path).open(str(path), mode="r"))


def _extra(name: str, path: Path) -> Any:
    """A package that is not needed but for such a file."""
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        raise UserError(f"{path} needs {name}: pip install 'ppl-vae[streams]'") from problem
