"""Pictures from arrays: training, reconstructions, samples, traversals, latents. Knows no model and no run.

Every function returns a `matplotlib.figure.Figure` made without pyplot: nothing is global, no display is
needed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ppl_vae.errors import UserError
from ppl_vae.atomic import write

if TYPE_CHECKING:
    import torch

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

Array: TypeAlias = "np.ndarray | torch.Tensor"
Limits: TypeAlias = tuple[float, float] | None

INK, SOFT, PALE, GRID = "#1d2430", "#5b6676", "#b4bcc7", "#e6e9ed"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"  # Okabe and Ito: told apart by colour-blind readers
MISSING = (0.91, 0.79, 0.62)  # a pixel that was not observed is neither dark nor bright
# Tol's "muted" set, its pale grey replaced; classes beyond ten take the same colours with another marker.
CLASSES = (
    *("#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee"),
    *("#882255", "#44aa99", "#7a7a2b", "#aa4499", "#555555"),
)
PANELS = 12


def training_curve(history: Sequence[Mapping[str, Any]], *, best_epoch: int | None = None) -> Figure:
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
    epoch, train, validation, beta = (_series(history, k) for k in ("epoch", "train", "validation", "beta"))
    parts = [(k, _series(history, k)) for k in ("distortion", "rate")]
    parts = [(k, v) for k, v in parts if np.isfinite(v).any()]
    figure = Figure(figsize=(9.0 if parts else 6.0, 3.7), layout="constrained")
    grid = figure.add_gridspec(max(len(parts), 1), 2 if parts else 1, width_ratios=[1.6, 1] if parts else [1])
    style: dict[str, Any] = {"lw": 1.8, "marker": "o" if len(history) < 20 else None, "ms": 4}
    bound = _axes(figure.add_subplot(grid[:, 0]), "epoch", "bound (nats per row)")
    for values, colour, label in ((train, BLUE, "training rows"), (validation, ORANGE, "validation rows")):
        if np.isfinite(values).any():
            bound.plot(epoch, values, color=colour, label=label, **style)
    _readable_end(bound, np.stack([train, validation]))
    words = {"distortion": "distortion, \N{MINUS SIGN}E log p(x|z)", "rate": "rate, KL(q‖p)"}
    for i, (name, values) in enumerate(parts):
        ax = _axes(
            figure.add_subplot(grid[i, 1]),
            "epoch" if i == len(parts) - 1 else "",
            "nats per row",
            words[name],
        )
        ax.plot(epoch, values, color=GREEN, **style)
        _readable_end(ax, -values if name == "distortion" else values, flip=name == "distortion")
    for ax in figure.axes:
        ax.set_xlim(epoch.min() - 0.5, epoch.max() + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6 if ax is bound else 4, min_n_ticks=2))
        _mark_epochs(ax, epoch, beta, best_epoch)
    _shared_legend(figure, [bound], loc="outside upper left", ncols=4 if parts else 2)
    return figure


def reconstructions(
    x: Array, mean: Array, *, labels: Sequence[object] | Array | None = None, limits: Limits = None
) -> Figure:
    """Rows of the data above what the model makes of them, twelve pairs in a band.

    x, mean: [n, H, W] or [n, C, H, W] with C = 1 or 3, in any range; `limits` are black and white, by default
    the range of x. Raises UserError when the shapes differ or are not those of images.
    """
    _same_shape(x, mean)
    limits = limits or _range(x)
    pairs = list(zip(_pixels("x", x, 1, limits), _pixels("mean", mean, 1, limits), strict=True))
    if labels is not None and len(labels) != len(pairs):
        raise UserError(f"labels: expected {len(pairs)}, one for each image, got {len(labels)}")
    columns, high = min(len(pairs), PANELS), _height(pairs[0][0])
    tall = 2 * high + 0.04
    band = tall + (0.45 if labels is not None else 0.22)
    bands = -(-len(pairs) // columns)
    figure, ax = _board(columns, (bands - 1) * band + tall, 8.2 / max(columns, 8))
    for i, (above, below) in enumerate(pairs):
        left, top = i % columns, (i // columns) * band
        _place(ax, above, left, top)
        _place(ax, below, left, top + high + 0.04)
        if labels is not None:
            _say(ax, left + 0.5, top - 0.04, _short(_class_name(_array(labels)[i], None), 10), va="bottom")
        if left == 0:
            _say(ax, -0.12, top + high / 2, "data", ha="right")
            _say(ax, -0.12, top + 1.5 * high, "model", ha="right")
    return figure


def samples(images: Array, *, limits: Limits = None, title: str | None = None) -> Figure:
    """A near-square grid of draws from the prior.

    images: [n, H, W] or [n, C, H, W]. Raises UserError when the shape is not that of images.

    Example:
        >>> len(samples(np.random.rand(9, 4, 4)).axes[0].images)
        9
    """
    pixels = _pixels("images", images, 1, limits or _range(images))
    columns, high = int(np.ceil(np.sqrt(len(pixels)))), _height(pixels[0])
    figure, ax = _board(columns, -(-len(pixels) // columns) * high, min(0.52, 8.2 / columns))
    for i, image in enumerate(pixels):
        _place(ax, image, i % columns, (i // columns) * high)
    if title:
        ax.set_title(title, fontsize=11, color=INK, loc="left", parse_math=False)
    return figure


def traversal(
    images: Array, values: Sequence[float] | Array, titles: Sequence[str], *, limits: Limits = None
) -> Figure:
    """One line for each latent, moved through `values` while the others stay.

    images: [latent, step, H, W] or [latent, step, C, H, W]; values: [step]; titles: one for each latent, such
    as "z3  KL 2.1 nats". Raises UserError when the lengths do not fit.
    """
    pixels = _pixels("images", images, 2, limits or _range(images))
    steps = _numbers("values", values, 1)
    _expect("values", len(steps), pixels.shape[1], "one for each step")
    _expect("titles", len(titles), pixels.shape[0], "one for each latent")
    high = _height(pixels[0, 0])
    figure, ax = _board(len(steps), len(pixels) * high, min(0.6, 7.4 / len(steps)))
    for i, line in enumerate(pixels):
        _say(ax, -0.15, (i + 0.5) * high, titles[i], ha="right")
        for j, image in enumerate(line):
            _place(ax, image, j, i * high)
    for j, value in enumerate(steps):
        _say(ax, j + 0.5, -0.08, _signed(value), va="bottom")
    _say(ax, -0.15, -0.08, "value of z", ha="right", va="bottom", color=SOFT)
    return figure


def interpolation(
    images: Array, *, limits: Limits = None, ends: Sequence[tuple[str, str]] | None = None
) -> Figure:
    """The way from one row of the data to another, one line for each pair; the two real rows are framed.

    images: [line, step, H, W] or [line, step, C, H, W], the first and last step being rows of the data; ends:
    their names, such as ("test row 12", "test row 40"). Raises UserError when the lengths do not fit.
    """
    pixels = _pixels("images", images, 2, limits or _range(images))
    if pixels.shape[1] < 2:
        raise UserError(
            f"images: expected at least 2 steps in a line, the two real rows, got {pixels.shape[1]}"
        )
    names = [("real row", "real row")] * len(pixels) if ends is None else list(ends)
    _expect("ends", len(names), len(pixels), "one pair for each line")
    high, count = _height(pixels[0, 0]) + 0.12, pixels.shape[1]
    figure, ax = _board(count, len(pixels) * high, min(0.65, 6.6 / count))
    for i, line in enumerate(pixels):
        for j, image in enumerate(line):
            _place(ax, image, j, i * high, framed=j in (0, count - 1))
        _say(ax, -0.15, (i + 0.5) * high - 0.06, names[i][0], ha="right", color=ORANGE)
        _say(ax, count + 0.15, (i + 0.5) * high - 0.06, names[i][1], ha="left", color=ORANGE)
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
    points = _numbers("z", z, 2)
    _expect("z", points.shape[1], 2, "columns")
    figure = Figure(figsize=(6.6, 5.2), layout="constrained")
    ax = _axes(figure.add_subplot(), *axes)
    ax.set_aspect("equal", adjustable="datalim")  # distances are what a reader compares here
    size = float(np.clip(9000 / len(points), 3, 26))
    style: dict[str, Any] = {"s": size, "alpha": 0.7, "linewidths": 0}
    values, known = _labels(labels, len(points))
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
        mine, name = points[known & (values == value)], _class_name(value, names)
        ax.scatter(*mine.T, color=CLASSES[i % 10], marker="o^"[i // 10], label=name, **style)
        centres.append((*np.median(mine, 0), name))
    _write_apart(ax, centres, float(np.ptp(points, 0).max()) or 1.0)
    if ax.get_legend_handles_labels()[1]:
        legend = _legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1.0), ncols=1)
        for handle in legend.legend_handles:
            handle.set(alpha=1.0, sizes=[30])
    return figure


def rate_per_latent(kl: Array, *, active: Array | Sequence[bool] | float = 0.01) -> Figure:
    """The KL of each latent to its prior, largest first, the inactive ones grey.

    kl: [latent] in nats; active: [latent] of truth values, or the KL in nats above which a latent is active.
    Raises UserError when the lengths do not fit.

    Example:
        >>> [t.get_text() for t in rate_per_latent(np.array([0.0, 2.0])).axes[0].get_legend().get_texts()]
        ['active: 1 of 2', 'inactive: 1 of 2']
    """
    rate = _numbers("kl", kl, 1)
    mask = rate > active if isinstance(active, (int, float)) else _numbers("active", active, 1) > 0
    _expect("active", len(mask), len(rate), "one for each latent")
    order = np.argsort(-rate, kind="stable")
    shown = order[:60]  # more bars than that cannot be told apart
    figure = Figure(figsize=(float(np.clip(0.32 * len(shown) + 1.2, 4.0, 9.0)), 3.2), layout="constrained")
    words = "latent, by rate" if len(shown) == len(rate) else f"the {len(shown)} latents of largest rate"
    ax = _axes(figure.add_subplot(), words, "KL to the prior (nats per row)")
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
    _legend(ax)
    return figure


def table_reconstructions(x: Array, mean: Array, *, names: Sequence[str] | None = None) -> Figure:
    """Reconstructed against observed values, one small panel for each of the first twelve columns.

    x, mean: [n, D]; entries that are NaN in x were not observed and are not drawn. Raises UserError when the
    shapes or the number of names do not fit.
    """
    _same_shape(x, mean)
    observed, rebuilt = _numbers("x", x, 2), _numbers("mean", mean, 2)
    figure, panels = _panels(observed.shape[1], names, "columns", square=True)
    for j, ax in enumerate(panels):
        seen = np.isfinite(observed[:, j]) & np.isfinite(rebuilt[:, j])
        if not seen.any():
            _nothing(ax)
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
    data, draws = _numbers("x", x, 2), _numbers("samples", samples, 2)
    _expect("samples", draws.shape[1], data.shape[1], "columns, as x has")
    figure, panels = _panels(data.shape[1], names, "columns")
    for j, ax in enumerate(panels):
        a, b = (c[np.isfinite(c)] for c in (data[:, j], draws[:, j]))
        if not len(a) or not len(b):
            _nothing(ax)
            continue
        low, high = min(a.min(), np.quantile(b, 0.005)), max(a.max(), np.quantile(b, 0.995))
        bins = np.linspace(low, high, int(np.clip(np.sqrt(len(a)), 8, 30)) + 1) if high > low else 3
        ax.hist(a, bins=bins, density=True, color=PALE, label="data")
        ax.hist(b, bins=bins, density=True, histtype="step", color=BLUE, lw=1.5, label="model")
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=2))
    figure.supylabel("density", fontsize=10, color=INK)
    _shared_legend(figure, panels)
    return figure


def table_traversal(
    values: Array,
    z: Sequence[float] | Array,
    *,
    names: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    scale: Array | None = None,
) -> Figure:
    """How the columns move with each latent: a panel for each of twelve latents, a line for each column.

    values: [latent, step, D]; z: [step]; scale: [D], the data's standard deviations: changes are then shown
    in units of them. Of more than ten columns the ten that move most are drawn. Raises UserError when the
    lengths do not fit.
    """
    means, steps = _numbers("values", values, 3), _numbers("z", z, 1)
    latents, _, columns = means.shape
    _expect("z", len(steps), means.shape[1], "one for each step")
    words = [f"column {j}" for j in range(columns)] if names is None else list(names)
    _expect("names", len(words), columns, "one for each column")
    ylabel = "mean of the column"
    if scale is not None:
        spread = _numbers("scale", scale, 1)
        _expect("scale", len(spread), columns, "one for each column")
        middle = means[:, [int(np.argmin(np.abs(steps)))]]
        means, ylabel = (means - middle) / np.where(spread > 0, spread, 1.0), "change of the mean (data's sd)"
    chosen = np.sort(np.argsort(-np.ptp(means, axis=1).max(0), kind="stable")[: len(CLASSES)])
    heads = [f"z{i}" for i in range(latents)] if titles is None else titles
    figure, panels = _panels(latents, heads, "latents", sharey=True)
    for i, ax in enumerate(panels):
        for colour, j in enumerate(chosen):
            dash = "-" if colour < 5 else (0, (4, 1.5))  # a second way to tell ten lines apart
            ax.plot(steps, means[i, :, j], color=CLASSES[colour], ls=dash, lw=1.6, label=_short(words[j], 24))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    figure.supxlabel("value of the latent", fontsize=10, color=INK)
    figure.supylabel(ylabel, fontsize=10, color=INK)
    left_out = f"the {len(chosen)} of {columns}\nthat move most" if len(chosen) < columns else None
    _shared_legend(figure, panels, loc="outside right upper", ncols=1, title=left_out)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write the figure as a PNG file, whole or not at all; raises OSError when the folder is not writable."""
    return write(path, to_png_bytes(figure))


