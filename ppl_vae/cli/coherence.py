"""`ppl-vae coherence`: whether what is generated for one field from another has the row's label."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import as_json as plain
from ppl_vae.cli.inputs import open_words
from ppl_vae.cli.output import say
from ppl_vae.registry.words import check_whole, split_words

__all__ = ["coherence"]


def coherence(
    run: o.RunFolder,
    given: Annotated[str, typer.Option(metavar="A,B", help="The observed fields.")],
    of: Annotated[str, typer.Option(help="The field to generate.")],
    truth: Annotated[str, typer.Option("--label", help="The field with the labels.")] = "y",
    rows: Annotated[int, typer.Option(help="Maximum number of test rows.")] = 2000,
    seed: o.Seed = 0,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    device: o.DeviceOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Measure whether generated fields match the label.

    A classifier trained on the training rows of the run labels the generated fields. Its accuracy on real rows is
    reported for comparison.
    """
    check_whole("--rows", rows, 2)
    names = split_words("--given", given) or []
    opened = open_words(run, model, guide, device)
    data = opened.data()
    import ppl_vae

    found = ppl_vae.coherence(opened.model, opened.guide, data, given=names, of=of, label=truth, rows=rows, seed=seed)
    if as_json:
        typer.echo(json.dumps(plain({"run": run, **found.summary()}), indent=2))
        return
    say(str(found))
