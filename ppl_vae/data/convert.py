"""Fields as they came to what the schema says of them and to checked tensors."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data._classes import codes_by_name, codes_of_numbers, codes_of_words, number_classes
from ppl_vae.data._columns import NUMERIC, Raw
from ppl_vae.data._precision import origins, since
from ppl_vae.data.schema import KINDS, Field
from ppl_vae.errors import UserError

__all__ = ["Raw", "convert", "guess", "missing_in", "refuse_missing"]

ALLOW = "pass missing='allow' (command line: --missing allow), or drop such rows"


class _Values(NamedTuple):
    """Values as a tensor, numpy's in double precision, and how they came."""

    tensor: Tensor
    names: tuple[str, ...] = ()
    unit: str = ""
    narrow: bool = False  # to be stored as float32
    whole: bool = False  # came as whole numbers
    indexes: bool = False  # integers of a tensor, with which a program may index


def guess(
    name: str, raw: Raw, *, kind: str | None = None, label: bool = False, own: bool = False
) -> tuple[Field, Tensor]:
    """The field that these values suggest and its checked tensor `[row, *shape]`; `kind` overrides the guess.

    Bool, or only 0 and 1: binary. Whole numbers from 0: count, or categorical if this is a label. Numbers that fill
    [0, 1]: unit. Else real. Positive is never guessed: a narrow support needs a reason. `own` is for rows of a program
    that was not told what its fields are: numbers are then a label only if their values need no change.
    """
    values = _numeric(name, raw, label or bool(raw.categories) or kind == "categorical")
    _refuse_infinite(name, raw.names, values.tensor)
    if values.names and kind not in (None, "categorical"):
        raise UserError(f"field {name!r} of kind {kind} expects numbers, got strings: its kind must be categorical")
    tensor, names = values.tensor, values.names
    found = kind or ("categorical" if names else _guess_kind(name, values))
    if not names and tensor.dim() == 1 and (kind == "categorical" or (kind is None and label)):
        tensor, names, found = _label(name, values, kind, found, own)
    observed = tensor[~missing_in(found, tensor)]
    if not len(observed):
        if not own:
            raise UserError(f"field {name!r} expects some observed entry, got only missing ones: drop the field")
        return _unobserved(name, tensor)
    origin = _origin(name, raw, values._replace(tensor=tensor), found) if values.narrow else ()
    found = "real" if origin else found
    top = int(observed.max()) + 1 if found in ("categorical", "count") else None
    field = Field(
        name,
        found,
        tuple(tensor.shape[1:]),
        cardinality=len(names) or (max(top, 1) if top is not None else None),
        missing=len(observed) < tensor.numel(),
        names=names or (() if found == "categorical" and tensor.dim() == 1 else raw.names),
        ordered=raw.ordered,
        origin=origin,
        unit=values.unit,
        top=_top(raw, values) if found == "count" else None,
    )
    return field, _checked(field, values._replace(tensor=tensor), "")


def _unobserved(name: str, tensor: Tensor) -> tuple[Field, Tensor]:
    """A field of which no row has a value, for a program that knows what it is: numbers, or codes that are all -1."""
    codes = not tensor.is_floating_point()
    kind = "categorical" if codes else "real"
    return Field(name, kind, tuple(tensor.shape[1:]), cardinality=1 if codes else None, missing=True), tensor


def _label(
    name: str, values: _Values, kind: str | None, guessed: str, own: bool
) -> tuple[Tensor, tuple[str, ...], str]:
    """Codes of a label [row] that is a number, the names of its classes, and its kind."""
    tensor = values.tensor
    if values.unit:
        return tensor, (), guessed
    if own and kind is None:  # no class is renamed behind the back of a program, and 0 and 1 stay a binary response
        levels = torch.unique(tensor[~torch.isnan(tensor)]).tolist()
        codes = [v for v in levels if v != -1]
        ready = values.whole and codes == list(range(len(codes))) and (len(levels) > 2 or values.indexes)
        return (tensor, (), "categorical") if ready else (tensor, (), guessed)
    classes = number_classes(name, tensor, certain=kind is not None, whole=values.whole)
    if classes is None or (kind == "categorical" and min(classes, default=0) < -1):
        return tensor, (), guessed  # refused below where it was said to be categorical
    codes_, names = codes_of_numbers(tensor, classes)
    return codes_, names, "categorical"


def _origin(name: str, raw: Raw, values: _Values, kind: str) -> tuple[float, ...]:
    if kind in ("categorical", "binary"):
        return ()
    # a guessed count may become a centred real number; a kind that bounds its values may not be moved
    centre = kind == "real" or (kind == "count" and not values.unit)
    return origins(name, values.tensor.numpy(), raw.names, centre=centre)


