"""Joint importance weights: one log weight of all data for every particle of the latents that all rows share.

    log w_k = log p(g_k) - log q(g_k) + sum_n log p(x_n | g_k),      g_k ~ q(g)

where p(x_n | g) is the mean of p(x_n, z | g) / q(z | x_n, g) over `inner` draws of the row's own latents: unbiased, so
that the mean of w over particles is unbiased for p(all data), whatever `inner` is. All particles of the shared latents
are drawn first; then the rows are gone through in batches that fit into memory, with the same shared draws, on which
the guide is replayed.

Source: Beaumont 2003; Andrieu and Roberts 2009, Ann. Statist. 37(2) (an unbiased likelihood within the weight).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.checks.analysis import analyse
from ppl_vae.data import Split
from ppl_vae.errors import UserError, check_whole
from ppl_vae.evaluation.passes import Passes, passes, refuse_blind, some_rows
from ppl_vae.programs.execution import PARTICLES, PairTrace, run
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import frames, sample_sites
from ppl_vae.weights.completion import expanded
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.log_weights import weigh
from ppl_vae.weights.reduction import reduced

__all__ = [
    "AT_ONCE",
    "INNER",
    "JointWeights",
    "SharedDraws",
    "draw_shared",
    "joint_passes",
    "joint_weights",
    "shares_latents",
]

AT_ONCE = 250
"""Particles in one pass: a number of its own, so that the shared draws of a seed do not follow the batch size."""

INNER = 8
"""Draws of a row's own latents for each draw of the shared ones, where nobody says how many."""

LARGEST = 2**27
"""How many numbers the log-likelihoods [particle, row] may be: 1 GB."""


@dataclass(frozen=True)
class SharedDraws:
    """Particles of the latents that all rows share, with the guide's own joint draws from which they are cut.

    `values` are [particle, plates, *event] by site of the guide, `log_global` [particle] is log p(g) - log q(g) in
    nats, `infer` what the guide says of its sites, `dims` how many dims each has in its own plates and event.
    """

    values: Mapping[str, Tensor]
    infer: Mapping[str, dict[str, Any]]
    dims: Mapping[str, int]
    log_global: Float[Tensor, " particle"]

    def __len__(self) -> int:
        return len(self.log_global)

    def at(self, index: Tensor) -> SharedDraws:
        """Some of them, by number; a number may come several times."""
        values = {name: value[index.to(value.device)] for name, value in self.values.items()}
        return SharedDraws(values, self.infer, self.dims, self.log_global[index.to(self.log_global.device)])

    def held(self, pair: Pair) -> Any:
        """The pair with its shared latents at these draws, for a run with as many particles."""
        trace = Trace()
        for name, value in self.values.items():
            if len(self) == 1:  # as the guide draws it alone: without a dim of particles, or of others' plates
                value = value.reshape(value.shape[value.dim() - self.dims[name] :])
            infer = dict(self.infer[name])
            trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer=infer)
        return SimpleNamespace(guide=poutine.replay(pair.guide, trace=trace), model=pair.model)


class JointWeights(NamedTuple):
    """What particles of the shared latents weigh with all rows, in nats, float64.

    `log_likelihood` [particle, row] is log p(x_n | g), the row's own latents integrated out by importance sampling;
    `row_bounds` [particle] the mean log weight over the row's own draws, summed over the rows.
    """

    log_global: Float[Tensor, " particle"]
    log_likelihood: Float[Tensor, "particle row"]
    row_bounds: Float[Tensor, " particle"]

    @property
    def log_weight(self) -> Float[Tensor, " particle"]:
        """log p(g, all data) - log q(g)."""
        return self.log_global + self.log_likelihood.sum(1)

    @property
    def bound(self) -> Float[Tensor, " particle"]:
        """One draw of the ELBO of all data for each particle."""
        return self.log_global + self.row_bounds


def shares_latents(pair: Pair, split: Split) -> bool:
    """Whether all rows share a latent, so that their posterior is one."""
    return bool(analyse(pair, some_rows(split)).global_latents)


