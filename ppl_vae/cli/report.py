"""`ppl-vae report`: figures and report.html of a run, written anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import read_rows, writing
from ppl_vae.cli.inputs import data_words, open_words
from ppl_vae.cli.output import say
from ppl_vae.errors import UserError
from ppl_vae.registry.rows import DataWords
from ppl_vae.registry.words import check_choice, check_whole

if TYPE_CHECKING:
    from ppl_vae.data import Data
    from ppl_vae.runs.folder import Run

__all__ = ["report"]


def report(
    run: o.RunFolder,
    data: o.OtherData = None,
    label: o.LabelOption = None,
    columns: o.ColumnsOption = None,
    missing: o.MissingOption = "refuse",
    seed: o.Seed = 0,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
    figure_format: o.FigureFormat = "png",
) -> None:
    """Rewrite the figures and report.html."""
    check_choice("--figure-format", figure_format, o.FIGURES)
    check_whole("--seed", seed, 0)
    words = data_words(data, label, columns, missing)
    _refuse_unwritable(run)
    from ppl_vae.runs.files import read_diagnostics, read_evaluation

    opened = open_words(run, model, guide, whole=True)
    found = read_evaluation(run)
    read_diagnostics(run)  # a damaged one is refused before the work
    rows = _whole(opened, words)
    from ppl_vae.reporting import show, write_report
    from ppl_vae.reporting.view import held_out

    told = held_out(rows)
    shown = told.name
    summary = found.get("test") or next(iter(found.values()), None)
    own = found.get(shown, {}).get("particles") if data is None else None
    row_by_row = read_rows(run, shown, int(own), len(told)) if own else None
    with writing(run, "ppl-vae report", wait=0.0):
        page = write_report(opened, rows, summary, row_by_row, seed=seed, figure_format=figure_format)
    say(f"report written to {page}")
    if open_ and not show(page):
        say("no browser was found here")


def _refuse_unwritable(run: Path) -> None:
    if run.is_dir() and not os.access(run, os.W_OK):
        raise UserError(f"{run} cannot be written, and a report goes there: copy the run to a folder of your own")


def _whole(run: Run, words: DataWords) -> Data:
    """All splits of the run's data, or of other data with the same fields."""
    if words.data is None:
        return run.data()
    data = words.load()
    for name in ("train", "validation", "test"):
        part = getattr(data, name)
        if part is not None:
            from ppl_vae.data import as_split

            as_split(part, schema=run.schema)  # refuses fields that do not fit, by name
    return data
