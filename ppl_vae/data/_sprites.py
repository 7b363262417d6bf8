"""Sprites: white shapes on black whose every factor is known, drawn to the geometry of dSprites, or read from its file.

Re-rendered in the style of dSprites (Matthey et al. 2017): squares and ellipses of its sizes, a heart whose outline was
measured from its frames. Nothing of it is downloaded.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.dataset import SPLITS, Data, Split
from ppl_vae.data.schema import Field, Schema
from ppl_vae.errors import UserError, check_whole, option, unknown_name

__all__ = ["FACTORS", "Grid", "read_dsprites", "sprites"]

FACTORS = ("shape", "scale", "orientation", "x", "y")
"""What varies, in the order of the grid: y fastest."""

SHAPES = ("square", "ellipse", "heart")

_SQUARE, _ELLIPSE = 9.6, (12.75, 7.25)  # half a side; half axes: of 64 pixels, at scale 1 and orientation 0
_REACH = 13.6  # no shape is further from its centre: the corner of the square

_HEART = np.array(
    [
        *((0, 5.311), (2.5, 5.716), (5, 6.719), (10, 7.894), (15, 8.902), (20, 9.719), (25, 10.28), (30, 10.724)),
        *((35, 11.014), (40, 11.173), (45, 11.331), (50, 11.223), (55, 11.115), (60, 10.888), (65, 10.587)),
        *((70, 10.174), (75, 9.719), (80, 9.165), (85, 8.653), (90, 8.127), (95, 7.646), (100, 7.216), (105, 6.88)),
        *((110, 6.597), (115, 6.329), (120, 6.18), (125, 6.027), (130, 5.92), (135, 6.0), (140, 5.9), (145, 5.964)),
        *((150, 6.123), (155, 6.226), (160, 6.54), (165, 6.819), (170, 7.338), (175, 8.114), (177.5, 8.6), (180, 9.63)),
    ]
)
"""The radius of the heart in pixels of 64, at scale 1, by the degrees from its notch, the same on both sides."""

_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"

_MOST = 50_000
"""Rows of a larger grid that are taken where nobody says how many: of 64 x 64 pixels they are 0.8 GB."""


@dataclass(frozen=True)
class Grid:
    """Which sprites there are: how many of each factor, pixels a side, and how many rows of all combinations.

    Example:
        >>> Grid(shapes=2, scales=1, orientations=1, positions=4).size
        32
        >>> Grid.of("side=32,positions=16").side
        32
    """

    side: int = 64
    shapes: int = 3
    scales: int = 6
    orientations: int = 40
    positions: int = 32
    rows: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                check_whole(f"sprites: {each.name}", value, 8 if each.name == "side" else 1)
        if self.shapes > len(SHAPES):
            raise UserError(f"sprites: shapes are at most {len(SHAPES)} ({', '.join(SHAPES)}), got {self.shapes}")
        if self.rows is not None and not 10 <= self.rows <= self.size:
            raise UserError(f"sprites: rows must be between 10 and the {self.size:,} of this grid, got {self.rows}")
        if self.size < 10:
            raise UserError(f"sprites: expected a grid of at least 10, got {self.size}: vary more")

    @classmethod
    def of(cls, words: str) -> Grid:
        """From options as the command line writes them, "side=32,positions=16"."""
        known = [each.name for each in fields(cls)]
        found: dict[str, int] = {}
        for word in words.split(",") if words else ():
            name, _, value = (part.strip() for part in word.partition("="))
            if name not in known:
                raise unknown_name("option of sprites", name, known)
            if not value.isdecimal() or name in found:
                raise UserError(f"sprites: options are NAME=NUMBER, each once, got {words!r}")
            found[name] = int(value)
        return cls(**found)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each factor has."""
        return (self.shapes, self.scales, self.orientations, self.positions, self.positions)

    @property
    def size(self) -> int:
        """How many combinations there are."""
        return math.prod(self.sizes)

    def values(self) -> dict[str, Tensor]:
        """The values of each factor; the 40 orientations go from 0 to 2 pi with both ends, as those of dSprites do."""
        n = self.orientations
        turns = torch.linspace(0, 2 * math.pi, n, dtype=torch.float64)
        turns = turns if n == 40 else torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
        place = torch.linspace(0, 1, self.positions, dtype=torch.float64) if self.positions > 1 else torch.tensor([0.5])
        scale = torch.linspace(0.5, 1, self.scales, dtype=torch.float64) if self.scales > 1 else torch.tensor([1.0])
        return dict(zip(FACTORS, (torch.arange(self.shapes), scale, turns, place, place), strict=True))

    def chosen(self) -> Tensor:
        """Which combinations are rows, in a random order that is always the same."""
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(0))
        return order[: self.rows or min(self.size, _MOST)]

    def factors(self, index: Tensor) -> dict[str, Tensor]:
        """The factors of some combinations."""
        codes = np.unravel_index(index.numpy(), self.sizes)
        return {
            name: values[torch.from_numpy(np.asarray(code))]
            for (name, values), code in zip(self.values().items(), codes, strict=True)
        }


def sprites(grid: Grid, source: dict[str, Any]) -> Data:
    """The data set of a grid: the picture x, and the factors apart, which no program sees."""
    factors = grid.factors(grid.chosen())
    return _data(source, drawn(factors, grid.side), factors)