@contextmanager
def joint_passes(
    pair: Pair, split: Split, particles: int, inner: int | None, *, seed: int = 0, floats_at_once: int | None = None
) -> Iterator[tuple[Passes, int]]:
    """Plan the passes over all rows with the same shared draws; also how many draws of a row's own latents are taken.

    Raises:
        UserError: as `passes` does, or where the log-likelihoods [particle, row] would not fit.
        NoDensity: for a guide that draws a latent from a point mass.
    """
    if check_whole("particles", particles) * len(split) > LARGEST:
        raise UserError(
            f"log-likelihoods of {particles:,} particles x {len(split):,} rows are more than {LARGEST:,} numbers: "
            f"take particles={LARGEST // len(split):,} at most"
        )
    most = min(AT_ONCE, particles) * (inner or INNER)
    with passes(pair, split, particles, seed=seed, floats_at_once=floats_at_once, at_once=most) as plan:
        own = set(plan.structure.latents) - plan.structure.global_latents - plan.structure.summed_guide
        inner = (INNER if own else 1) if inner is None else check_whole("inner", inner)
        at_once = min(AT_ONCE, particles) if plan.structure.broadcasts else 1
        yield replace(plan, at_once=at_once), inner


def draw_shared(pair: Pair, plan: Passes) -> SharedDraws:
    """Every particle of the shared latents."""
    batch = next(plan.batches())
    parts = [_shared(run(pair, plan.structure, batch, k)) for k in plan.sizes()]
    values = {name: torch.cat([p.values[name] for p in parts]) for name in parts[0].values}
    return SharedDraws(values, parts[0].infer, parts[0].dims, torch.cat([p.log_global for p in parts]))


def _shared(drawn: PairTrace) -> SharedDraws:
    structure = drawn.structure
    parts = reduced(Factors(drawn), "marginal")
    log_global = torch.zeros(drawn.particles) if parts.log_global is None else parts.log_global
    sites = {n: s for n, s in sample_sites(drawn.guide).items() if n in structure.global_latents}
    # Pyro's notes of this run, which start with an underscore, are no part of what the guide says
    infer = {n: {k: v for k, v in s["infer"].items() if not k.startswith("_")} for n, s in sites.items()}
    values = {n: expanded(structure, s, s["value"], drawn.particles) for n, s in sites.items()}
    own = {n: max((-(f.dim or 0) for f in frames(s) if f.name != PARTICLES), default=0) for n, s in sites.items()}
    dims = {n: own[n] + s["fn"].event_dim for n, s in sites.items()}
    return SharedDraws(values, infer, dims, log_global.double())


def joint_weights(pair: Pair, plan: Passes, shared: SharedDraws, inner: int, rows: Split | None = None) -> JointWeights:
    """The weights of these particles with all rows of the plan, or with other rows that the guide has not seen.

    Raises:
        UserError: for a row whose weights are no numbers.
    """
    plan = plan if rows is None else replace(plan, split=rows)
    found = [_rows(pair, plan, shared, inner, batch, i * plan.rows) for i, batch in enumerate(plan.batches())]
    likelihood, bounds = zip(*found, strict=True)
    return JointWeights(shared.log_global.cpu(), torch.cat(likelihood, 1), torch.stack(bounds).sum(0))


def _rows(pair: Pair, plan: Passes, shared: SharedDraws, inner: int, batch: Batch, start: int) -> tuple[Tensor, Tensor]:
    """log p(x_n | g) [particle, row] of some rows, and the sum of their mean log weights [particle]."""
    likelihood, bounds = [], []
    for some in torch.arange(len(shared)).split(plan.at_once):
        # without particles in one pass `weigh` runs one after the other, all on the one draw that is held
        held = shared.at(some.repeat_interleave(inner) if plan.structure.broadcasts else some).held(pair)
        found = weigh(held, plan.structure, batch, len(some) * inner, discrete="marginal").log_weight
        each = found.double().cpu().unflatten(0, (len(some), inner))
        likelihood.append(each.logsumexp(1) - math.log(inner))
        bounds.append(each.mean(1).sum(1))
        refuse_blind(likelihood[-1].sum(0), start)
    return torch.cat(likelihood), torch.cat(bounds)
