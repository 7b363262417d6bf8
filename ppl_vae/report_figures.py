"""The sections of a report that show what a trained pair makes of rows, with captions in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae import plots
from ppl_vae.atomic import write
from ppl_vae.drawing import PANELS, signed, to_png_bytes
from ppl_vae.html import Section
from ppl_vae.latents import ACTIVE, Latents
from ppl_vae.report_words import number
from ppl_vae.view import View

__all__ = [
    "Album",
    "is_picture",
    "latent_space",
    "limits_of",
    "names_of",
    "prior_samples",
    "reconstructions",
    "spread_of",
    "under_conditions",
]

SPAN = 2.5
STEPS = 11
LINES = 64
"""How many latents are moved, and how many conditions are shown, at most."""

COLUMNS = 12
"""Draws under every condition."""

Picture = tuple[bytes, str, str]


@dataclass(frozen=True)
class Album:
    """Draws each figure once, for the folder and for the page."""

    folder: Path

    def add(self, name: str, figure: Figure, caption: str) -> Picture:
        """A figure as a section holds it, after writing it to `name`.png."""
        png = to_png_bytes(figure)
        write(self.folder / f"{name}.png", png)
        return png, caption, f"{name.replace('-', ' ')}: {caption.partition('.')[0]}"


# -- the observed field --------------------------------------------------------------------------------------


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
        figure = plots.table_reconstructions(_flat(view.values), _flat(mean), names=names_of(view))
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
        f"strokes and edges that are smoothed away.{_gaps(view)}"
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
        figure = plots.table_samples(_flat(view.values), _flat(draws), names=names_of(view))
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
    beside = f"As many {view.split} rows for comparison: is every kind made, and as often?{_gaps(view)}"
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
        figure = plots.table_samples(_flat(view.values), _flat(made), names=names_of(view))
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


def is_picture(view: View) -> bool:
    """Whether a row is drawn as a picture."""
    shape = view.field.shape
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def limits_of(view: View) -> tuple[float, float] | None:
    """Black and white: the range of the field's kind, so that pictures compare; else that of the rows."""
    kind, top = view.field.kind, view.field.cardinality
    if kind in ("categorical", "count") and top is not None:
        return 0.0, float(max(top - 1, 1))
    if kind in ("binary", "unit"):
        return 0.0, 1.0
    seen = view.values[torch.isfinite(view.values)]
    return (float(seen.min()), float(seen.max())) if len(seen) else None


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def names_of(view: View) -> list[str]:
    """What the entries of a row are called."""
    field = view.field
    if len(field.names) == field.size and field.kind != "categorical":
        return list(field.names)
    return [field.name] if field.shape == () else [f"{field.name}[{i}]" for i in range(field.size)]


def _gaps(view: View) -> str:
    return " Sand-coloured pixels were not observed." if bool(view.values.isnan().any()) else ""


# -- the latents ---------------------------------------------------------------------------------------------


def latent_space(view: View, album: Album) -> list[Section]:
    """Traversals, rates, interpolations and the map; one section that says why if there is nothing to "
    "move."""
    if not view.latents:
        words = (
            "The pair has no continuous latent of single rows: there is nothing to move, to interpolate or "
            "to map, so traversals, rates, interpolations and the map are left out."
        )
        return [Section("Latent space", words)]
    # Of several sites the one nearest to the prior that can be moved and is used.
    first = max(view.latents, key=lambda site: (site.real, bool(site.ranked)))
    sections = [_traversal(view, first, album)]
    if first.proper:
        sections.append(_rates(view, album))
    if is_picture(view) and len(view) > 1:
        sections.append(_interpolation(view, first, album))
    return [*sections, _map(view, first, album)]


def _traversal(view: View, latents: Latents, album: Album) -> Section:
    title, ranked = "What each latent does", latents.ranked
    if not ranked:
        return Section(title, _collapsed(latents))
    if not latents.real:
        words = f"{latents.site} cannot take every value, so it is not moved by fixed steps here."
        return Section(title, words)
    row, shown = _typical(latents), ranked[:LINES]
    steps, made = _moved(view, latents, shown, row)
    standard = bool(((latents.centre.abs() < 1e-6) & ((latents.spread - 1).abs() < 1e-6)).all())
    of = "its prior" if latents.proper else "the codes of these rows"
    span = "(99 % of the prior lies within)" if standard and latents.proper else f"standard deviations of {of}"
    words = (
        f"{_count(latents)} Each is moved from {signed(-SPAN)} to {SPAN} {span}, while the others stay where "
        f"the guide puts {view.name(row)}, a row at the usual distance from the middle of the latent space. "
        "Those that tell most about a row come first."
    )
    if len(ranked) > LINES:
        words += f" The first {LINES} are drawn."
    unit = "nats" if latents.exact else "activity" if latents.proper else "of the widest"
    titles = [f"{latents.site}{i}  {latents.information[i]:.2f} {unit}" for i in shown]
    axis = f"value of {latents.site}" if standard else f"{'prior' if latents.proper else 'code'} sd from its mean"
    if not is_picture(view):
        return Section(title, words, figures=_table_traversals(view, made, steps, titles, axis, album))
    figure = plots.traversal(made, steps, titles, limits=limits_of(view), axis=axis)
    measure = "its KL to the prior per row" if latents.exact else "the variance of its posterior mean over rows"
    measure += "" if latents.proper else ", as a share of the widest latent's"
    caption = (
        "Follow a line from left to right: what changes is what this latent stands for, perhaps slant, "
        f"weight or a change of class. The number on the left is {measure}. A line in which nothing changes "
        "belongs to a latent that does not matter for a row like this one."
    )
    return Section(title, words, figures=(album.add("traversal", figure, caption),))


