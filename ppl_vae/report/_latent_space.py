"""The sections of a report about latents: what moves with each of them, which are used, where rows lie."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.plots.drawing import PANELS, signed
from ppl_vae.prediction.latents import ACTIVE, Latents
from ppl_vae.report._album import LINES, Album, Picture, flat, is_picture, limits_of, names_of, spread_of
from ppl_vae.report._cards import number
from ppl_vae.report._html import Section
from ppl_vae.report.view import View

__all__ = ["latent_space"]

SPAN = 2.5
STEPS = 11


def latent_space(view: View, album: Album) -> list[Section]:
    """Traversals, rates, interpolations and the map; one section that says why if there is nothing to move."""
    if not view.latents:
        words = (
            "The pair has no continuous latent of single rows: there is nothing to move, to interpolate or "
            "to map, so traversals, rates, interpolations and the map are left out."
        )
        return [Section("Latent space", words)]
    # Of several sites the one nearest to the prior that can be moved and is used comes first.
    sites = sorted(view.latents, key=lambda site: (not site.real, not site.ranked))
    sections = [_traversal(view, sites, album)]
    if sites[0].proper:
        sections.append(_rates(view, album))
    if is_picture(view) and len(view) > 1:
        sections.append(_interpolation(view, album))
    return [*sections, _map(view, sites, album)]


def _traversal(view: View, sites: Sequence[Latents], album: Album) -> Section:
    title = "What each latent does"
    words: list[str] = []
    figures: list[Picture] = []
    for latents in sites:
        said, drawn = _moves(view, latents, "" if latents is sites[0] else f"-{latents.site}", album)
        words.append(said)
        figures += drawn
    return Section(title, " ".join(words), figures=tuple(figures))


def _moves(view: View, latents: Latents, suffix: str, album: Album) -> tuple[str, list[Picture]]:
    """What the latents of a site do, in words and figures, one for each field that can be drawn."""
    ranked = latents.ranked
    if not ranked:
        return _collapsed(latents), []
    if not latents.real:
        return f"{latents.site} cannot take every value, so it is not moved by fixed steps here.", []
    row, shown = _typical(latents), ranked[:LINES]
    standard = bool(((latents.centre.abs() < 1e-6) & ((latents.spread - 1).abs() < 1e-6)).all())
    of = "its prior" if latents.proper else "the codes of these rows"
    span = "(99 % of the prior lies within)" if standard and latents.proper else f"standard deviations of {of}"
    words = (
        f"{_count(latents)} Each is moved from {signed(-SPAN)} to {SPAN} {span}, while the others stay where "
        f"the guide puts {view.name(row)}, a row at the usual distance from the middle of the latent space. "
        "Those that tell most about a row come first."
    )
    if followers := view.places.followers([latents.site]):
        it = "keeps its" if len(followers) == 1 else "keep their"
        words += f" {', '.join(followers)}, whose prior depends on {latents.site}, {it} place within that prior."
    if len(ranked) > LINES:
        words += f" The first {LINES} are drawn."
    unit = "nats" if latents.exact else "activity" if latents.proper else "of the widest"
    titles = [f"{latents.site}{i}  {latents.information[i]:.2f} {unit}" for i in shown]
    axis = f"value of {latents.site}" if standard else f"{'prior' if latents.proper else 'code'} sd from its mean"
    measure = "its KL to the prior per row" if latents.exact else "the variance of its posterior mean over rows"
    measure += "" if latents.proper else ", as a share of the widest latent's"
    figures: list[Picture] = []
    for each in view.each():
        steps, made = _moved(each, latents, shown, row)
        if not is_picture(each):
            figures += _table_traversals(each, made, steps, titles, axis, suffix + each.suffix, album)
            continue
        figure = plots.traversal(made, steps, titles, limits=limits_of(each), axis=axis)
        caption = (
            f"The mean{each.of_what}. Follow a line from left to right: what changes is what this latent stands for, "
            f"perhaps slant, weight or a change of class. The number on the left is {measure}. A line in which nothing "
            "changes belongs to a latent that does not matter for a row like this one."
        )
        figures.append(album.add(f"traversal{suffix}{each.suffix}", figure, caption))
    return words, figures


def _table_traversals(
    view: View, made: Tensor, steps: Tensor, titles: Sequence[str], axis: str, suffix: str, album: Album
) -> list[Picture]:
    scale = spread_of(flat(view.values))
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
        figures.append(album.add(f"{name}{suffix}", figure, caption))
        caption = "The next latents, drawn in the same way."
    return figures


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


def _interpolation(view: View, album: Album) -> Section:
    pairs = _pairs(view)
    figures = []
    for each in view.each():
        if not is_picture(each):
            continue
        images = torch.stack(
            [each.values[[a for a, _ in pairs]], *between(each, pairs), each.values[[b for _, b in pairs]]], 1
        )
        ends = [(view.class_of(a) or view.name(a), view.class_of(b) or view.name(b)) for a, b in pairs]
        figure = plots.interpolation(images, limits=limits_of(each), ends=ends)
        caption = (
            f"Framed are the real rows{each.of_what}; between them is E[x|z] along the straight line from the "
            "posterior means of one to those of the other, whose ends are the rows' own reconstructions. Look for "
            "pictures on the way that could be rows themselves. A sudden jump, or both ends laid over each other, "
            "shows a gap between them."
        )
        figures.append(album.add(f"interpolation{each.suffix}", figure, caption))
    other = " of different classes" if view.labels is not None else ""
    words = f"Pairs of {view.split} rows{other}, and what the model makes of the latents between them."
    classes = [*view.places.probabilities, *(f.name for f in view.conditions)]
    if classes:
        words += (
            f" {', '.join(classes)} cannot be between two values: at a step t the mean is 1 - t of that under the left "
            "row's value and t of that under the right row's."
        )
    return Section("From one row to another", words, figures=tuple(figures))


def between(view: View, pairs: Sequence[tuple[int, int]]) -> list[Tensor]:
    """E[x | z] at steps between rows, [pair, *S] each; classes and conditions are mixed, all else is on a line."""
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    found = []
    for t in np.linspace(0.0, 1.0, 9).tolist():
        z = {s.site: s.shaped((1 - t) * s.mean[left] + t * s.mean[right]) for s in view.latents}
        ends = [(1 - t, left), (t, right)]
        found.append(sum((w * view.decode(z, rows) for w, rows in ends if w > 0), torch.zeros(())))
    return found


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


def _map(view: View, sites: Sequence[Latents], album: Album) -> Section:
    title = "A map of the latents"
    told = [_places_of(view, s, "" if s is sites[0] else f"-{s.site}", album) for s in sites]
    return Section(title, " ".join(words for words, _ in told), figures=tuple(f for _, f in told if f is not None))


def _places_of(view: View, latents: Latents, suffix: str, album: Album) -> tuple[str, Picture | None]:
    if min(latents.mean.shape) < 2:
        what = f"{latents.site} has one dimension" if len(view) > 1 else "There is only one row"
        return f"{what}, so there is no map to draw.", None
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
            "dimensions. A name that would lie over another one is in the legend alone."
        )
    return words, album.add(f"map{suffix}", figure, caption)


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
