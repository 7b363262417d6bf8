"""`ppl-vae compare-cell`: one cell of a grid is judged, in the process that trained it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.compare import rungs_of
from ppl_vae.cli.inputs import open_words, rows_of
from ppl_vae.registry.rows import DataWords

if TYPE_CHECKING:
    from ppl_vae.data import Split
    from ppl_vae.runs.folder import Run

__all__ = ["compare_cell"]


def compare_cell(
    run: o.RunFolder,
    particles: Annotated[int, typer.Option()] = 1000,
    iwae: Annotated[str, typer.Option()] = "1",
    certified: Annotated[float | None, typer.Option()] = None,
    seed: o.Seed = 0,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    device: o.DeviceOption = "auto",
    latents: Annotated[bool, typer.Option("--latents")] = False,
) -> None:
    """Judge a cell of a grid row by row and keep that beside the run (used by `compare`)."""
    rungs = list(rungs_of(iwae, particles) or ())
    opened = open_words(run, model, guide, device)
    from statistics import median

    from ppl_vae.cli.files import update_evaluation, writing
    from ppl_vae.cli.judging import Judged
    from ppl_vae.comparison.cache import write_cache
    from ppl_vae.comparison.cells import judged_by
    from ppl_vae.comparison.comparable import observed, preparation
    from ppl_vae.comparison.compare import judged, size_of
    from ppl_vae.evaluation import evaluate_rows

    rows, where = rows_of(opened, DataWords(None), None)
    if certified is None:
        found = evaluate_rows(opened.model, opened.guide, rows, particles, iwae=rungs, seed=seed)
    else:
        found = judged(opened.model, opened.guide, rows, particles, rungs, accuracy=certified, seed=seed)
    with writing(run, "ppl-vae compare"):
        update_evaluation(run, where, Judged(found.summary() | {"seed": seed}, found))
    seconds = [record["seconds"] for record in opened.history if record.get("seconds") is not None]
    about = {
        "where": f"{where} rows of {opened.info['data']['name']}",
        "parameters": size_of(opened.model, opened.guide),
        "seconds_per_epoch": median(seconds) if seconds else None,
        "epochs": len(opened.history),
        "observed": observed(opened.pair, rows, preparation(opened)).to_json(),
    }
    key = judged_by(particles, rungs, seed, certified)
    if latents:
        about["latents"], key["latents"] = _use(opened, rows, seed), True
    write_cache(run, found, key, about)


def _use(opened: Run, rows: Split, seed: int) -> list[float | None] | None:
    """What the latents are used for, as numbers; None of a pair whose latents are no codes of rows."""
    from ppl_vae.comparison.latents import latent_use
    from ppl_vae.errors import UserError

    try:
        found = latent_use(opened.model, opened.guide, opened.data(), rows, seed)
    except UserError:
        return None
    return [float(value) if value == value else None for value in found]
