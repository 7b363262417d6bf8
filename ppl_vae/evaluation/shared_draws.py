"""Particles of the latents that all rows share, and pairs that are run on them.

A model that has no room for particles (`a @ b` for one vector b, `loc[k]` with all values of k) is captured for a
single draw, and the graph mapped over draws by `torch.vmap`, where that says what single runs say: on four thousand
draws that is a second instead of a minute. Otherwise particles follow one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.programs.execution import PairTrace, for_particles, run, traced
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure, sample_sites
from ppl_vae.speed.capture import Graph, capture
from ppl_vae.weights.completion import Particles, completed, concatenate, expanded
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.log_weights import weigh
from ppl_vae.weights.reduction import reduced, shared_density

__all__ = ["AT_ONCE", "Mapped", "SharedDraws", "Values", "completed_given", "draw_shared", "placed_shared"]

Values = Mapping[str, Tensor]

AT_ONCE = 250
"""Particles in one pass: a number of its own, so that the shared draws of a seed do not follow the batch size."""


@dataclass(frozen=True)
class SharedDraws:
    """Particles of the latents that all rows share, with the guide's own joint draws from which they are cut.

    `values` are [particle, plates, *event] by site of the guide, `log_prior` and `log_guide` [particle] log p(g) and
    log q(g) in nats, `infer` what the guide says of its sites, `supports` where each lives in the first run.
    `log_proposal` [particle] is the log density by which they were drawn, where that was not the guide's alone, and
    the first `own` of them are the guide's draws; `alone` says why nothing could be drawn beyond it. `mapped` weighs
    them where the programs have no room for particles.
    """

    structure: Structure
    values: Mapping[str, Tensor]
    infer: Mapping[str, dict[str, Any]]
    supports: Mapping[str, Any]
    log_prior: Float[Tensor, " particle"]
    log_guide: Float[Tensor, " particle"]
    mapped: Mapped | None = None
    log_proposal: Float[Tensor, " particle"] | None = None
    own: int | None = None
    alone: str = ""

    def __len__(self) -> int:
        return len(self.log_prior)

    @property
    def log_global(self) -> Float[Tensor, " particle"]:
        """log p(g) - log q(g)."""
        return self.log_prior - self.log_guide

    def at(self, index: Tensor) -> SharedDraws:
        """Some of them, by number; a number may come several times."""
        values = {name: value[index.to(value.device)] for name, value in self.values.items()}
        some = index.to(self.log_prior.device)
        proposal = None if self.log_proposal is None else self.log_proposal[some]
        prior, guide = self.log_prior[some], self.log_guide[some]
        return replace(self, values=values, log_prior=prior, log_guide=guide, log_proposal=proposal)

    def followed_by(self, other: SharedDraws) -> SharedDraws:
        """These, then others of the same sites; the first are the guide's own."""
        values = {n: torch.cat([v, other.values[n]]) for n, v in self.values.items()}
        prior = torch.cat([self.log_prior, other.log_prior])
        guide = torch.cat([self.log_guide, other.log_guide])
        return replace(self, values=values, log_prior=prior, log_guide=guide, own=len(self))

    def weighed(self, batch: Batch) -> SharedDraws:
        """With both densities, by the graph that is mapped."""
        if self.mapped is None:
            return self
        pieces = [self.mapped(self.at(some), batch) for some in torch.arange(len(self)).split(AT_ONCE)]
        return replace(self, log_prior=torch.cat([p[0] for p in pieces]), log_guide=torch.cat([p[1] for p in pieces]))

    def of_model(self, structure: Structure) -> dict[str, Tensor]:
        """The values of the model's own sites."""
        return {name: value for name, value in self.values.items() if name not in structure.auxiliary}

    def held(self, pair: Pair) -> Any:
        """The pair with its shared latents at these draws, for a run with as many particles."""
        return SimpleNamespace(guide=poutine.replay(pair.guide, trace=self.trace()), model=pair.model)

    def trace(self) -> Trace:
        """The draws as a trace on which a guide is replayed."""
        trace = Trace()
        for name, value in self.values.items():
            value = value if len(self) > 1 else self.structure.alone(name, value)
            infer = dict(self.infer[name])
            trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer=infer)
        return trace


def draw_shared(pair: Pair, structure: Structure, batch: Batch, sizes: Sequence[int]) -> SharedDraws:
    """Particles of the shared latents, so many in each run of the guide."""
    if not structure.broadcasts:
        with suppress(Exception):  # whatever torch.vmap or the guide cannot do is done one after the other
            return _mapped(pair, structure, batch, sum(sizes))
    found, *rest = (_shared(run(pair, structure, batch, k)) for k in sizes)
    for part in rest:
        found = replace(found.followed_by(part), own=None)
    return found


