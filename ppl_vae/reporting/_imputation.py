"""The section of a report on missing entries: rows with what was imputed, and entries hidden on purpose."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.data import Field, Split
from ppl_vae.data.convert import missing_in
from ppl_vae.errors import UserError
from ppl_vae.plots import missing
from ppl_vae.prediction import Imputation, impute
from ppl_vae.reporting._album import Album, is_picture, limits_of, names_of
from ppl_vae.reporting._html import Picture, Section
from ppl_vae.reporting.view import View

__all__ = ["imputed"]

ROWS, PARTICLES, DRAWS = 200, 300, 60
"""Few enough to take seconds."""

HIDDEN = 0.2
SHOWN = 6
COLUMNS = 24
INTERVAL = 0.9

TITLE = "Missing entries, imputed"


def imputed(view: View, album: Album) -> list[Section]:
    """What the pair makes of the rows' missing entries; nothing if there are none."""
    if not bool(view.values.isnan().any()) or view.shared:
        return []
    holes = view.values.flatten(1).isnan() if view.values.dim() > 1 else view.values.isnan().unsqueeze(1)
    some = [i for i in range(len(view)) if bool(holes[i].any()) and not bool(holes[i].all())][:ROWS]
    if not some:
        return []
    try:
        found = _impute(view, _split(view, some))
        if view.site not in found.mean and not view.columns:
            return []
        if is_picture(view):
            return [_pictures(view, some, found, album)]
        return [_table(view, some, found, album)]
    except UserError as error:
        return [Section(TITLE, f"The missing entries of these rows cannot be imputed here: {error}.")]


def _split(view: View, rows: list[int]) -> Split:
    return Split(view.schema, "rows", {name: values[rows] for name, values in view.batch.items()})


def _impute(view: View, split: Split) -> Imputation:
    return impute(view.pair.model, view.pair.guide, split, draws=DRAWS, particles=PARTICLES, seed=view.seed)


def _words(view: View, found: Imputation) -> str:
    return (
        "The model is asked what it expects where nothing was observed, given the rest of the row: x from "
        f"p(x | observed), by {PARTICLES} draws from the guide, weighted (effective number: median "
        f"{float(found.ess.median()):.0f}, least {float(found.ess.min()):.0f}). `ppl-vae impute` writes such rows."
    )


def _pictures(view: View, some: list[int], found: Imputation, album: Album) -> Section:
    rows = list(range(min(SHOWN, len(some))))
    figure = missing.imputed_images(
        view.values[[some[r] for r in rows]],
        found.mean[view.field.name][rows].float().cpu(),
        found.draws[view.field.name][:5, rows].float().cpu(),
        [view.name(some[r]) for r in rows],
        limits=limits_of(view),
    )
    caption = (
        "Sand-coloured pixels were not observed. The mean shows what is certain, and blurs what is not; the draws are "
        "rows as they might have been: where they differ, what was observed leaves it open. Observed pixels are the "
        "same in all."
    )
    return Section(TITLE, _words(view, found), figures=(album.add("imputed", figure, caption),))


# -- tables ------------------------------------------------------------------------------------------------------


def _table(view: View, some: list[int], found: Imputation, album: Album) -> Section:
    numeric = [j for j, field in enumerate(_fields(view)) if field.kind != "categorical"]
    hidden, truth = _hide(view, _split(view, list(range(min(len(view), ROWS)))))
    again = _impute(view, hidden)
    words = _words(view, found) + _check(view, again, truth, numeric)
    pictures: list[Picture] = []
    if numeric:
        pictures = [_rows(view, some, found, numeric, album)]
        pictures.append(_against(view, again, truth, numeric, album))
    return Section(TITLE, words, figures=tuple(pictures))


def _fields(view: View) -> list[Field]:
    """The field of every column."""
    return list(view.columns) or [view.field] * view.field.size


def _side_by_side(view: View, rows: dict[str, Tensor]) -> Tensor:
    """Values [..., row, column] of the columns that are drawn."""
    if view.columns:
        return torch.stack([rows[column.name].float() for column in view.columns], dim=-1).cpu()
    values = rows[view.field.name].float()
    shape = view.field.shape
    return values.reshape(*values.shape[: values.dim() - len(shape)], -1).cpu()