def _table_traversals(
    view: View, made: Tensor, steps: Tensor, titles: Sequence[str], axis: str, album: Album
) -> tuple[Picture, ...]:
    scale = spread_of(_flat(view.values))
    caption = (
        "A panel is a latent, a line is a column: where it rises or falls, the latent moves the mean of this "
        "column, in units of the column's standard deviation in the data. Lines that move together share a "
        "cause."
    )
    figures = []
    for start in range(0, len(made), PANELS):
        some = slice(start, start + PANELS)
        figure = plots.table_traversal(
            made[some].reshape(*made[some].shape[:2], -1),
            steps,
            names=names_of(view),
            titles=titles[some],
            scale=scale,
            axis=axis,
        )
        name = "traversal" if start == 0 else f"traversal-{start // PANELS + 1}"
        figures.append(album.add(name, figure, caption))
        caption = "The next latents, drawn in the same way."
    return tuple(figures)


def spread_of(x: Tensor) -> Tensor:
    """The standard deviation of the entries of each column that are there; 0 where there are none."""
    seen = x.isfinite()
    count, filled = seen.sum(0).clamp(min=1), x.nan_to_num(0.0)
    deviation = torch.where(seen, filled - filled.sum(0) / count, 0.0)
    return (deviation.square().sum(0) / count).sqrt()


def _typical(latents: Latents) -> int:
    """The row whose latents are as far from their average as is usual: neither the blandest nor an oddity."""
    distance = (latents.mean - latents.mean.mean(0)).norm(dim=-1)
    return int((distance - distance.median()).abs().argmin())


def _moved(view: View, latents: Latents, shown: list[int], row: int) -> tuple[Tensor, Tensor]:
    """The steps, and E[x | z] when each latent goes through them, [latent, step, *S]."""
    steps = torch.linspace(-SPAN, SPAN, STEPS)
    made = []
    for step in steps.tolist():  # all latents at one step, so that what else is drawn is alike at every step
        z = latents.mean[row].repeat(len(shown), 1)
        for line, i in enumerate(shown):
            z[line, i] = latents.centre[i] + step * latents.spread[i]
        made.append(view.decode({latents.site: latents.shaped(z)}, [row] * len(shown)))
    return steps, torch.stack(made, 1)


def _count(latents: Latents) -> str:
    active, every = len(latents.ranked), len(latents.information)
    if every == 1:
        return f"{latents.site} is one number, and it carries {'' if active else 'no '}information."
    if active == every:
        return f"All {every} dimensions of {latents.site} carry information."
    few = f"{active or 'none'} {'carries' if active == 1 else 'carry'} information"
    unit = " nats" if latents.exact else ""
    return f"Of the {every} dimensions of {latents.site}, {few} (more than {ACTIVE:g}{unit})."


def _collapsed(latents: Latents) -> str:
    return (
        f"{_count(latents)} Whatever the row, the guide answers with the prior: this is **posterior "
        "collapse**, and there is nothing to move. More training, a warm-up of the KL weight or a weaker "
        "decoder may help."
    )


def _rates(view: View, album: Album) -> Section:
    figures, words = [], []
    for k, latents in enumerate(view.latents):
        values = latents.information.cpu()
        axis = "KL to the prior (nats per row)" if latents.exact else "activity"
        figure = plots.rate_per_latent(values, active=ACTIVE, axis=axis)
        site = f" of {latents.site}" if len(view.latents) > 1 else ""
        caption = _rate_caption(view, latents, site)
        figures.append(album.add("rate" if k == 0 else f"rate-{k + 1}", figure, caption))
        half = int((values.sort(descending=True).values.cumsum(0) < values.sum() / 2).sum()) + 1
        words.append(_count(latents))
        if latents.exact and len(values) > 2 and latents.ranked:
            together = f"Together they tell {number(float(values.sum()))} nats per row"
            words.append(f"{together}; the first {half} of them tell half of it.")
    return Section("How much each latent tells", " ".join(words), figures=tuple(figures))


