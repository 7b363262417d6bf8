"""Categories: those that occur, by name; their codes 0, 1, ... are what a model sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import UserError, unknown_name

__all__ = ["codes_by_name", "codes_of_numbers", "codes_of_words", "number_classes"]

FEW = 10
"""So many whole numbers may be classes, however few rows each has."""
ROWS_EACH = 5
"""Beyond, each of 0, 1, ..., C - 1 has to have so many rows, or the numbers look like a quantity."""


def codes_of_words(name: str, values: np.ndarray, categories: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Category names as numbers in sorted order, None and NaN as -1; objects that are numbers as floats."""
    items = [
        None
        if v is None or (isinstance(v, (float, np.floating)) and np.isnan(v)) or type(v).__name__ == "NAType"
        else v
        for v in values.astype("U" if values.dtype.kind == "S" else "O")
    ]
    present = [v for v in items if v is not None]
    if present and all(isinstance(v, str) for v in present):
        names = categories or tuple(sorted(set(present)))
        place = {item: code for code, item in enumerate(names)}
        for item in present:
            if item not in place:
                raise unknown_name(f"category of field {name!r}", item, names)
        return np.array([-1 if v is None else place[v] for v in items]), names
    if not all(isinstance(v, (bool, int, float, np.number, np.bool_)) for v in present):
        raise UserError(f"label field {name!r} expects all strings or all numbers, got a mixture: make them strings")
    return np.array([np.nan if v is None else float(v) for v in items]), ()


def number_classes(name: str, values: Tensor, *, certain: bool = False, whole: bool = True) -> tuple[int, ...] | None:
    """The whole numbers that are the classes of a label [row], or None if it holds no whole numbers.

    Many different ones that came as floats are no classes, but a response; `whole` says that they came as integers.

    -1 means that there is no label, unless it and 1 are all there is, or there are classes below it.

    Raises:
        UserError: for so many different numbers that they may be a quantity, unless it is `certain` that they are not.

    Example:
        >>> number_classes("y", torch.tensor([1.0, 3.0, -1.0]), certain=False)
        (1, 3)
        >>> number_classes("y", torch.tensor([1, -1, 1]), certain=False)
        (-1, 1)
    """
    seen = values[~torch.isnan(values)] if values.is_floating_point() else values
    if not bool((torch.floor(seen.double()) == seen.double()).all()):
        return None
    levels, counts = torch.unique(seen.double().long(), return_counts=True)
    found = levels.tolist()
    if -1 in found and found != [-1, 1] and found[0] == -1:
        found, counts = found[1:], counts[1:]
    quantity = found != list(range(len(found))) or int(counts.min()) < ROWS_EACH
    if len(found) > FEW and quantity and not certain and not whole:
        return None
    if len(found) > FEW and quantity and not certain:
        raise UserError(
            f"field {name!r} holds {len(found)} whole numbers ({found[0]} to {found[-1]}) in {len(seen)} rows:"
            f" kinds={{{name!r}: 'real'}} for a quantity, 'categorical' for classes (command line --kind {name}=real)"
        )
    return tuple(found)


def codes_of_numbers(values: Tensor, classes: tuple[int, ...]) -> tuple[Tensor, tuple[str, ...]]:
    """Codes [row] of labels that are numbers, -1 where there is none; no names where the numbers are the codes."""
    if classes == tuple(range(len(classes))):
        return values, ()
    levels = torch.tensor(classes, dtype=torch.float64, device=values.device)
    each = values.double()
    codes = torch.searchsorted(levels, each.nan_to_num(float(classes[0])).contiguous())
    found = levels[codes.clamp(max=len(classes) - 1)] == each
    return torch.where(found, codes, -1), tuple(map(str, classes))


def codes_by_name(name: str, values: Tensor, names: tuple[str, ...], came: Any) -> Tensor:
    """Codes of new labels [row] that are numbers, for categories that are called by numbers.

    Raises:
        UserError: for a number that is no category, and for a tensor of integers that may hold names or codes.
    """
    called = {float(word): code for code, word in enumerate(names)}
    present = torch.unique(values[~torch.isnan(values)] if values.is_floating_point() else values).tolist()
    present = [v for v in present if v != -1 or -1.0 in called]
    if isinstance(came, Tensor) and not came.is_floating_point() and present:
        if all(called.get(v) == v for v in present):
            return values  # they are called what they are numbered
        if all(v in called and 0 <= v < len(names) for v in present):
            raise UserError(
                f"field {name!r} came as integers that may be its categories {', '.join(names)} or their codes 0 to"
                f" {len(names) - 1}: pass strings, or the split itself"
            )
        if all(0 <= v < len(names) for v in present):
            return values
    for value in present:
        if value not in called:
            raise unknown_name(f"category of field {name!r}", f"{value:g}", names)
    codes = torch.full_like(values, -1, dtype=torch.long)
    for value, code in called.items():
        codes[values == value] = code
    return codes
