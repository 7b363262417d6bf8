"""Pictures from arrays: training, reconstructions, samples, traversals, latents. Knows no model and no run.

Every function returns a `matplotlib.figure.Figure` made without pyplot: nothing is global, no display is
needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl_vae.drawing import (
    BLUE,
    CLASSES,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PANELS,
    SOFT,
    Array,
    Limits,
    add_legend,
    as_array,
    as_numbers,
    as_pixels,
    board,
    class_name,
    expect,
    height_of,
    house_axes,
    known_labels,
    mark_epochs,
    nothing_observed,
    place_image,
    readable_end,
    same_shape,
    save,
    say,
    series,
    shared_legend,
    shorten,
    signed,
    small_panels,
    to_png_bytes,
    value_range,
    write_apart,
)
from ppl_vae.errors import UserError

__all__ = [
    "interpolation",
    "latent_map",
    "rate_per_latent",
    "reconstructions",
    "samples",
    "save",
    "table_reconstructions",
    "table_samples",
    "table_traversal",
    "to_png_bytes",
    "training_curve",
    "traversal",
]


def training_curve(
    history: Sequence[Mapping[str, Any]],
    *,
    best_epoch: int | None = None,
    axis: str = "bound (nats per row)",
    rate: str = "rate, KL(q‖p)",
) -> Figure:
    """The bound over epochs, and beside it distortion and rate where the history has them.

    Records hold `epoch`, `train` and, optionally, `validation`, `beta`, `rate`, `distortion` (nats per row).
    Epochs far below the rest are left out of the axis, which says so. Raises UserError without records or
    their keys.

    Example:
        >>> figure = training_curve([{"epoch": 1, "train": -90.0}, {"epoch": 2, "train": -80.0}])
        >>> figure.axes[0].get_ylabel()
        'bound (nats per row)'
    """
    if not history or any("epoch" not in record or "train" not in record for record in history):
        raise UserError("history: expected at least one record, each with 'epoch' and 'train'")
    epoch, train, validation, beta = (series(history, k) for k in ("epoch", "train", "validation", "beta"))
    parts = [(k, series(history, k)) for k in ("distortion", "rate")]
    parts = [(k, v) for k, v in parts if np.isfinite(v).any()]
    figure = Figure(figsize=(9.0 if parts else 6.0, 3.7), layout="constrained")
    grid = figure.add_gridspec(max(len(parts), 1), 2 if parts else 1, width_ratios=[1.6, 1] if parts else [1])
    style: dict[str, Any] = {"lw": 1.8, "marker": "o" if len(history) < 20 else None, "ms": 4}
    bound = house_axes(figure.add_subplot(grid[:, 0]), "epoch", axis)
    for values, colour, label in ((train, BLUE, "training rows"), (validation, ORANGE, "validation rows")):
        if np.isfinite(values).any():
            bound.plot(epoch, values, color=colour, label=label, **style)
    readable_end(bound, np.stack([train, validation]))
    words = {"distortion": "distortion, \N{MINUS SIGN}E log p(x|z)", "rate": rate}
    for i, (name, values) in enumerate(parts):
        ax = house_axes(
            figure.add_subplot(grid[i, 1]),
            "epoch" if i == len(parts) - 1 else "",
            "nats per row",
            words[name],
        )
        ax.plot(epoch, values, color=GREEN, **style)
        readable_end(ax, -values if name == "distortion" else values, flip=name == "distortion")
    for ax in figure.axes:
        ax.set_xlim(epoch.min() - 0.5, epoch.max() + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6 if ax is bound else 4, min_n_ticks=2))
        mark_epochs(ax, epoch, beta, best_epoch)
    shared_legend(figure, [bound], loc="outside upper left", ncols=4 if parts else 2)
    return figure


def reconstructions(
    x: Array, mean: Array, *, labels: Sequence[object] | Array | None = None, limits: Limits = None
) -> Figure:
    """Rows of the data above what the model makes of them, twelve pairs in a band.

    x, mean: [n, H, W] or [n, C, H, W] with C = 1 or 3, in any range; `limits` are black and white, by default
    the range of x. Raises UserError when the shapes differ or are not those of images.
    """
    same_shape(x, mean)
    limits = limits or value_range(x)
    pairs = list(zip(as_pixels("x", x, 1, limits), as_pixels("mean", mean, 1, limits), strict=True))
    if labels is not None and len(labels) != len(pairs):
        raise UserError(f"labels: expected {len(pairs)}, one for each image, got {len(labels)}")
    words = [shorten(class_name(label, None), 11) for label in ([] if labels is None else as_array(labels))]
    size = 10 if max(map(len, words), default=0) <= 7 else 7.5  # no name reaches into its neighbour's place
    columns, high = min(len(pairs), PANELS), height_of(pairs[0][0])
    tall = 2 * high + 0.04
    band = tall + (0.45 if labels is not None else 0.22)
    bands = -(-len(pairs) // columns)
    figure, ax = board(columns, (bands - 1) * band + tall, 8.2 / max(columns, 8))
    for i, (above, below) in enumerate(pairs):
        left, top = i % columns, (i // columns) * band
        place_image(ax, above, left, top)
        place_image(ax, below, left, top + high + 0.04)
        if labels is not None:
            say(ax, left + 0.5, top - 0.04, words[i], va="bottom", fontsize=size)
        if left == 0:
            say(ax, -0.12, top + high / 2, "data", ha="right")
            say(ax, -0.12, top + 1.5 * high, "model", ha="right")
    return figure


def samples(images: Array, *, limits: Limits = None, title: str | None = None) -> Figure:
    """A near-square grid of draws from the prior.

    images: [n, H, W] or [n, C, H, W]. Raises UserError when the shape is not that of images.

    Example:
        >>> len(samples(np.random.rand(9, 4, 4)).axes[0].images)
        9
    """
    pixels = as_pixels("images", images, 1, limits or value_range(images))
    columns, high = int(np.ceil(np.sqrt(len(pixels)))), height_of(pixels[0])
    figure, ax = board(columns, -(-len(pixels) // columns) * high, min(0.52, 8.2 / columns))
    for i, image in enumerate(pixels):
        place_image(ax, image, i % columns, (i // columns) * high)
    if title:
        ax.set_title(title, fontsize=11, color=INK, loc="left", parse_math=False)
    return figure


def grid(images: Array, titles: Sequence[str], *, limits: Limits = None, axis: str = "") -> Figure:
    """Lines of pictures, each with its title; `axis` says what the titles are.

    images: [line, column, H, W] or [line, column, C, H, W]. Raises UserError when the lengths do not fit.
    """
    pixels = as_pixels("images", images, 2, limits or value_range(images))
    expect("titles", len(titles), pixels.shape[0], "one for each line")
    high, count = height_of(pixels[0, 0]), pixels.shape[1]
    figure, ax = board(count, len(pixels) * high, min(0.6, 7.4 / count))
    for i, line in enumerate(pixels):
        say(ax, -0.15, (i + 0.5) * high, shorten(titles[i], 16), ha="right")
        for j, image in enumerate(line):
            place_image(ax, image, j, i * high)
    say(ax, -0.15, -0.08, axis, ha="right", va="bottom", color=SOFT)
    return figure


def traversal(
    images: Array,
    values: Sequence[float] | Array,
    titles: Sequence[str],
    *,
    limits: Limits = None,
    axis: str = "value of z",
) -> Figure:
    """One line for each latent, moved through `values` while the others stay.

    images: [latent, step, H, W] or [latent, step, C, H, W]; values: [step]; titles: one for each latent, such
    as "z3  KL 2.1 nats"; axis: what the values are. Raises UserError when the lengths do not fit.
    """
    pixels = as_pixels("images", images, 2, limits or value_range(images))
    steps = as_numbers("values", values, 1)
    expect("values", len(steps), pixels.shape[1], "one for each step")
    expect("titles", len(titles), pixels.shape[0], "one for each latent")
    high = height_of(pixels[0, 0])
    figure, ax = board(len(steps), len(pixels) * high, min(0.6, 7.4 / len(steps)))
    for i, line in enumerate(pixels):
        say(ax, -0.15, (i + 0.5) * high, titles[i], ha="right")
        for j, image in enumerate(line):
            place_image(ax, image, j, i * high)
    for j, value in enumerate(steps):
        say(ax, j + 0.5, -0.08, signed(value), va="bottom")
    say(ax, -0.15, -0.08, axis, ha="right", va="bottom", color=SOFT)
    return figure


def interpolation(images: Array, *, limits: Limits = None, ends: Sequence[tuple[str, str]] | None = None) -> Figure:
    """The way from one row of the data to another, one line for each pair; the two real rows are framed.

    images: [line, step, H, W] or [line, step, C, H, W], the first and last step being rows of the data; ends:
    their names, such as ("test row 12", "test row 40"). Raises UserError when the lengths do not fit.
    """
    pixels = as_pixels("images", images, 2, limits or value_range(images))
    if pixels.shape[1] < 2:
        raise UserError(f"images: expected at least 2 steps in a line, the two real rows, got {pixels.shape[1]}")
    names = [("real row", "real row")] * len(pixels) if ends is None else list(ends)
    expect("ends", len(names), len(pixels), "one pair for each line")
    high, count = height_of(pixels[0, 0]) + 0.12, pixels.shape[1]
    figure, ax = board(count, len(pixels) * high, min(0.65, 6.6 / count))
    for i, line in enumerate(pixels):
        for j, image in enumerate(line):
            place_image(ax, image, j, i * high, framed=j in (0, count - 1))
        say(ax, -0.15, (i + 0.5) * high - 0.06, names[i][0], ha="right", color=ORANGE)
        say(ax, count + 0.15, (i + 0.5) * high - 0.06, names[i][1], ha="left", color=ORANGE)
    return figure


def latent_map(
    z: Array,
    *,
    labels: Sequence[object] | Array | None = None,
    names: Sequence[str] | None = None,
    axes: tuple[str, str] = ("first axis", "second axis"),
) -> Figure:
    """Where the rows lie in two latent dimensions, coloured by label.

    z: [n, 2]; labels: [n], where -1, NaN and None mean unlabelled; names: the name of label 0, 1, ... Up to
    20 classes get a colour, marker and legend; more numbers than that are shown on a colour bar. Raises
    UserError when the lengths do not fit.
    """
    points = as_numbers("z", z, 2)
    expect("z", points.shape[1], 2, "columns")
    figure = Figure(figsize=(6.6, 5.2), layout="constrained")
    ax = house_axes(figure.add_subplot(), *axes)
    ax.set_aspect("equal", adjustable="datalim")  # distances are what a reader compares here
    size = float(np.clip(9000 / len(points), 3, 26))
    style: dict[str, Any] = {"s": size, "alpha": 0.7, "linewidths": 0}
    values, known = known_labels(labels, len(points))
    seen = np.isfinite(points).all(1)
    if not seen.any():
        raise UserError("z: expected finite numbers, got none")
    points, values, known = points[seen], values[seen], known[seen]
    if not known.all() or not known.size:
        word = "unlabelled" if known.any() else None
        ax.scatter(*points[~known].T, color=PALE if known.any() else BLUE, label=word, **style)
    classes = np.unique(values[known])
    if len(classes) > 20 and np.issubdtype(values.dtype, np.number):
        dots = ax.scatter(*points[known].T, c=values[known].astype(float), cmap="viridis", **style)
        figure.colorbar(dots, ax=ax, shrink=0.7, label="label").outline.set_visible(False)
        return figure
    if len(classes) > 20:
        ax.scatter(*points[known].T, color=BLUE, label=f"{len(classes)} classes, not coloured", **style)
    centres = []
    for i, value in enumerate(classes if len(classes) <= 20 else ()):
        mine, name = points[known & (values == value)], class_name(value, names)
        ax.scatter(*mine.T, color=CLASSES[i % 10], marker="o^"[i // 10], label=name, **style)
        centres.append((*np.median(mine, 0), name))
    write_apart(ax, centres, float(np.ptp(points, 0).max()) or 1.0)
    if ax.get_legend_handles_labels()[1]:
        legend = add_legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1.0), ncols=1)
        for handle in legend.legend_handles:
            handle.set(alpha=1.0, sizes=[30])
    return figure


def rate_per_latent(
    kl: Array,
    *,
    active: Array | Sequence[bool] | float = 0.01,
    axis: str = "KL to the prior (nats per row)",
) -> Figure:
    """The KL of each latent to its prior, largest first, the inactive ones grey.

    kl: [latent] in nats; active: [latent] of truth values, or the KL in nats above which a latent is active;
    axis: what is measured, if it is not the KL. Raises UserError when the lengths do not fit.

    Example:
        >>> [t.get_text() for t in rate_per_latent(np.array([0.0, 2.0])).axes[0].get_legend().get_texts()]
        ['active: 1 of 2', 'inactive: 1 of 2']
    """
    rate = as_numbers("kl", kl, 1)
    mask = rate > active if isinstance(active, (int, float)) else as_numbers("active", active, 1) > 0
    expect("active", len(mask), len(rate), "one for each latent")
    order = np.argsort(-rate, kind="stable")
    shown = order[:60]  # more bars than that cannot be told apart
    figure = Figure(figsize=(float(np.clip(0.32 * len(shown) + 1.2, 4.0, 9.0)), 3.2), layout="constrained")
    words = "latent, by rate" if len(shown) == len(rate) else f"the {len(shown)} latents of largest rate"
    ax = house_axes(figure.add_subplot(), words, axis)
    ax.grid(False, axis="x")
    for flag, colour, word in ((True, BLUE, "active"), (False, PALE, "inactive")):
        at, count = np.flatnonzero(mask[shown] == flag), int((mask == flag).sum())
        if count:
            ax.bar(at, rate[shown][at], color=colour, width=0.78, label=f"{word}: {count} of {len(rate)}")
        if count and not flag:  # a bar of no height shows no colour
            ax.scatter(at, rate[shown][at], color=colour, s=16, clip_on=False, zorder=3)
    at = np.arange(0, len(shown), -(-len(shown) // 26))  # a name every third of an inch, at most
    ax.set_xticks(at, [f"z{i}" for i in shown[at]])
    ax.set_xlim(-0.8, len(shown) - 0.2)
    add_legend(ax)
    return figure


def table_reconstructions(x: Array, mean: Array, *, names: Sequence[str] | None = None) -> Figure:
    """Reconstructed against observed values, one small panel for each of the first twelve columns.

    x, mean: [n, D]; entries that are NaN in x were not observed and are not drawn. Raises UserError when the
    shapes or the number of names do not fit.
    """
    same_shape(x, mean)
    observed, rebuilt = as_numbers("x", x, 2), as_numbers("mean", mean, 2)
    figure, panels = small_panels(observed.shape[1], names, "columns", square=True)
    for j, ax in enumerate(panels):
        seen = np.isfinite(observed[:, j]) & np.isfinite(rebuilt[:, j])
        if not seen.any():
            nothing_observed(ax)
            continue
        a, b = observed[seen, j], rebuilt[seen, j]
        ax.scatter(a, b, s=float(np.clip(3000 / len(a), 3, 18)), color=BLUE, alpha=0.45, linewidths=0)
        ax.axline((a[0], a[0]), slope=1.0, color=ORANGE, lw=1.2)
        low, high = min(a.min(), b.min()), max(a.max(), b.max())
        edge = 0.06 * (high - low) or 1.0
        ax.set(xlim=(low - edge, high + edge), ylim=(low - edge, high + edge), aspect="equal")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=3))
    figure.supxlabel("observed (line: equal to it)", fontsize=10, color=INK)
    figure.supylabel("reconstructed mean", fontsize=10, color=INK)
    return figure


def table_samples(x: Array, samples: Array, *, names: Sequence[str] | None = None) -> Figure:
    """Each column's distribution in the data and in draws from the prior, for the first twelve columns.

    x: [n, D]; samples: [m, D]. The bins span the data and the central 99 % of the draws. Raises UserError
    when the columns or the number of names do not fit.
    """
    data, draws = as_numbers("x", x, 2), as_numbers("samples", samples, 2)
    expect("samples", draws.shape[1], data.shape[1], "columns, as x has")
    figure, panels = small_panels(data.shape[1], names, "columns")
    for j, ax in enumerate(panels):
        a, b = (c[np.isfinite(c)] for c in (data[:, j], draws[:, j]))
        if not len(a) or not len(b):
            nothing_observed(ax)
            continue
        low, high = min(a.min(), np.quantile(b, 0.005)), max(a.max(), np.quantile(b, 0.995))
        bins = np.linspace(low, high, int(np.clip(np.sqrt(len(a)), 8, 30)) + 1) if high > low else 3
        ax.hist(a, bins=bins, density=True, color=PALE, label="data")
        ax.hist(b, bins=bins, density=True, histtype="step", color=BLUE, lw=1.5, label="model")
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=2))
    figure.supylabel("density", fontsize=10, color=INK)
    shared_legend(figure, panels)
    return figure


def table_traversal(
    values: Array,
    z: Sequence[float] | Array,
    *,
    names: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    scale: Array | None = None,
    axis: str = "value of the latent",
) -> Figure:
    """How the columns move with each latent: a panel for each of twelve latents, a line for each column.

    values: [latent, step, D]; z: [step], named by axis; scale: [D], the data's standard deviations: changes
    are then shown in units of them. Of more than ten columns the ten that move most are drawn. Raises
    UserError when the lengths do not fit.
    """
    means, steps = as_numbers("values", values, 3), as_numbers("z", z, 1)
    latents, _, columns = means.shape
    expect("z", len(steps), means.shape[1], "one for each step")
    words = [f"column {j}" for j in range(columns)] if names is None else list(names)
    expect("names", len(words), columns, "one for each column")
    ylabel = "mean of the column"
    if scale is not None:
        spread = as_numbers("scale", scale, 1)
        expect("scale", len(spread), columns, "one for each column")
        middle = means[:, [int(np.argmin(np.abs(steps)))]]
        means, ylabel = (means - middle) / np.where(spread > 0, spread, 1.0), "change of the mean (data's sd)"
    chosen = np.sort(np.argsort(-np.ptp(means, axis=1).max(0), kind="stable")[: len(CLASSES)])
    heads = [f"z{i}" for i in range(latents)] if titles is None else titles
    figure, panels = small_panels(latents, heads, "latents", sharey=True)
    for i, ax in enumerate(panels):
        for colour, j in enumerate(chosen):
            dash = "-" if colour < 5 else (0, (4, 1.5))  # a second way to tell ten lines apart
            ax.plot(steps, means[i, :, j], color=CLASSES[colour], ls=dash, lw=1.6, label=shorten(words[j], 24))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    figure.supxlabel(axis, fontsize=10, color=INK)
    figure.supylabel(ylabel, fontsize=10, color=INK)
    left_out = f"the {len(chosen)} of {columns}\nthat move most" if len(chosen) < columns else None
    shared_legend(figure, panels, loc="outside right upper", ncols=1, title=left_out)
    return figure
