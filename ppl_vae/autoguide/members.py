"""Recognise groups: a plate inside of the rows whose elements, the members of a row, are all alike.

A plate says that its elements are independent given what is above them, not that they are alike: items of a test have
difficulties of their own. So the program is asked: if the members of every row change places, their fields and their
latents, is its probability what it was, with parameters moved apart that start equal? If so, one network can read every
member and another one draw the latents of each, and neither looks at their order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.autoguide.inversion import ancestors
from ppl_vae.autoguide.probing import scattered
from ppl_vae.autoguide.sites import Plate, Site
from ppl_vae.autoguide.timing import same_numbers
from ppl_vae.nn.entries import Timing
from ppl_vae.programs.dependencies import Parents
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Program
from ppl_vae.programs.structure import frames, sample_sites

__all__ = ["Members", "find_members", "member_sites"]


@dataclass(frozen=True)
class Members:
    """The plate of the members of a row, their latents, and the fields that have an entry for each of them."""

    plate: Plate
    latents: tuple[str, ...]
    timing: Timing


def find_members(
    program: Program,
    batch: Mapping[str, Tensor],
    trace: Trace,
    seen: Mapping[str, tuple[Any, Tensor]],
    local: Mapping[str, Site],
    parents: Parents,
    fields: Sequence[str],
    rows: Collection[str],
    dim: int,
) -> Members | None:
    """The members that a program's rows have, or None.

    Args:
        program: the model.
        batch: a few rows.
        trace: a run of the model on them.
        seen: distribution and value of every observed site, as the model has them.
        local: the latents of the rows.
        parents: the latents that each site depends on.
        fields: what the guide reads.
        rows: the plates of the rows, by name: others may be at their dim, beside them.
        dim: of these plates.
    """
    for plate in _inner(trace, rows):
        inside = tuple(n for n, s in local.items() if plate in s.plates)
        if any(s.plates for n, s in local.items() if n not in inside):
            continue
        if any({*inside} & ancestors(n, parents) for n in local if n not in inside):
            continue  # something of the row is drawn after its members
        observed = _observed(seen, trace, batch, plate, fields, rows, dim)
        inputs = [n for n in fields if n not in observed and batch[n].dim() > 1 and batch[n].shape[1] == plate.size]
        for entries in dict.fromkeys((tuple(sorted({*observed, *inputs})), tuple(sorted(observed)))):
            if observed and _alike(program, batch, trace, plate, entries, rows, dim):
                timing = Timing(dict.fromkeys(entries, 0), frozenset(observed), plate.size)
                return Members(plate, inside, timing)
    return None


def member_sites(members: Members, local: Mapping[str, Site]) -> dict[str, Site]:
    """The latents of the rows, those of the members as ones that every element of their plate has for itself."""
    return {
        n: replace(s, plates=tuple(p for p in s.plates if p != members.plate), over=(members.plate,))
        if n in members.latents
        else s
        for n, s in local.items()
    }


def _inner(trace: Trace, rows: Collection[str]) -> list[Plate]:
    """Plates inside of the rows that have more than one element."""
    found = {}
    for site in sample_sites(trace).values():
        around = frames(site)
        if any(f.name in rows for f in around):
            found.update({f.name: Plate(f.name, f.size, int(f.dim or -1)) for f in around if f.name not in rows})
    return [plate for plate in found.values() if plate.size > 1]


def _observed(
    seen: Mapping[str, tuple[Any, Tensor]],
    trace: Trace,
    batch: Mapping[str, Tensor],
    plate: Plate,
    fields: Sequence[str],
    rows: Collection[str],
    dim: int,
) -> list[str]:
    """The fields whose entries sites in the plate observe: these have their values."""
    sites = sample_sites(trace)
    values = []
    for name, (fn, value) in seen.items():
        around = {f.name for f in frames(sites[name])} if name in sites else set()
        if plate.name in around and not around.isdisjoint(rows):
            axes = (dim - fn.event_dim, plate.dim - fn.event_dim)
            values += [value.movedim(axes, (0, 1)).flatten()] if value.dim() >= -min(axes) else []
    there = [n for n in fields if batch[n].shape[1:2] == (plate.size,)]
    return [n for n in there if any(same_numbers(batch[n].flatten(), v) for v in values)]


def _alike(
    program: Program,
    batch: Mapping[str, Tensor],
    trace: Trace,
    plate: Plate,
    entries: Sequence[str],
    rows: Collection[str],
    dim: int,
) -> bool:
    turned = {n: v.flip(1) if n in entries else v for n, v in batch.items()}
    other = Trace()
    for name, site in sample_sites(trace).items():
        if not site["is_observed"]:
            value, axis = site["value"], plate.dim - site["fn"].event_dim
            around = {f.name for f in frames(site)}
            # what all rows share of an element (its difficulty) tells the elements apart, and stays where it is
            inside = plate.name in around and not around.isdisjoint(rows)
            other.add_node(name, **{**site, "value": value.flip(axis) if inside else value})
    with scattered(program):
        before, after = (_log_p(program, b, t, rows, dim) for b, t in ((batch, trace), (turned, other)))
    return torch.allclose(before, after, rtol=1e-4, atol=1e-4)


def _log_p(program: Program, batch: Mapping[str, Tensor], trace: Trace, rows: Collection[str], dim: int) -> Tensor:
    """log p of all sites of the rows, [row], masked entries included."""
    holes = Holes(None, batch=batch)
    total = torch.zeros(())
    for site in sample_sites(traced(poutine.replay(holes(program), trace=trace), batch)).values():
        if any(f.name in rows for f in frames(site)):
            log_p = site["fn"].log_prob(site["value"]).movedim(dim, -1)
            total = total + log_p.reshape(-1, log_p.shape[-1]).sum(0)
    return total
