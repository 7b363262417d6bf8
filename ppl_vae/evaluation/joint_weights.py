"""Joint importance weights: one log weight of all data for every particle of the latents that all rows share.

    log w_k = log p(g_k) - log q(g_k) + sum_n log p(x_n | g_k),      g_k ~ q(g)

where p(x_n | g) is the mean of p(x_n, z | g) / m(z) over `inner` draws of the row's own latents (`own_draws`):
unbiased, so that the mean of w over particles is unbiased for p(all data), whatever `inner` is. All particles of the
shared latents are drawn first; then the rows are gone through in batches that fit into memory, with the same shared
draws, on which the guide is replayed.

Source: Beaumont 2003; Andrieu and Roberts 2009, Ann. Statist. 37(2) (an unbiased likelihood within the weight).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from textwrap import shorten
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.checks.analysis import outline
from ppl_vae.data import Split
from ppl_vae.errors import UserError, check_whole, one_line
from ppl_vae.evaluation.own_draws import OwnDraws
from ppl_vae.evaluation.passes import Passes, passes, refuse_blind, some_rows
from ppl_vae.evaluation.proposals import beyond_guide
from ppl_vae.evaluation.shared_draws import AT_ONCE, SharedDraws, draw_shared
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.weights.completion import Particles, completed, concatenate
from ppl_vae.weights.psis import FEWEST, khat, khat_limit

__all__ = [
    "INNER",
    "JointWeights",
    "again",
    "draw_particles",
    "joint_passes",
    "joint_weights",
    "not_enough",
    "parts_of",
    "shares_latents",
    "weighed_particles",
]

INNER = 8
"""Draws of a row's own latents for each draw of the shared ones, where nobody says how many."""

UNPLACED = (RuntimeError, ValueError, NotImplementedError, KeyError)
"""What programs raise for values that their guide did not draw: a model that runs near the guide only, for example."""

LARGEST = 2**27
"""How many numbers the log-likelihoods [particle, row] may be: 1 GB."""


MORE = 2
"""How many times as many particles are drawn, at most, where few of them count."""


class JointWeights(NamedTuple):
    """What particles of the shared latents weigh with all rows, in nats, float64.

    `log_global` [particle] is log p(g) less the log density of what they were drawn from, `log_likelihood`
    [particle, row] log p(x_n | g), the row's own latents integrated out by importance sampling; `row_bounds` [particle]
    the mean log weight over the guide's draws of the row's own, summed over the rows; `noise` [particle] the variance
    that these draws add to log w, by the delta method. `seeds` are those of the rows' own draws, for every batch and
    pass over particles: see `again`. `of_guide` is log p(g) - log q(g) of those that the guide drew, the first ones,
    where not all of them are.
    """

    log_global: Float[Tensor, " particle"]
    log_likelihood: Float[Tensor, "particle row"]
    row_bounds: Float[Tensor, " particle"]
    noise: Float[Tensor, " particle"]
    seeds: tuple[tuple[int, ...], ...] = ()
    of_guide: Float[Tensor, " own"] | None = None

    @property
    def log_weight(self) -> Float[Tensor, " particle"]:
        """log p(g, all data) - log of the density of g."""
        return self.log_global + self.log_likelihood.sum(1)

    @property
    def guide_alone(self) -> JointWeights:
        """The guide's own draws with the weights that they have for themselves."""
        if self.of_guide is None:
            return self
        own = len(self.of_guide)
        return JointWeights(self.of_guide, self.log_likelihood[:own], self.row_bounds[:own], self.noise[:own])

    @property
    def bound(self) -> Float[Tensor, " own"]:
        """One draw of the ELBO of all data for each of the guide's particles."""
        found = self.guide_alone
        return found.log_global + found.row_bounds


def shares_latents(pair: Pair, split: Split) -> bool:
    """Whether all rows share a latent, so that their posterior is one."""
    return bool(outline(pair, some_rows(split)).global_latents)


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


def draw_particles(pair: Pair, plan: Passes) -> SharedDraws:
    """Every particle of a plan."""
    return draw_shared(pair, plan.structure, next(plan.batches()), plan.sizes())


