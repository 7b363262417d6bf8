"""The options of `load`, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any

from ppl_vae.data._tables import column_name
from ppl_vae.data.schema import KINDS
from ppl_vae.data.text import TextForm
from ppl_vae.errors import UserError, check_choice, check_several, check_whole, option, shown, unknown_name

__all__ = ["BINARISE", "Options"]

BINARISE = ("dynamic", "static", "none")


@dataclass(frozen=True)
class Options:
    """The options of `load`, checked; they go into `Data.source` as JSON."""

    seed: int = 0
    binarise: str | None = None
    label: str | None = None
    columns: Sequence[str] | None = None
    missing: str = "refuse"
    test: float | None = None
    validation: float | None = None
    kinds: Mapping[str, str] | None = None
    fields: Mapping[str, str | Sequence[str]] | None = None
    labels: int | None = None
    outliers: Sequence[str] | None = None
    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    missing_marks: Sequence[str] | None = None
    group: str | None = None
    time: str | None = None
    lengths: str | None = None
    rows: str | None = "auto"
    pairs: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_whole("seed", self.seed, 0))
        if self.binarise is not None:
            check_choice("binarise", self.binarise, BINARISE)
        check_choice("missing", self.missing, ("refuse", "allow"))
        if self.pairs is not None:
            check_choice("pairs", self.pairs, ("aligned",))
        if self.rows is None:
            self._refuse_parts()
        elif not isinstance(self.rows, str) or self.rows != "auto":
            raise unknown_name("rows", self.rows, ("auto", "None"))
        if self.labels is not None:
            check_whole("labels, the number of training rows that keep theirs,", self.labels)
        if isinstance(self.columns, str):
            object.__setattr__(self, "columns", [self.columns])
        if self.columns is not None:
            several = check_several("columns", self.columns, "names of columns")
            object.__setattr__(self, "columns", [column_name(c) for c in several])
        object.__setattr__(self, "missing_marks", self.form.missing_marks)
        for name in ("label", "group", "time", "lengths"):
            value = getattr(self, name)
            if name == "group" and isinstance(value, list):
                raise UserError(
                    f"group expects the name of one column, got {shown(value)}: rows in groups within groups are an "
                    "array by field, [school, class, pupil], missing where there is none (docs: belonging)"
                )
            if not isinstance(value, str | Integral | tuple | None) or isinstance(value, bool):
                raise UserError(f"{name} expects the name of a column, got {shown(value)}")
            object.__setattr__(self, name, None if value is None else column_name(value))
        if self.time is not None and self.group is None:
            raise UserError(f"time={self.time!r} orders the rows of groups: say which rows are one, group=")
        if self.lengths is not None and self.group is not None:
            raise UserError("lengths= is of padded arrays and group= of long rows: leave one of them out")
        for name in ("kinds", "fields"):
            if not isinstance(getattr(self, name), Mapping | None):
                raise UserError(f"{name} expects a dict by name, got {shown(getattr(self, name))}")
        for name, columns in (self.fields or {}).items():
            if not isinstance(columns, str):
                check_several(f"field {name}", columns, "the names of its columns")
        for kind in (self.kinds or {}).values():
            if not isinstance(kind, str) or kind not in KINDS:
                raise unknown_name("kind", kind, KINDS)

    def _refuse_parts(self) -> None:
        """All data as one unit are neither split nor grouped nor drawn anew."""
        for name in ("test", "validation", "labels", "outliers", "group", "lengths", "pairs"):
            if getattr(self, name):
                raise UserError(f"all data are one unit, of which nothing is apart: leave {option(name)} out")
        if self.binarise == "dynamic":
            raise UserError(f"all data are one unit, whose data are fixed: take {option('binarise', 'static')}")

    @property
    def form(self) -> TextForm:
        """How a text file is written."""
        return TextForm(self.separator, self.decimal, self.encoding, self.missing_marks)

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults, and the seed, as plain JSON values."""
        plain = {name: value for name, value in asdict(self).items() if value != getattr(Options, name)}
        if self.columns is not None:
            plain["columns"] = list(self.columns)
        for name in ("outliers", "missing_marks"):
            if getattr(self, name) is not None:
                plain[name] = list(getattr(self, name))
        if self.fields is not None:
            plain["fields"] = {n: c if isinstance(c, str) else list(c) for n, c in self.fields.items()}
        return {**plain, "seed": int(self.seed)}
