"""The methods a row climbs, from the cheapest to the dearest: each estimates log p(x) from draws of its own.

A method may look at the draws of others to find its proposal; its estimate then rests on fresh draws, so that the mean
weight has the expectation p(x) whatever was found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.autoguide.refining import moved, offsets_of, refine
from ppl_vae.diagnostics._certification.local import DRAWS, RATE, STEPS, LocalFamily, adapted, fitted
from ppl_vae.diagnostics._certification.rows import Estimate, Rows, beside_prior, weighed
from ppl_vae.diagnostics._evidence.ladder import Ladder, LadderSettings
from ppl_vae.evaluation import evidence_of
from ppl_vae.evaluation.bridge import Bridge
from ppl_vae.weights.psis import khat, khat_limit, smooth

__all__ = ["METHODS", "WIDEST", "Method", "mixed"]

FIRST = 1000
"""Draws of a row to begin with."""

WIDEST = 128
"""Numbers of a row's latents up to which a full scale matrix is fitted for it."""

PARTS = 8
"""Of a row's mixture."""


@dataclass(frozen=True)
class Method:
    """A way to estimate the evidence of rows, and in words what it does.

    `needs` says whether it can be used for rows of these bridges, "" or the reason why not. `by_guide` is whether its
    draws are the guide's, which of all data as one unit knows no others.
    """

    name: str
    words: str
    estimate: Callable[[Rows], Estimate]
    needs: Callable[[Rows], str] = lambda rows: ""
    by_guide: bool = False


def _of_guide(particles: int) -> Callable[[Rows], Estimate]:
    def estimate(rows: Rows) -> Estimate:
        return _bridged(rows, rows.of_guide, particles)

    return estimate


