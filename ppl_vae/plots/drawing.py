"""The house style of the figures: axes, legends, boards of images; and how arrays and labels come in."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from ppl_vae.errors import UserError, escaped
from ppl_vae.saving.atomic import write

if TYPE_CHECKING:
    import torch

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
MARKERS = "os^Dv"  # five shapes and ten colours: neighbours in the list differ in both
PANELS = 12


class Plot(Figure):
    """A figure that shows itself in a notebook, without pyplot and whatever backend is chosen."""

    def _repr_png_(self) -> bytes:
        return to_png_bytes(self)


def one_panel(size: tuple[float, float], ax: Any = None) -> tuple[Figure, Any]:
    """A new figure with one axes, or the axes that a user gave and its figure."""
    if ax is None:
        figure = Plot(figsize=size, layout="constrained")
        return figure, figure.add_subplot()
    if not hasattr(ax, "get_figure"):
        raise UserError(f"ax expects axes of matplotlib, such as those of plt.subplots(), got {type(ax).__name__}")
    return ax.get_figure(), ax


def house_axes(ax: Any, xlabel: str = "", ylabel: str = "", title: str = "") -> Any:
    """Style one axes and name it; names are taken as words, never as formulas."""
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


def add_legend(ax: Any, **options: Any) -> Any:
    """A legend above the axes: inside, it would sooner or later cover data."""
    place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.01), "ncols": 2, "borderaxespad": 0.2} | options
    legend = ax.legend(frameon=False, fontsize=9, labelcolor=INK, handlelength=1.5, columnspacing=1.4, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend


def shared_legend(figure: Figure, panels: Sequence[Any], **options: Any) -> None:
    """One legend for all panels, from the panel that has most entries; none if there are none."""
    handles, words = max((ax.get_legend_handles_labels() for ax in panels), key=lambda pair: len(pair[1]))
    place = {"loc": "outside upper right", "ncols": 2, "title_fontsize": 9, "handlelength": 2.0} | options
    if words:
        legend = figure.legend(handles, words, frameon=False, fontsize=9, labelcolor=INK, **place)
        legend.get_title().set(color=SOFT, multialignment="left")
        for text in legend.get_texts():
            text.set_parse_math(False)


def small_panels(
    count: int, names: Sequence[str] | None, kind: str, *, square: bool = False, sharey: bool = False
) -> tuple[Figure, list[Any]]:
    """Small axes for the first twelve of `count` things, and a line that says how many are not drawn."""
    heads = [f"{kind.removesuffix('s')} {i}" for i in range(count)] if names is None else names
    expect("names", len(heads), count, f"one for each of the {kind}")
    shown = min(count, PANELS)
    across = min(shown, 4)
    rows = -(-shown // across)
    # A legend beside the panels takes up to three inches, whatever their number.
    width = max(2.2 * across, 3.6) + (3.0 if sharey and across < 4 else 0.2)
    figure = Plot(figsize=(width, (2.3 if square else 1.9) * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, across, squeeze=False, sharey=sharey).ravel()
    for spare in grid[shown:]:
        spare.remove()
    for ax, head in zip(grid, heads, strict=False):
        house_axes(ax, title=shorten(head, 24))
    if count > shown:
        words = f"The first {shown} of {count} {kind}; the others are left out."
        figure.suptitle(words, x=0.01, ha="left", fontsize=9, color=SOFT)
    return figure, list(grid[:shown])


def nothing_observed(ax: Any) -> None:
    """Say in an empty panel that there was nothing to draw."""
    ax.text(0.5, 0.5, "nothing observed", transform=ax.transAxes, ha="center", va="center", fontsize=9, color=SOFT)
    ax.set(xticks=[], yticks=[])


def readable_end(ax: Any, values: np.ndarray, *, flip: bool = False) -> None:
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
        words = f"highest: {signed(-worst)}" if flip else f"lowest: {signed(worst)}"
        ax.set_title(words, fontsize=8.5, color=SOFT, loc="right")


def mark_epochs(ax: Any, epoch: np.ndarray, beta: np.ndarray, best: int | None) -> None:
    """Shade the epochs whose KL weight is below its largest, and draw a line at the best epoch."""
    finite = np.isfinite(beta)
    full = beta[finite].max() if finite.any() else 1.0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], finite & (beta < full), [0]]).astype(int)))
    for i, (start, end) in enumerate(edges.reshape(-1, 2)):
        label = f"KL weight below {full:g}" if i == 0 else None
        ax.axvspan(epoch[start] - 0.5, epoch[end - 1] + 0.5, color=GRID, alpha=0.8, lw=0, zorder=0.5, label=label)
    if best is not None:
        ax.axvline(best, color=INK, lw=1.0, ls=(0, (4, 3)), label=f"best epoch: {best}")


def write_apart(ax: Any, names: Sequence[tuple[float, float, str]], span: float) -> None:
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


def board(width: float, height: float, inches: float, ax: Any = None) -> tuple[Figure, Any]:
    """An empty plane for images, in units of one image's width, y downwards; labels may stand outside it.

    On a user's axes it keeps its shape, as large as fits.
    """
    if ax is None:
        figure: Figure = Plot(figsize=(width * inches, height * inches))
        ax = figure.add_axes((0, 0, 1, 1))
    else:
        figure, ax = one_panel((1, 1), ax)
        ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set(xlim=(0, width), ylim=(height, 0))
    return figure, ax


def is_board(figure: Figure) -> bool:
    """Whether a figure is a board of images, which has no axes."""
    return any(ax.images and not ax.axison for ax in figure.axes)


def place_image(ax: Any, image: np.ndarray, left: float, top: float, *, framed: bool = False) -> None:
    """Draw one image of colours with its left upper corner at (left, top), one unit wide."""
    gap, high = 0.03, height_of(image)
    right, bottom = left + 1 - gap, top + high - gap
    left, top = left + gap, top + gap
    # artists added as they are: the limits of a board are set, and need not be found again for each of many images
    drawn = AxesImage(ax, extent=(left, right, bottom, top), interpolation="nearest", zorder=1)
    drawn.set_data(image)
    ax.add_image(drawn)
    edge: dict[str, Any] = {"edgecolor": ORANGE, "lw": 2.2} if framed else {"edgecolor": PALE, "lw": 0.5}
    ax.add_artist(Rectangle((left, top), right - left, bottom - top, fill=False, zorder=2, clip_on=False, **edge))


def say(ax: Any, x: float, y: float, words: str, **style: Any) -> None:
    """Write words on a board, in the middle of (x, y) unless the style says otherwise."""
    look = {"ha": "center", "va": "center", "color": INK, "fontsize": 10} | style
    ax.text(x, y, words, parse_math=False, **look)


def height_of(image: np.ndarray) -> float:
    """The height of an image whose width is 1."""
    return image.shape[0] / image.shape[1]


# What came in: tensors or arrays of the right shape, labels of any kind.


def as_array(value: Any) -> np.ndarray:
    """A tensor or array-like as an array, off its tape and device."""
    # Recognised by what it can do: importing torch would cost more than drawing.
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)


def as_numbers(name: str, value: Any, *ndims: int) -> np.ndarray:
    """Floats with one of the allowed numbers of dimensions; raises UserError otherwise, or when empty."""
    array = as_array(value)
    if array.ndim not in ndims or not array.size:
        raise UserError(f"{name}: expected {' or '.join(map(str, ndims))} dimensions, none empty, got {array.shape}")
    return array.astype(float)


def expect(name: str, came: int, expected: int, meaning: str) -> None:
    """Raise UserError unless two lengths agree."""
    if came != expected:
        raise UserError(f"{name}: expected {expected}, {meaning}, got {came}")


def same_shape(x: Any, mean: Any) -> None:
    """Raise UserError unless the reconstruction has the shape of the data."""
    if np.shape(as_array(x)) != np.shape(as_array(mean)):
        raise UserError(f"mean: expected the shape of x, {np.shape(as_array(x))}, got {np.shape(as_array(mean))}")


def value_range(images: Any) -> tuple[float, float]:
    """The smallest and largest finite value; (0, 1) if there is none."""
    finite = as_array(images).astype(float)
    finite = finite[np.isfinite(finite)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def as_pixels(name: str, images: Any, lead: int, limits: tuple[float, float]) -> np.ndarray:
    """[..., H, W] or [..., C, H, W], `lead` dimensions first, to colours in 0..1, [..., H, W, 3]."""
    array = as_numbers(name, images, lead + 2, lead + 3)
    array = array[..., None] if array.ndim == lead + 2 else np.moveaxis(array, lead, -1)
    if array.shape[-1] not in (1, 3):
        raise UserError(f"{name}: expected 1 or 3 channels, [..., C, H, W], got {array.shape[-1]}")
    low, high = limits
    seen = np.isfinite(array).all(-1, keepdims=True)
    grey = np.clip((array - low) / ((high - low) or 1.0), 0.0, 1.0)
    return np.where(seen, np.broadcast_to(grey, (*grey.shape[:-1], 3)), MISSING)


def known_labels(labels: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels as an array, and which of them are known."""
    values = np.full(n, -1) if labels is None else as_array(labels)
    expect("labels", values.size if values.ndim == 1 else -1, n, "one for each row of z")
    if values.dtype == object:
        known = np.array([v is not None and v == v for v in values], bool)
        # One kind again, so that the classes can be sorted.
        filled = [v if k else values[known][0] for v, k in zip(values, known, strict=True)] if known.any() else [0] * n
        values = np.array(filled)
    else:
        known = np.ones(n, bool)
    if np.issubdtype(values.dtype, np.number):
        known &= np.isfinite(values) & (values != -1)
    return values, known


