"""`ppl-vae snapshots`: what a run kept of its training, as a figure, an animated picture, or numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import as_json as plain
from ppl_vae.cli.files import check_target
from ppl_vae.cli.output import print_table, say
from ppl_vae.errors import UserError
from ppl_vae.registry.words import check_choice, check_whole

__all__ = ["snapshots"]


def snapshots(
    run: o.RunFolder,
    how: Annotated[str, typer.Option(metavar="pca|tsne", help="The map: principal axes, or t-SNE.")] = "pca",
    site: Annotated[str | None, typer.Option(help="The latent site.", show_default="the first")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .png of all epochs, an animated .gif, an .npz of codes and reconstructions, or a .csv of numbers.",
            show_default="RUN/figures/snapshots.png",
        ),
    ] = None,
    seed: o.Seed = 0,
    as_json: o.JsonOption = False,
) -> None:
    """Draw the training of a run: the same rows at several epochs.

    For runs of `ppl-vae fit --snapshots 0,1,2,5,10`. Tells by epoch how often the five nearest rows name a row's label.
    """
    check_choice("--how", how, ("pca", "tsne"))
    check_whole("--seed", seed, 0)
    target = check_target(out, run / "figures" / "snapshots.png", (".png", ".gif", ".npz", ".csv"))
    from ppl_vae.runs.files import WEIGHTS, read_run
    from ppl_vae.runs.snapshots import SNAPSHOTS, read_snapshots
    from ppl_vae.saving.atomic import write_new

    found = read_snapshots(run / SNAPSHOTS, read_run(run).get("sha256", {}).get(WEIGHTS))
    if found is None:
        raise UserError(f"{run} has no snapshots: train it with ppl-vae fit --snapshots 0,1,2,5,10")
    file = write_new(target, found.content(target.suffix.lower(), how, site=site, seed=seed))  # type: ignore[arg-type]
    if as_json:
        told = {"run": run, "out": file, "rows": len(found.rows), "epochs": found.frame().to_dict("records")}
        typer.echo(json.dumps(plain(told), indent=2, ensure_ascii=False))
        return
    print_table(_table(found))
    say(f"{len(found)} epochs of {len(found.rows):,} {found.split} rows written to {file}")


def _table(found: Any) -> Any:
    from rich.table import Table

    frame = found.frame()
    several = "site" in frame
    table = Table(title=f"{len(found.rows):,} {found.split} rows", title_justify="left")
    headings = ["epoch", *(["site"] if several else []), "5-NN accuracy", "spread of means", "posterior deviation"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for record in frame.to_dict("records"):
        near = f"{record['accuracy']:.3f} ± {record['accuracy_se']:.3f}" if "accuracy" in record else ""
        cells = [str(record["epoch"]), *([str(record["site"])] if several else []), near]
        cells += [f"{record[n]:.3f}" if n in record else "" for n in headings[-2:]]
        table.add_row(*cells)
    return table
