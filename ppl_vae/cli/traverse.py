"""`ppl-vae traverse`: move the latents of a row one after another."""

from __future__ import annotations

from typing import Annotated

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import check_target
from ppl_vae.cli.inputs import AskedRows
from ppl_vae.cli.output import say
from ppl_vae.registry.words import row_numbers
from ppl_vae.saving.atomic import write_new

__all__ = ["traverse"]


@o.on_rows
def traverse(
    run: o.RunFolder,
    row: Annotated[int, typer.Option(help="The number of the row, from 0.")] = 0,
    prior: Annotated[bool, typer.Option("--prior", help="Start from a draw of the prior instead of a row.")] = False,
    site: Annotated[str | None, typer.Option(help="The latent site, or a class.", show_default="the first")] = None,
    latents: Annotated[
        str | None,
        typer.Option(metavar="0,3", help="Entries of the site to move.", show_default="the active ones"),
    ] = None,
    span: Annotated[float, typer.Option(help="How far to move, in prior standard deviations.")] = 2.5,
    steps: Annotated[int, typer.Option(help="Number of steps.")] = 11,
    field: o.DrawnField = None,
    *,
    asked: AskedRows,
    out: o.MovedFile = None,
    seed: o.Seed = 0,
) -> None:
    """Vary the latents of a row, one at a time.

    The other latents keep their posterior mean; those whose prior depends on the moved latent keep their position
    relative to that prior. A discrete latent takes each of its values.
    """
    which = None if latents is None else row_numbers("--latents", latents)
    target = check_target(out, run / "figures" / "traverse.png", (*o.DRAWN, ".gif", ".npz", ".csv"))
    opened = asked.opened()
    rows, name = asked.rows(opened)
    import ppl_vae

    found = ppl_vae.traverse(
        opened.model,
        opened.guide,
        rows,
        row,
        site=site,
        latents=which,
        span=span,
        steps=steps,
        prior=prior,
        seed=seed,
    )
    file = write_new(target, found.content(target.suffix.lower(), field))
    for note in found.notes:
        say(note)
    say(f"{len(found.lines)} lines of {name} row {row} written to {file}")