def placed_shared(pair: Pair, structure: Structure, batch: Batch, like: SharedDraws, values: Values) -> SharedDraws:
    """Particles at given values of every shared site of the guide, its joint draws among them, with both densities."""
    count = len(next(iter(values.values())))
    logs = torch.zeros(count, dtype=torch.float64)
    given = replace(like, values=values, log_prior=logs, log_guide=logs, log_proposal=None, own=None)
    if like.mapped is not None:
        return given.weighed(batch)
    pieces = [given.at(some) for some in torch.arange(count).split(AT_ONCE if structure.broadcasts else 1)]
    parts = [_shared(run(piece.held(pair), structure, batch, len(piece))) for piece in pieces]
    prior, guide = (torch.cat([getattr(p, n) for p in parts]) for n in ("log_prior", "log_guide"))
    return replace(given, log_prior=prior, log_guide=guide)


def completed_given(pair: Pair, structure: Structure, batch: Batch, shared: SharedDraws) -> Particles:
    """A particle of the rows' own latents for each draw of what they share, with the weights of the rows given it."""
    if structure.broadcasts:
        return completed(shared.held(pair), structure, batch, len(shared))
    each = torch.arange(len(shared)).split(1)
    return concatenate([completed(shared.at(k).held(pair), structure, batch, 1) for k in each])


class Mapped:
    """A pair run on a single draw, as a graph of tensor operations that is mapped over draws; one for each shape.

    Raises:
        UserError: for programs that cannot be captured.
    """

    def __init__(self, pair: Pair, structure: Structure) -> None:
        self.pair, self.structure = pair, structure
        self.graphs: dict[Any, Graph] = {}

    def __call__(self, shared: SharedDraws, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """log p(g) and log q(g) [particle], the log weights [particle, row], discrete latents of rows summed out."""
        inputs = [*shared.values.values(), *batch.values()]
        key = tuple((n, v.shape) for n, v in batch.items())
        if key not in self.graphs:
            few = [*[v[0] for v in shared.values.values()], *batch.values()]
            self.graphs[key] = capture(self.pair, lambda *tensors: self._one(shared, batch, tensors), few)
        graph, count = self.graphs[key], len(shared.values)
        arguments = graph.arguments(inputs)
        dims = (0,) * count + (None,) * (len(arguments) - count)
        found = torch.vmap(graph.module, dims, randomness="same")(*arguments)
        log_prior, log_guide, log_weight = (v.double() for v in found)
        return log_prior, log_guide, log_weight

    def _one(self, shared: SharedDraws, batch: Batch, tensors: Sequence[Tensor]) -> list[Tensor]:
        values = {name: v.unsqueeze(0) for name, v in zip(shared.values, tensors, strict=False)}
        fields = dict(zip(batch, tensors[len(values) :], strict=True))
        single = replace(shared, values=values, log_prior=torch.zeros(1), mapped=None)
        factors = Factors(run(single.held(self.pair), self.structure, fields))
        found, log_guide = reduced(factors, "marginal"), shared_density(factors)
        log_global = torch.zeros_like(log_guide) if found.log_global is None else found.log_global
        log_weight = found.log_likelihood + found.log_prior - found.log_guide
        return [(log_global + log_guide)[0], log_guide[0], log_weight[0]]


def _mapped(pair: Pair, structure: Structure, batch: Batch, particles: int) -> SharedDraws:
    """All particles of a guide that has room for them, though its model has none.

    Raises:
        RuntimeError: for rows with draws of their own.
        AssertionError: where a map does not say what single runs say.
    """
    if set(structure.latents) - structure.global_latents - structure.summed_guide:
        raise RuntimeError("the rows' own draws are not mapped: they would be the same for every particle")
    guide = traced(for_particles(Holes(structure.holes, (), batch)(pair.guide), structure, particles), batch)
    drawn = _shared(PairTrace(structure, particles, guide, Trace(), {}), (torch.zeros(particles),) * 2)
    drawn = replace(drawn, mapped=(mapped := Mapped(pair, structure)))
    found = drawn.weighed(batch)
    few = found.at(torch.arange(min(3, particles)))
    each = [weigh(few.at(torch.tensor([k])).held(pair), structure, batch, discrete="marginal") for k in range(len(few))]
    for mine, theirs in zip((few.log_global, mapped(few, batch)[2]), ("log_global", "log_weight"), strict=True):
        torch.testing.assert_close(mine, torch.cat([getattr(w, theirs) for w in each]).double(), rtol=1e-4, atol=1e-4)
    return found


def _shared(drawn: PairTrace, logs: tuple[Tensor, Tensor] | None = None) -> SharedDraws:
    structure = drawn.structure
    if logs is None:
        factors = Factors(drawn)
        log_global, log_guide = reduced(factors, "marginal").log_global, shared_density(factors)
        logs = log_guide if log_global is None else log_global + log_guide, log_guide
    sites = {n: s for n, s in sample_sites(drawn.guide).items() if n in structure.global_latents}
    # Pyro's notes of this run, which start with an underscore, are no part of what the guide says
    infer = {n: {k: v for k, v in s["infer"].items() if not k.startswith("_")} for n, s in sites.items()}
    values = {n: expanded(structure, s, s["value"], drawn.particles) for n, s in sites.items()}
    supports = {n: s["fn"].support for n, s in sites.items()}
    return SharedDraws(structure, values, infer, supports, logs[0].double(), logs[1].double())
