"""What the columns of a data set are: fields with a kind, an event shape and a support."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch.distributions import constraints

from ppl_vae.errors import UserError, unknown_name

__all__ = ["KINDS", "Field", "Grouping", "Schema"]

KINDS = ("binary", "unit", "real", "positive", "count", "categorical")


@dataclass(frozen=True)
class Field:
    """One named quantity that every row has: its kind, the event shape of one row and its support.

    Attributes:
        name: how models receive it (`x`, `y`, ...).
        kind: one of `KINDS`; `binary` is 0 or 1, `unit` lies in [0, 1], `count` is 0, 1, 2, ...
        shape: event shape of one row, `(8, 8)` for a small picture, `()` for one number.
        cardinality: number of categories; for a count the largest value seen plus 1.
        missing: whether some entry is missing (NaN in floats, -1 in categories).
        names: column names of a table, or category names of a label; may be empty.
        ordered: whether categories come in an order, as of a rating.
        origin: what was subtracted from each entry (in float64, before it became float32), () for nothing.
        unit: of numbers that came as dates or durations, such as "days since 2024-01-01".
        top: the largest possible value of a count, where it is known: 255 of bytes.

    Raises:
        UserError: unknown kind, negative shape, or a categorical field without cardinality.

    Example:
        >>> pixels = Field("x", "categorical", shape=(8, 8), cardinality=17)
        >>> pixels.size, pixels.is_image, pixels.support
        (64, True, IntegerInterval(lower_bound=0, upper_bound=16))
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    cardinality: int | None = None
    missing: bool = False
    names: tuple[str, ...] = ()
    ordered: bool = False
    origin: tuple[float, ...] = ()
    unit: str = ""
    top: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind", self.kind, KINDS)
        # JSON and torch.Size bring lists and subclasses; equality of schemas needs plain tuples
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "names", tuple(str(n) for n in self.names))
        object.__setattr__(self, "origin", tuple(float(n) for n in self.origin))
        if any(n < 1 for n in self.shape):
            raise UserError(f"field {self.name!r} expects a shape of positive sizes, got {self.shape}")
        if self.kind == "categorical" and (self.cardinality is None or self.cardinality < 1):
            raise UserError(
                f"categorical field {self.name!r} expects cardinality of at least 1, got {self.cardinality}:"
                " pass cardinality=number of categories"
            )

    @property
    def size(self) -> int:
        """How many numbers one row of this field holds."""
        return math.prod(self.shape)

    @property
    def is_image(self) -> bool:
        """Whether one row has two or three dimensions, so that it can be drawn as a picture."""
        return len(self.shape) in (2, 3)

    @property
    def is_text(self) -> bool:
        """Whether one row is a sequence of tokens from a vocabulary, so that it can be written as words."""
        return self.kind == "categorical" and len(self.shape) == 1 and len(self.names) == self.cardinality

    @property
    def support(self) -> constraints.Constraint:
        """Where one entry of this field lives, as a constraint of torch.distributions."""
        if self.kind == "categorical":
            return constraints.integer_interval(0, (self.cardinality or 1) - 1)
        if self.top is not None:
            return constraints.integer_interval(0, self.top)
        return {
            "binary": constraints.boolean,
            "unit": constraints.unit_interval,
            "real": constraints.real,
            "positive": constraints.positive,
            "count": constraints.nonnegative_integer,
        }[self.kind]

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values; `from_json` is its inverse."""
        lists = {"shape": list(self.shape), "names": list(self.names), "origin": list(self.origin)}
        return {**asdict(self), **lists}

    @classmethod
    def from_json(cls, json: dict[str, Any]) -> Field:
        """The field that `to_json` described."""
        return cls(**json)

    def __str__(self) -> str:
        kind = f"categorical({self.cardinality})" if self.kind == "categorical" else self.kind
        shape = " " + " x ".join(map(str, self.shape)) if self.shape else ""
        unit = f" ({self.unit})" if self.unit else ""
        unit += f" minus {', '.join(f'{o:.15g}' for o in self.origin)}" if self.origin else ""
        return f"{self.name}: {kind}{shape}{unit}{', some missing' if self.missing else ''}"


@dataclass(frozen=True)
class Grouping:
    """Which rows of a long table became one row.

    Attributes:
        by: the column whose values name the groups.
        time: the column by which the rows of a group are in order, None where they are as they came.
        size: entries along the first axis of the fields of its rows: the rows of the largest group.
        inner: the fields that have an entry for each row of a group; others have one value a group.
        long: the fields of the long table.
        lengths: of padded arrays, the field that says how many rows a group has.
    """

    by: str
    time: str | None
    size: int
    inner: tuple[str, ...]
    long: tuple[Field, ...]
    lengths: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values; `from_json` is its inverse."""
        return {**asdict(self), "inner": list(self.inner), "long": [field.to_json() for field in self.long]}

    @classmethod
    def from_json(cls, json: dict[str, Any]) -> Grouping:
        """The grouping that `to_json` described."""
        long = tuple(Field.from_json(field) for field in json["long"])
        return cls(**{**json, "inner": tuple(json["inner"]), "long": long})


@dataclass(frozen=True)
class Schema:
    """The fields of a data set, in order; from it networks are sized and new rows are checked.

    `groups` says which rows of a long table are one row, if they are.

    Raises:
        UserError: two fields of one name.

    Example:
        >>> schema = Schema((Field("x", "real", (3,)), Field("y", "categorical", cardinality=2)))
        >>> schema.names, schema["x"].size, "z" in schema
        (('x', 'y'), 3, False)
        >>> Schema.from_json(schema.to_json()) == schema
        True
    """

    fields: tuple[Field, ...]
    groups: Grouping | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        if len(set(self.names)) < len(self.fields):
            raise UserError(f"a schema expects different field names, got {', '.join(self.names)}")

    def of(self, fields: Iterable[Field]) -> Schema:
        """Other fields of the same rows, or fewer of them."""
        return replace(self, fields=tuple(fields))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields, in order."""
        return tuple(field.name for field in self.fields)

    def __getitem__(self, name: str) -> Field:
        for field in self.fields if isinstance(name, str) else ():
            if field.name == name:
                return field
        raise unknown_name("field", name, self.names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.names

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values; `from_json` is its inverse."""
        fields = [field.to_json() for field in self.fields]
        return {"fields": fields} if self.groups is None else {"fields": fields, "groups": self.groups.to_json()}

    @classmethod
    def from_json(cls, json: dict[str, Any]) -> Schema:
        """The schema that `to_json` described."""
        groups = Grouping.from_json(json["groups"]) if "groups" in json else None
        return cls(tuple(Field.from_json(field) for field in json["fields"]), groups)
