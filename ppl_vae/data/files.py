"""Data sets from files: .npy .npz .csv .tsv .jsonl .parquet, and each of them as .gz."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.data._arrays import from_arrays
from ppl_vae.data._columns import unmarked
from ppl_vae.data._large import from_large
from ppl_vae.data._options import Options
from ppl_vae.data.dataset import Data
from ppl_vae.data.text import TextForm, read_cells, read_text
from ppl_vae.errors import UserError

__all__ = ["EXTENSIONS", "contents", "from_path", "read_source", "spelled"]


def from_path(path: str | Path, options: Options) -> Data:
    """A data set from a .npy, .npz, .csv or .parquet file; nothing in it is ever unpickled."""
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"expected a file, found nothing at {path}: check the path")
    if path.is_dir():
        raise UserError(f"expected a file, got the folder {path}: pass one of its files")
    if (large := from_large(path, options)) is not None:
        return large
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
    return _unmarked(frame, form)


def _json_lines(content: bytes, path: Path, form: TextForm) -> Any:
    """One JSON object a line: nested objects are columns with points in their names."""
    import pandas

    records = [json.loads(line) for line in content.decode(form.encoding or "utf-8-sig").splitlines() if line.strip()]
    if not records or not all(isinstance(record, dict) for record in records):
        raise UserError(f"expected one JSON object a line in {path}: write rows as {{'name': value, ...}}")
    return _unmarked(pandas.json_normalize(records), form)


def _unmarked(frame: Any, form: TextForm) -> Any:
    """Numbers that mark a missing entry as NaN: rows that come later are written as those of training were."""
    numbers = [name for name in frame.columns if frame[name].dtype.kind in "iuf"] if form.missing_marks else []
    return frame.assign(**{name: unmarked(frame[name], form.missing_marks or ()) for name in numbers})


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