def _top(raw: Raw, values: _Values) -> int | None:
    """The largest possible value: 255 of bytes, as of pictures."""
    x = values.tensor
    if not x.numel() or bool((x > 255).any()):
        return None
    # of a matrix only the largest byte itself tells grey levels from counts
    wide = x.dim() == 2 and x.shape[1] >= 64 and not raw.names and bool((x == 255).any())
    return 255 if (x.dim() >= 3 and bool((x > 16).any())) or wide else None


def convert(field: Field, raw: Raw) -> Tensor:
    """These values as a tensor `[row, *shape]` of a known field; refused where they do not fit it."""
    values = _numeric(field.name, raw, field.kind == "categorical", field)
    _refuse_infinite(field.name, field.names, values.tensor)
    if tuple(values.tensor.shape[1:]) != field.shape:
        hint = " (one row needs a leading dimension: x[None])" if tuple(values.tensor.shape) == field.shape else ""
        raise UserError(
            f"field {field.name!r} expects rows of shape {field.shape}, got an array of shape"
            f" {tuple(values.tensor.shape)}: reshape it with rows first{hint}"
        )
    numbered = field.kind == "categorical" and not field.shape and all(_is_number(word) for word in field.names)
    if numbered and field.names and not values.names and not raw.coded:
        values = values._replace(tensor=codes_by_name(field.name, values.tensor, field.names, raw.values))
    if values.narrow and field.kind in NUMERIC and not field.origin:
        origins(field.name, values.tensor.numpy(), field.names, centre=False)
    tensor = _checked(field, values, "pass rows on the scale of the training data", moved=raw.coded)
    if not field.missing:
        refuse_missing(field, tensor, "this schema has no missing entries: load the training data with them")
    return tensor


def _is_number(word: str) -> bool:
    return word.lstrip("-").isdigit()


def refuse_missing(field: Field, tensor: Tensor, remedy: str = ALLOW) -> None:
    """Raise a UserError that names the first missing entry of this tensor, if there is one."""
    missing = missing_in(field.kind, tensor)
    if missing.any():
        mark = "-1 or no label" if field.kind == "categorical" else "NaN"
        raise UserError(
            f"field {field.name!r} expects complete rows, got a missing entry ({mark}) at"
            f" {_where(field.names, missing)} ({int(missing.sum())} in all): {remedy}"
        )


def _numeric(name: str, raw: Raw, label: bool, field: Field | None = None) -> _Values:
    """Any array as a tensor of integers or floats; strings of a label as codes with their names, dates as numbers."""
    values, unit = raw.values, ""
    names: tuple[str, ...] = ()
    if isinstance(values, Tensor):
        return _of_tensor(name, values)
    if values.dtype.kind in "OUS" and label and values.ndim == 1 and len(values):
        known = field.names if field is not None else raw.categories
        values, names = codes_of_words(name, values, known)
    if values.dtype.kind in "Mm":
        values, unit = since(values, "" if field is None else field.unit)
    if values.dtype.kind not in "biuf":
        raise UserError(
            f"field {name!r} expects an array of numbers, got dtype {values.dtype}: convert it to numbers"
            " (strings are taken for a label only: field y, or the one named by label=)"
        )
    _refuse_empty(name, tuple(values.shape))
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and bool((np.abs(values.astype("f8")) >= 2**53).any()):
        _refuse_inexact(name, values)
    # numpy makes float64 without being asked; only a tensor says that somebody wants it
    narrow = not np.can_cast(values.dtype, np.float32)
    # a copy: torch takes no memory that it may not write to, and no rows that run backwards
    tensor = torch.from_numpy(np.array(values, dtype="float64" if narrow else "float32", order="C"))
    whole = values.dtype.kind in "biu" and not unit
    return _Values(tensor, names, unit, narrow, whole)


def _of_tensor(name: str, values: Tensor) -> _Values:
    _refuse_empty(name, tuple(values.shape))
    if values.is_complex():
        raise UserError(f"field {name!r} expects real numbers, got {values.dtype}: split it into two fields")
    if values.is_floating_point():
        return _Values(values if values.dtype == torch.float64 else values.float())
    if values.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return _numeric(name, Raw(values.cpu().numpy()), False)
    byte = values.dtype in (torch.bool, torch.uint8)
    # in uint8 the missing mark -1 would be 255
    return _Values(values.long(), whole=True, indexes=not byte and name != "x")


def _refuse_empty(name: str, shape: tuple[int, ...]) -> None:
    if not shape or 0 in shape:
        raise UserError(
            f"field {name!r} expects at least one row and one entry a row, got shape {shape}:"
            " pass an array with rows first"
        )


