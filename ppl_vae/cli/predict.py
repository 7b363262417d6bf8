"""`ppl-vae predict`: one field of every row, from its other fields."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import as_json as plain
from ppl_vae.cli.files import check_target, column_names, write_rows
from ppl_vae.cli.inputs import AskedRows
from ppl_vae.cli.output import say
from ppl_vae.errors import UserError
from ppl_vae.registry.words import check_whole

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.data import Split
    from ppl_vae.prediction import Prediction
    from ppl_vae.runs.folder import Run

__all__ = ["predict"]


@o.on_rows
def predict(
    run: o.RunFolder,
    field: Annotated[str, typer.Option(help="The field to predict, or a discrete latent.")] = "y",
    draws: Annotated[int, typer.Option(help="Latents drawn for each row.")] = 64,
    *,
    asked: AskedRows,
    horizon: Annotated[
        int, typer.Option(help="Of a model of series: so many steps after the end of every row.", show_default="none")
    ] = 0,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="With --horizon: the last steps of every row are foretold, and scored.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An .npz or a .csv.", show_default="RUN/predictions.csv")
    ] = None,
    seed: o.Seed = 0,
    as_json: o.JsonOption = False,
) -> None:
    """Predict a field of every row from its other fields.

    The guide does not see the field. For categories probabilities are written, for numbers mean, standard deviation and
    a central 90 % interval. If the rows have the field, the accuracy of the predictions is reported. --horizon
    forecasts the field after the end of every row; with --held-out its last steps are forecast and scored.
    """
    check_whole("--draws", draws, 1)
    check_whole("--seed", seed, 0)
    check_whole("--horizon", horizon, 0)
    target = check_target(out, run / "predictions.csv", (".npz", ".csv"))
    opened = asked.opened()
    rows, name = _rows(opened, asked, field)
    import ppl_vae

    found = ppl_vae.predict(
        opened.model, opened.guide, rows, field, draws=draws, horizon=horizon, held_out=held_out, seed=seed
    )
    arrays, table = _written(found, field)
    file = write_rows(target, arrays, table)
    truth = rows[field].to(found.draws.device) if field in rows.schema and not horizon else None
    scores = _scores_ahead(found) if horizon else _scores(found, truth)
    if as_json:
        typer.echo(json.dumps(plain({"run": run, "rows": name, "predictions": file, "scores": scores}), indent=2))
        return
    for what, value in scores.items():
        say(f"{what}: {value:.4g}")
    say(f"{field} of {len(rows):,} rows ({name}) written to {file}")


def _rows(run: Run, asked: AskedRows, field: str) -> tuple[Split, str]:
    """The rows, with the field where they have it."""
    from ppl_vae.data import Schema

    loose = run.schema.of(replace(f, missing=f.missing or f.name == field) for f in run.schema)
    try:
        return asked.rows(replace(run, schema=loose))
    except UserError:
        rest = tuple(f for f in run.schema if f.name != field)
        if asked.data is None or not rest or len(rest) == len(run.schema):
            raise
        return asked.rows(replace(run, schema=Schema(rest)))  # new rows need not have it


def _written(found: Prediction, field: str) -> tuple[dict[str, Tensor], dict[str, list[Any]]]:
    """The prediction as arrays, and as columns."""
    arrays = {n: v for n in ("probs", "mean", "sd") if (v := getattr(found, n)) is not None}
    if found.probs is None:
        arrays["low"], arrays["high"] = found.interval(0.9)
    else:
        arrays["labels"] = found.labels
    rows = found.draws.shape[1]
    table: dict[str, list[Any]] = {}
    if found.probs is not None and found.probs.dim() == 2:
        levels = found.names or tuple(map(str, range(found.probs.shape[1])))
        table[field] = [levels[i] for i in found.labels.tolist()]
        table |= dict(zip((f"p({name})" for name in levels), found.probs.T.tolist(), strict=True))
        return arrays, table
    for name, value in arrays.items():
        flat = value.reshape(rows, -1)
        single = [f"{field}_{name}"] if flat.shape[1] == 1 else ()
        table |= dict(zip(column_names(f"{field}_{name}", flat.shape[1], single), flat.T.tolist(), strict=True))
    return arrays, table


def _scores_ahead(found: Prediction) -> dict[str, float]:
    """How good a forecast of steps that were held out is, over all rows and steps that have a value."""
    named = {"CRPS": found.crps, "log predictive density (nats)": found.log_prob}
    return {name: float(values.nanmean()) for name, values in named.items() if values is not None}


def _scores(found: Prediction, truth: Tensor | None) -> dict[str, float]:
    """How good the predictions are, over the rows whose true value is known."""
    import torch

    if truth is None or found.log_prob is None:
        return {}
    known = ~(torch.isnan(truth) if truth.is_floating_point() else truth == -1)
    if not bool(known.any()):
        return {}
    log_prob = found.log_prob[~found.log_prob.isnan()].mean()
    if found.mean is None:
        right = (found.labels == truth)[known].to(torch.get_default_dtype()).mean()
        return {"accuracy": float(right), "log predictive density (nats)": float(log_prob)}
    error = (found.mean - truth)[known].square().mean().sqrt()
    low, high = found.interval(0.9)
    covered = ((low <= truth) & (truth <= high))[known].to(torch.get_default_dtype()).mean()
    return {
        "root mean squared error": float(error),
        "in the central interval of 90 %": float(covered),
        "log predictive density (nats)": float(log_prob),
    }
