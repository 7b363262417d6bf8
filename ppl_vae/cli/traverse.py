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
    prior: Annotated[bool, typer.Option("--prior", help="Start from a draw of the prior, not from a row.")] = False,
    site: Annotated[str | None, typer.Option(help="The latent site, or a class.", show_default="the first")] = None,
    latents: Annotated[
        str | None,
        typer.Option(metavar="0,3", help="Which entries of the site.", show_default="those that tell something"),
    ] = None,
    span: Annotated[float, typer.Option(help="How far, in prior deviations.")] = 2.5,
    steps: Annotated[int, typer.Option(help="How many steps.")] = 11,
    field: o.DrawnField = None,
    *,
    asked: AskedRows,
    out: o.MovedFile = None,
    seed: o.Seed = 0,
) -> None:
    """Move the latents of a row one after another.

    The other latents stay where the guide puts the row; those whose prior depends on the moved one keep their place in
    it. A class goes through its values.
    """
    which = None if latents is None else row_numbers("--latents", latents)
    target = check_target(out, run / "figures" / "traverse.png", (".png", ".gif", ".npz", ".csv"))
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
