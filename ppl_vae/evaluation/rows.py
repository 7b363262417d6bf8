"""Rows as a pair knows them: checked against the fields of its training data, as far as these are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn

from ppl_vae.data import Schema, Split, as_split
from ppl_vae.programs.program import Program

__all__ = ["fields_of_guide", "fields_of_model", "reads_any_subset", "rows_of", "takes_holes", "with_holes"]

F = TypeVar("F", bound=Callable[..., Any])


def rows_of(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    split: str = "test",
    *,
    rows_for: str | None = None,
    holes: bool = False,
) -> Split:
    """Rows of any kind as a split, for a pair.

    A model of this package says what its fields are, and rows are held to that. For other models the fields of the
    data that a generated guide was made from name the categories, and say what a field is of which no row has a value.
    A field that training rows missed may be left out: it is then missing in every row. So may any field where the guide
    has an expert for each, or with `holes`.

    Raises:
        UserError: as `ppl_vae.data.as_split` does.

    Example:
        >>> import torch
        >>> from ppl_vae.programs.toy import model, posterior
        >>> rows_of(model, posterior, torch.zeros(3))
        Split(rows, 3 rows; x: binary; cpu)
    """
    known = fields_of_model(model)
    if known is not None and (holes or reads_any_subset(guide)):
        known = with_holes(known)
    return as_split(data, split, known, rows_for=rows_for, hints=None if known else fields_of_guide(guide))


def fields_of_model(model: Callable[..., Any]) -> Schema | None:
    """The fields that a model was made for, if it says so in its attribute `schema`."""
    return getattr(_bare(model), "schema", None)


def fields_of_guide(guide: Callable[..., Any]) -> Schema | None:
    """The fields of the data that a generated guide, or one inside another guide, was made from."""
    bare = _bare(guide)
    known = (getattr(part, "known", None) for part in (bare.modules() if isinstance(bare, nn.Module) else ()))
    found = next((schema for schema in known if isinstance(schema, Schema)), None)
    return with_holes(found) if found is not None and reads_any_subset(guide) else found


def reads_any_subset(guide: Callable[..., Any]) -> bool:
    """Whether a guide has an expert for every field, so that rows may lack any of them."""
    bare = _bare(guide)
    return any(getattr(p, "any_subset", False) for p in (bare.modules() if isinstance(bare, nn.Module) else ()))


def with_holes(schema: Schema) -> Schema:
    """The same fields, in each of which entries may be missing.

    Example:
        >>> from ppl_vae.data import Field
        >>> print(with_holes(Schema((Field("x", "real"),)))["x"])
        x: real, some missing
    """
    return schema.of(replace(f, missing=True) for f in schema)


def takes_holes(function: F) -> F:
    """Say of a function of a pair and rows that any entry of its rows may be missing."""
    vars(function)["takes_holes"] = True
    return function


def _bare(program: Callable[..., Any]) -> Any:
    return program.program if isinstance(program, Program) else program
