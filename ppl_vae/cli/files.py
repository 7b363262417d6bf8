"""Files that the commands write: where they go, and what is in them."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.cli.judging import Judged
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.saving.atomic import sweep, write, write_new
from ppl_vae.saving.locks import held

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.evaluation import Evaluation

__all__ = [
    "array_bytes",
    "as_json",
    "check_target",
    "column_names",
    "read_rows",
    "refuse_busy",
    "table_text",
    "update_evaluation",
    "write_rows",
    "writing",
]


DRAFT_SECONDS = 600.0
"""A file that was begun so long ago and has no name yet was left by a command that was killed."""


@contextmanager
def writing(run: Path, doing: str, *, wait: float = 60.0) -> Iterator[None]:
    """Hold a run folder while a command writes there; one that cannot be written needs no holder."""
    if not os.access(run, os.W_OK):
        yield
        return
    with held(run, doing, wait=wait):
        sweep(run, age=DRAFT_SECONDS)  # samples and the like are written without holding the folder
        yield


def refuse_busy(run: Path, doing: str) -> None:
    """Raise while another process trains in a run folder: what it holds is about to change."""
    if run.is_dir():
        with writing(run, doing, wait=0.0):
            pass


def as_json(value: Any) -> Any:
    """Plain JSON values: paths as text, numbers that are not finite as null.

    Example:
        >>> as_json({"a": float("nan"), "b": [Path("c")]})
        {'a': None, 'b': ['c']}
    """
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def update_evaluation(run: Path, key: str, judged: Judged) -> Path:
    """Put the summary into RUN/evaluation.json, under the name of the rows, and the rows into a table beside it.

    Keeps what else is there.
    """
    from ppl_vae.runs.files import read_evaluation
    from ppl_vae.saving.atomic import write_json

    before = read_evaluation(run)
    lasting = {name: value for name, value in before.get(key, {}).items() if name == "gap"}  # it takes minutes to find
    found = before | {key: lasting | as_json(judged.summary)}
    if judged.rows is not None:
        columns = {name: values.tolist() for name, values in judged.rows.columns().items()}
        of = "train" if "joint_elbo" in judged.summary else key
        write(rows_file(run, of), table_text({"row": list(range(len(next(iter(columns.values())))))} | columns))
    return write_json(run / "evaluation.json", found)


def rows_file(run: Path, key: str) -> Path:
    """Where the values of single rows are, such as RUN/evaluation-test.csv."""
    return run / f"evaluation-{re.sub(r'[^A-Za-z0-9_-]+', '-', key)}.csv"


def read_rows(run: Path, key: str, particles: int, count: int) -> Evaluation | None:
    """What `update_evaluation` wrote of `count` single rows; nothing if it is not there.

    Raises:
        UserError: the table is damaged.
    """
    import torch

    from ppl_vae.evaluation import COLUMNS, Evaluation
    from ppl_vae.saving.reading import damaged

    file = rows_file(run, key)
    if not file.exists():
        return None
    with damaged(file, "delete it and evaluate again"):
        with file.open(encoding="utf-8", newline="") as lines:
            table = list(csv.DictReader(lines, strict=True))
        if [row.get("row") for row in table] != [str(i) for i in range(count)]:
            raise ValueError(f"it does not hold {count:,} rows in their order")
        if gone := [name for name in COLUMNS if name not in table[0]]:
            raise ValueError(f"it has no column {gone[0]}")
        columns: dict[str, Any] = {n: torch.tensor([float(row[n]) for row in table]) for n in COLUMNS}
        return Evaluation(**columns, particles=particles)


def check_target(out: Path | None, usual: Path, endings: Sequence[str]) -> Path:
    """The file that a command is to write: what the user named, which is not there yet, or the usual one.

    The usual one may be there; what is written then gets a name with a number (`write_new`).

    Raises:
        UserError: the file has another ending, is there, or cannot be written.
    """
    if out is not None:
        out = out.expanduser()
        if out.suffix.lower() not in endings:
            raise unknown_name(f"ending of {out.name},", out.suffix or "(none)", endings)
        if out.exists():
            raise UserError(f"{out} exists already: choose another file with --out")
    folder = (usual if out is None else out).parent
    if folder == usual.parent:
        sweep(folder, age=DRAFT_SECONDS)
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(f"{folder} is no folder that can be written: choose another file with --out")
    return usual if out is None else out


def column_names(name: str, count: int, known: Sequence[str] = ()) -> list[str]:
    """Column names of a field: its own, or name_0, name_1, ..."""
    return list(known) if len(known) == count else [f"{name}_{i}" for i in range(count)]


def table_text(columns: Mapping[str, Sequence[Any]]) -> str:
    """Columns as comma-separated text, one line a row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def array_bytes(arrays: Mapping[str, Tensor]) -> bytes:
    """Tensors as the bytes of an .npz file."""
    import numpy as np

    file = io.BytesIO()
    plain: dict[str, Any] = {name: value.detach().cpu().numpy() for name, value in arrays.items()}
    np.savez_compressed(file, **plain)
    return file.getvalue()


def write_rows(out: Path, arrays: Mapping[str, Tensor], columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write arrays to an .npz or columns to a .csv file, by the file's ending; returns which."""
    return write_new(out, table_text(columns) if out.suffix.lower() == ".csv" else array_bytes(arrays))
