"""Where the rows of a program that goes through time end, and what comes before and after it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ppl_vae.errors import UserError
from ppl_vae.nn.entries import Timing

__all__ = ["ends_of", "going_on", "until"]

Fields = Mapping[str, Tensor]


def ends_of(timing: Timing, fields: Fields) -> Tensor:
    """The number of steps of every row, [row]: by its length, by its mask, or by the last entry that is there."""
    if timing.lengths is not None:
        name, more = timing.lengths
        return fields[name] + more
    if timing.mask is not None:
        return _last(fields[timing.mask] > 0) - timing.starts[timing.mask]
    there = [_last(~_gone(fields[n])) - timing.starts[n] for n in sorted(timing.observed)]
    return torch.stack(there).amax(0).clamp(max=timing.steps)


def _gone(values: Tensor) -> Tensor:
    """Which entries are missing, as an encoder of entries reads them."""
    return torch.isnan(values) if values.is_floating_point() else values < 0


def _last(there: Tensor) -> Tensor:
    """How many entries there are up to the last one of which anything is there, [row]."""
    there = there.flatten(2).any(2) if there.dim() > 2 else there
    return ((torch.arange(there.shape[1], device=there.device) + 1) * there).amax(1)


def until(timing: Timing, fields: Fields, ends: Tensor) -> dict[str, Tensor]:
    """The rows as if they had ended there, [row]."""
    found = dict(fields)
    if timing.lengths is not None:
        found[timing.lengths[0]] = ends - timing.lengths[1]
    elif timing.mask is not None:
        found[timing.mask] = fields[timing.mask] * _before(timing, fields, timing.mask, ends)
    elif bool((ends == ends[0]).all()):
        # all are as long: the program is given fewer steps, for which nothing has to be missing
        return {n: v[:, : int(ends[0]) + timing.starts[n]] if n in timing.starts else v for n, v in fields.items()}
    for name in timing.observed:
        values = fields[name]
        gone = ~_before(timing, fields, name, ends)
        marked = timing.lengths is None and timing.mask is None
        if marked and not bool(_gone(values).any()):
            raise UserError(f"field {name!r} of series of unequal length is missing nowhere: give its rows a length")
        missing = torch.full_like(values, torch.nan if values.is_floating_point() else -1)
        other = missing if marked else values[:, timing.starts[name] : timing.starts[name] + 1].expand_as(values)
        found[name] = torch.where(gone.reshape(gone.shape + (1,) * (values.dim() - 2)), other, values)
    return found


def going_on(
    timing: Timing, fields: Fields, ends: Tensor, horizon: int, inputs: bool, stand_in: int = 0
) -> dict[str, Tensor]:
    """The rows with so many steps more; what is observed after an end is a value that stands for none.

    Args:
        timing: what belongs to the steps.
        fields: the rows, inputs of the steps to come included.
        ends: after which they go on.
        horizon: how many steps.
        inputs: whether inputs after an end are what they are, not padding.
        stand_in: the step whose value stands for those after an end.

    Raises:
        UserError: for inputs of the steps to come that are not there.
    """
    found = dict(fields)
    steps = int(ends.max()) + horizon
    if timing.lengths is not None:
        found[timing.lengths[0]] = ends + horizon - timing.lengths[1]
    for name, start in timing.starts.items():
        values, needed = fields[name], steps + start
        if name in timing.observed:
            first = max(start, 0) + stand_in
            later = values[:, first : first + 1]
            long = _longer(values, needed, later)
            gone = ~_before(timing, {name: long}, name, ends)
            found[name] = torch.where(gone.reshape(gone.shape + (1,) * (long.dim() - 2)), later, long)
        elif name == timing.mask:
            long = _longer(values, needed, torch.zeros_like(values[:, :1]))
            found[name] = _before(timing, {name: long}, name, ends + horizon).to(values.dtype)
        else:
            there = ~_gone(values).flatten(2).any(2) if values.dim() > 2 else ~_gone(values)
            wanted = _before(timing, {name: values}, name, ends + horizon)
            if not inputs or needed > values.shape[1] or not bool(there[wanted].all()):
                raise UserError(
                    f"the steps to come need their {name!r}, which is an input: give rows in which it goes on after "
                    "what is observed has ended, or held_out=True"
                )
            found[name] = values[:, :needed]
    return found


def _longer(values: Tensor, entries: int, filler: Tensor) -> Tensor:
    more = entries - values.shape[1]
    if more <= 0:
        return values[:, :entries]
    return torch.cat([values, filler.expand(-1, more, *values.shape[2:])], 1)


def _before(timing: Timing, fields: Fields, name: str, ends: Tensor) -> Tensor:
    """Which entries are of steps before an end, [row, entry]."""
    values = fields[name]
    place = torch.arange(values.shape[1], device=values.device) - timing.starts[name]
    return place < ends.unsqueeze(1)