def _filled(view: View, found: Imputation) -> tuple[Tensor, Tensor, Tensor]:
    """Means, and the ends of the intervals, [row, column]; of columns without holes the mean is all there is."""
    width = len(found.log_evidence)
    rest = {f.name: torch.zeros(width, *f.shape) for f in view.schema}
    mean = _side_by_side(view, rest | dict(found.mean))
    draws = _side_by_side(view, {n: v.expand(DRAWS, *v.shape) for n, v in rest.items()} | dict(found.draws))
    low, high = (draws.quantile(q, dim=0) for q in ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2))
    return mean, low, high


def _hide(view: View, split: Split) -> tuple[Split, Tensor]:
    """The rows with some more entries taken away, and these entries [row, column], NaN elsewhere."""
    generator = torch.Generator().manual_seed(view.seed)
    fields = dict(split.fields)
    for field in view.columns or (view.schema[view.field.name],):
        values = split[field.name]
        if field.missing:
            chosen = (torch.rand(values.shape, generator=generator) < HIDDEN).to(values.device)
            fields[field.name] = values.masked_fill(chosen, -1 if field.kind == "categorical" else torch.nan)
    shown = view.columns or (view.schema[view.field.name],)
    masks = {f.name: missing_in(f.kind, fields[f.name]) & ~missing_in(f.kind, split[f.name]) for f in shown}
    taken = _side_by_side(view, {n: m.float() for n, m in masks.items()}) > 0
    return Split(split.schema, "rows", fields), _side_by_side(view, split.fields).masked_fill(~taken, torch.nan)


def _check(view: View, again: Imputation, truth: Tensor, numeric: list[int]) -> str:
    """How many of the entries that were hidden on purpose were found again."""
    _, low, high = _filled(view, again)
    inside = int(((truth >= low) & (truth <= high))[:, numeric].sum())
    numbers = int(truth[:, numeric].isfinite().sum())
    right, categories = 0, 0
    for j, field in enumerate(_fields(view)):
        if field.name in again.probabilities:
            known = truth[:, j].isfinite()
            likeliest = again.probabilities[field.name].argmax(-1).cpu()
            right += int((likeliest[known] == truth[known, j]).sum())
            categories += int(known.sum())
    found = []
    if numbers:
        found.append(f"{100 * inside / numbers:.0f} % of {numbers:,} numbers lie within their 90 % interval")
    if categories:
        found.append(f"{right:,} of {categories:,} categories were imputed right")
    hidden = f"{100 * HIDDEN:.0f} % of the observed entries of {len(truth)} rows were hidden too, and imputed"
    return f"\n\nAs a check, {hidden}: {' and '.join(found)}." if found else ""


def _rows(view: View, some: list[int], found: Imputation, numeric: list[int], album: Album) -> Picture:
    mean, low, high = _filled(view, found)
    values = view.values[some].reshape(len(some), -1)
    gone = values.isnan()
    # the rows with the most holes among those of which at least half is there, so that there is something to see
    order = sorted(range(len(some)), key=lambda r: -int(gone[r, numeric].sum()) * bool(gone[r].float().mean() <= 0.5))
    rows = [r for r in order[:SHOWN] if bool(gone[r, numeric].any())] or order[:1]
    columns = numeric[:COLUMNS]
    every = view.values.reshape(len(view), -1)[:, columns]
    centre = every.nanmean(0)
    unit = (every - centre).square().nanmean(0).sqrt()
    names = names_of(view)
    figure = missing.imputed_rows(
        torch.where(gone, mean, values)[rows][:, columns],
        low[rows][:, columns],
        high[rows][:, columns],
        gone[rows][:, columns],
        [names[j] for j in columns],
        [view.name(some[r]) for r in rows],
        torch.stack([centre, unit]).nan_to_num(),
    )
    caption = (
        "A panel is a row, from left to right its columns. Points were observed, diamonds are imputed means, and the "
        "bars hold the middle 90 % of the draws: a long bar says that the rest of the row tells little about this "
        "column."
    )
    if len(numeric) > COLUMNS:
        caption += f" The first {COLUMNS} of {len(numeric)} columns are drawn."
    return album.add("imputed", figure, caption)


def _against(view: View, again: Imputation, truth: Tensor, numeric: list[int], album: Album) -> Picture:
    mean, low, high = (part[:, numeric] for part in _filled(view, again))
    names = names_of(view)
    figure = missing.hidden_entries(truth[:, numeric], mean, low, high, [names[j] for j in numeric])
    caption = (
        "A point is an entry that was hidden from the model, a bar the middle 90 % of its draws. On the line the model "
        "knew it from the rest of the row; a flat cloud with long bars says that it cannot be known from there; bars "
        "that miss the line more often than one in ten are too sure of themselves."
    )
    return album.add("imputed-hidden", figure, caption)
