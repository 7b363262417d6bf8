"""Very many rows, some at a time: results are written as they come, split over workers, resumed by missing ranges."""

from __future__ import annotations

import hashlib
import io
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.display import Displayed
from ppl_vae.errors import UserError, check_whole, shown, told_by
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.programs.program import Pair
from ppl_vae.saving.atomic import is_draft, sweep, write, write_json
from ppl_vae.saving.paths import path_of
from ppl_vae.saving.specs import describe

__all__ = ["OtherCall", "Parts", "in_parts"]

ROWS = 2**14
"""So many rows are a part."""

ABOUT = "_parts.json"  # readers of Parquet folders pass over what begins with an underscore

DRAFT_SECONDS = 600.0
"""A file that was begun so long ago and has no name yet was left by a call that was killed."""


class OtherCall(UserError):
    """A folder holds parts of another call."""


@dataclass(frozen=True, repr=False)
class Parts(Displayed):
    """A folder of results by row, a Parquet file for every range of rows; any reader of Parquet takes the folder.

    Attributes:
        folder: where the files are.
        rows: how many rows there are results of.
        size: rows of a file, but of the last.
    """

    folder: Path
    rows: int
    size: int

    def ranges(self) -> list[range]:
        """The rows of every file."""
        return [range(start, min(start + self.size, self.rows)) for start in range(0, self.rows, self.size)]

    def path(self, rows: range) -> Path:
        """The file of a range of rows."""
        return self.folder / f"part-{rows.start:012d}-{rows.stop:012d}.parquet"

    def missing(self) -> list[range]:
        """The ranges of which there is no file yet."""
        return [rows for rows in self.ranges() if not self.path(rows).is_file()]

    def scan(self, columns: list[str] | None = None) -> Iterator[Any]:
        """The files in the order of the rows, as DataFrames.

        Raises:
            UserError: for a range that is missing, or a file that is damaged.
        """
        import pandas

        for rows in self.ranges():
            file = self.path(rows)
            if not file.is_file():
                raise UserError(f"{self.folder} has no rows {rows.start} to {rows.stop - 1} yet: run it again")
            try:
                table = pandas.read_parquet(io.BytesIO(file.read_bytes()), columns=columns)  # a name is no address
            except Exception as error:  # what Arrow raises for a damaged file has no common class
                reason = " ".join(str(error).split())[:120]
                raise UserError(f"{file} cannot be read ({reason}): delete it, and run it again") from error
            if len(table) != len(rows):
                raise UserError(f"{file} has {len(table)} rows, not {len(rows)}: delete it, and run it again")
            yield table

    def frame(self, columns: list[str] | None = None) -> Any:
        """All results as one DataFrame."""
        import pandas

        return pandas.concat(self.scan(columns), ignore_index=True)

    def summary(self) -> dict[str, float | int]:
        """Of every column of numbers the mean over rows, and its standard error over rows as `_se`, in float64.

        Of standard errors of single rows (`log_evidence_se`) it is that of the mean, as `log_evidence_mc_se`.
        """
        found: dict[str, list[float]] = {}
        for table in self.scan():
            for name in table.columns:
                if name == "row" or table[name].dtype.kind not in "fiu":
                    continue
                values = table[name].to_numpy("float64")
                count, mean, squares = found.get(name, [0.0, 0.0, 0.0])
                total = count + len(values)
                apart = float(values.mean()) - mean
                squares += float(((values - values.mean()) ** 2).sum()) + apart**2 * count * len(values) / total
                found[name] = [total, mean + apart * len(values) / total, squares]
        told: dict[str, float | int] = {"rows": self.rows}
        for name, (count, mean, squares) in found.items():
            base = name.removesuffix("_se")
            if base != name and base in found:
                told[f"{base}_mc_se"] = ((squares + count * mean**2) ** 0.5) / count
            else:
                told |= {name: mean, f"{name}_se": (squares / max(count - 1, 1) / count) ** 0.5}
        return told

    def display_title(self) -> str:
        """How many rows, and where."""
        return f"{self.rows:,} rows in {len(self.ranges()):,} files of {self.folder}"

    def display_lines(self) -> list[tuple[str, str]]:
        """How many files are there."""
        return [("files to come", str(len(self.missing())))]

    def display_verdict(self) -> str:
        """Nothing."""
        return ""


