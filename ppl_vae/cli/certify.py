"""`ppl-vae certify`: the log evidence of every row of a run to a stated accuracy."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import as_json as plain
from ppl_vae.cli.files import refuse_busy, table_text, writing
from ppl_vae.cli.inputs import AskedRows
from ppl_vae.cli.output import note, print_table, say, spared
from ppl_vae.cli.workers import rows_workers
from ppl_vae.errors import UserError
from ppl_vae.registry.words import check_choice, check_number, check_whole

if TYPE_CHECKING:
    from rich.table import Table

    from ppl_vae.data import Split
    from ppl_vae.diagnostics import Certified
    from ppl_vae.runs.folder import Run

__all__ = ["certified_each", "certify"]

KIND = "certified-evidence"

PARTS = "certified"
"""The folder in a run where what was found of rows is kept."""


@o.on_rows
def certify(
    run: o.RunFolder,
    accuracy: Annotated[float, typer.Option(help="Largest standard error of a row's log evidence, nats.")] = 0.05,
    seconds: Annotated[
        float | None,
        typer.Option(help="Time budget in seconds; rows not reached stay uncertified.", show_default="none"),
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Certify only the first N rows.", show_default="all")] = None,
    validate: Annotated[
        int, typer.Option(help="Simulated rows on which each method is tested before it is used; 0 skips the test.")
    ] = 100,
    workers: Annotated[int, typer.Option(help="Parallel processes.")] = 1,
    *,
    asked: AskedRows,
    seed: o.Seed = 0,
    figure_format: o.FigureFormat = "png",
    as_json: o.JsonOption = False,
) -> None:
    """Compute log p(x) of each row to a given accuracy.

    Cheap methods first: draws of the guide; if they do not suffice, an approximation fitted to the row, more draws,
    annealed chains. Writes RUN/certified.csv with one line per row, and adds verdict and figure to the report. Results
    are kept in RUN/certified, with draws of the posterior: the same command continues where it was stopped.
    """
    check_number("--accuracy", accuracy, positive=True)
    if seconds is not None:
        check_number("--seconds", seconds, positive=True)
    if rows is not None:
        check_whole("--rows", rows, 1)
    check_whole("--validate", validate, 0)
    check_whole("--workers", workers, 1)
    check_whole("--seed", seed, 0)
    check_choice("--figure-format", figure_format, o.FIGURES)
    refuse_busy(run, "ppl-vae certify")
    from ppl_vae.evaluation.joint_weights import shares_latents
    from ppl_vae.runs.files import read_diagnostics

    opened = asked.opened(whole=True)
    read_diagnostics(run)  # a damaged one is refused before the work
    train = opened.data().train if asked.data is None and asked.split is None else None
    shared = train is not None and shares_latents(opened.pair, train.to(opened.pair.device))
    # latents that rows share: the evidence is that of all training rows together
    chosen, name = asked.rows(opened, "train" if shared else None)
    chosen = chosen.rows(slice(0, rows))
    wishes: dict[str, Any] = {
        "accuracy": accuracy,
        "seconds": seconds,
        "validate": validate,
        "seed": seed,
        "progress": note,
    }
    with rows_workers(workers) as executor:
        found = certified_rows(opened, chosen, executor, **wishes)
    summary = found.summary()
    if as_json:
        typer.echo(json.dumps(plain({"run": run, "rows": name, "certified": summary}), indent=2, ensure_ascii=False))
    else:
        print_table(_table("all data as one unit" if chosen.is_one_unit else f"{len(chosen):,} rows: {name}", summary))
        say(found.verdict)
    with spared("the certification"), writing(run, "ppl-vae certify"):
        file = _keep(run, found, f"{len(chosen):,} rows: {name}", figure_format)
        if not as_json:
            say(f"written to {file}; ppl-vae report {run} puts the figure into the report")


def certified_each(opened: Run, rows: Split, workers: int = 1, *, seed: int) -> Certified:
    """What `ppl-vae certify` finds of rows by default, or has found.

    Raises:
        UserError: where rows have no evidence of their own, or a class was held out.
    """
    from ppl_vae.evaluation.joint_weights import shares_latents

    if rows.outliers is not None:
        raise UserError("--certified is of rows that are alike, and here a class was held out: see ppl-vae certify")
    if rows.is_one_unit or shares_latents(opened.pair, rows.to(opened.pair.device)):
        raise UserError("--certified is of each row, and here all rows are one unit: see ppl-vae certify")
    with rows_workers(workers) as executor:
        return certified_rows(opened, rows, executor, seed=seed, progress=note)


def certified_rows(opened: Run, rows: Split, executor: Executor | None = None, **wishes: Any) -> Certified:
    """Certify, and keep what is found of rows in the run; what is there of another call makes way."""
    from ppl_vae import diagnostics
    from ppl_vae.evaluation.joint_weights import shares_latents
    from ppl_vae.evaluation.parts import OtherCall

    together = rows.is_one_unit or shares_latents(opened.pair, rows.to(opened.pair.device))
    if together or not os.access(opened.path, os.W_OK):
        return diagnostics.certify(opened.model, opened.guide, rows, **wishes)
    folder = opened.path / PARTS
    try:
        return diagnostics.certify(opened.model, opened.guide, rows, out=folder, executor=executor, **wishes)
    except OtherCall as reason:
        note(f"begins anew: {reason}".rsplit(":", 1)[0])
        shutil.rmtree(folder)
        return diagnostics.certify(opened.model, opened.guide, rows, out=folder, executor=executor, **wishes)


def _table(title: str, summary: dict[str, Any]) -> Table:
    """By method the rows it certified, what it took, and how it did on simulated rows."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for head, side in (("method", "left"), ("rows certified", "right"), ("seconds", "right")):
        table.add_column(head, justify=side)  # type: ignore[arg-type]
    table.add_column("covered on simulated rows", justify="right")
    for name, told in summary["methods"].items():
        seconds = "" if told["seconds"] is None else f"{told['seconds']:.0f}"
        tried = told["validation"]
        covered = f"{tried['covered']} of {tried['sure']}" if tried and not tried["untried"] else "not tried"
        table.add_row(name, f"{told['rows']:,}", seconds, covered if told["rows"] else "")
    table.add_row("not certified", f"{summary['rows'] - summary['certified_rows']:,}", "", "")
    return table


def _keep(run: Path, found: Certified, rows: str, ending: str) -> Path:
    from ppl_vae.plots.drawing import save
    from ppl_vae.runs.files import read_diagnostics
    from ppl_vae.saving.atomic import write, write_json

    with spared("a figure"):
        figure = found.figure()
        for each in dict.fromkeys(("png", ending)):  # the report shows PNG
            save(figure, run / "figures" / f"diagnosis-{KIND}.{each}")
    said = {"rows": rows, "verdict": found.verdict, "summary": plain(found.summary())}
    write_json(run / "diagnostics.json", read_diagnostics(run) | {KIND: said})
    columns = {n: v.tolist() if hasattr(v, "tolist") else v for n, v in found.columns().items()}
    write(run / "certified.csv", table_text({"row": list(range(len(found.method)))} | columns))
    return run / "certified.csv"
