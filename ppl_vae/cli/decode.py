"""`ppl-vae decode`: what the model makes of latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import check_target, column_names, write_rows
from ppl_vae.cli.inputs import open_words
from ppl_vae.cli.output import say
from ppl_vae.errors import UserError
from ppl_vae.registry.words import check_whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["decode"]


def decode(
    run: o.RunFolder,
    latents: Annotated[
        Path, typer.Option(metavar="FILE", help="An .npz with one array per latent site, as `encode` writes it.")
    ],
    draw: Annotated[bool, typer.Option("--draw", help="Draw x instead of writing E[x | z].")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An .npz or a .csv.", show_default="RUN/decoded.npz")
    ] = None,
    seed: o.Seed = 0,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    device: o.DeviceOption = "auto",
) -> None:
    """Decode latents to fields.

    Latents that are not in the file are drawn from the model.
    """
    check_whole("--seed", seed, 0)
    target = check_target(out, run / "decoded.npz", (".npz", ".csv"))
    opened = open_words(run, model, guide, device)
    found = _decoded(opened, latents, draw, seed)
    rows = len(next(iter(found.values())))
    table: dict[str, Any] = {}
    for name, value in found.items():
        flat = value.reshape(rows, -1)
        table |= dict(zip(column_names(name, flat.shape[1]), flat.T.tolist(), strict=True))
    file = write_rows(target, found, table)
    say(f"{rows:,} rows written to {file}")


def _decoded(opened: Any, file: Path, draw: bool, seed: int) -> dict[str, Tensor]:
    import numpy as np

    import ppl_vae
    from ppl_vae.data import Schema
    from ppl_vae.data.example import blank

    try:
        with np.load(file, allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in arrays}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no .npz with arrays of latents ({error})") from error
    count = len(next(iter(values.values()), ()))
    schema: Schema = opened.schema
    labels = {f.name for f in schema if f.kind == "categorical" and f.shape == ()}
    needed = {name for name, need in opened.pair.model.arguments.items() if need}
    # a label beside latents (encode writes it) is a condition where the model is given it, and no latent otherwise
    rows = {f.name: blank(f, max(count, 1)) for f in schema if f.name not in labels}
    rows |= {name: values.pop(name) for name in [*values] if name in needed}
    sites = {name: value for name, value in values.items() if name not in labels or name in opened.pair.guide.arguments}
    return ppl_vae.decode(opened.model, sites, rows or None, draw=draw, seed=seed)
