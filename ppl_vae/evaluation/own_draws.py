"""The draws of a row's own latents z by which given shared ones g are weighed: the guide's, and some of the prior's.

    p(x | g) = E[p(x, z | g) / m(z)],    m(z) = a q(z | x, g) + (1 - a) p(z | g)

A guide that never saw a g, such as a scale near 0, may have its z far from where p(z | g) has them all; the mean of
its weights is then nearly 0, with nothing among them that shows it. With a part of the draws from the prior no weight
is larger than p(x | z, g) / (1 - a). Both parts have fixed numbers (stratified), so that a good guide loses next to
nothing.

Source: Hesterberg 1995, Technometrics 37(2) (defensive mixtures); Veach & Guibas 1995 (the balance heuristic).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.evaluation.shared_draws import SharedDraws
from ppl_vae.evaluation.vectors import Vectors
from ppl_vae.programs.execution import run
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.structure import Structure, sample_sites
from ppl_vae.weights.completion import Particles, completed, concatenate, expanded, replayed
from ppl_vae.weights.log_weights import weigh

__all__ = ["OwnDraws"]

PART = 4
"""One in so many draws is the prior's."""

CLOSE = 1e-3
"""How well log q of values must agree with what the guide said when it drew them, in nats."""


@dataclass(frozen=True)
class OwnDraws:
    """`inner` draws of the rows' own latents for each draw of the shared ones, `prior` of them from the prior."""

    pair: Pair
    structure: Structure
    inner: int
    prior: int = 0
    vectors: Vectors | None = None

    @classmethod
    def of(cls, pair: Pair, structure: Structure, batch: Batch, shared: SharedDraws, inner: int) -> OwnDraws:
        """With draws of the prior where there are enough, and log q of these can be had."""
        alone = cls(pair, structure, inner)
        own = set(structure.latents) - structure.global_latents
        special = structure.enumerates or structure.scored or structure.masked or structure.improper or structure.points
        if inner < PART or not own or special or structure.labelled or not structure.broadcasts:
            return alone
        with preserved_randomness():
            seed_draws(0)
            vectors = Vectors.of(pair, structure, batch, own)
            found = vectors and cls(pair, structure, inner, inner // PART, vectors)
            return found if found and found._agrees(batch, shared.at(torch.arange(min(2, len(shared))))) else alone

    def _agrees(self, batch: Batch, shared: SharedDraws) -> bool:
        """Whether log q of the guide's own draws is what it was when they were drawn."""
        k = len(shared)
        drawn = run(shared.held(self.pair), self.structure, batch, k)
        sites = sample_sites(drawn.guide)
        values = {n: expanded(self.structure, sites[n], sites[n]["value"], k) for n in self._names}
        try:
            found = run(self._held_at(shared, values), self.structure, batch, k)
        except (NotImplementedError, KeyError, RuntimeError, ValueError):  # a flow without an inverse, for example
            return False
        before, after = (
            sum(float(s["fn"].log_prob(s["value"]).sum()) for n, s in sample_sites(t).items() if n in self._all)
            for t in (drawn.guide, found.guide)
        )
        return abs(before - after) <= CLOSE * (1 + abs(before))

    @property
    def _names(self) -> list[str]:
        return [] if self.vectors is None else [*self.vectors.sites]

    @property
    def _all(self) -> set[str]:
        return set() if self.vectors is None else {*self.vectors.sites, *self.vectors.joint}

    # -- weights ---------------------------------------------------------------------------------------------

    def log_weights(self, batch: Batch, shared: SharedDraws) -> tuple[Tensor, Tensor]:
        """log p(x, z | g) - log m(z) [particle, inner, row], and log p - log q of the guide's draws alone."""
        held, count = self._held(shared), self.inner - self.prior
        drawn = weigh(held, self.structure, batch, len(shared) * count, discrete="marginal")
        own = self._unflattened(drawn.log_weight, shared)
        if not self.prior:
            return own, own
        beyond = weigh(self._from_prior(batch, shared), self.structure, batch, len(shared) * self.prior)
        both = [self._unflattened(self._defended(w), shared) for w in (drawn, beyond)]
        return torch.cat(both, 1), own

    def again(self, batch: Batch, shared: SharedDraws) -> Particles:
        """The very draws of `log_weights` under the same seed, with their latents, [particle x inner, row, ...]."""
        count = self.inner - self.prior
        drawn = completed(self._held(shared), self.structure, batch, len(shared) * count)
        if not self.prior:
            return drawn
        beyond = completed(self._from_prior(batch, shared), self.structure, batch, len(shared) * self.prior)
        names = [n for n in drawn.latents if n not in self.structure.global_latents]
        joined = {n: self._joined(drawn.latents[n], beyond.latents[n]) for n in names}
        logs = self._joined(*(self._defended(p.parts) for p in (drawn, beyond)))
        return Particles(logs, joined, [*drawn.sites, *beyond.sites], concatenate([drawn, beyond]).parts)

    def _defended(self, found: Any) -> Tensor:
        """log p(x, z) - log m(z), [particle, row]."""
        share = self.prior / self.inner
        mixed = torch.logaddexp(found.log_guide + math.log1p(-share), found.log_prior + math.log(share))
        return found.log_likelihood + found.log_prior - mixed

    def _unflattened(self, values: Tensor, shared: SharedDraws) -> Tensor:
        return values.double().cpu().unflatten(0, (len(shared), -1))

    def _joined(self, first: Tensor, second: Tensor) -> Tensor:
        """Draws of the guide and of the prior, those of each particle together."""
        split = len(first) // (self.inner - self.prior)
        return torch.cat([v.unflatten(0, (split, -1)) for v in (first, second)], 1).flatten(0, 1)

    # -- programs --------------------------------------------------------------------------------------------

    def _held(self, shared: SharedDraws) -> Any:
        # without particles in one pass runs follow one another, all on the one draw that is held
        count = self.inner - self.prior
        return self._many(shared, count).held(self.pair)

    def _many(self, shared: SharedDraws, count: int) -> SharedDraws:
        numbers = torch.arange(len(shared))
        return shared.at(numbers.repeat_interleave(count) if self.structure.broadcasts else numbers)

    def _from_prior(self, batch: Batch, shared: SharedDraws) -> Any:
        """The pair with the rows' own latents at draws of p(z | g)."""
        many = self._many(shared, self.prior)
        sites = replayed(self.pair, self.structure, batch, many.of_model(self.structure), len(many))[0]
        values = {n: expanded(self.structure, sites[n], sites[n]["value"], len(many)) for n in self._names}
        return self._held_at(many, values)

    def _held_at(self, shared: SharedDraws, values: Mapping[str, Tensor]) -> Any:
        trace = shared.trace()
        whole = {} if self.vectors is None else self.vectors.whole(values)
        for name, value in (whole | dict(values)).items():
            value = value if len(shared) > 1 else self.structure.alone(name, value)
            trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
        return SimpleNamespace(guide=poutine.replay(self.pair.guide, trace=trace), model=self.pair.model)
