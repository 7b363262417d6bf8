"""Rows in which a model observes nothing: they say nothing of how good a pair is, and draw its guide to the prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.errors import Finding, ProgramError
from ppl_vae.programs.missing import is_missing
from ppl_vae.programs.program import Batch

__all__ = ["rows_that_tell"]

AT_ONCE = 2**16
"""So many streamed rows are looked at at a time."""

Values = Mapping[str, tuple[Any, Tensor]]


def rows_that_tell(
    values: Values, batch: Batch, train: Split, validation: Split | None
) -> tuple[Split, Split | None, tuple[Finding, ...]]:
    """The rows in which the model observes something, and findings on those that are left out.

    The evidence of a row without observations is log 1 = 0 and its bound -KL(q || p), best where the guide has
    forgotten the row: training on it makes the others worse, and an epoch that is chosen by such rows is one at which
    nothing is learned. A validation split in which no row has any is left out.

    Args:
        values: what a run of the model on `batch` observes.
        batch: some rows.
        train: the training rows.
        validation: the validation rows, if there are any.

    Raises:
        ProgramError: if no training row has anything that the model observes.
    """
    findings, names = [], ", ".join(values)
    empty = _observes_nothing(values, batch, train)
    if empty is not None and bool(empty.all()):
        raise ProgramError(names, f"no training row has {names}", "there is nothing to learn from: give rows that do")
    if empty is not None and bool(empty.any()):
        some = f"{int(empty.sum()):,} of {len(train):,} training rows have nothing that the model observes ({names})"
        remedy = "a model that observes more of their fields can learn from them, too (M2)"
        findings.append(Finding(names, f"{some} and are left out", remedy, "warning"))
        train = train.rows(~empty)
    nothing = None if validation is None else _observes_nothing(values, batch, validation)
    if validation is not None and nothing is not None and bool(nothing.any()):
        if bool(nothing.all()):
            problem = (
                f"no validation row has {names}: nothing ends the fit early, and the weights of its last epoch are kept"
            )
            findings.append(Finding(names, problem, f"let some validation rows have {names}", "warning"))
        validation = None if bool(nothing.all()) else validation.rows(~nothing)
    return train, validation, tuple(findings)


def _observes_nothing(values: Values, batch: Batch, split: Split) -> Tensor | None:
    """Which rows have no entry that the model observes, [row]; None where it observes no fields as they are."""
    empty: Tensor | None = None
    if split.is_streamed:
        _refuse_in_stream(values, batch, split)
        return None
    for fn, value in values.values():
        field = next((f for f, v in batch.items() if v.data_ptr() == value.data_ptr() and v.shape == value.shape), None)
        if field is None or field not in split.schema:
            return None
        missing = is_missing(fn, split[field])
        missing = missing.flatten(1).all(1) if missing.dim() > 1 else missing
        empty = missing if empty is None else empty & missing
    return empty


def _refuse_in_stream(values: Values, batch: Batch, split: Split) -> None:
    """Refuse streamed rows without an observation, which cannot be left out; looked for where all fields have holes."""
    observed = []
    for fn, value in values.values():
        field = next((f for f, v in batch.items() if v.data_ptr() == value.data_ptr() and v.shape == value.shape), None)
        if field is None or field not in split.schema or not split.schema[field].missing:
            return
        observed.append((field, fn))
    start = 0
    for rows in split.select([field for field, _ in observed]).scan(AT_ONCE):
        there = [~is_missing(fn, rows[field]).reshape(len(rows[field]), -1).all(1) for field, fn in observed]
        empty = ~torch.stack(there).any(0)
        if bool(empty.any()):
            names = ", ".join(field for field, _ in observed)
            raise ProgramError(
                names,
                f"{split.name} row {start + int(empty.nonzero()[0])} has nothing that the model observes ({names})",
                "leave such rows out of the files, or load them in memory, where they are left out",
            )
        start += len(empty)
