"""`ppl-vae list`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ppl_vae.cli.options import JsonOption
from ppl_vae.cli.output import print_table
from ppl_vae.registry import catalog

__all__ = ["list_names"]


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="|".join(catalog.KINDS), help="What to list; else all."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List models, guides, priors, bounds and data sets.

    Also likelihoods, decoders and objectives, each with a sentence about it.
    """
    kinds = catalog.KINDS if kind is None else (kind,)
    tables = {k: catalog.table(k) for k in kinds}
    if as_json:
        found = {k: {name: entry.summary for name, entry in t.items()} for k, t in tables.items()}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    from rich.markup import escape
    from rich.table import Table

    for k, entries in tables.items():
        table = Table(title=k, title_justify="left", box=None, show_header=False, title_style="bold", padding=(0, 2))
        table.add_column(no_wrap=True, style="bold cyan")
        table.add_column()
        for name, entry in entries.items():
            table.add_row(name, escape(entry.summary))
        print_table(table)
    if kind in (None, "models", "guides"):
        typer.echo("A model or guide of your own is FILE.py:NAME.")
