"""`ppl-vae encode`: posterior means of the latents of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import check_target, column_names, write_rows
from ppl_vae.cli.inputs import AskedRows
from ppl_vae.cli.output import say
from ppl_vae.registry.words import check_whole

__all__ = ["encode"]


@o.on_rows
def encode(
    run: o.RunFolder,
    draws: Annotated[int, typer.Option(help="Draws from q(z|x) for each row; 0 for means.")] = 0,
    *,
    asked: AskedRows,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An .npz or a .csv.", show_default="RUN/latents.npz"),
    ] = None,
    seed: o.Seed = 0,
) -> None:
    """Write posterior means or draws of the latents.

    One line for each row of the data, in the same order. For discrete latents these are class probabilities, or classes
    with --draws.
    """
    check_whole("--seed", seed, 0)
    check_whole("--draws", draws, 0)
    target = check_target(out, run / "latents.npz", (".npz", ".csv"))
    opened = asked.opened()
    rows, name = asked.rows(opened)
    import ppl_vae

    codes = ppl_vae.encode(opened.model, opened.guide, rows, draws=draws, seed=seed)
    if draws:
        frame = codes.frame()
        file = write_rows(target, dict(codes.values), {name: frame[name].tolist() for name in frame})
        say(f"{draws:,} draws of the latents of {len(rows):,} rows ({name}) written to {file}")
        return
    means = dict(codes.values)
    labels = rows["y"] if "y" in rows.schema else None
    arrays = means | ({} if labels is None else {"y": labels})
    table: dict[str, Any] = {}
    for site, value in means.items():
        flat = value.reshape(len(rows), -1)
        table |= dict(zip(column_names(site, flat.shape[1]), flat.T.tolist(), strict=True))
    if labels is not None and labels.dim() == 1:
        table["y"] = _label_words(labels.tolist(), rows.schema["y"].names)
    file = write_rows(target, arrays, table)
    say(f"latents of {len(rows):,} rows ({name}) written to {file}")


def _label_words(labels: list[int], names: tuple[str, ...]) -> list[str]:
    """Category names where there are any; nothing for a missing label."""
    return ["" if y < 0 else names[y] if y < len(names) else str(y) for y in labels]
