"""`ppl-vae interpolate`: the way of all latents from one row to another."""

from __future__ import annotations

from typing import Annotated

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import check_target
from ppl_vae.cli.inputs import AskedRows
from ppl_vae.cli.output import say
from ppl_vae.registry.words import row_numbers
from ppl_vae.saving.atomic import write_new

__all__ = ["interpolate"]


@o.on_rows
def interpolate(
    run: o.RunFolder,
    pair: Annotated[
        list[str],
        typer.Option("--rows", metavar="3,8", help="The numbers of two rows, from 0. May be repeated."),
    ],
    steps: Annotated[int, typer.Option(help="Number of steps, both ends included.")] = 9,
    spherical: Annotated[
        bool, typer.Option("--spherical", help="Interpolate on an arc around the prior mean.")
    ] = False,
    labels: Annotated[
        str,
        typer.Option(
            metavar="mix|held", help="Classes and conditions between the rows: mixed, or those of the first row."
        ),
    ] = "mix",
    field: o.DrawnField = None,
    *,
    asked: AskedRows,
    out: o.MovedFile = None,
    seed: o.Seed = 0,
) -> None:
    """Interpolate between two rows in latent space.

    Both ends are the reconstructions of the rows.
    """
    ways = [row_numbers("--rows", text) for text in pair]
    target = check_target(out, run / "figures" / "interpolate.png", (*o.DRAWN, ".gif", ".npz", ".csv"))
    opened = asked.opened()
    rows, name = asked.rows(opened)
    import ppl_vae

    found = ppl_vae.interpolate(  # type: ignore[call-overload]
        opened.model,
        opened.guide,
        rows,
        ways,
        steps=steps,
        spherical=spherical,
        labels=labels,
        seed=seed,
    )
    file = write_new(target, found.content(target.suffix.lower(), field))
    for note in found.notes:
        say(note)
    say(f"{len(found.lines)} ways between {name} rows written to {file}")
