"""Rows without the field that is predicted, and with it where the data have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ppl_vae.data import Data, Schema, Split, as_split
from ppl_vae.errors import UserError

__all__ = ["without_and_with"]


def without_and_with(data: Any, field: str, schema: Schema | None, hints: Schema | None) -> tuple[Split, Split | None]:
    """The rows without the field, and with it where the data have it."""
    there = _fields_of(data)
    if schema is None:
        if hints is not None and field not in there:
            hints = _but(hints, field)
        full = as_split(data, "test", hints=hints)
        others = [name for name in full.schema.names if name != field]
        truth = full if field in full.schema else None
    else:
        others = [name for name in schema.names if name != field]
        truth = None
    if not others:
        raise UserError(f"field {field!r} is predicted from the others, but the data have none: pass some")
    if schema is None:
        return full.select(others), truth
    rest = _but(schema, field)
    if field not in schema or field not in there:
        return as_split(_without(data, field), "test", rest), None
    loose = schema.of(replace(f, missing=True) if f.name == field else f for f in schema)
    truth = as_split(data, "test", loose)
    return truth.select(n for n in others if n in truth.schema), truth


def _but(schema: Schema, field: str) -> Schema:
    return schema.of(f for f in schema if f.name != field)


def _fields_of(data: Any) -> set[str]:
    """The names of the fields that the rows have, as far as they have names."""
    if isinstance(data, Data | Split):
        return set(data.schema.names)
    return {str(name) for name in getattr(data, "columns", data if isinstance(data, Mapping) else ())}


def _without(data: Any, field: str) -> Any:
    return {n: v for n, v in data.items() if n != field} if isinstance(data, Mapping) else data
