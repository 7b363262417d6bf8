"""Pictures of rows that are pictures: reconstructions, samples, traversals, interpolations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.errors import UserError
from ppl_vae.plots.drawing import (
    INK,
    ORANGE,
    PANELS,
    SOFT,
    Array,
    Limits,
    as_array,
    as_numbers,
    as_pixels,
    board,
    class_name,
    expect,
    height_of,
    place_image,
    same_shape,
    say,
    shorten,
    signed,
    value_range,
)

__all__ = ["grid", "interpolation", "reconstructions", "samples", "traversal"]


def reconstructions(
    x: Array,
    mean: Array,
    *,
    draw: Array | None = None,
    labels: Sequence[object] | Array | None = None,
    limits: Limits = None,
    ax: Any = None,
) -> Figure:
    """Rows of the data above what the model makes of them, twelve in a band: a draw, where there is one, and the mean.

    x, mean, draw: [n, H, W] or [n, C, H, W] with C = 1 or 3, in any range; `limits` are black and white, by default
    the range of x. Raises UserError when the shapes differ or are not those of images.
    """
    lines = {"data": x} | ({} if draw is None else {"draw": draw}) | {"mean": mean}
    limits = limits or value_range(x)
    for line in lines.values():
        same_shape(x, line)
    pixels = {name: as_pixels(name, line, 1, limits) for name, line in lines.items()}
    count = len(pixels["data"])
    if labels is not None and len(labels) != count:
        raise UserError(f"labels: expected {count}, one for each image, got {len(labels)}")
    words = [shorten(class_name(label, None), 11) for label in ([] if labels is None else as_array(labels))]
    size = 10 if max(map(len, words), default=0) <= 7 else 7.5  # no name reaches into its neighbour's place
    columns, high = min(count, PANELS), height_of(pixels["data"][0]) + 0.04
    tall = len(lines) * high - 0.04
    band = tall + (0.45 if labels is not None else 0.22)
    bands = -(-count // columns)
    figure, ax = board(columns, (bands - 1) * band + tall, 8.2 / max(columns, 8), ax)
    for i in range(count):
        left, top = i % columns, (i // columns) * band
        for k, (name, images) in enumerate(pixels.items()):
            place_image(ax, images[i], left, top + k * high)
            if left == 0:
                say(ax, -0.12, top + (k + 0.5) * high, name, ha="right")
        if labels is not None:
            say(ax, left + 0.5, top - 0.04, words[i], va="bottom", fontsize=size)
    return figure


def samples(images: Array, *, limits: Limits = None, title: str | None = None, ax: Any = None) -> Figure:
    """A near-square grid of draws from the prior.

    images: [n, H, W] or [n, C, H, W]. Raises UserError when the shape is not that of images.

    Example:
        >>> len(samples(np.random.rand(9, 4, 4)).axes[0].images)
        9
    """
    pixels = as_pixels("images", images, 1, limits or value_range(images))
    columns, high = int(np.ceil(np.sqrt(len(pixels)))), height_of(pixels[0])
    figure, ax = board(columns, -(-len(pixels) // columns) * high, min(0.52, 8.2 / columns), ax)
    for i, image in enumerate(pixels):
        place_image(ax, image, i % columns, (i // columns) * high)
    if title:
        ax.set_title(title, fontsize=11, color=INK, loc="left", parse_math=False)
    return figure


def grid(
    images: Array,
    titles: Sequence[str],
    *,
    limits: Limits = None,
    axis: str = "",
    columns: Sequence[str] = (),
    ax: Any = None,
) -> Figure:
    """Lines of pictures, each with its title; `axis` says what the titles are, `columns` what stands over each column.

    images: [line, column, H, W] or [line, column, C, H, W]. Raises UserError when the lengths do not fit.
    """
    pixels = as_pixels("images", images, 2, limits or value_range(images))
    expect("titles", len(titles), pixels.shape[0], "one for each line")
    if columns:
        expect("columns", len(columns), pixels.shape[1], "one for each column")
    high, count = height_of(pixels[0, 0]), pixels.shape[1]
    figure, ax = board(count, len(pixels) * high, min(0.6, 7.4 / count), ax)
    for i, line in enumerate(pixels):
        say(ax, -0.15, (i + 0.5) * high, shorten(titles[i], 16), ha="right")
        for j, image in enumerate(line):
            place_image(ax, image, j, i * high)
    for j, word in enumerate(columns):
        say(ax, j + 0.5, -0.08, shorten(word, 9), va="bottom", fontsize=8)
    say(ax, -0.15, -0.08, axis, ha="right", va="bottom", color=SOFT)
    return figure


def traversal(
    images: Array,
    values: Sequence[float] | Array,
    titles: Sequence[str],
    *,
    limits: Limits = None,
    axis: str = "value of z",
    ax: Any = None,
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
    figure, ax = board(len(steps), len(pixels) * high, min(0.6, 7.4 / len(steps)), ax)
    for i, line in enumerate(pixels):
        say(ax, -0.15, (i + 0.5) * high, titles[i], ha="right")
        for j, image in enumerate(line):
            place_image(ax, image, j, i * high)
    for j, value in enumerate(steps):
        say(ax, j + 0.5, -0.08, signed(value), va="bottom")
    say(ax, -0.15, -0.08, axis, ha="right", va="bottom", color=SOFT)
    return figure


def interpolation(
    images: Array, *, limits: Limits = None, ends: Sequence[tuple[str, str]] | None = None, ax: Any = None
) -> Figure:
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
    figure, ax = board(count, len(pixels) * high, min(0.65, 6.6 / count), ax)
    for i, line in enumerate(pixels):
        for j, image in enumerate(line):
            place_image(ax, image, j, i * high, framed=j in (0, count - 1))
        say(ax, -0.15, (i + 0.5) * high - 0.06, names[i][0], ha="right", color=ORANGE)
        say(ax, count + 0.15, (i + 0.5) * high - 0.06, names[i][1], ha="left", color=ORANGE)
    return figure