def to_png_bytes(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file, 200 dots per inch, on white.

    Example:
        >>> to_png_bytes(samples(np.random.rand(4, 8, 8)))[1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    # No metadata: the same picture is the same file, whichever version of matplotlib wrote it.
    figure.savefig(
        buffer,
        format="png",
        dpi=200,
        bbox_inches="tight",
        pad_inches=0.06,
        facecolor="w",
        metadata={"Software": None},
    )
    return buffer.getvalue()


# The house style: axes, legends, boards of images.


def _axes(ax: Any, xlabel: str = "", ylabel: str = "", title: str = "") -> Any:
    # Set on each axes, not through rcParams, which every other plot of the process would share.
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(PALE)
    ax.tick_params(labelsize=9, color=PALE, labelcolor=SOFT)
    ax.grid(True, color=GRID, lw=0.7)
    ax.set_axisbelow(True)
    # Names come from data: "$" in them is a dollar, not the start of a formula.
    style: dict[str, Any] = {"fontsize": 10, "color": INK, "parse_math": False}
    ax.set_xlabel(xlabel, **style)
    ax.set_ylabel(ylabel, **style)
    ax.set_title(title, loc="left", **style)
    return ax


def _legend(ax: Any, **options: Any) -> Any:
    # Above the axes by default: inside, it would sooner or later cover data.
    place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.01), "ncols": 2, "borderaxespad": 0.2} | options
    legend = ax.legend(
        frameon=False, fontsize=9, labelcolor=INK, handlelength=1.5, columnspacing=1.4, **place
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend


def _shared_legend(figure: Figure, panels: Sequence[Any], **options: Any) -> None:
    handles, words = max((ax.get_legend_handles_labels() for ax in panels), key=lambda pair: len(pair[1]))
    place = {"loc": "outside upper right", "ncols": 2, "title_fontsize": 9} | options
    if words:
        legend = figure.legend(
            handles, words, frameon=False, fontsize=9, labelcolor=INK, handlelength=2.0, **place
        )
        legend.get_title().set(color=SOFT, multialignment="left")
        for text in legend.get_texts():
            text.set_parse_math(False)


def _panels(
    count: int, names: Sequence[str] | None, kind: str, *, square: bool = False, sharey: bool = False
) -> tuple[Figure, list[Any]]:
    """Small axes for the first twelve of `count` things, and a line that says how many are not drawn."""
    heads = [f"{kind.removesuffix('s')} {i}" for i in range(count)] if names is None else names
    _expect("names", len(heads), count, f"one for each of the {kind}")
    shown = min(count, PANELS)
    across = min(shown, 4)
    rows = -(-shown // across)
    width = max(2.2 * across, 3.6) + 0.2
    figure = Figure(figsize=(width, (2.3 if square else 1.9) * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, across, squeeze=False, sharey=sharey).ravel()
    for spare in grid[shown:]:
        spare.remove()
    for ax, head in zip(grid, heads, strict=False):
        _axes(ax, title=_short(head, 24))
    if count > shown:
        words = f"The first {shown} of {count} {kind}; the others are left out."
        figure.suptitle(words, x=0.01, ha="left", fontsize=9, color=SOFT)
    return figure, list(grid[:shown])


def _nothing(ax: Any) -> None:
    ax.text(
        0.5, 0.5, "nothing observed", transform=ax.transAxes, ha="center", va="center", fontsize=9, color=SOFT
    )
    ax.set(xticks=[], yticks=[])


def _readable_end(ax: Any, values: np.ndarray, *, flip: bool = False) -> None:
    """Limits that let the end of a curve be read when it starts far below; says what is cut off."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return
    worst, low, high = finite.min(), np.quantile(finite, 0.1), finite.max()
    cut = high - worst > 2.5 * (high - low) > 0
    edge = 0.06 * (high - (low if cut else worst)) or 1.0
    bottom, top = (low if cut else worst) - edge, high + edge
    ax.set_ylim(*((-top, -bottom) if flip else (bottom, top)))
    if cut:
        words = f"highest: {_signed(-worst)}" if flip else f"lowest: {_signed(worst)}"
        ax.set_title(words, fontsize=8.5, color=SOFT, loc="right")


def _mark_epochs(ax: Any, epoch: np.ndarray, beta: np.ndarray, best: int | None) -> None:
    """Shade the epochs whose KL weight is below its largest, and draw a line at the best epoch."""
    finite = np.isfinite(beta)
    full = beta[finite].max() if finite.any() else 1.0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], finite & (beta < full), [0]]).astype(int)))
    for i, (start, end) in enumerate(edges.reshape(-1, 2)):
        label = f"KL weight below {full:g}" if i == 0 else None
        ax.axvspan(
            epoch[start] - 0.5, epoch[end - 1] + 0.5, color=GRID, alpha=0.8, lw=0, zorder=0.5, label=label
        )
    if best is not None:
        ax.axvline(best, color=INK, lw=1.0, ls=(0, (4, 3)), label=f"best epoch: {best}")


def _write_apart(ax: Any, names: Sequence[tuple[float, float, str]], span: float) -> None:
    """Write (x, y, name) without one covering another: moved by a line, or left to the legend."""
    names = [name for name in names if len(name[2]) <= 16]
    size = 12 if max((len(name) for *_, name in names), default=0) <= 3 else 9
    high, taken = 0.005 * size * span, list[tuple[float, float, float]]()
    for x, y, name in names:
        half = 0.0015 * size * len(name) * span
        for at in (y, y + high, y - high):
            if all(abs(x - a) > half + b or abs(at - c) > 0.99 * high for a, c, b in taken):
                taken.append((x, at, half))
                text = ax.text(x, at, name, ha="center", va="center", zorder=5, fontsize=size, color=INK)
                text.set(
                    parse_math=False,
                    fontweight="bold",
                    path_effects=[withStroke(linewidth=3, foreground="w")],
                )
                break


def _board(width: float, height: float, inches: float) -> tuple[Figure, Any]:
    """An empty plane for images, in units of one image's width, y downwards; labels may stand outside it."""
    figure = Figure(figsize=(width * inches, height * inches))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set(xlim=(0, width), ylim=(height, 0))
    return figure, ax


def _place(ax: Any, image: np.ndarray, left: float, top: float, *, framed: bool = False) -> None:
    gap, high = 0.03, _height(image)
    right, bottom = left + 1 - gap, top + high - gap
    left, top = left + gap, top + gap
    ax.imshow(image, extent=(left, right, bottom, top), interpolation="nearest", aspect="auto", zorder=1)
    edge: dict[str, Any] = {"edgecolor": ORANGE, "lw": 2.2} if framed else {"edgecolor": PALE, "lw": 0.5}
    ax.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, zorder=2, clip_on=False, **edge)
    )


def _say(
    ax: Any, x: float, y: float, words: str, *, ha: str = "center", va: str = "center", color: str = INK
) -> None:
    ax.text(x, y, words, ha=ha, va=va, color=color, fontsize=10, parse_math=False)


def _height(image: np.ndarray) -> float:
    return image.shape[0] / image.shape[1]


# What came in: tensors or arrays of the right shape, labels of any kind.


def _array(value: Any) -> np.ndarray:
    # Recognised by what it can do: importing torch would cost more than drawing.
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)


