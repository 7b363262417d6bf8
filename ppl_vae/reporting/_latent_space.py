"""The sections of a report about latents: what moves with each of them, which are used, where rows lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.plots.drawing import PANELS, signed
from ppl_vae.prediction.latents import ACTIVE, Latents
from ppl_vae.reporting._album import LINES, Album, flat, is_picture, limits_of, names_of, spread_of
from ppl_vae.reporting._cards import number
from ppl_vae.reporting._explorer import explorer
from ppl_vae.reporting._html import Picture, Section, Widget
from ppl_vae.reporting._map import latent_map
from ppl_vae.reporting.view import View

__all__ = ["latent_space"]

SPAN = 2.5
STEPS = 11
MOST_COLUMNS = 24
FIGURE = "The same as a figure"


def latent_space(view: View, album: Album, told: Mapping[str, Tensor]) -> list[Section]:
    """Traversals, rates, interpolations and the map; one section that says why if there is nothing to move.

    `told` are numbers of the rows of the view, by name, which the map says of the row that is pointed at.
    """
    if not view.latents:
        words = (
            "The pair has no continuous latent of single rows: there is nothing to move, to interpolate or "
            "to map, so traversals, rates, interpolations and the map are left out."
        )
        return [Section("Latent space", words)]
    # Of several sites the one nearest to the prior that can be moved and is used comes first.
    sites = sorted(view.latents, key=lambda site: (not site.real, not site.ranked))
    first = _traversal(view, sites, album)
    moving = {w.name for w in first.widgets if "network" in w.data}
    sections = [first]
    if sites[0].proper:
        sections.append(_rates(view, album))
    if is_picture(view) and len(view) > 1:
        sections.append(_interpolation(view, album))
    return [*sections, latent_map(view, sites, album, told, moving)]


def _traversal(view: View, sites: Sequence[Latents], album: Album) -> Section:
    title = "What each latent does"
    words: list[str] = []
    figures: list[Picture] = []
    widgets: list[Widget] = []
    for latents in sites:
        said, drawn, moving = _moves(view, latents, "" if latents is sites[0] else f"-{latents.site}", album)
        words.append(said)
        figures += drawn
        widgets += moving
    return Section(title, " ".join(words), figures=tuple(figures), widgets=tuple(widgets))


def _moves(view: View, latents: Latents, suffix: str, album: Album) -> tuple[str, list[Picture], list[Widget]]:
    """What the latents of a site do: words, a figure for each field that can be drawn, and sliders."""
    ranked = latents.ranked
    if not ranked:
        return _collapsed(latents), [], []
    if not latents.real:
        return f"{latents.site} cannot take every value, so it is not moved by fixed steps here.", [], []
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
    widgets: list[Widget] = []
    for each in view.each():
        steps, made = _moved(each, latents, shown, row)
        if each is view and latents.spread.min() > 0:
            widgets.append(explorer(view, latents, shown, row, steps, made, titles))
        if not is_picture(each):
            figures += _table_traversals(each, made, steps, titles, axis, suffix + each.suffix, album)
            continue
        figure = plots.traversal(made, steps, titles, limits=limits_of(each), axis=axis)
        caption = (
            f"The mean{each.of_what}. Follow a line from left to right: what changes is what this latent stands for, "
            f"perhaps slant, weight or a change of class. The number on the left is {measure}. A line in which nothing "
            "changes belongs to a latent that does not matter for a row like this one."
        )
        alt = f"{len(made)} lines of {len(steps)} pictures; a line moves one latent: {'; '.join(titles[:LINES])}."
        figures.append(
            album.add(
                f"traversal{suffix}{each.suffix}",
                figure,
                caption,
                alt,
                folded=FIGURE * (each is view),
            )
        )
    return words, figures, widgets


def _table_traversals(
    view: View, made: Tensor, steps: Tensor, titles: Sequence[str], axis: str, suffix: str, album: Album
) -> list[Picture]:
    """How far each latent moves each column, as one table of colours; and step by step, as lines."""
    if view.field.is_text:
        places = [f"{step:g}" for step in steps.tolist()]
        figure = plots.sentences(made, view.field.names, titles, places, axis=axis)
        caption = (
            f"The likeliest words{view.of_what}, one after the other, as each latent goes through its values. Words in "
            "orange are new; a sentence that stays the same is written once."
        )
        alt = f"Sentences for {len(made)} latents: {'; '.join(titles[:LINES])}."
        return [album.add(f"traversal{suffix}", figure, caption, alt)]
    values, scale = made.reshape(*made.shape[:2], -1), spread_of(flat(view.values))
    moves = (values[:, -1] - values[:, 0]) / torch.where(scale > 0, scale, 1.0)
    some = values.shape[0] if values.shape[0] <= PANELS else PANELS
    shown = moves.abs().amax(0).argsort(descending=True)[:MOST_COLUMNS].sort().values.tolist()
    names = [str(names_of(view)[i]) for i in shown]
    figure = plots.heatmap(moves[:some, shown].T, names, titles[:some], axes=("latent", "column"), signs=True)
    left = f" The {len(shown)} columns of {values.shape[2]} that move most." if len(shown) < values.shape[2] else ""
    caption = (
        "A line is a column of the table; each square says how far the mean of that column goes when the latent below "
        f"is moved from one end to the other, in standard deviations of the data. Orange is up, blue is down.{left}"
    )
    told = f"{'; '.join(titles[:some])}. {_strongest(moves[:some], view)}"
    alt = f"Changes of the means of {len(shown)} columns with {told}"
    figures = [album.add(f"traversal-table{suffix}", figure, caption, alt)]
    figure = plots.table_traversal(
        values[:some], steps, names=names_of(view), titles=titles[:some], scale=scale, axis=axis
    )
    caption = (
        "Step by step: a panel is a latent, a line is a column, and a bend says that the latent does not act alike "
        "everywhere. Units are standard deviations of the data."
    )
    return [*figures, album.add(f"traversal{suffix}", figure, caption, alt, folded="Step by step, as lines")]


def _strongest(moves: Tensor, view: View) -> str:
    """Which column each latent moves most."""
    names = names_of(view)
    most = [f"{names[int(line.abs().argmax())]} by {signed(float(line[line.abs().argmax()]))}" for line in moves]
    return f"Most moved, in this order: {', '.join(most)}."


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
        order = values.argsort(descending=True)[:10].tolist()
        alt = (
            f"{axis}, largest first: " + ", ".join(f"{latents.site}{i} {signed(float(values[i]))}" for i in order) + "."
        )
        figures.append(album.add("rate" if k == 0 else f"rate-{k + 1}", figure, caption, alt))
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
        alt = f"Ways between pairs of rows: {'; '.join(f'{a} to {b}' for a, b in ends)}."
        figures.append(album.add(f"interpolation{each.suffix}", figure, caption, alt))
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
