"""The aggregate posterior q(z) = mean_i q(z | x_i): log q of every draw given every row, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.evaluation.means import standard_error
from ppl_vae.evaluation.passes import FLOATS_AT_ONCE
from ppl_vae.nn.flows import NoInverse
from ppl_vae.programs.execution import for_particles, traced
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure, TraceSites, sample_sites
from ppl_vae.weights.marginals import columns, marginals, points
from ppl_vae.weights.reduction import by_row

__all__ = [
    "Aggregate",
    "MeanOverDraws",
    "TraceSites",
    "aggregate_log_density",
    "estimated",
    "total_correlation",
]


class MeanOverDraws(NamedTuple):
    """A number in nats, and its Monte Carlo standard error."""

    value: float
    se: float


class Aggregate(NamedTuple):
    """log q(z_i) of one draw of each row, [row], under mixtures of the rows: with row i among them, and without it."""

    inside: Float[Tensor, " row"]
    outside: Float[Tensor, " row"]


def aggregate_log_density(
    pair: Pair, structure: Structure, batches: Sequence[Batch], drawn: Sequence[TraceSites]
) -> Aggregate:
    """log (1/N) sum_j q(z_i | x_j) of one draw z_i of each of N rows, of all latents together, in nats.

    With its own component (j = i) the mixture is too dense at z_i, without it (N - 1 others) on average too thin.

    Args:
        pair: the programs.
        structure: of the pair.
        batches: the N rows.
        drawn: the guide's sites of the same rows, one draw each.

    Raises:
        NoInverse: for a guide that cannot tell the density of a value that it did not just draw.
    """
    inside, outside, done = [], [], 0
    sizes = [len(next(iter(batch.values()))) for batch in batches]
    for sites in drawn:
        values = _values(structure, sites)
        width = sum(v[:1].numel() for v in values.values()) * 16  # parameters and hidden layers of a small flow
        at_once = max(1, FLOATS_AT_ONCE // (width * max(sizes))) if structure.broadcasts else 1
        count = len(next(iter(values.values())))
        for start in range(0, count, at_once):
            some = {name: value[start : start + at_once] for name, value in values.items()}
            log_q = torch.cat([_log_density(pair, structure, batch, some) for batch in batches], 1)
            own = torch.arange(len(log_q), device=log_q.device)
            inside.append(log_q.logsumexp(1))
            outside.append(log_q.index_put((own, own + done), log_q.new_tensor(-math.inf)).logsumexp(1))
            done += len(log_q)
    return Aggregate(torch.cat(inside) - math.log(sum(sizes)), torch.cat(outside) - math.log(max(sum(sizes) - 1, 1)))


def _values(structure: Structure, sites: TraceSites) -> dict[str, Tensor]:
    """One draw of each row as draws for whatever row, [row, plates with one row, *event]; pieces of joint draws not."""
    names = [name for name in structure.latents if sites[name]["infer"].get("joint", name) == name]
    return {name: points(structure, sites[name]) for name in names}


def _log_density(pair: Pair, structure: Structure, batch: Batch, values: Mapping[str, Tensor]) -> Tensor:
    """log q(z | x) of the same values for every row of a batch, [value, row]; observed labels do not count."""
    rows, count = len(next(iter(batch.values()))), len(next(iter(values.values())))
    holes = Holes(structure.holes, (), batch)
    guide = for_particles(holes(pair.guide), structure, count)
    sites = sample_sites(traced(poutine.replay(guide, trace=_repeated(structure, values, rows)), batch))
    total: Tensor | float = 0.0
    for name in structure.latents:
        site = sites[name]
        if name in holes.observed and bool(holes.observed[name][1].any()):
            continue
        try:
            log_q = scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
        except (NotImplementedError, KeyError) as error:  # torch's and Pyro's way of having no inverse
            raise NoInverse(
                f"{name} is drawn from a {type(site['fn']).__name__} without an inverse, so that log q(z | x) of the "
                "draws of other rows cannot be had"
            ) from error
        total = total + by_row(structure, name, log_q)
    return torch.as_tensor(total).expand(count, rows)


def _repeated(structure: Structure, values: Mapping[str, Tensor], rows: int) -> Trace:
    """The same values for so many rows."""
    trace = Trace()
    for name, value in values.items():
        event = value.dim() - structure.nesting - 1
        sizes = [-1] * value.dim()
        sizes[structure.dim - event] = rows
        value = value.expand(sizes)
        value = value if len(value) > 1 else structure.alone(name, value)
        trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
    return trace


def total_correlation(structure: Structure, name: str, drawn: Sequence[TraceSites]) -> MeanOverDraws | None:
    """KL(q(z) || prod_j q(z_j)) of one site's entries under the aggregate posterior, in nats; None if not known.

    A site that depends on earlier latents is mixed over one draw of them for each row. Densities of mixtures of N rows
    know no more than N components: in many dimensions this is near its ceiling of (d - 1) log N.

    Source: Chen et al. 2018, arXiv 1802.04942.
    """
    fns = [sites[name]["fn"] for sites in drawn]
    entries = [marginals(fn) for fn in fns]
    if any(each is None for each in entries):
        return None
    values = torch.cat([points(structure, sites[name]) for sites in drawn])
    at_once = max(1, FLOATS_AT_ONCE // (4 * values[:1].numel() * len(values)))
    found = []
    for some in values.split(at_once):
        together = torch.cat([by_row(structure, name, fn.log_prob(some)) for fn in fns], 1)
        row = structure.dim - fns[0].event_dim
        apart = torch.cat([columns(each.log_prob(some), row) for each in entries], 1)
        each_entry = apart.logsumexp(1) - math.log(len(values))
        found.append(together.logsumexp(1) - math.log(len(values)) - each_entry.sum(1))
    return estimated(torch.cat(found))


def estimated(values: Tensor) -> MeanOverDraws:
    """The mean of independent values, and its standard error."""
    return MeanOverDraws(float(values.mean()), float(standard_error(values)))
