"""Very many rows of a command: written part by part, shared among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.cli.output import told_rows

if TYPE_CHECKING:
    from ppl_vae.data import Split
    from ppl_vae.evaluation import Parts
    from ppl_vae.runs.folder import Run

__all__ = ["PartsOption", "parts_of", "rows_workers"]

PartsOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="For very many rows: write one Parquet file per 16,384 rows; can be resumed."),
]


@contextmanager
def rows_workers(count: int) -> Iterator[Executor | None]:
    """So many processes, or none."""
    if count == 1:
        yield None
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as executor:
        yield executor


def parts_of(
    what: Callable[..., Any], run: Run, rows: Split, folder: Path, workers: int, seed: int, **options: Any
) -> Parts:
    """What a function tells of every row, written to a folder by so many processes."""
    from ppl_vae.evaluation import in_parts
    from ppl_vae.saving.paths import path_of

    place = path_of("parts", folder)
    with rows_workers(workers) as executor:
        shared: Any = {"seed": seed, "executor": executor, "progress": told_rows()}
        return in_parts(what, run.model, run.guide, rows, out=place, **shared, **options)
