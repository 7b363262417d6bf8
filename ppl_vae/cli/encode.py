"""`ppl-vae encode`: posterior means of the latents of rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import check_target, column_names, write_rows
from ppl_vae.cli.inputs import data_words, open_words, rows_of
from ppl_vae.cli.output import say
from ppl_vae.errors import UserError
from ppl_vae.registry.words import check_whole

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.runs.folder import Run

__all__ = ["encode"]


ROWS_AT_ONCE = 2000
"""How many rows are encoded in one pass: enough to be fast, few enough for a small machine."""


def encode(
    run: o.RunFolder,
    data: o.OtherData = None,
    split: o.SplitName = None,
    label: o.LabelOption = None,
    columns: o.ColumnsOption = None,
    missing: o.MissingOption = "refuse",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An .npz or a .csv.", show_default="RUN/latents.npz"),
    ] = None,
    seed: o.Seed = 0,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    device: o.DeviceOption = "auto",
) -> None:
    """Write posterior means of the latents.

    One row for each row of the data, in their order; of discrete latents the class probabilities.
    """
    check_whole("--seed", seed, 0)
    target = check_target(out, run / "latents.npz", (".npz", ".csv"))
    words = data_words(data, label, columns, missing)
    opened = open_words(run, model, guide, device)
    rows, name = rows_of(opened, words, split)
    means = _means(opened, rows, seed)
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


def _means(run: Run, rows: Any, seed: int) -> dict[str, Tensor]:
    """Posterior means of the latents that every row has, [row, *event], in passes over rows."""
    import torch

    from ppl_vae.checks.analysis import analyse
    from ppl_vae.prediction.coding import encode as encode_batch

    rows = rows.to(run.pair.device)
    shared = analyse(run.pair, rows.batch(slice(0, 2))).global_latents
    if isinstance(run.guide, torch.nn.Module):
        run.guide.eval()
    parts = [
        encode_batch(run.guide, rows.batch(slice(start, start + ROWS_AT_ONCE)), seed=seed)
        for start in range(0, len(rows), ROWS_AT_ONCE)
    ]
    means = {site: torch.cat([p[site] for p in parts]) for site in parts[0] if site not in shared}
    if not means:
        raise UserError("this guide has no latent of single rows: there is nothing to encode")
    return means


def _label_words(labels: list[int], names: tuple[str, ...]) -> list[str]:
    """Category names where there are any; nothing for a missing label."""
    return ["" if y < 0 else names[y] if y < len(names) else str(y) for y in labels]