def weighed_particles(
    pair: Pair, plan: Passes, inner: int, *, beyond: bool = True, wanted: int = 0
) -> tuple[SharedDraws, JointWeights]:
    """Every particle of a plan with its weight: the guide's, and where these leave something out, from beyond it.

    Args:
        pair: model and guide.
        plan: of the passes.
        inner: draws of a row's own latents.
        beyond: whether draws may be from beyond the guide.
        wanted: where fewer draws count, though the weights can be believed, there are up to MORE times as many.

    Raises:
        UserError: for a row whose weights are no numbers.
    """
    batch, proposal, alone = next(plan.batches()), None, ""

    def weigh(shared: SharedDraws) -> Tensor:
        return joint_weights(pair, plan, shared, inner).log_weight

    def drawn(particles: int) -> tuple[SharedDraws, JointWeights]:
        many = replace(plan, particles=particles)
        shared = draw_particles(pair, many) if proposal is None else proposal.draw(particles)
        return shared, joint_weights(pair, plan, shared, inner)

    if beyond:
        try:
            proposal = beyond_guide(pair, plan.structure, batch, plan.particles, weigh)
        except UNPLACED as reason:
            alone = shorten(one_line(str(reason)), 160, placeholder=" ...")
    try:
        found = drawn(plan.particles)
    except UNPLACED as reason:
        if proposal is None:
            raise
        proposal, alone = None, shorten(one_line(str(reason)), 160, placeholder=" ...")
        found = drawn(plan.particles)
    log_weight = found[1].log_weight
    counting = float(1 / log_weight.softmax(0).square().sum())
    times = min(MORE, math.ceil(wanted / max(counting, 1.0)), LARGEST // (plan.particles * len(plan.split)))
    believed = float(khat(log_weight[:, None])) <= khat_limit(plan.particles)
    shared, weights = drawn(times * plan.particles) if times > 1 and believed else found
    return replace(shared, alone=alone), weights  # whoever reads the weights is told


def not_enough(log_weight: Float[Tensor, " particle"], wanted: int) -> str:
    """Why draws chosen by these weights are not to be read: k-hat, or fewer than `wanted` count; nothing if they are.

    Example:
        >>> not_enough(torch.zeros(1000).double(), 500), not_enough(torch.zeros(1000).double(), 2000)
        ('', '1,000 of 1,000 weighted draws of the guide count')
    """
    count = len(log_weight)
    if count < FEWEST:
        return ""
    tail, counting = float(khat(log_weight[:, None])), float(1 / log_weight.softmax(0).square().sum())
    if not tail <= khat_limit(count):
        return f"k-hat of the joint weights is {tail:.2f}, above {khat_limit(count):.2f}"
    return f"{counting:,.0f} of {count:,} weighted draws of the guide count" if counting < wanted else ""


def joint_weights(pair: Pair, plan: Passes, shared: SharedDraws, inner: int, rows: Split | None = None) -> JointWeights:
    """The weights of these particles with all rows of the plan, or with other rows that the guide has not seen.

    Raises:
        UserError: for a row whose weights are no numbers.
    """
    own = _own_draws(pair, plan, shared, inner)
    plan = plan if rows is None else replace(plan, split=rows)
    seed = int(torch.randint(2**31, ()))
    with preserved_randomness():  # what is drawn next does not follow the number of batches
        seed_draws(seed)
        found = [_rows(own, plan, shared, batch, i * plan.rows) for i, batch in enumerate(plan.batches())]
    likelihood, bounds, noise, seeds = zip(*found, strict=True)
    total, spread = (torch.stack(column).sum(0) for column in (bounds, noise))
    drawn_by = shared.log_guide if shared.log_proposal is None else shared.log_proposal
    log_global = (shared.log_prior - drawn_by.to(shared.log_prior)).cpu()
    log_global = log_global.masked_fill(_beyond(torch.arange(len(shared)), shared) & ~log_global.isfinite(), -math.inf)
    of_guide = None if shared.own is None else shared.log_global[: shared.own].cpu()
    return JointWeights(log_global, torch.cat(likelihood, 1), total, spread, seeds, of_guide)


def parts_of(shared: SharedDraws, plan: Passes) -> tuple[Tensor, ...]:
    """The numbers of the particles of each pass."""
    return torch.arange(len(shared)).split(plan.at_once if shared.mapped is None else AT_ONCE)


def again(
    pair: Pair, plan: Passes, shared: SharedDraws, inner: int, batch: Batch, some: Tensor, seed: int
) -> Particles:
    """The very draws of the rows' own latents that gave these particles their weights, [particle x inner, row, ...].

    A particle chosen by its weight, and for every row one of its own draws chosen by theirs, are together a draw from
    the posterior as particles grow, whatever `inner` is: fresh draws would not be (Andrieu and Roberts 2009).
    """
    own = _own_draws(pair, plan, shared, inner)
    seed_draws(seed)
    if shared.mapped is None:
        return own.again(batch, shared.at(some))
    return concatenate([completed(shared.at(k).held(pair), plan.structure, batch, 1) for k in some.split(1)])


def _own_draws(pair: Pair, plan: Passes, shared: SharedDraws, inner: int) -> OwnDraws:
    return OwnDraws.of(pair, plan.structure, some_rows(plan.split, 2), shared, inner)


def _rows(
    own: OwnDraws, plan: Passes, shared: SharedDraws, batch: Batch, start: int
) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
    """log p(x_n | g) [particle, row] of some rows, sums of mean log weights and of noise [particle], and the seeds."""
    likelihood, bounds, noise = [], [], []
    parts, inner = parts_of(shared, plan), own.inner
    seeds = torch.randint(2**31, (len(parts),)).tolist()
    for some, seed in zip(parts, seeds, strict=True):
        seed_draws(seed)
        if shared.mapped is not None:
            each = by_guide = shared.mapped(shared.at(some), batch)[2].double().cpu().unsqueeze(1)
        else:
            each, by_guide = own.log_weights(batch, shared.at(some))
        likelihood.append(_known(each.logsumexp(1) - math.log(inner), some, shared))
        bounds.append(by_guide.mean(1).sum(1))
        shares = each.softmax(1).square().sum(1)  # 1 / inner if all draws weigh the same
        noise.append(((inner * shares - 1) / max(inner - 1, 1)).clamp(min=0).nan_to_num(0.0).sum(1))
        refuse_blind(likelihood[-1].sum(0), start)
    return torch.cat(likelihood), torch.cat(bounds), torch.cat(noise), tuple(seeds)


def _known(log_likelihood: Tensor, some: Tensor, shared: SharedDraws) -> Tensor:
    """Where the guide never draws, a model that cannot be computed has no density (as NUTS has it)."""
    return log_likelihood.masked_fill(_beyond(some, shared)[:, None] & log_likelihood.isnan(), -math.inf)


def _beyond(some: Tensor, shared: SharedDraws) -> Tensor:
    """Which particles, by number, the guide did not draw."""
    return torch.zeros_like(some, dtype=torch.bool) if shared.own is None else some >= shared.own