def _refuse_inexact(name: str, values: np.ndarray) -> None:
    for place in np.argwhere(np.abs(values.astype("f8")) >= 2**53):
        value = int(values[tuple(place)])
        if int(float(value)) != value:
            raise UserError(
                f"field {name!r} holds whole numbers that no float64 holds ({value} at row {place[0]} (from 0)): they"
                " are ids, drop them, or make them strings"
            )


def _guess_kind(name: str, values: _Values) -> str:
    tensor = values.tensor
    finite = tensor[torch.isfinite(tensor)] if tensor.is_floating_point() else tensor
    if values.unit or not len(finite):
        return "real"
    if _within("binary", finite).all():
        return "binary"
    # whole numbers that came as floats are counts only if they begin where counts do, or holes made floats of them
    if _within("count", finite).all() and (values.whole or len(finite) < tensor.numel() or float(finite.min()) <= 1):
        return "count"
    return "unit" if _within("unit", finite).all() and _is_share(name, values, finite) else "real"


SHARES = re.compile(
    r"rate|share|frac|proportion|percent|pct|prob|quota|occupancy|saturation|(^|_)p($|_)", re.IGNORECASE
)


def _is_share(name: str, values: _Values, finite: Tensor) -> bool:
    """Whether numbers in [0, 1] have a reason to be: a name, both ends, or as grey levels that fill it."""
    low, high = float(finite.min()), float(finite.max())
    if values.tensor.dim() > 1:
        return low <= 0.15 and high >= 0.85
    return bool(SHARES.search(name)) or (low == 0 and high == 1)


def missing_in(kind: str, values: Tensor) -> Tensor:
    """Which entries of a field of this kind are missing: NaN, and -1 of categories."""
    gone = torch.isnan(values) if values.is_floating_point() else torch.zeros_like(values, dtype=torch.bool)
    return gone | (values == -1) if kind == "categorical" else gone


def _whole(values: Tensor) -> Tensor:
    return torch.floor(values) == values if values.is_floating_point() else torch.ones_like(values).bool()


def _within(kind: str, values: Tensor, cardinality: int | None = None) -> Tensor:
    """Which entries are values of this kind."""
    if kind == "binary":
        return (values == 0) | (values == 1)
    if kind == "unit":
        return (values >= 0) & (values <= 1)
    if kind == "positive":
        return values > 0
    if kind == "count":
        return (values >= 0) & _whole(values)
    if kind == "categorical":
        return (values >= 0) & _whole(values) & (values < (cardinality or torch.inf))
    return torch.ones_like(values, dtype=torch.bool)


def _refuse_infinite(name: str, names: tuple[str, ...], values: Tensor) -> None:
    if values.is_floating_point() and (infinite := torch.isinf(values)).any():
        raise UserError(
            f"field {name!r} expects finite values, got {float(values[infinite][0])} at"
            f" {_where(names, infinite)}: replace it, or mark it as missing with NaN"
        )


def _checked(field: Field, values: _Values, remedy: str, *, moved: bool = False) -> Tensor:
    """The tensor to keep: int64 for categories and for integers of a tensor, else float32 (or a tensor's float64)."""
    tensor = values.tensor
    missing = missing_in(field.kind, tensor)
    wrong = ~(_within(field.kind, tensor, field.cardinality) | missing)
    if field.top is not None:
        wrong |= tensor > field.top
    if wrong.any():
        fits = [kind for kind in KINDS if (_within(kind, tensor) | missing).all()]
        kind = f"categorical({field.cardinality})" if field.kind == "categorical" else field.kind
        raise UserError(
            f"field {field.name!r} of kind {kind} got the value {_plain(tensor[wrong][0], values.whole)} at"
            f" {_where(field.names, wrong)}: {remedy or 'rescale it'}, or choose a kind that fits"
            f" ({', '.join(fits)}) with kinds="
        )
    if field.kind == "categorical":
        return tensor.masked_fill(missing, -1).long()
    if values.indexes and not field.origin:
        return tensor
    if field.origin and not moved:
        tensor = tensor.double() - tensor.new_tensor(field.origin, dtype=torch.float64).reshape(field.shape)
        return tensor if values.tensor.dtype == torch.float64 and not values.narrow else tensor.float()
    return tensor if tensor.dtype == torch.float64 and not values.narrow else tensor.float()


def _plain(value: Tensor, whole: bool) -> int | float:
    """As it came: numpy's integers are floats by now."""
    return int(value) if whole else value.item()


def _where(names: tuple[str, ...], flagged: Tensor) -> str:
    """The place of the first flagged entry, in words."""
    row, *entry = flagged.nonzero()[0].tolist()
    if not entry:
        return f"row {row} (from 0)"
    if len(entry) == 1 and len(names) == flagged.shape[1]:
        return f"row {row} (from 0), column {names[entry[0]]!r}"
    return f"row {row} (from 0), entry {entry[0] if len(entry) == 1 else tuple(entry)}"