def in_parts(
    what: Callable[..., Any],
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    out: str | Path,
    size: int = ROWS,
    seed: int = 0,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Parts:
    """A verb on very many rows: `what(model, guide, rows, seed=..., **options)` for every range of `size` rows.

    What is told of every row is written to `out` as it comes, a Parquet file for each range. The same call goes on
    where another was stopped: ranges that have a file are not computed again. The seed of a range is a function of
    `seed` and of its first row, so the numbers are the same in one go, resumed, and split over the workers of an
    `executor`, as long as `size` is. (What is compiled may round otherwise: with compile="off" they are equal to the
    bit.)

    Args:
        what: `ppl_vae.evaluate`, `impute`, `encode`, `predict`, `diagnostics.annealed_evidence`, or another function
            of a model, a guide and rows that tells something of every row: a DataFrame, what has `.frame()` or
            `.columns()`, or a dataclass with tensors [row].
        model: p(z) p(x | z).
        guide: q(z | x).
        data: rows in memory or streamed: a data set (its test split), a split, a dict of arrays or one array.
        out: a folder; it belongs to this call alone.
        size: rows of a part.
        seed: of the draws.
        executor: any `concurrent.futures.Executor`; its workers are given the pair and rows, so both are pickled.
        progress: told after every part how many rows are done, and of how many.
        options: of `what`.

    Raises:
        UserError: for a folder of another call, what tells nothing of single rows, a worker that dies; and as `what`
            does.

    Example:
        >>> import tempfile
        >>> from ppl_vae.evaluation import evaluate
        >>> from ppl_vae.programs.toy import model, posterior
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = in_parts(evaluate, model, posterior, torch.zeros(5), out=folder, size=2, particles=10)
        ...     print(len(found.ranges()), round(found.summary()["log_evidence"], 3))
        3 -1.266
    """
    size, seed = check_whole("size", size, 1), check_whole("seed", seed, 0)
    if not callable(what):
        raise UserError(f"in_parts expects a function such as ppl_vae.evaluate, got {shown(what)}")
    told = told_by("progress", progress, "how many rows are done, and of how many")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise UserError(f"executor must be one of concurrent.futures, or None, got {shown(executor)}")
    split = rows_of(model, guide, data, rows_for="in_parts", holes=getattr(what, "takes_holes", False))
    parts = Parts(path_of("out", out), len(split), size)
    _claim(parts, what, Pair(model, guide), split, seed, options)
    sweep(parts.folder, age=DRAFT_SECONDS)  # the same call, made twice at once, writes the same files
    _fill(parts, _made(what, model, guide, split, parts.missing(), seed, options, executor), told)
    return parts


def _fill(parts: Parts, found: Iterator[tuple[range, bytes]], told: Callable[[int, int], None]) -> None:
    """Write the files that are missing, as they come."""
    done = parts.rows - sum(map(len, parts.missing()))
    for rows, table in found:
        write(parts.path(rows), table)
        done += len(rows)
        told(done, parts.rows)


def _made(
    what: Callable[..., Any],
    model: Any,
    guide: Any,
    split: Split,
    left: list[range],
    seed: int,
    options: Mapping[str, Any],
    executor: Executor | None,
) -> Iterator[tuple[range, bytes]]:
    """The ranges that are left with the bytes of their files, as they come."""

    def job(rows: range) -> tuple[Any, ...]:
        some = split.rows(slice(rows.start, rows.stop))
        return what, model, guide, some, rows.start, _seed(seed, rows.start), dict(options)

    if executor is None:
        for rows in left:
            yield rows, _part(*job(rows))
        return
    waiting: deque[tuple[range, Future[bytes]]] = deque()
    at_once = 2 * int(getattr(executor, "_max_workers", None) or 4)
    try:
        for rows in left:
            waiting.append((rows, executor.submit(_part, *job(rows))))
            if len(waiting) >= at_once:
                first, future = waiting.popleft()
                yield first, future.result()
        for rows, future in waiting:
            yield rows, future.result()
    except BrokenProcessPool as error:
        raise UserError("a worker died: run it again, and it goes on with the rows that are missing") from error
    finally:
        for _, future in waiting:
            future.cancel()


def _seed(seed: int, start: int) -> int:
    """A seed of a range: those of neighbouring ranges have nothing in common."""
    return int.from_bytes(hashlib.sha256(f"{seed} {start}".encode()).digest()[:7], "big")


def _part(
    what: Callable[..., Any], model: Any, guide: Any, split: Split, start: int, seed: int, options: Mapping[str, Any]
) -> bytes:
    """The Parquet file of some rows."""
    table = _table(what(model, guide, split, seed=seed, **options), len(split))
    if "row" not in table.columns:
        table.insert(0, "row", range(start, start + len(split)))
    content = io.BytesIO()
    table.to_parquet(content, index=False)
    return content.getvalue()


def _table(found: Any, rows: int) -> Any:
    """What was told of single rows, as a DataFrame.

    Raises:
        UserError: if nothing was.
    """
    import pandas

    if callable(getattr(found, "columns", None)):
        found = found.columns()
    elif callable(getattr(found, "frame", None)):
        found = found.frame()
    elif is_dataclass(found) and not isinstance(found, type):
        each = {f.name: getattr(found, f.name) for f in fields(found) if f.name != "draws"}
        found = {name: v for name, v in each.items() if isinstance(v, Tensor) and v.shape[:1] == (rows,)}
    if isinstance(found, Mapping) and found and all(isinstance(v, Tensor) and len(v) == rows for v in found.values()):
        columns: dict[str, Any] = {}
        for name, values in found.items():
            flat = values.detach().cpu().reshape(rows, -1).numpy()
            names = [name] if values.dim() == 1 else [f"{name}[{i}]" for i in range(flat.shape[1])]
            columns |= dict(zip(names, flat.T, strict=True))
        found = pandas.DataFrame(columns)
    if not isinstance(found, pandas.DataFrame) or len(found) != rows:
        raise UserError(f"in_parts expects something of every row, got {type(found).__name__}: take another function")
    return found.reset_index(drop=True)


def _claim(
    parts: Parts, what: Callable[..., Any], pair: Pair, split: Split, seed: int, options: Mapping[str, Any]
) -> None:
    """Say in the folder what it is of.

    Raises:
        UserError: if it is of something else.
    """
    about = {
        "what": f"{what.__module__}.{getattr(what, '__qualname__', type(what).__name__)}",
        "rows": parts.rows,
        "size": parts.size,
        "seed": seed,
        "options": {name: describe(value, {}) for name, value in sorted(options.items())},
        "values": split.fingerprint(),
        "weights": _weights(pair),
        "version": metadata.version("ppl-vae"),
    }
    about = json.loads(json.dumps(about))
    file = parts.folder / ABOUT
    if not file.exists():
        if parts.folder.exists() and not all(map(is_draft, parts.folder.iterdir())):
            raise UserError(f"{parts.folder} holds other files: choose another folder, or empty it")
        write_json(file, about)
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise OtherCall(f"{file} is damaged ({problem}): choose another folder") from problem
    for name, value in about.items():
        was = before.get(name) if isinstance(before, dict) else None
        if was != value:
            told = f" ({shown(was)}, now {shown(value)})" if name not in ("values", "weights") else ""
            raise OtherCall(f"{parts.folder} is of another call, with other {name}{told}: choose another folder")


def _weights(pair: Pair) -> str:
    """A hash of both programs' parameters."""
    found = hashlib.sha256()
    for name, value in sorted(pair.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
