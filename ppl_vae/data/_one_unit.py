"""All data as one unit: a time series, a field, a program without rows; their bound is one of log p(all data)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.conform import as_split
from ppl_vae.data.containers import is_table
from ppl_vae.data.dataset import Data, Split
from ppl_vae.data.schema import Field, Schema
from ppl_vae.errors import UserError, spelled

__all__ = ["OneUnit", "WholeBatch", "as_one_unit", "device_of", "is_unit", "one_unit", "single", "units_in"]


class WholeBatch(dict[str, Tensor]):
    """The fields of all data at once. A pair that is run on it has no rows: log w is [particle, 1].

    Example:
        >>> WholeBatch(x=torch.zeros(3))["x"].shape
        torch.Size([3])
    """


class OneUnit(Split):
    """All data as a single row of the engine: fields of any lengths, or none; every batch is the whole.

    Example:
        >>> unit = as_one_unit({"y": torch.zeros(8), "sigma": torch.ones(3)})
        >>> len(unit), sorted(unit.batch(slice(0, 4)))
        (1, ['sigma', 'y'])
    """

    is_one_unit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", dict(self.fields))
        object.__setattr__(self, "draws", frozenset())
        object.__setattr__(self, "hidden", {})

    def __len__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return f"OneUnit({'; '.join(f'{n} {tuple(v.shape)}' for n, v in self.fields.items()) or 'no fields'})"

    @property
    def device(self) -> torch.device:
        """Where the data live; the CPU where there are none."""
        return next((v.device for v in self.fields.values()), torch.device("cpu"))

    def batch(self, index: Any = None, generator: torch.Generator | None = None) -> WholeBatch:
        """Everything, whatever is asked for."""
        return WholeBatch(self.fields)

    def rows(self, index: Any) -> OneUnit:
        """Everything, whatever is asked for."""
        return self

    def _each(self, change: Callable[[Tensor], Tensor]) -> OneUnit:
        return replace(self, fields={name: change(v) for name, v in self.fields.items()})


def as_one_unit(data: Any = None) -> OneUnit:
    """Anything that holds data as one unit: a data set loaded with rows=None, a split, a dict of arrays, one array.

    Fields of a dict may have different lengths; floats become float32 unless they come as float64 tensors. Without
    data the program has its own.

    Raises:
        UserError: for values that are no numbers, grey levels that are drawn anew at every use, or a data set of rows,
            which are shuffled and split: load it with rows=None.

    Example:
        >>> as_one_unit(None)
        OneUnit(no fields)
        >>> as_one_unit([0.5, 1.5])
        OneUnit(x (2,))
    """
    if isinstance(data, OneUnit):
        return data
    if isinstance(data, Data | Split) or is_table(data):
        split = _whole(data) if isinstance(data, Data) else as_split(data)
        if isinstance(split, OneUnit):
            return split
        if split.draws:
            raise UserError(
                f"field {', '.join(sorted(split.draws))} is drawn anew at every use, and one unit has fixed data: "
                "load it with binarise='static'"
            )
        return OneUnit(split.schema, split.name, split.fields)
    values = {} if data is None else dict(data) if isinstance(data, Mapping) else {"x": data}
    found = [single(str(name), value) for name, value in values.items()]
    return OneUnit(Schema(tuple(field for field, _ in found)), "all", {field.name: value for field, value in found})


def is_unit(data: Any, rows: str | None = "auto") -> bool:
    """Whether data are taken as one unit: with rows=None, loaded so, or none at all.

    Example:
        >>> is_unit(as_one_unit([0.5, 1.5])), is_unit({"x": [0.5]}), is_unit({"x": [0.5]}, rows=None)
        (True, False, True)
    """
    split = data.train if isinstance(data, Data) else data
    return rows is None or data is None or isinstance(split, OneUnit)


def _whole(data: Data) -> Split:
    if data.train.is_one_unit:
        return data.train
    raise UserError(
        f"one unit is all data in their order, and the rows of {data.name!r} are shuffled and split: load them with "
        f"{spelled('rows=None', '--rows none')}, or pass one split, such as data.train"
    )


def one_unit(unit: OneUnit, name: str, source: Mapping[str, Any] | None = None) -> Data:
    """A data set that is one unit."""
    return Data(name, unit.schema, unit, source={"name": name, "options": {"rows": None}} | dict(source or {}))


def single(name: str, value: Any) -> tuple[Field, Tensor]:
    """A field of one unit, of any shape: without dims, too.

    Example:
        >>> single("size", 8)
        (Field(name='size', kind='count', shape=()...), tensor(8))
    """
    tensor = _tensor(name, value)
    return Field(name, _kind(tensor), tuple(tensor.shape[1:])), tensor


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise UserError(f"field {name!r} expects numbers, got dtype {array.dtype}: convert it")
    return torch.as_tensor(array.astype(np.float32) if array.dtype.kind == "f" else array)


def _kind(value: Tensor) -> str:
    if value.dtype == torch.bool:
        return "binary"
    return "real" if value.is_floating_point() or bool((value < 0).any()) else "count"


def units_in(batch: Mapping[str, Tensor]) -> int:
    """How many units a batch holds: its rows, or all data as one.

    Example:
        >>> units_in({"x": torch.zeros(3)}), units_in(WholeBatch(x=torch.zeros(3)))
        (3, 1)
    """
    return 1 if isinstance(batch, WholeBatch) else len(next(iter(batch.values())))


def device_of(batch: Mapping[str, Tensor]) -> torch.device:
    """Where the fields of a batch are; the CPU where there are none.

    Example:
        >>> device_of(WholeBatch())
        device(type='cpu')
    """
    return next((values.device for values in batch.values()), torch.device("cpu"))
