"""A split (rows with a schema) and a data set (its splits); batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, overload

import torch
from torch import Tensor

from ppl_vae.data._order import BlockOrder
from ppl_vae.data.rows import Moments, chosen_rows, shuffled
from ppl_vae.data.schema import Field, Schema
from ppl_vae.data.summary import ColumnSummary, aligned, summaries
from ppl_vae.errors import UserError, check_known, check_whole, one_unit_words

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SPLITS", "Data", "Split", "Streamed", "assemble", "columns_of", "count_rows"]


SPLITS = ("train", "validation", "test")


def count_rows(fields: Mapping[str, Tensor]) -> int:
    """The number of rows, which must be one number for all fields."""
    counts = {name: len(values) for name, values in fields.items()}
    if not counts or min(counts.values()) < 1:
        raise UserError(f"expected at least one row, got {_listed(counts) or 'no fields'}: pass some rows")
    if len(set(counts.values())) > 1:
        raise UserError(
            f"expected fields with equally many rows, got {_listed(counts)}: align them by row, or take all data as "
            f"one unit, {one_unit_words()}"
        )
    return next(iter(counts.values()))


def _listed(counts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} with {count}" for name, count in counts.items())


@dataclass(frozen=True, eq=False)
class Streamed:
    """What is known of training rows that came from a stream: their order, and what models are made from.

    Attributes:
        order: how they are shuffled.
        moments: mean and variance of the fields of numbers, by name.
        head: models are made from the first so many rows.
        sample: rows by field on which programs are read, with the extremes of every column.
    """

    order: BlockOrder
    moments: Mapping[str, Moments]
    head: int
    sample: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one split, living as tensors on one device.

    Attributes:
        schema: what the fields are.
        name: `train`, `validation`, `test` or `rows`.
        fields: stored tensors `[row, *field.shape]` by field name; missing is NaN, or -1 in categories.
        draws: fields whose stored values are grey levels in [0, 1], the probabilities from which `batch`
            draws new 0s and 1s at EVERY use (dynamic binarisation).
        hidden: true values of entries that are missing in `fields` on purpose (`load(..., labels=100)`), by field
            name: to score what a pair says about them. They are never in a batch.
        outliers: which rows are of a class that was held out (`load(..., outliers="9")`), [row], or None: to score
            what a pair finds strange. It is never in a batch.
        groups: the names of the rows, where each is a group of rows of a long table (`load(..., group=)`).
        factors: what made the rows, by name, where that is known (`load("sprites")`): whole numbers are categories. To
            ask which latent means which (`ppl_vae.diagnostics.factors`); they are never in a batch.
        streamed: what is known of rows that came from a stream, so that they are gone through as those are.

    Raises:
        UserError: no rows, fields of different lengths or devices, or fields that the schema does not have.

    Example:
        >>> from ppl_vae.data import load
        >>> train = load("digits").train
        >>> len(train), train["y"][:3].tolist()
        (1000, [0, 1, 2])
        >>> batch = train.batch(slice(0, 64))
        >>> {name: tuple(values.shape) for name, values in batch.items()}
        {'x': (64, 8, 8), 'y': (64,)}
    """

    schema: Schema
    name: str
    fields: dict[str, Tensor]
    draws: frozenset[str] = frozenset()
    hidden: dict[str, Tensor] = field(default_factory=dict)
    outliers: Tensor | None = None
    groups: tuple[str, ...] = ()
    factors: dict[str, Tensor] = field(default_factory=dict)
    streamed: Streamed | None = None

    is_one_unit: ClassVar[bool] = False
    """Whether all data are one unit, without rows (`ppl_vae.data.OneUnit`)."""

    is_streamed: ClassVar[bool] = False
    """Whether rows are read while they are gone through (`ppl_vae.data.Stream`)."""

    def conformed(self, schema: Schema) -> Split | None:
        """These rows as another schema has them, where they are read anew; None where they are in memory."""
        return None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", dict(self.fields))
        object.__setattr__(self, "draws", frozenset(self.draws))
        object.__setattr__(self, "hidden", dict(self.hidden))
        for name in (*self.fields, *self.draws, *self.hidden):
            self.schema[name]
        for name in self.schema.names:
            if name not in self.fields:
                raise UserError(f"split {self.name!r} expects field {name!r} of its schema: pass its tensor")
        apart = {f"hidden {name}": values for name, values in self.hidden.items()}
        apart |= {f"factor {name}": values for name, values in self.factors.items()}
        count_rows({**self.fields, **apart, **({} if self.outliers is None else {"outliers": self.outliers})})
        devices = {name: values.device for name, values in self.fields.items()}
        if len(set(devices.values())) > 1:
            raise UserError(f"expected all fields on one device, got {_listed(devices)}: move them with .to(device)")

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    @overload
    def __getitem__(self, name: str) -> Tensor: ...

    @overload
    def __getitem__(self, name: int) -> dict[str, Tensor]: ...

    @overload
    def __getitem__(self, name: slice | Tensor | Sequence[int]) -> Split: ...

    def __getitem__(self, name: Any) -> Any:
        """A field by its name, a row (a dict of its fields) by its number, a split of several rows by a slice."""
        if isinstance(name, Integral) and not isinstance(name, bool):
            row = range(len(self))[int(name)]  # an IndexError past the end, which ends a loop over rows
            return {field: values[0] for field, values in self.batch(slice(row, row + 1)).items()}
        if isinstance(name, slice):
            return self.rows(name)
        if not isinstance(name, str | bytes) and hasattr(name, "__len__") and not isinstance(name, Mapping | type):
            return self.rows(chosen_rows(name, len(self)))
        return self.fields[check_known("field", name, self.fields)]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[row] for row in range(len(self)))

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a DataFrame, a column for every entry, categories by name, in the units of the data."""
        from ppl_vae.data.frames import filled_frame

        everywhere = {name: torch.ones_like(values, dtype=torch.bool) for name, values in self.fields.items()}
        return filled_frame(self.schema, self.fields, everywhere)

    def __repr__(self) -> str:
        return f"Split({self.name}, {len(self)} rows; {'; '.join(map(str, self.schema))}; {self.device})"

    @property
    def device(self) -> torch.device:
        """Where the rows live."""
        return next(iter(self.fields.values())).device

    def to(self, device: torch.device | str) -> Split:
        """The same rows on another device."""
        return self._each(lambda values: values.to(device))

    def truth(self, name: str) -> Tensor:
        """The values of a field, those that were hidden on purpose included."""
        return self.hidden[name] if name in self.hidden else self[name]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Split:
        fields, hidden, factors = (
            {name: change(v) for name, v in part.items()} for part in (self.fields, self.hidden, self.factors)
        )
        outliers = None if self.outliers is None else change(self.outliers)
        return replace(self, fields=fields, hidden=hidden, factors=factors, outliers=outliers)

    def batch(self, index: Tensor | slice | None = None, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """These rows (all without an index) as a model receives them; fields in `draws` are drawn anew.

        Args:
            index: LongTensor `[row]`, slice, or None for all rows.
            generator: source of the draws, on the device of this split.
        """
        index = index.to(self.device) if isinstance(index, Tensor) else index
        fields = {name: values if index is None else values[index] for name, values in self.fields.items()}
        for name in self.draws:
            fields[name] = _draw(fields[name], self.schema[name].missing, generator)
        return fields

    def scan(self, rows: int) -> Iterator[dict[str, Tensor]]:
        """All rows in their order, so many at a time."""
        for start in range(0, len(self), rows):
            yield self.batch(slice(start, start + rows))

    def stored(self, name: str, rows: int) -> Iterator[Tensor]:
        """The stored values of a field in the order of the rows, those of so many rows at a time."""
        return iter(self[name].split(rows))

    def batches(self, size: int, generator: torch.Generator) -> Sequence[Tensor]:
        """The numbers of the rows of every batch of an epoch."""
        if self.streamed is not None:
            return self.streamed.order.batches(size, generator)
        return shuffled(len(self), size, generator, self.device)

    def served(
        self, batches: Sequence[Tensor], generator: torch.Generator | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The batches of an epoch from number `start` on: the numbers of their rows, and the rows."""
        for place in range(start, len(batches)):
            yield batches[place], self.batch(batches[place], generator)

    @property
    def head(self) -> Split:
        """Rows in memory from which a model is made: these, or the first of those that came from a stream."""
        return self if self.streamed is None else self.rows(slice(0, self.streamed.head))

    @property
    def sample(self) -> Split:
        """Rows in memory that programs are read on: these, or some with the extremes of those from a stream."""
        if self.streamed is None:
            return self
        fields = {name: values.to(self.device) for name, values in self.streamed.sample.items()}
        return Split(self.schema, self.name, {name: fields[name] for name in self.schema.names})

    def moments(self, name: str) -> Moments:
        """Mean and variance of the observed entries of a field of numbers, [D]."""
        if self.streamed is not None and name in self.streamed.moments:
            return Moments(*(part.to(self.device) for part in self.streamed.moments[name]))
        field = self.schema[name]
        x = self[name].reshape(len(self), -1)
        # floats at least of the default type: float64 rows far from 0 are standardised in float64
        x = x.to(torch.promote_types(x.dtype, torch.get_default_dtype()))
        x = torch.where(x == -1, torch.nan, x) if field.kind == "categorical" and field.missing else x
        mean = x.nanmean(0).nan_to_num()
        return Moments(mean, (x - mean).square().nanmean(0).nan_to_num())

    def fingerprint(self) -> str:
        """A hash of all values, in their order."""
        found = hashlib.sha256(f"{type(self).__name__} {sorted(self.draws)}".encode())
        for name, values in sorted(self.fields.items()):
            found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            found.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def rows(self, index: Tensor | slice) -> Split:
        """A split of only these rows, with the stored values."""
        index = index.to(self.device) if isinstance(index, Tensor) else index
        rows = replace(self._each(lambda values: values[index]), streamed=None)
        if not self.groups:
            return rows
        places = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
        return replace(rows, groups=tuple(self.groups[i] for i in places.tolist()))

    def in_memory(self) -> Split:
        """The same rows in memory, in their order."""
        return self

    def inliers(self) -> Split:
        """A split of only the rows that are not known to be outliers."""
        if self.outliers is None:
            return self
        return replace(self.rows((~self.outliers).nonzero()[:, 0]), outliers=None)

    def select(self, names: Iterable[str]) -> Split:
        """A split of only these fields, in the order of the schema."""
        wanted = {names} if isinstance(names, str) else set(names)
        for name in wanted:
            self.schema[name]
        if not wanted:
            raise UserError("select expects at least one field name, got none")
        schema = replace(self.schema, fields=tuple(f for f in self.schema if f.name in wanted))
        hidden = {n: v for n, v in self.hidden.items() if n in schema}
        fields = {n: self.fields[n] for n in schema.names}
        return replace(self, schema=schema, fields=fields, draws=self.draws & wanted, hidden=hidden)


