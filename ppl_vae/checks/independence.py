"""Rows must not look at each other: given what is shared, the factors of a row depend on that row alone.

With the same draws rows are replaced by others, fields and latents. What the other rows contribute to log p, and
what is shared by all rows, has to stay as it was. Otherwise a minibatch is another model, and no evidence is of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from ppl_vae.errors import Finding, UserError, one_unit_words
from ppl_vae.programs.execution import PairTrace, run
from ppl_vae.programs.modes import evaluating
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import Structure, sample_sites

__all__ = ["coupled_rows"]

TOLERANCE = 1e-4
"""A matrix product may round another way beside another row; a row that is looked at changes more than this."""


def coupled_rows(pair: Pair, batch: Batch, drawn: PairTrace, more: Batch | None = None) -> Iterator[Finding]:
    """The sites of the model whose density in one row depends on another row; `drawn` is one run on the batch.

    Half of the rows of a larger batch are replaced: the first and the last, those that are the largest or smallest, by
    field and by latent, and others at random. So a lag, a sum from either end, an order and an extreme show. Where
    there are no more rows, or the programs fail on them, one row of the batch itself is replaced.
    Programs that draw their own rows, or whose sites are drawn anew at every run, cannot be asked so.

    Args:
        pair: the programs.
        batch: a few rows.
        drawn: a run on these.
        more: more rows, as they follow one another in the data.
    """
    structure = drawn.structure
    if structure.is_one_unit or structure.rows_total or structure.absent or _rows(drawn) < 2:
        return
    index = _one_replaced(batch, _rows(drawn))
    if more is not None and _rows(drawn) < len(next(iter(more.values()))):
        with evaluating(pair), preserved_randomness(), torch.no_grad(), suppress(UserError):
            drawn = run(pair, structure, more, drawn.particles)
            batch, index = more, _half_replaced(more, drawn)
    found = _coupled(pair, batch, drawn, index)
    if found is not None:
        yield found
    elif layers := [n for n, m in pair.model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]:
        yield Finding(
            layers[0],
            f"{layers[0]} of the model is a batch normalisation: while training, log p(x | z) of a row depends on the "
            "others in its batch, so that the bound there is of a model of each batch; evaluation uses the running "
            "means, under which rows are independent",
            "use nn.LayerNorm, unless this is meant",
            "warning",
        )


def _coupled(pair: Pair, batch: Batch, drawn: PairTrace, index: Tensor) -> Finding | None:
    """The first site whose density changes in a row that stays, where row i of fields and latents is row index[i]."""
    structure, rows = drawn.structure, len(index)
    other = {name: _replaced(value, 0, index) for name, value in batch.items()}
    again: Any = SimpleNamespace(guide=poutine.replay(pair.guide, trace=_draws(drawn, index)), model=pair.model)
    before, kept = sample_sites(drawn.model), (index == torch.arange(rows)).nonzero().flatten()
    with evaluating(pair), preserved_randomness(), torch.no_grad():
        after = sample_sites(run(again, structure, other, drawn.particles).model)
        changed = [n for n in before if n in after and _changes(structure, before[n], after[n], kept)]
        if changed:  # a program with random numbers of its own is another one at every run, whatever the rows
            again.guide = poutine.replay(pair.guide, trace=_draws(drawn, torch.arange(rows)))
            control = sample_sites(run(again, structure, batch, drawn.particles).model)
            changed = [n for n in changed if not _changes(structure, before[n], control[n], kept)]
    return _finding(structure, changed[0], before[changed[0]]) if changed else None


def _one_replaced(batch: Batch, rows: int) -> Tensor:
    """The rows' numbers with one in the middle exchanged for that of an unlike row."""
    index = torch.arange(rows)
    index[rows // 2] = _unlike(batch, rows, rows // 2)
    return index


def _half_replaced(batch: Batch, drawn: PairTrace) -> Tensor:
    """The rows' numbers with half of them exchanged for those of the other half, ends and extremes first."""
    rows = _rows(drawn)
    columns = [value for value in batch.values() if value.dim() and len(value) == rows]
    for site in sample_sites(drawn.guide).values():
        frame = drawn.structure.row_frame(site)
        dim = 0 if frame is None or frame.dim is None else frame.dim - site["fn"].event_dim
        if dim < 0 and site["value"].dim() >= -dim and site["value"].shape[dim] == rows:
            columns.append(site["value"].movedim(dim, 0))
    first = [column.reshape(rows, -1)[:, 0].double().nan_to_num() for column in columns if column.numel()]
    extreme = [int(which) for column in first for which in (column.argmax(), column.argmin())]
    others = torch.randperm(rows, generator=torch.Generator().manual_seed(0)).tolist()
    replaced = torch.tensor(list(dict.fromkeys([0, rows - 1, *extreme, *others]))[: rows // 2])
    index = torch.arange(rows)
    stay = torch.tensor(sorted({*range(rows)} - {*replaced.tolist()}))
    index[replaced] = stay[: len(replaced)]
    return index


def _finding(structure: Structure, name: str, site: Mapping[str, Any]) -> Finding:
    whole = f"or give all rows as one unit, {one_unit_words()}"
    if structure.is_local(site):
        return Finding(
            name,
            f"site {name!r} of the model depends in one row on the values of another one (a sum, mean, sort or shift "
            "over rows, an index into them, or statistics of the batch): a minibatch is then another model",
            f"compute what rows share from all data outside of the model, {whole}",
        )
    return Finding(
        name,
        f"site {name!r} of the model is shared by all rows, but its density depends on the rows of the batch",
        f"compute what it needs from all data outside of the model, {whole}",
    )


def _rows(drawn: PairTrace) -> int:
    """How many rows the data plate had in a run."""
    plates = (drawn.structure.row_frame(site) for site in sample_sites(drawn.model).values())
    return next((frame.size for frame in plates if frame is not None), 0)


def _unlike(batch: Batch, rows: int, place: int) -> int:
    """A row that differs from the one at a place, if there is one."""
    for row in [*range(place + 1, rows), *range(place)]:
        for value in batch.values():
            if value.dim() and len(value) == rows and not torch.equal(value[row], value[place]):
                return row
    return (place + 1) % rows


def _replaced(value: Tensor, dim: int, index: Tensor) -> Tensor:
    """The value with row index[i] in the place of row i; as it is where it has no dim of the rows."""
    if not -value.dim() <= dim < value.dim() or value.shape[dim] != len(index):
        return value
    return value.index_select(dim, index.to(value.device))


def _draws(drawn: PairTrace, index: Tensor) -> Trace:
    """The guide's draws with rows replaced; latents summed out are left to be summed out."""
    structure, chosen = drawn.structure, Trace()
    for name in structure.latents:
        site = drawn.guide.nodes.get(name)
        if site is None or name in structure.summed_guide:
            continue
        frame = structure.row_frame(site)
        value = site["value"]
        if frame is not None and frame.dim is not None:
            value = _replaced(value, frame.dim - site["fn"].event_dim, index)
        chosen.add_node(name, **{**site, "value": value})
    return chosen


def _changes(structure: Structure, before: Mapping[str, Any], after: Mapping[str, Any], kept: Tensor) -> bool:
    """Whether a site's log-density is another one in the rows that were kept."""
    try:
        a, b = (scale_and_mask(s["fn"].log_prob(s["value"]), 1.0, s["mask"]) for s in (before, after))
    except RuntimeError:  # shapes that do not belong together: the contract says so, by site
        return False
    if a.shape != b.shape:
        return False
    frame = structure.row_frame(before)
    if frame is not None and frame.dim is not None and a.dim() >= -frame.dim and a.shape[frame.dim] == frame.size:
        index = kept.to(a.device)
        a, b = a.index_select(frame.dim, index), b.index_select(frame.dim, index)
    return not torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
