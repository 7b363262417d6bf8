"""Refuse data outside the support of the likelihood that observes them, before training, by field and row."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import Field, Split
from ppl_vae.distributions import OneByOne, unwrapped
from ppl_vae.errors import ProgramError
from ppl_vae.programs.density import drawable
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes, Watch, has_codes, is_missing
from ppl_vae.programs.program import Batch, Programs
from ppl_vae.programs.structure import Structure

__all__ = ["check_support", "observed_values"]

Values = Mapping[str, tuple[Any, Tensor]]
"""The distribution and value of every observed site, as the model has them, holes and all."""


def observed_values(pair: Programs, structure: Structure, batch: Batch) -> Values:
    """What the model observes, by a run of its own, whose draws come before all others that a seed gives."""
    watch = Watch()
    with torch.no_grad(), drawable():
        traced(Holes(structure.holes, structure.latents, batch)(watch(pair.model)), batch)
    return watch.seen


def check_support(values: Values, batch: Batch, *splits: Split | None) -> None:
    """Compare every observed field of every split with the support of the site that observes it.

    Args:
        values: what a run of the model on `batch` observes.
        batch: some rows of the first split.
        splits: that are checked; None is left out.

    Raises:
        ProgramError: with the field, the row, the value, and the likelihoods that would fit.
    """
    for name, (fn, value) in values.items():
        field = next((f for f, v in batch.items() if v.data_ptr() == value.data_ptr()), None)
        if field is not None and batch[field].shape == value.shape:
            for split in splits:
                if split is not None and field in split.schema:
                    _check(field, name, fn, split.sample)


def _check(field: str, site: str, fn: Any, split: Split) -> None:
    base = unwrapped(fn)
    _refuse_codes(split.schema[field], site, base)
    if isinstance(base, OneByOne) and (problem := base.fault(split[field])):
        raise ProgramError(site, f"field {field!r}, {split.name} {problem}", "check these rows")
    if base.event_dim:
        return  # a support of whole vectors: its own validation speaks of it better
    value = split[field]
    if field in split.draws:
        value = value.round()  # stored are grey levels; what a model sees are draws of 0 and 1
    missing = is_missing(fn, value)
    support = _static(base.support)
    good = torch.isfinite(value) if support is None else support.check(value)
    bad = ~good & ~missing
    if not bool(bad.any()):
        return
    where = [int(i) for i in bad.nonzero()[0]]
    found = value[tuple(where)].item()
    from ppl_vae.likelihoods import fitting  # only for the message, which most runs never need

    names = ", ".join(fitting(split.schema[field], value))
    entry = f", entry {tuple(where[1:])}" if len(where) > 1 else ""
    raise ProgramError(
        site,
        f"field {field!r}, {split.name} row {where[0]}{entry}: value {found:g} is outside the support of "
        f"{type(base).__name__} at site {site!r}",
        f"likelihoods that fit these values are {names}",
    )


def _refuse_codes(field: Field, site: str, base: Any) -> None:
    """Classes are kept as codes 0, 1, ...: to a density of numbers 1, 2, 5 would be 0, 1, 2."""
    if field.kind == "categorical" and field.names and not has_codes(base):
        names = ", ".join(map(str, field.names[:5])) + (", ..." if len(field.names) > 5 else "")
        raise ProgramError(
            site,
            f"field {field.name!r} holds classes ({names}), kept as codes 0 to {len(field.names) - 1}, which site "
            f"{site!r} takes for numbers ({type(base).__name__})",
            f"load it as a quantity, kinds={{{field.name!r}: 'count'}} or 'real' (command line: --kind "
            f"{field.name}=count)",
        )


def _static(support: Any) -> Any:
    """The support with bounds that are numbers, if it is the same for every row and entry; else None."""
    found = copy.copy(support)
    for name, bound in vars(support).items():
        if isinstance(bound, Tensor):
            first = bound.flatten()[0]
            if not bool((bound == first).all()):
                return None
            setattr(found, name, first)
    return found