def class_name(value: Any, names: Sequence[str] | None) -> str:
    """What a label is called: its name if there are names, else the label itself."""
    # Labels with NaN among them are floats, of the same classes.
    if names is None or not (isinstance(value, np.number) and float(value).is_integer()):
        return f"{value:g}" if isinstance(value, np.number) else str(value)
    if not 0 <= value < len(names):
        raise UserError(f"names: expected a name for label {value}, got {len(names)} names")
    return str(names[int(value)])


def series(history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """One key of the history over epochs; NaN where a record lacks it."""
    return np.array([np.nan if record.get(key) is None else float(record[key]) for record in history])


def signed(value: float) -> str:
    """A number in three digits, with a true minus sign."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def shorten(words: object, most: int) -> str:
    """The first letters of words that are too long, with an ellipsis."""
    text = str(words)
    return text if len(text) <= most else text[: most - 1] + "…"


# What goes out.


FORMATS: Mapping[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}
"""What a figure may be written as, and what of its metadata is left out."""

DPI, PAD = 200, 0.06
"""Dots per inch of a file, and the white around a figure in inches."""


DRAWN = tuple(f".{kind}" for kind in FORMATS)
"""How names of files of figures end."""


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write the figure as its name ends, .png, .pdf or .svg, whole or not at all.

    Raises:
        UserError: for another ending.
        OSError: when the folder is not writable.
    """
    ending = Path(path).suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise UserError(f"a figure is written as {', '.join(FORMATS)}, got {Path(path).name!r}")
    return write(path, to_bytes(figure, ending))


def to_png_bytes(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file, 200 dots per inch, on white.

    Example:
        >>> to_png_bytes(Figure(figsize=(1, 1)))[1:4]
        b'PNG'
    """
    return to_bytes(figure, "png")


def to_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as the bytes of a file: png, or the vectors of pdf and svg, for papers.

    Example:
        >>> to_bytes(Figure(figsize=(1, 1)), "pdf")[:4]
        b'%PDF'
    """
    buffer = io.BytesIO()
    for text in figure.findobj(Text):  # names of columns may hold control characters, which no font has
        if not text.get_text().replace("\n", "").isprintable():
            text.set_text("\n".join(map(escaped, text.get_text().split("\n"))))
    # Where nothing moves when it is drawn, "tight" would draw all of it once more.
    tight: Any = _tight(figure) if figure.get_layout_engine() is None else "tight"
    with rc_context({"svg.hashsalt": "ppl-vae"}):  # the same picture is the same file, whoever wrote it, and when
        figure.savefig(
            buffer,
            format=kind,
            dpi=DPI,
            bbox_inches=tight,
            pad_inches=PAD,
            facecolor="w",
            metadata=FORMATS[kind],
        )
    return buffer.getvalue()


def _tight(figure: Figure) -> Any:
    """The part of a figure that something is drawn on, in inches."""
    shown = figure.dpi
    figure.set_dpi(DPI)
    try:
        return figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer()).padded(PAD)
    finally:
        figure.set_dpi(shown)
