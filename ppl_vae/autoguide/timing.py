"""Which fields belong to the steps of a chain, entry by entry, and how long each row is.

The model is asked, not the names: an observed site has the value of one entry of a field, and that site belongs to the
step whose latents it depends on. Inputs that no site observes go with the fields of the same length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.autoguide.chains import Chain
from ppl_vae.nn.entries import Timing
from ppl_vae.programs.dependencies import Parents
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes, Watch
from ppl_vae.programs.program import Program
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import TraceSites
from ppl_vae.weights.masks import batch_mask

__all__ = ["observing", "read_timing", "same_numbers"]

SHIFTS = 2
"""A field may begin so many steps before or after the chain does."""


def read_timing(
    chain: Chain,
    parents: Parents,
    seen: Mapping[str, tuple[Any, Tensor]],
    sites: TraceSites,
    batch: Mapping[str, Tensor],
    fields: Sequence[str],
    dim: int,
) -> Timing | None:
    """How the fields of a batch belong to the steps; None if none does.

    Args:
        chain: what was recognised.
        parents: the latents that each site depends on.
        seen: distribution and value of every observed site, as the model has them.
        sites: of a run of the model on the batch.
        batch: a few rows.
        fields: those of them that the guide reads.
        dim: of the plate of the rows.
    """
    times = _times(chain, parents, seen)
    rows = len(next(iter(batch.values())))
    values: list[tuple[int, Tensor]] = []
    for name, t in times.items():
        value = None if t < 0 else _by_row(seen[name][1], dim - seen[name][0].event_dim, rows)
        values += [] if value is None else [(t, value)]
    count = len(chain.steps)
    starts = {n: s for n in fields if (s := _start(batch[n], values, count)) is not None}
    if not starts:
        return None
    observed = frozenset(starts)
    long = {batch[n].shape[1]: s for n, s in starts.items()}
    long.setdefault(count, 0)
    for name in fields:
        if name not in starts and batch[name].dim() > 1 and batch[name].shape[1] in long:
            starts[name] = long[batch[name].shape[1]]
    counts = _counting(times, sites, dim, rows)
    lengths = next((found for n, v in batch.items() if (found := _length(n, v, counts)) is not None), None)
    mask = next((n for n in starts if n not in observed and _is_mask(batch[n], starts[n], counts)), None)
    return Timing(starts, observed, count, lengths, None if lengths else mask)


def observing(
    program: Program, chain: Chain, parents: Parents, batch: Mapping[str, Tensor], field: str, start: int, dim: int
) -> tuple[dict[str, int], frozenset[str]]:
    """The step of every latent and observed site of a chain, and which of them observe a field whose entries they have.

    Args:
        program: the model.
        chain: what was recognised on the batch.
        parents: the latents that each site depends on.
        batch: a few rows.
        field: of the steps.
        start: its entry that belongs to step 0.
        dim: of the plate of the rows.
    """
    watch = Watch()
    with preserved_randomness():
        traced(Holes(None, batch=batch)(watch(program)), batch)
    times = {n: t for n, t in _times(chain, parents, watch.seen).items() if t >= 0}
    asked, entries = set(), batch[field]
    for name, t in times.items():
        fn, value = watch.seen[name]
        by_row = _by_row(value, dim - fn.event_dim, len(entries))
        if by_row is not None and same_numbers(entries[:, t + start].reshape(len(entries), -1), by_row):
            asked.add(name)
    return {n: t for t, step in enumerate(chain.steps) for n in step} | times, frozenset(asked)


def _times(chain: Chain, parents: Parents, names: Iterable[str]) -> dict[str, int]:
    """The last step that each site looks at; -1 if it looks at none."""
    place = {name: t for t, step in enumerate(chain.steps) for name in step}
    return {n: max((place[p] for p in parents.get(n, ()) if p in place), default=-1) for n in names}


def _by_row(value: Tensor, axis: int, rows: int) -> Tensor | None:
    """A value with its rows first, [row, numbers]."""
    if value.dim() < -axis or value.shape[axis] != rows:
        return None
    return value.movedim(axis, 0).reshape(rows, -1)


def _start(field: Tensor, values: Sequence[tuple[int, Tensor]], steps: int) -> int | None:
    """The entry of a field that step 0 observes, if the observed values of most steps are entries of this field."""
    if field.dim() < 2 or field.shape[1] < 2:
        return None
    entries = field.reshape(len(field), field.shape[1], -1)
    best, most = None, 0
    for shift in sorted(range(-SHIFTS, SHIFTS + max(field.shape[1] - steps, 0) + 1), key=abs):
        hits = {
            t for t, value in values if 0 <= t + shift < entries.shape[1] and same_numbers(entries[:, t + shift], value)
        }
        if len(hits) > most:
            best, most = shift, len(hits)
        if len(hits) == steps:
            break
    return best if 2 * most >= steps else None


def same_numbers(entry: Tensor, value: Tensor) -> bool:
    """Whether a value is an entry of a field, whatever its type; what is missing in both is the same."""
    return entry.shape == value.shape and torch.allclose(entry.double(), value.double(), equal_nan=True)


def _counting(times: Mapping[str, int], sites: TraceSites, dim: int, rows: int) -> dict[int, Tensor]:
    """In which rows a step's observations count by the model's masks, [row] by step; nothing where none is masked."""
    found: dict[int, Tensor] = {}
    for name, t in times.items():
        by_row = _mask(sites[name], dim, rows) if t >= 0 and name in sites else None
        if by_row is not None:
            found[t] = by_row.any(1) | found.get(t, torch.zeros(rows, dtype=torch.bool))
    return found


def _mask(site: Mapping[str, Any], dim: int, rows: int) -> Tensor | None:
    """Which entries of a site count, by `poutine.mask` or `.mask()`, be it within its event, [row, entries]."""
    mask, fn, axis = batch_mask(site), site["fn"], dim
    while mask is None and isinstance(fn, dist.Independent):
        axis, fn = axis - fn.reinterpreted_batch_ndims, fn.base_dist
        inner = fn._mask if isinstance(fn, dist.MaskedDistribution) else None
        mask = inner if isinstance(inner, Tensor) else None
    if mask is None:
        return None
    return _by_row(mask > 0, axis, rows) if mask.dim() else (mask > 0).expand(rows, 1)


def _length(name: str, value: Tensor, counts: Mapping[int, Tensor]) -> tuple[str, int] | None:
    """The field as the number of steps of every row, if it is."""
    if value.dim() != 1 or not counts:
        return None
    for more in (0, 1, -1):
        if all(torch.equal(mask, t < value + more) for t, mask in counts.items()):
            return name, more
    return None


def _is_mask(value: Tensor, start: int, counts: Mapping[int, Tensor]) -> bool:
    if value.dim() != 2 or not counts:
        return False
    within = {t: mask for t, mask in counts.items() if 0 <= t + start < value.shape[1]}
    return bool(within) and all(torch.equal(mask, value[:, t + start] > 0) for t, mask in within.items())
