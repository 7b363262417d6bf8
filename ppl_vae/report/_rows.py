"""The sections of a report that show rows: given back, drawn from the model, drawn under conditions."""

from __future__ import annotations

from ppl_vae import plots
from ppl_vae.report._album import COLUMNS, LINES, Album, flat, gaps, is_picture, limits_of, names_of
from ppl_vae.report._html import Section
from ppl_vae.report.view import View

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
        figure = plots.table_reconstructions(flat(view.values), flat(mean), names=names_of(view))
        caption = (
            "A point is a row. On the line, the latents keep this column. A flat cloud: they do not, and the "
            "model falls back on the column's average."
        )
        return Section(title, words, figures=(album.add("reconstructions", figure, caption),))
    rows = list(range(min(24, len(view))))
    names = [view.class_of(row) for row in rows]
    if labels := view.labels is not None:
        rows.sort(key=lambda row: (names[row] is None, names[row] or ""))
    figure = plots.reconstructions(
        view.values[rows],
        view.reconstruct(rows),
        labels=[names[row] or "?" for row in rows] if labels else None,
        limits=limits_of(view),
    )
    caption = (
        f"{len(rows)} {view.split} rows picked at random{', sorted by class' if labels else ''}: above the "
        "data, below the model. Look for what the latents lose: a row that comes back as something else, or "
        f"strokes and edges that are smoothed away.{gaps(view)}"
    )
    return Section(title, words, figures=(album.add("reconstructions", figure, caption),))


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
        figure = plots.table_samples(flat(view.values), flat(draws), names=names_of(view))
        caption = (
            f"Grey: the {len(view):,} {view.split} rows. Blue line: {len(draws):,} rows drawn from the "
            "model, z from p(z) and x from p(x|z). The two should cover each other: where only the line is, "
            "the model invents; where only grey is, it misses rows."
        )
        return Section(title, words, figures=(album.add("samples", figure, caption),))
    rows, limits = list(range(min(64, len(view)))), limits_of(view)
    made = plots.samples(view.prior(len(rows)), limits=limits, title="model: E[x|z] for z from the prior")
    real = plots.samples(view.values[rows], limits=limits, title=f"data: {view.split} rows")
    said = (
        "Mean pictures E[x|z], not draws of single pixels, so they look smoother than data. Look for "
        "pictures that resemble no row: there the prior has mass where no row is."
    )
    beside = f"As many {view.split} rows for comparison: is every kind made, and as often?{gaps(view)}"
    return Section(title, words, figures=(album.add("samples", made, said), album.add("data", real, beside)))


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
