"""Rows as a pair knows them: checked against the fields of its training data, as far as these are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ppl_vae.data import Schema, Split, as_split
from ppl_vae.programs.program import Program

__all__ = ["fields_of_guide", "fields_of_model", "rows_of"]


def rows_of(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, split: str = "test", *, rows_for: str | None = None
) -> Split:
    """Rows of any kind as a split, for a pair.

    A model of this package says what its fields are, and rows are held to that. For other models the fields of the
    data that a generated guide was made from name the categories, and say what a field is of which no row has a value.
    A field that training rows missed may be left out: it is then missing in every row.

    Raises:
        UserError: as `ppl_vae.data.as_split` does.

    Example:
        >>> import torch
        >>> from ppl_vae.programs.toy import model, posterior
        >>> rows_of(model, posterior, torch.zeros(3))
        Split(rows, 3 rows; x: binary; cpu)
    """
    known = fields_of_model(model)
    return as_split(data, split, known, rows_for=rows_for, hints=None if known else fields_of_guide(guide))


def fields_of_model(model: Callable[..., Any]) -> Schema | None:
    """The fields that a model was made for, if it says so in its attribute `schema`."""
    return getattr(_bare(model), "schema", None)


def fields_of_guide(guide: Callable[..., Any]) -> Schema | None:
    """The fields of the data that a generated guide, or one inside another guide, was made from."""
    bare = _bare(guide)
    known = (getattr(part, "known", None) for part in (bare.modules() if isinstance(bare, nn.Module) else ()))
    return next((schema for schema in known if isinstance(schema, Schema)), None)


def _bare(program: Callable[..., Any]) -> Any:
    return program.program if isinstance(program, Program) else program
