"""The sections of a report that show rows: given back, drawn from the model, drawn under conditions."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.reporting._album import COLUMNS, LINES, Album, flat, gaps, is_picture, levels_of, limits_of, names_of
from ppl_vae.reporting._html import Picture, Section
from ppl_vae.reporting.view import View

__all__ = ["prior_samples", "reconstructions", "under_conditions"]


def reconstructions(view: View, album: Album) -> Section:
    """Rows beside E[x | z] for the latents that the guide finds in them."""
    title = f"{view.split.capitalize()} rows and their reconstructions"
    how = "averaged over 16 draws from the guide" if view.averages else "at the posterior mean"
    words = (
        "Each row is encoded by the guide, and the model is asked what it expects to see for these latents: "
        f"E[x|z] {how}."
    )
    if view.drawn:
        words += f" The guide leaves {', '.join(view.drawn)} open; the model draws it from p(z)."
    if not is_picture(view):
        mean = view.reconstruct(list(range(len(view))))
        figure = plots.table_reconstructions(
            flat(view.values), flat(mean), names=names_of(view), levels=levels_of(view)
        )
        caption = (
            "A point is a row. On the line, the latents keep this column. A flat cloud: they do not, and the "
            "model falls back on the column's average."
        )
        if any(levels_of(view)):
            caption += " Of categories: as what (upwards) the rows of each value (across) come back, in percent."
        alt = f"Reconstructed against observed values. {_kept(view, mean)}"
        return Section(title, words, figures=(album.add("reconstructions", figure, caption, alt),))
    words += (
        " A row of data is a draw, so the model's draw from p(x|z) stands beside it; the mean is what all such draws "
        "have in common, and smoother than any of them."
    )
    if len(view.pictures) > 1:
        words += f" The model observes several fields, drawn one after another: {', '.join(view.pictures)}."
    return Section(title, words, figures=tuple(_given_back(each, album) for each in view.each() if is_picture(each)))


def _kept(view: View, mean: Tensor) -> str:
    """How well each column comes back, in words."""
    told = []
    for name, levels, x, made in zip(names_of(view), levels_of(view), flat(view.values).T, flat(mean).T, strict=True):
        seen = x.isfinite()
        if levels:
            told.append(f"{name} right in {100 * float((made[seen].round() == x[seen]).float().mean()):.0f} %")
        elif int(seen.sum()) > 2 and float(made[seen].std()) > 0 and float(x[seen].std()) > 0:
            told.append(f"{name} {float(torch.corrcoef(torch.stack([x[seen], made[seen]]))[0, 1]):.2f}")
    return f"Correlations of the columns: {', '.join(told[:20])}." if told else ""


def _given_back(view: View, album: Album) -> Picture:
    rows = [r for r in range(len(view)) if not bool(view.values[r].isnan().all())][:24]
    names = [view.class_of(row) for row in rows]
    if labels := view.labels is not None:
        order = sorted(range(len(rows)), key=lambda i: (names[i] is None, names[i] or ""))
        rows, names = [rows[i] for i in order], [names[i] for i in order]
    figure = plots.reconstructions(
        view.values[rows],
        view.reconstruct(rows),
        draw=view.drawn_again(rows),
        labels=[name or "?" for name in names] if labels else None,
        limits=limits_of(view),
    )
    caption = (
        f"{len(rows)} {view.split} rows{view.of_what} picked at random{', sorted by class' if labels else ''}: above "
        "the data, below it one draw of the model and its mean. Look for what the latents lose: a row that comes back "
        f"as something else, or strokes and edges that are smoothed away.{gaps(view)}"
    )
    return album.add(f"reconstructions{view.suffix}", figure, caption)


def prior_samples(view: View, album: Album) -> Section:
    """What the model makes of latents from the prior, beside data."""
    if view.flat:
        return _arbitrary(view, album)
    title = "Samples from the prior"
    words = (
        "No row is encoded here: latents z are drawn from the prior p(z), and the model makes something of "
        "them. This is what it has learned to be possible."
    )
    if not is_picture(view):
        draws = view.prior(max(500, len(view)), draw=True)
        figure = plots.table_samples(flat(view.values), flat(draws), names=names_of(view), levels=levels_of(view))
        caption = (
            f"Grey: the {len(view):,} {view.split} rows. Blue line: {len(draws):,} rows drawn from the "
            "model, z from p(z) and x from p(x|z). The two should cover each other: where only the line is, "
            "the model invents; where only grey is, it misses rows."
        )
        return Section(title, words, figures=(album.add("samples", figure, caption),))
    words += (
        " Data and draws compare like with like: each is x from its distribution. The means E[x|z] of the same latents "
        "show what the draws have in common."
    )
    figures = tuple(picture for each in view.each() if is_picture(each) for picture in _beside_data(each, album))
    return Section(title, words, figures=figures)


def _beside_data(view: View, album: Album) -> list[Picture]:
    there = [r for r in range(len(view)) if not bool(view.values[r].isnan().all())]
    rows, limits = there[:64], limits_of(view)
    drawn = view.prior(len(rows), draw=True)
    made = plots.samples(drawn, limits=limits, title=f"model: draws{view.of_what} from p(x|z), z from the prior")
    real = plots.samples(view.values[rows], limits=limits, title=f"data: {view.split} rows{view.of_what}")
    mean = plots.samples(
        view.prior(len(rows)), limits=limits, title=f"model: means{view.of_what}, E[x|z] of the same z"
    )
    said = "Look for pictures that resemble no row: there the prior has mass where no row is."
    beside = f"As many {view.split} rows for comparison: is every kind made, and as often?{gaps(view)}"
    smooth = "Means are no rows: they show the shape that the draws above them scatter about."
    return [
        album.add(f"samples{view.suffix}", made, said),
        album.add(f"data{view.suffix}", real, beside),
        album.add(f"means{view.suffix}", mean, smooth),
    ]


def _arbitrary(view: View, album: Album) -> Section:
    """What a decoder without a prior makes of N(0, I), which is not where its codes are."""
    title = "Not samples: decoding N(0, I)"
    words = (
        "A deterministic autoencoder has no prior, so it has no samples. Here its decoder is given draws of N(0, I), "
        "as one would a VAE's: nothing in its training has put the codes of rows there."
    )
    if not is_picture(view):
        made = view.prior(max(500, len(view)), draw=True)
        figure = plots.table_samples(flat(view.values), flat(made), names=names_of(view))
        caption = f"Grey: the {len(view):,} {view.split} rows. Blue line: what z ~ N(0, I) is decoded to. No samples."
        return Section(title, words, figures=(album.add("decoded-normal", figure, caption),))
    rows, limits = list(range(min(64, len(view)))), limits_of(view)
    figure = plots.samples(view.prior(len(rows)), limits=limits, title="E[x|z] for z ~ N(0, I): no samples")
    caption = f"{len(rows)} draws of N(0, I), decoded. Compare with the reconstructions, whose codes come from rows."
    return Section(title, words, figures=(album.add("decoded-normal", figure, caption),))


def under_conditions(view: View, album: Album) -> list[Section]:
    """The same latents under every category of a condition; nothing for a model without one, and of tables."""
    label = next((f for f in view.conditions if f.shape == () and f.kind in ("categorical", "binary")), None)
    if label is None or not is_picture(view):
        return []
    names = list(label.names) or [str(code) for code in range(label.cardinality or 2)]
    made = view.under(label, COLUMNS)[:LINES]
    figure = plots.grid(made, names[: len(made)], limits=limits_of(view), axis=label.name)
    words = (
        f"The model is given {label.name} and draws what {label.name} leaves open: a line is a value of "
        f"{label.name}, and a column is one draw of z from the prior, with the same random numbers in all lines."
    )
    if others := [f.name for f in view.conditions if f.name != label.name]:
        words += f" The other conditions ({', '.join(others)}) are those of a {view.split} row, one for each column."
    caption = (
        f"Mean pictures. Every line should show its {label.name}, in many manners; what a column has in common "
        "(slant, weight) is what z stands for. Lines that look alike: the model does not listen to its condition."
    )
    return [Section(f"Samples given {label.name}", words, figures=(album.add("conditional", figure, caption),))]