def _numbers(name: str, value: Any, *ndims: int) -> np.ndarray:
    array = _array(value)
    if array.ndim not in ndims or not array.size:
        raise UserError(
            f"{name}: expected {' or '.join(map(str, ndims))} dimensions, none empty, got {array.shape}"
        )
    return array.astype(float)


def _expect(name: str, came: int, expected: int, meaning: str) -> None:
    if came != expected:
        raise UserError(f"{name}: expected {expected}, {meaning}, got {came}")


def _same_shape(x: Any, mean: Any) -> None:
    if np.shape(_array(x)) != np.shape(_array(mean)):
        raise UserError(f"mean: expected the shape of x, {np.shape(_array(x))}, got {np.shape(_array(mean))}")


def _range(images: Any) -> tuple[float, float]:
    finite = _array(images).astype(float)
    finite = finite[np.isfinite(finite)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _pixels(name: str, images: Any, lead: int, limits: tuple[float, float]) -> np.ndarray:
    """[..., H, W] or [..., C, H, W], `lead` dimensions first, to colours in 0..1, [..., H, W, 3]."""
    array = _numbers(name, images, lead + 2, lead + 3)
    array = array[..., None] if array.ndim == lead + 2 else np.moveaxis(array, lead, -1)
    if array.shape[-1] not in (1, 3):
        raise UserError(f"{name}: expected 1 or 3 channels, [..., C, H, W], got {array.shape[-1]}")
    low, high = limits
    seen = np.isfinite(array).all(-1, keepdims=True)
    grey = np.clip((array - low) / ((high - low) or 1.0), 0.0, 1.0)
    return np.where(seen, np.broadcast_to(grey, (*grey.shape[:-1], 3)), MISSING)


def _labels(labels: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels as an array, and which of them are known."""
    values = np.full(n, -1) if labels is None else _array(labels)
    _expect("labels", values.size if values.ndim == 1 else -1, n, "one for each row of z")
    if values.dtype == object:
        known = np.array([v is not None and v == v for v in values], bool)
        # One kind again, so that the classes can be sorted.
        filled = (
            [v if k else values[known][0] for v, k in zip(values, known, strict=True)]
            if known.any()
            else [0] * n
        )
        values = np.array(filled)
    else:
        known = np.ones(n, bool)
    if np.issubdtype(values.dtype, np.number):
        known &= np.isfinite(values) & (values != -1)
    return values, known


def _class_name(value: Any, names: Sequence[str] | None) -> str:
    # Labels with NaN among them are floats, of the same classes.
    if names is None or not (isinstance(value, np.number) and float(value).is_integer()):
        return f"{value:g}" if isinstance(value, np.number) else str(value)
    if not 0 <= value < len(names):
        raise UserError(f"names: expected a name for label {value}, got {len(names)} names")
    return str(names[int(value)])


def _series(history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array([np.nan if record.get(key) is None else float(record[key]) for record in history])


def _signed(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def _short(words: object, most: int) -> str:
    text = str(words)
    return text if len(text) <= most else text[: most - 1] + "…"