def _draw(grey: Tensor, missing: bool, generator: torch.Generator | None) -> Tensor:
    """1 with probability `grey`: u < grey, which takes less than half of the time of `torch.bernoulli`."""
    # never 1, so that 1 is always drawn as 1; and the comparison with NaN is 0
    uniform = torch.rand(grey.shape, generator=generator, dtype=grey.dtype, device=grey.device)
    drawn = uniform.lt_(grey)
    return torch.where(torch.isnan(grey), grey, drawn) if missing else drawn


@dataclass(frozen=True, eq=False)
class Data:
    """A named data set: its schema and up to three splits.

    Attributes:
        name: of the set or of the file.
        schema: what the fields are, in all splits.
        train, validation, test: the splits; the last two may be None.
        source: JSON description from which `ppl_vae.data.rebuild` loads it again
            (`{"name": "array"}` for arrays in memory, which cannot be).

    Example:
        >>> from ppl_vae.data import load
        >>> load("digits")
        Data 'digits' on cpu: 1000 train, 350 validation, 447 test rows
          column  kind               values
          x       categorical 8 x 8  17 levels
          y       categorical        10 levels: 0, 1, 2, 3, 4, 5, ...
    """

    name: str
    schema: Schema
    train: Split
    validation: Split | None = None
    test: Split | None = None
    source: dict[str, Any] = field(default_factory=lambda: {"name": "array"})

    def __getitem__(self, name: str) -> Split:
        """A split by its name."""
        found = {n: split for n in SPLITS if (split := getattr(self, n)) is not None}
        return found[check_known("split", name, found)]

    def __len__(self) -> int:
        """The rows of all splits."""
        return sum(len(split) for split in (self.train, self.validation, self.test) if split is not None)

    def to(self, device: torch.device | str) -> Data:
        """The same data set on another device."""
        splits = {name: getattr(self, name) for name in SPLITS}
        return replace(self, **{name: split and split.to(device) for name, split in splits.items()})

    def first(self, rows: int) -> Data:
        """A data set of only the first so many rows of every split, in memory."""
        rows, splits = check_whole("rows", rows), {name: getattr(self, name) for name in SPLITS}
        return replace(self, **{n: s and s.rows(slice(0, min(rows, len(s)))) for n, s in splits.items()})

    def in_memory(self) -> Data:
        """The same data set with all rows in memory; they are still gone through in the order of the stream."""
        splits = {name: getattr(self, name) for name in SPLITS}
        return replace(self, **{name: split and split.in_memory() for name, split in splits.items()})

    def __repr__(self) -> str:
        sizes = [f"{len(s)} {name}" for name in SPLITS if (s := getattr(self, name)) is not None]
        table = aligned(ColumnSummary._fields[1:], [line[1:] for line in summaries(self.train)])
        what = "all data as one unit" if self.train.is_one_unit else f"{', '.join(sizes)} rows"
        lines = [f"Data {self.name!r} on {self.train.device}: {what}", *table]
        return "\n  ".join(lines)


def assemble(
    name: str,
    schema: Schema,
    parts: Mapping[str, Mapping[str, Tensor]],
    draws: frozenset[str],
    source: dict[str, Any],
    groups: Mapping[str, tuple[str, ...]] | None = None,
) -> Data:
    """A data set from tensors by split and field, and the names of the groups; only train draws anew."""
    named = groups or {}
    splits = {
        n: Split(schema, n, dict(fields), draws if n == "train" else frozenset(), groups=named.get(n, ()))
        for n, fields in parts.items()
    }
    return Data(name, schema, splits["train"], splits.get("validation"), splits.get("test"), source)


def columns_of(field: Field) -> str | tuple[str, ...]:
    """The column of a table that this field is, or those that it is made of."""
    if field.shape:
        return field.names
    return field.names[0] if field.names and field.kind != "categorical" else field.name
