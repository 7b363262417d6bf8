"""What the sections of a report share: figures for the folder and the page, and how rows are shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae.plots.drawing import is_board, to_bytes, to_png_bytes
from ppl_vae.reporting._html import Picture
from ppl_vae.reporting.view import View
from ppl_vae.saving.atomic import write

__all__ = [
    "COLUMNS",
    "LINES",
    "Album",
    "flat",
    "gaps",
    "is_picture",
    "levels_of",
    "limits_of",
    "names_of",
    "spread_of",
]

LINES = 64
"""How many latents are moved, and how many conditions are shown, at most."""

COLUMNS = 12
"""Draws under every condition or label, rows of every cluster, styles."""


@dataclass(frozen=True)
class Album:
    """Draws each figure once, for the folder and for the page."""

    folder: Path
    kind: str = "png"

    def add(self, name: str, figure: Figure, caption: str, words: str = "", *, folded: str = "") -> Picture:
        """A figure as a section holds it, after writing it to `name`.png (or .pdf, .svg).

        `words` say what it shows to those who cannot see it; without them its caption does.
        """
        png = to_png_bytes(figure)
        write(self.folder / f"{name}.{self.kind}", png if self.kind == "png" else to_bytes(figure, self.kind))
        said = words or f"{name.replace('-', ' ')}: {caption.partition('.')[0]}"
        return Picture(png, caption, said, photo=is_board(figure), folded=folded)

    def add_drawn(self, name: str, svg: str, caption: str, words: str) -> Picture:
        """A drawing in SVG, with the words that say what it shows, after writing it to `name`.svg."""
        write(self.folder / f"{name}.svg", svg)
        return Picture(svg.encode(), caption, words)


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


def names_of(view: View) -> list[str]:
    """What the entries of a row are called."""
    field = view.field
    if len(field.names) == field.size and field.kind != "categorical":
        return list(field.names)
    return [field.name] if field.shape == () else [f"{field.name}[{i}]" for i in range(field.size)]


def levels_of(view: View) -> list[list[str] | None]:
    """Of each entry of a row the names of its values, None where it is a number."""
    fields = view.columns or [None] * len(names_of(view))
    found: list[list[str] | None] = []
    for field in fields:
        if field is not None and field.kind == "categorical":
            found.append([str(name) for name in field.names or range(field.cardinality or 2)])
        elif field is not None and field.kind == "binary":
            found.append([str(name) for name in field.names or ("0", "1")])
        else:
            found.append(None)
    return found


def spread_of(x: Tensor) -> Tensor:
    """The standard deviation of the entries of each column that are there; 0 where there are none."""
    seen = x.isfinite()
    count, filled = seen.sum(0).clamp(min=1), x.nan_to_num(0.0)
    deviation = torch.where(seen, filled - filled.sum(0) / count, 0.0)
    return (deviation.square().sum(0) / count).sqrt()


def flat(values: Tensor) -> Tensor:
    """Rows as vectors."""
    return values.reshape(len(values), -1)


def gaps(view: View) -> str:
    """What a caption adds where pixels are missing."""
    return " Sand-coloured pixels were not observed." if bool(view.values.isnan().any()) else ""