def _rate_caption(view: View, latents: Latents, site: str) -> str:
    if latents.exact:
        return (
            f"The KL of each latent{site} to its prior, averaged over {len(view):,} {view.split} rows. A "
            "tall bar is a latent that tells much about a row; a grey one could be removed without loss."
        )
    return (
        f"Activity of each latent{site}: the variance of its posterior mean over {len(view):,} {view.split} "
        "rows, as a share of the prior's variance. Near 1 the row decides the latent, near 0 the latent "
        "ignores the row. (Of this pair the KL of single latents has no closed form.)"
    )


def _interpolation(view: View, latents: Latents, album: Album) -> Section:
    pairs = _pairs(view)
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    between = []
    for t in np.linspace(0.0, 1.0, 9).tolist():
        z = (1 - t) * latents.mean[left] + t * latents.mean[right]
        between.append(view.decode({latents.site: latents.shaped(z)}, left))
    images = torch.stack([view.values[left], *between, view.values[right]], 1)
    ends = [(view.class_of(a) or view.name(a), view.class_of(b) or view.name(b)) for a, b in pairs]
    figure = plots.interpolation(images, limits=limits_of(view), ends=ends)
    caption = (
        "Framed are the real rows; between them is E[x|z] along the straight line from the posterior mean of "
        "one to that of the other. Look for pictures on the way that could be rows themselves. A sudden "
        "jump, or both ends laid over each other, shows a gap between them."
    )
    other = " of different classes" if view.labels is not None else ""
    words = f"Pairs of {view.split} rows{other}, and what the model makes of the latents between them."
    return Section("From one row to another", words, figures=(album.add("interpolation", figure, caption),))


def _pairs(view: View, most: int = 6) -> list[tuple[int, int]]:
    """Pairs of rows, each row once; of different classes where two are known."""
    rows: dict[str, list[int]] = {}
    for row in range(len(view)):
        if (known := view.class_of(row)) is not None:
            rows.setdefault(known, []).append(row)
    if len(rows) < 2:
        return [(i, i + 1) for i in range(0, min(2 * most, len(view) - 1), 2)]
    names = list(rows)
    around = list(zip(names, names[1:] + names[:1], strict=True))
    pairs: list[tuple[int, int]] = []
    for a, b in cycle(around[::2] + around[1::2]):
        if len(pairs) == most or not rows[a] or not rows[b]:
            return pairs
        pairs.append((rows[a].pop(0), rows[b].pop(0)))
    return pairs


def _map(view: View, latents: Latents, album: Album) -> Section:
    title = "A map of the latents"
    if min(latents.mean.shape) < 2:
        what = f"{latents.site} has one dimension" if len(view) > 1 else "There is only one row"
        return Section(title, f"{what}, so there is no map to draw.")
    points, axes, how = _plane(latents)
    names = view.label.names if view.label is not None else ()
    figure = plots.latent_map(points, labels=view.labels, names=names or None, axes=axes)
    words = f"Where the guide puts {len(view):,} {view.split} rows: the posterior mean of {latents.site}. {how}"
    caption = "A point is a row, and rows that are near each other are alike to the model. "
    if view.label is None:
        caption += "Clouds apart from each other are groups of rows" + (
            "; one round cloud is what the prior asks for." if latents.proper else "."
        )
    else:
        programs = (view.pair.model, view.pair.guide)
        unseen = not any(view.label.name in p.arguments for p in programs)
        caption += (
            f"Colour is the class{', which the model is never shown' if unseen else ''}: islands of one "
            "colour are classes that the latents tell apart. Classes that overlap here may be apart in other "
            "dimensions."
        )
    return Section(title, words, figures=(album.add("map", figure, caption),))


def _plane(latents: Latents) -> tuple[Tensor, tuple[str, str], str]:
    """Two coordinates of each row's posterior mean, what they are called, and how they were chosen."""
    means = latents.mean.cpu()
    if means.shape[1] == 2:
        return means, (f"{latents.site}0", f"{latents.site}1"), "Both dimensions are drawn as they are."
    centred = means - means.mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    first, second = (100 * sizes.square() / sizes.square().sum().clamp(min=1e-30))[:2].tolist()
    how = (
        f"Of its {centred.shape[1]} dimensions the two principal axes of these means are drawn; they carry "
        f"{first + second:.0f} % of the variance of the means."
    )
    names = (f"first principal axis ({first:.0f} %)", f"second principal axis ({second:.0f} %)")
    return centred @ axes[:2].T, names, how