def drawn(factors: dict[str, Tensor], side: int) -> Tensor:
    """Pictures [row, side, side] of 0 and 1: a pixel is white where its centre is inside; nothing is smoothed.

    Example:
        >>> one = {"shape": torch.tensor([0]), "scale": torch.tensor([1.0]), "orientation": torch.zeros(1)}
        >>> picture = drawn(one | {"x": torch.tensor([0.5]), "y": torch.tensor([0.5])}, 64)
        >>> picture.shape, int(picture.sum())  # a square of 19.2 pixels
        (torch.Size([1, 64, 64]), 400)
    """
    rows = len(factors["shape"])
    unit = 64 / side
    width = math.ceil(2 * _REACH / unit) + 2
    near = torch.arange(width)
    pictures = torch.zeros(rows, side, side)
    for some in torch.arange(rows).split(4096):
        one = {name: values[some].double() for name, values in factors.items()}
        centres = [16 + 32 * one[name] for name in ("y", "x")]
        first = [((c - _REACH) / unit).floor().long() for c in centres]
        pixels = [f[:, None] + near for f in first]
        down, right = ((p + 0.5) * unit - c[:, None] for p, c in zip(pixels, centres, strict=True))
        inside = _inside(one, right[:, None, :], -down[:, :, None])
        # beside the picture, where the window may stand at its edges, nothing is ever inside
        wide = torch.zeros(len(some), side + width, side + width)
        row, (i, j) = torch.arange(len(some)), pixels
        wide[row[:, None, None], i[:, :, None], j[:, None, :]] = inside.float()
        pictures[some] = wide[:, :side, :side]
    return pictures


def _inside(one: dict[str, Tensor], right: Tensor, up: Tensor) -> Tensor:
    """Whether points, as seen from the centre, are in the shape, [row, down, right]."""
    cos, sin = (f(one["orientation"])[:, None, None] for f in (torch.cos, torch.sin))
    scale = one["scale"][:, None, None]
    along, across = (right * cos + up * sin) / scale, (up * cos - right * sin) / scale
    kind = one["shape"][:, None, None]
    square = torch.maximum(along.abs(), across.abs()) <= _SQUARE
    ellipse = (along / _ELLIPSE[0]) ** 2 + (across / _ELLIPSE[1]) ** 2 <= 1
    found = torch.where(kind == 0, square, ellipse)
    hearts = (one["shape"] == 2).nonzero()[:, 0]
    if len(hearts):
        x, y = along[hearts].numpy(), across[hearts].numpy()
        edge = np.interp(np.degrees(np.arctan2(np.abs(x), y)), *_HEART.T)
        found[hearts] = torch.from_numpy(np.hypot(x, y) <= edge)
    return found


def _data(source: dict[str, Any], pictures: Tensor, factors: dict[str, Tensor]) -> Data:
    """Four fifths train; of the rest half each validates and tests."""
    schema = Schema((Field("x", "binary", tuple(pictures.shape[1:])),))
    held = max(1, len(pictures) // 10)
    cuts = {"train": slice(2 * held, None), "validation": slice(held, 2 * held), "test": slice(0, held)}
    kept = {n: v if n == "shape" else v.float() for n, v in factors.items()}
    splits = {
        name: Split(schema, name, {"x": pictures[cut]}, factors={n: v[cut] for n, v in kept.items()})
        for name, cut in ((name, cuts[name]) for name in SPLITS)
    }
    return Data(source["name"], schema, **splits, source=source)


# -- the true file -----------------------------------------------------------------------------------------

_TRUE = Grid()


def read_dsprites(rows: int | None, root: str | Path | None, roots: Iterator[Path], source: dict[str, Any]) -> Data:
    """dSprites itself, from the file that its authors give: some rows of its grid, nothing of it unpickled."""
    file = next((base / _FILE for base in roots if (base / _FILE).is_file()), None)
    if file is None:
        looked = root or os.environ.get("PPL_VAE_DATA") or "data, ~/data and ~/.cache/ppl-vae"
        raise UserError(
            f"data set 'dsprites' is not on this machine (there is no {_FILE} in {looked}): put it there, or take "
            f"{option('data', 'sprites')}, which is drawn to its geometry"
        )
    whole = replace(_TRUE, rows=rows)
    index = whole.chosen()
    try:
        with zipfile.ZipFile(file) as archive:
            pictures = _rows_of(archive, "imgs.npy", (whole.size, whole.side, whole.side), index)
            codes = _rows_of(archive, "latents_classes.npy", (whole.size, 6), index)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as problem:
        why = " ".join(str(problem).split())[:160]
        raise UserError(f"cannot read {file} as dSprites ({why}): write it again") from problem
    picked = torch.from_numpy(codes[:, 1:].astype("int64"))
    factors = {name: v[picked[:, k]] for k, (name, v) in enumerate(whole.values().items())}
    return _data(source, torch.from_numpy(pictures).float(), factors)


def _rows_of(archive: zipfile.ZipFile, member: str, shape: tuple[int, ...], index: Tensor) -> np.ndarray:
    """Some rows of an array in an archive, which is never whole in memory."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        found, fortran, dtype = header(stream)
        if found != shape or fortran or dtype.kind not in "ui":
            raise ValueError(f"{member} has shape {found} and type {dtype}, not {shape} of whole numbers")
        size = math.prod(shape[1:]) * dtype.itemsize
        order = np.argsort(index.numpy(), kind="stable")
        wanted, taken = index.numpy()[order], np.empty((len(index), *shape[1:]), dtype)
        step, at = 4096, 0
        for start in range(0, shape[0], step):
            block = stream.read(size * min(step, shape[0] - start))
            rows = np.frombuffer(block, dtype).reshape(-1, *shape[1:])
            end = int(np.searchsorted(wanted, start + len(rows)))
            taken[order[at:end]] = rows[wanted[at:end] - start]
            at = end
        return taken
