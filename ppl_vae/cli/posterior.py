"""`ppl-vae posterior`: what the rows say about the latents that they share, as a table and as draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import as_json as plain
from ppl_vae.cli.files import check_target, write_rows
from ppl_vae.cli.inputs import open_words
from ppl_vae.cli.output import note, print_table, say
from ppl_vae.errors import UserError, check_whole

if TYPE_CHECKING:
    from rich.table import Table

    from ppl_vae.arviz import Posterior

__all__ = ["posterior", "posterior_table", "shared_posterior"]

SHOWN = 30
"""How many scalars a table in the terminal has."""


def posterior(
    run: o.RunFolder,
    draws: Annotated[int, typer.Option(help="Number of posterior draws.")] = 1000,
    particles: Annotated[int, typer.Option(help="Importance-weighted draws of the guide to resample from.")] = 4000,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .csv of the draws, a column for each number.", show_default="none"),
    ] = None,
    seed: o.Seed = 0,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    device: o.DeviceOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Summarise the posterior of the shared latents.

    Mean, standard deviation and quantiles of each latent that all rows share, importance-weighted by all training rows
    together; for a run with --rows none, of all latents. --out writes the draws. k-hat says whether to trust them.
    """
    check_whole("--draws", draws, 1)
    check_whole("--particles", particles, draws)
    check_whole("--seed", seed, 0)
    target = None if out is None else check_target(out, run / "posterior.csv", (".csv",))
    opened = open_words(run, model, guide, device, whole=True)
    found = shared_posterior(opened.model, opened.guide, opened.data(), draws, particles, seed)
    if found is None:
        raise UserError("this pair has no latent that all rows share: see ppl-vae encode for those of single rows")
    for finding in found.findings:
        note(str(finding))
    if target is not None:
        target = write_rows(target, {}, {str(name): column.tolist() for name, column in found.frame().items()})
    if as_json:
        lines = found.summary().to_dict("index")
        told = {"run": run, "khat": found.khat, "ess": found.ess, "particles": particles, "posterior": lines}
        typer.echo(json.dumps(plain(told), indent=2))
        return
    print_table(posterior_table(found, most=None))
    if target is not None:
        say(f"{draws:,} draws written to {target}")


def shared_posterior(model: Any, guide: Any, data: Any, draws: int, particles: int, seed: int) -> Posterior | None:
    """The posterior of a pair whose rows share latents; None where they share nothing. All are shared in one unit."""
    import ppl_vae
    from ppl_vae.evaluation.joint_weights import shares_latents
    from ppl_vae.programs.program import Pair

    pair = Pair(model, guide)
    if not data.train.is_one_unit and not shares_latents(pair, data.train.to(pair.device)):
        return None
    return ppl_vae.posterior(model, guide, data, draws, particles=max(particles, draws), seed=seed)


def posterior_table(found: Posterior, most: int | None = SHOWN) -> Table:
    """A line for every number that all rows share, the first `most` of them."""
    from rich.table import Table

    lines = found.summary()
    count = len(found.weights)
    caption = f"by {count:,} importance weighted draws of the guide; k-hat of their joint weights {found.khat:.2f}"
    if most is not None and len(lines) > most:
        caption += f"; the first {most} of {len(lines):,}: ppl-vae posterior RUN tells all"
    if found.findings:
        caption += "\nNOT TO BE BELIEVED: the guide misses a part of the posterior (see the warning)"
    table = Table(
        title="Posterior of what all data share", caption=caption, title_justify="left", caption_justify="left"
    )
    table.add_column("")
    for name in lines.columns:
        table.add_column({"khat": "k-hat"}.get(name, name), justify="right")
    for name, line in lines.iloc[:most].iterrows():
        table.add_row(str(name), *(_cell(column, value) for column, value in line.items()))
    return table


def _cell(column: Any, value: float) -> str:
    if value != value:
        return "-"
    if column == "ess":
        return f"{value:,.0f}"
    return (
        f"{value:.2f}" if column in ("khat", "contraction") else f"{value:.3g}" if abs(value) < 100 else f"{value:,.1f}"
    )
