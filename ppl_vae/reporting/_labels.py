"""The section of a report about labels and clusters: discrete latents of single rows."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.evaluation.means import standard_error
from ppl_vae.reporting._album import COLUMNS, LINES, Album, is_picture, limits_of, names_of, spread_of
from ppl_vae.reporting._html import Picture, Section
from ppl_vae.reporting.view import View

__all__ = ["labels_and_clusters"]


def labels_and_clusters(view: View, album: Album) -> list[Section]:
    """For each discrete latent: the rows that the guide is surest of, and what the model makes of each value."""
    return [_section(view, site, probs, album) for site, probs in view.classes.items()]


def _section(view: View, site: str, probs: Tensor, album: Album) -> Section:
    names = _names(view, site, probs.shape[1])
    share = probs.mean(0)
    words = (
        f"Every row has a latent {site} with {len(names)} values, which training sums out where it is not known. The "
        f"guide's q({site} | x), averaged over rows, gives the values from {100 * share.min():.1f} to "
        f"{100 * share.max():.1f} % of the {view.split} rows; a row's likeliest value has {100 * _surest(probs):.0f} % "
        "on average."
    )
    truth = view.truth.get(site)
    figures: list[Picture] = []
    if truth is not None and bool((truth >= 0).any()):
        words += f" {_score(view, probs, truth)}"
        figures.append(_confusion(view, site, probs, truth, names, album))
    figures.append(_exemplars(view, site, probs, names, album))
    if is_picture(view):
        figures.append(_draws(view, site, names, album))
        figures += _styles(view, site, names, album)
    return Section(f"What {site} stands for", words, figures=tuple(figures))


def _names(view: View, site: str, count: int) -> list[str]:
    field = next((f for f in view.schema if f.name == site), None)
    return list(field.names) if field is not None and len(field.names) == count else [str(k) for k in range(count)]


def _surest(probs: Tensor) -> float:
    return float(probs.max(-1).values.mean())


def _score(view: View, probs: Tensor, truth: Tensor) -> str:
    known = truth >= 0
    right = (probs.argmax(-1) == truth)[known].double()
    error = float(standard_error(right))
    return (
        f"Of the {len(right):,} {view.split} rows whose true label is known, and was hidden from the guide, the "
        f"likeliest value is right in {100 * float(right.mean()):.1f} ± {100 * error:.1f} %."
    )


def _confusion(view: View, site: str, probs: Tensor, truth: Tensor, names: list[str], album: Album) -> Picture:
    known = truth >= 0
    pairs = truth[known] * len(names) + probs.argmax(-1)[known]
    counts = pairs.bincount(minlength=len(names) ** 2).reshape(len(names), -1)
    share = 100 * counts / counts.sum(1, keepdim=True)  # NaN where a label does not occur
    figure = plots.heatmap(share, names, names, axes=(f"likeliest {site}", f"true {site}"))
    caption = (
        f"How often {view.split} rows of each true label (line) get each likeliest value (column), in % of the line. "
        "Away from the diagonal are the labels that are taken for others."
    )
    return album.add(f"{site}-confusion", figure, caption)


def _exemplars(view: View, site: str, probs: Tensor, names: list[str], album: Album) -> Picture:
    """The rows that the guide is surest of; of tables, the mean of every column."""
    if not is_picture(view):
        values = view.values.flatten(1)
        seen, spread = torch.isfinite(values).float(), spread_of(values)
        weight = torch.cat([probs, torch.ones(len(probs), 1)], 1).T  # the last line: all rows
        means = (weight @ (values.nan_to_num() * seen)) / (weight @ seen).clamp(min=1e-6)
        shifts = (means[:-1] - means[-1]) / torch.where(spread > 0, spread, 1.0)
        figure = plots.heatmap(shifts, names, names_of(view), axes=("column", site), signs=True)
        caption = (
            f"The mean of every column over the rows of each value of {site}, weighted by q({site} | x), in standard "
            "deviations from the mean of all rows: blue is below, orange is above."
        )
        return album.add(f"{site}-means", figure, caption)
    best = probs.topk(min(COLUMNS, len(probs)), dim=0).indices.T[:LINES]
    figure = plots.grid(view.values[best], names[: len(best)], limits=limits_of(view), axis=site)
    caption = (
        f"A line is a value of {site}, with the {best.shape[1]} {view.split} rows that the guide is surest belong to "
        "it, the surest first. A line of mixed rows is a value that stands for no one kind."
    )
    return album.add(f"{site}-exemplars", figure, caption)


def _draws(view: View, site: str, names: list[str], album: Album) -> Picture:
    made = torch.stack([view.prior(COLUMNS, given={site: k}) for k in range(min(len(names), LINES))])
    figure = plots.grid(made, names[:LINES], limits=limits_of(view), axis=site)
    caption = (
        f"E[x|z] for draws of the other latents from the prior, given each value of {site} (line). Rows of one line "
        "should be of one kind, and as different from each other as rows of that kind are."
    )
    return album.add(f"{site}-samples", figure, caption)


def _styles(view: View, site: str, names: list[str], album: Album) -> list[Picture]:
    """The same style under every value: rows keep the guide's other latents while this one is changed."""
    rows = list(range(min(COLUMNS, len(view))))
    kept = {s.site: s.shaped(s.mean[rows]) for s in view.latents}
    codes = range(min(len(names), LINES))
    made = [view.decode({**kept, site: torch.full((len(rows),), k, device=view.pair.device)}, rows) for k in codes]
    if not kept or torch.allclose(made[0], made[-1], atol=1e-4):
        return []  # the rows depend on it only through the latents that were kept
    pictures = torch.stack([view.values[rows], *made])
    figure = plots.grid(pictures, ["the row", *names[: len(made)]], limits=limits_of(view), axis=f"style, with {site}")
    caption = (
        f"Above, {len(rows)} {view.split} rows; below each, what the model makes of its style, the other latents where "
        f"the guide puts them, under every value of {site}. A column should keep its slant and weight while the lines "
        "go through the labels."
    )
    return [album.add(f"{site}-styles", figure, caption)]
