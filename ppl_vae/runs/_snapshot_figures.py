"""Snapshots drawn: panels of all epochs, one picture of an epoch, and these as an animated picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from ppl_vae.plots.drawing import (
    BLUE,
    CLASSES,
    MARKERS,
    PALE,
    SOFT,
    Plot,
    as_pixels,
    class_name,
    house_axes,
    shared_legend,
    to_png_bytes,
)

if TYPE_CHECKING:
    from ppl_vae.runs.snapshots import Maps, Snapshots

__all__ = ["animated", "frame", "panels"]

PANELS, PICTURES, ELLIPSES = 12, 8, 60


def panels(found: Snapshots, maps: Maps, site: str) -> Figure:
    """A map for each epoch, twelve at most, the first and the last among them."""
    count = len(found)
    shown = sorted({round(i) for i in np.linspace(0, count - 1, min(count, PANELS))})
    across = min(len(shown), 4)
    down = -(-len(shown) // across)
    figure = Plot(figsize=(2.7 * across + 1.3, (3.3 if _picture(found) else 2.8) * down + 0.3), layout="constrained")
    places = figure.add_gridspec(down, across)
    drawn = [_epoch(figure, places[k // across, k % across], found, maps, i, site) for k, i in enumerate(shown)]
    shared_legend(figure, drawn, loc="outside right upper", ncols=1, title=found.label or None)
    figure.supxlabel(_said(found, maps, site), fontsize=8.5, color=SOFT, parse_math=False)
    return figure


def frame(found: Snapshots, maps: Maps, at: int, site: str) -> Figure:
    """One epoch, in a figure that is as large as that of any other."""
    figure = Plot(figsize=(6.2, 5.6), layout="constrained")
    ax = _epoch(figure, figure.add_gridspec(1, 1)[0, 0], found, maps, at, site)
    shared_legend(figure, [ax], loc="outside right upper", ncols=1, title=found.label or None)
    figure.supxlabel(_said(found, maps, site), fontsize=8.5, color=SOFT, parse_math=False)
    return figure


def animated(figures: Sequence[Figure]) -> bytes:
    """An animated picture, which stays at the last for a while."""
    from PIL import Image

    pictures: list[Any] = []
    for figure in figures:
        picture = Image.open(io.BytesIO(to_png_bytes(figure))).convert("RGB")
        picture = picture.resize(pictures[0].size if pictures else (picture.width // 2, picture.height // 2))
        pictures.append(picture)
    content, last = io.BytesIO(), len(pictures) - 1
    duration = [2500 if i == last else 700 for i in range(len(pictures))]
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    return content.getvalue()


def _epoch(figure: Figure, place: Any, found: Snapshots, maps: Maps, at: int, site: str) -> Any:
    """The map of an epoch in its place, and below it some rows above their reconstructions."""
    name = _picture(found)
    inner = place.subgridspec(2 if name else 1, 1, height_ratios=(5, 1) if name else None)
    ax = house_axes(figure.add_subplot(inner[0]), title=_title(found, at, site))
    _rows(ax, found, maps, at)
    if name:
        _pictures(figure.add_subplot(inner[1]), found, at, name)
    return ax


def _title(found: Snapshots, at: int, site: str) -> str:
    words = f"epoch {found.epochs[at]}"
    near = found.neighbours(at, site=site)
    return words if near is None else f"{words}, 5-NN {near.accuracy:.2f} ± {near.se:.2f}"


def _rows(ax: Any, found: Snapshots, maps: Maps, at: int) -> None:
    points = maps.points[at]
    labels = None if found.labels is None else found.labels.numpy()
    classes = [] if labels is None else [int(v) for v in np.unique(labels[labels >= 0])][:20]
    size = float(np.clip(4000 / len(points), 3, 20))
    known = np.zeros(len(points), bool) if labels is None else np.isin(labels, classes)
    style: dict[str, Any] = {"s": size, "alpha": 0.7, "linewidths": 0}
    if not known.all():
        ax.scatter(*points[~known].T, color=PALE if known.any() else BLUE, **style)
    for i, value in enumerate(classes):
        mine = points[labels == value]
        word = class_name(np.int64(value), found.names or None)
        ax.scatter(*mine.T, color=CLASSES[i % 10], marker=MARKERS[(i + i // 10) % 5], label=word, **style)
    if maps.covariances is not None:
        _bubbles(ax, points, maps.covariances[at], labels, classes)
        everything = maps.points.reshape(-1, 2)  # the same axes at every epoch: what moves is a row
        low, high = np.quantile(everything, [0.002, 0.998], axis=0)
        middle, half = (low + high) / 2, 0.6 * max(float((high - low).max()), 1e-6)
        ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
    ax.set_aspect("equal", adjustable="box" if maps.covariances is not None else "datalim")
    ax.tick_params(labelsize=7)


def _bubbles(ax: Any, points: Any, covariances: Any, labels: Any, classes: Sequence[int]) -> None:
    """One posterior deviation round some of the rows."""
    some = np.linspace(0, len(points) - 1, min(len(points), ELLIPSES)).astype(int)
    sizes, axes = np.linalg.eigh(covariances[some])
    wide = 2 * np.sqrt(np.clip(sizes, 0, None))
    angle = np.degrees(np.arctan2(axes[:, 1, 1], axes[:, 0, 1]))
    order = {value: CLASSES[i % 10] for i, value in enumerate(classes)}
    colours = [BLUE if labels is None else order.get(int(labels[i]), PALE) for i in some]
    ax.add_collection(
        EllipseCollection(
            *(wide[:, 1], wide[:, 0], angle),
            units="xy",
            offsets=points[some],
            transOffset=ax.transData,
            facecolors="none",
            edgecolors=colours,
            linewidths=0.5,
            alpha=0.5,
        )
    )


def _picture(found: Snapshots) -> str | None:
    """The field that is drawn as pictures: the largest."""
    images = {n: v[0].numel() for n, v in found.values.items() if n in found.limits and len(v)}
    return max(images, key=lambda n: images[n]) if images else None


def _pictures(ax: Any, found: Snapshots, at: int, name: str) -> None:
    count = min(PICTURES, len(found.values[name]))
    lines = [v[name][:count].float() for v in (found.values, found.each[at].reconstructions)]
    rows = [np.concatenate(list(as_pixels(name, line, 1, found.limits[name])), 1) for line in lines]
    ax.imshow(np.concatenate(rows, 0), interpolation="nearest")
    ax.set_axis_off()


def _said(found: Snapshots, maps: Maps, site: str) -> str:
    words = f"{len(found.rows):,} {found.split} rows by {site}: {maps.axes[0]}, {maps.axes[1]}"
    words += (
        f"; ellipses are one posterior deviation of {min(ELLIPSES, len(found.rows))} rows"
        if maps.covariances is not None
        else ""
    )
    return words + ("\nbelow each map rows of data and their reconstructions" if _picture(found) else "")
