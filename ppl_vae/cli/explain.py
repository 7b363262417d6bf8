"""`ppl-vae explain`: which entries of a row a latent speaks of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import check_target
from ppl_vae.cli.inputs import AskedRows
from ppl_vae.cli.output import say
from ppl_vae.registry.words import check_choice, row_numbers
from ppl_vae.saving.atomic import write_new

__all__ = ["explain"]


@o.on_rows
def explain(
    run: o.RunFolder,
    row: Annotated[str, typer.Option(metavar="5,6", help="Numbers of rows, from 0.")] = "0",
    site: Annotated[str | None, typer.Option(help="The latent site.", show_default="the first")] = None,
    field: Annotated[str | None, typer.Option(help="The field.", show_default="the largest")] = None,
    of: Annotated[
        str, typer.Option(metavar="mean|log_prob", help="Differentiate E[x | z], or log p(x | z) of the row.")
    ] = "mean",
    *,
    asked: AskedRows,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .png, .pdf or .svg, an .npz with gradients and integrated ones, or a .csv.",
            show_default="RUN/figures/explain.png",
        ),
    ] = None,
    seed: o.Seed = 0,
) -> None:
    """Show which entries of a row depend on a latent.

    A heat map of the gradients |d E[x_j | z] / d z| at the posterior mean, or of those of log p(x_j | z). Files also
    contain the integrated gradients.
    """
    check_choice("--of", of, ("mean", "log_prob"))
    numbers = row_numbers("--row", row)
    target = check_target(out, run / "figures" / "explain.png", (*o.DRAWN, ".npz", ".csv"))
    opened = asked.opened()
    rows, name = asked.rows(opened)
    import ppl_vae

    found = ppl_vae.explain(opened.model, opened.guide, rows, numbers, site=site, field=field, of=of, seed=seed)  # type: ignore[call-overload]
    file = write_new(target, found.content(target.suffix.lower()))
    say(f"{found.field} of {len(numbers)} {name} rows, by {found.site}, written to {file}")
