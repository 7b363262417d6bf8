"""`ppl-vae transfer`: the content of some rows in the style of others."""

from __future__ import annotations

from typing import Annotated

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import check_target
from ppl_vae.cli.inputs import data_words, open_words, rows_of
from ppl_vae.cli.output import say
from ppl_vae.registry.words import row_numbers, split_words

__all__ = ["transfer"]


def transfer(
    run: o.RunFolder,
    content: Annotated[str, typer.Option(metavar="0,1", help="Numbers of rows, the lines of the grid.")],
    style: Annotated[str, typer.Option(metavar="5,6", help="Numbers of rows, its columns.")],
    keep: Annotated[str | None, typer.Option(metavar="y", help="Latents and conditions of the content.")] = None,
    take: Annotated[str | None, typer.Option(metavar="w_x", help="Latents and conditions of the style.")] = None,
    field: o.DrawnField = None,
    data: o.OtherData = None,
    split: o.SplitName = None,
    label: o.LabelOption = None,
    columns: o.ColumnsOption = None,
    missing: o.MissingOption = "refuse",
    out: o.MovedFile = None,
    seed: o.Seed = 0,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    device: o.DeviceOption = "auto",
) -> None:
    """Keep some latents or conditions of one row and take the others of another.

    Say what is kept of the content, or what is taken of the style.
    """
    contents, styles = row_numbers("--content", content), row_numbers("--style", style)
    kept, taken = split_words("--keep", keep), split_words("--take", take)
    target = check_target(out, run / "figures" / "transfer.png", (".png", ".gif", ".npz", ".csv"))
    words = data_words(data, label, columns, missing)
    opened = open_words(run, model, guide, device)
    rows, name = rows_of(opened, words, split)
    import ppl_vae

    found = ppl_vae.transfer(opened.model, opened.guide, rows, contents, styles, keep=kept, take=taken, seed=seed)
    file = found.save(target, field)
    for note in found.notes:
        say(note)
    say(f"{len(contents)} contents in {len(styles)} styles of {name} rows written to {file}")
