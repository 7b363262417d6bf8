"""`ppl-vae transfer`: the content of some rows in the style of others."""

from __future__ import annotations

from typing import Annotated

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import check_target
from ppl_vae.cli.inputs import AskedRows
from ppl_vae.cli.output import say
from ppl_vae.registry.words import row_numbers, split_words
from ppl_vae.saving.atomic import write_new

__all__ = ["transfer"]


@o.on_rows
def transfer(
    run: o.RunFolder,
    content: Annotated[str, typer.Option(metavar="0,1", help="Numbers of the content rows (lines of the grid).")],
    style: Annotated[str, typer.Option(metavar="5,6", help="Numbers of the style rows (columns of the grid).")],
    keep: Annotated[
        str | None, typer.Option(metavar="y", help="Latents and conditions taken from the content row.")
    ] = None,
    take: Annotated[
        str | None, typer.Option(metavar="w_x", help="Latents and conditions taken from the style row.")
    ] = None,
    field: o.DrawnField = None,
    *,
    asked: AskedRows,
    out: o.MovedFile = None,
    seed: o.Seed = 0,
) -> None:
    """Combine latents of one row with those of another.

    Give the latents or conditions to keep from the content row, or those to take from the style row.
    """
    contents, styles = row_numbers("--content", content), row_numbers("--style", style)
    kept, taken = split_words("--keep", keep), split_words("--take", take)
    target = check_target(out, run / "figures" / "transfer.png", (*o.DRAWN, ".gif", ".npz", ".csv"))
    opened = asked.opened()
    rows, name = asked.rows(opened)
    import ppl_vae

    found = ppl_vae.transfer(opened.model, opened.guide, rows, contents, styles, keep=kept, take=taken, seed=seed)
    file = write_new(target, found.content(target.suffix.lower(), field))
    for note in found.notes:
        say(note)
    say(f"{len(contents)} contents in {len(styles)} styles of {name} rows written to {file}")