def _bridged(rows: Rows, bridge: Bridge, particles: int) -> Estimate:
    calls = -(-particles // rows.at_once) * rows.batches

    def draw(k: int) -> tuple[Tensor, Tensor]:
        of_prior = rows.of_prior(k)
        u = bridge.drawn(rows.batch, k - of_prior)
        if of_prior:
            u = torch.cat([u, rows.prior.drawn(rows.batch, of_prior)])
        log_q, target = bridge.densities(rows.batch, u, calls)
        if of_prior:
            log_q = beside_prior(log_q, rows.prior.densities(rows.batch, u, calls)[0], of_prior / k)
        return u, target - log_q

    return weighed(rows, draw, particles)


def _refined(particles: int) -> Callable[[Rows], Estimate]:
    def estimate(rows: Rows) -> Estimate:
        pair, structure = rows.prior.pair, rows.prior.structure
        offsets = offsets_of(pair, structure, rows.batch)
        with torch.enable_grad():
            chosen = refine(pair, offsets, rows.batch, steps=STEPS, lr=RATE, particles=DRAWS)
        better: Any = moved(pair, offsets, [o.detach() for o in chosen])
        return _bridged(rows, Bridge(better, structure, rows.batch, "guide"), particles)

    return estimate


def _sampled(rows: Rows, family: LocalFamily, particles: int) -> Estimate:
    family = family.defended()
    return weighed(rows, lambda k: rows.weigh(family, k), particles)


def _fitted(rows: Rows, parts: int) -> LocalFamily:
    u = rows.prior.drawn(rows.batch, 64, rows.start)
    scale = u.std(0).clamp(min=1e-3)
    if parts == 1:
        return fitted(rows.gradient, u.mean(0, keepdim=True), scale)
    return fitted(rows.gradient, u[:parts], scale)


def _local(particles: int) -> Callable[[Rows], Estimate]:
    return lambda rows: _sampled(rows, _fitted(rows, 1), particles)


def mixed(rows: Rows) -> LocalFamily:
    """Parts that were fitted from different draws, moved apart, then adapted together."""
    family = _fitted(rows, PARTS)
    noise = torch.randn_like(family.loc).unsqueeze(-1)
    apart = family._replace(
        # equal parts would stay equal: each begins at a draw of itself; none is given up before it was looked at
        loc=family.loc + (family.tril @ noise).squeeze(-1),
        logits=(family.logits.softmax(-1) + 0.02).log(),
    )
    return adapted(rows.weigh, apart)


def _mixture(particles: int) -> Callable[[Rows], Estimate]:
    return lambda rows: _sampled(rows, mixed(rows), particles)


class _FromFamily:
    """The path from a row's own family to p(x, u), as a ladder takes it."""

    def __init__(self, rows: Rows, family: LocalFamily) -> None:
        self.rows, self.size = rows, rows.prior.size
        self.q = family.defended().distribution()

    def drawn(self, batch: Any, chains: int) -> Tensor:
        return self.q.sample(torch.Size([chains]))

    def __call__(self, batch: Any, u: Tensor, b: Tensor, left: int) -> tuple[Tensor, Tensor, Tensor]:
        _, target, slope = self.rows.prior(batch, u, torch.ones_like(b), left)
        with torch.enable_grad():
            at = u.detach().requires_grad_()
            start = self.q.log_prob(at)
            (pull,) = torch.autograd.grad(start.sum(), at)
        return start.detach(), target, (1 - b) * pull + b * slope


def _annealed(chains: int, temperatures: int, steps: int) -> Callable[[Rows], Estimate]:
    settings = LadderSettings(chains, temperatures, steps, None)

    def estimate(rows: Rows) -> Estimate:
        family = mixed(rows) if rows.prior.size <= WIDEST else None
        start: Any = rows.of_guide if family is None else _FromFamily(rows, family)
        ladder = Ladder(start, settings, rows.batch, rows.batches - 1, 1)
        climb = ladder.up(ladder.started())
        log_weight = climb.log_weight.double()
        found = evidence_of(log_weight)
        chosen = torch.multinomial(smooth(log_weight).softmax(0).T.nan_to_num(1.0), rows.draws, replacement=True).T
        draws = torch.take_along_dim(climb.u, chosen.unsqueeze(-1), 0)
        evidence, error = found.log_evidence.cpu(), found.log_evidence_se.cpu()
        return Estimate(evidence, error, khat(log_weight).cpu(), khat_limit(chains), draws)

    return estimate


def _guide_has_density(rows: Rows) -> str:
    return rows.no_guide


def _narrow(rows: Rows) -> str:
    d = rows.prior.size
    return "" if d <= WIDEST else f"a row has {d:,} latent numbers, more than the {WIDEST} for which a scale is fitted"


def _wide(rows: Rows) -> str:
    if rows.prior.size <= WIDEST:
        return "a scale is fitted to the row instead"
    if rows.prior.structure.is_one_unit or not isinstance(rows.prior.pair.guide.program, GeneratedGuide):
        return "only a generated guide of rows is refined"
    return _guide_has_density(rows)


def _can_anneal(rows: Rows) -> str:
    return _guide_has_density(rows) if rows.prior.size > WIDEST else ""


METHODS: tuple[Method, ...] = (
    Method("guide", "1,000 draws of the guide", _of_guide(FIRST), _guide_has_density, True),
    Method("refined", "2,000 draws of the guide refined for the row", _refined(2 * FIRST), _wide, True),
    Method("local", "2,000 draws of a t distribution fitted to the row", _local(2 * FIRST), _narrow),
    Method("guide-10k", "10,000 draws of the guide", _of_guide(10 * FIRST), _guide_has_density, True),
    Method("mixture", "4,000 draws of a mixture fitted to the row", _mixture(4 * FIRST), _narrow),
    Method("annealed", "64 chains annealed over 200 temperatures", _annealed(64, 200, 5), _can_anneal),
    Method("annealed-long", "128 chains annealed over 1,000 temperatures", _annealed(128, 1000, 10), _can_anneal),
)
