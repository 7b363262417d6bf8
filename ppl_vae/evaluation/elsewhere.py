"""Parts of the posterior that no draw has reached: chains that come from the prior, and know nothing of the guide.

Weights see only what a proposal draws. Where two components may exchange their labels, or a model has two explanations
of its data, a guide that sits in one of them has good weights and a k-hat near 0. A few chains that are annealed from
the prior to the posterior (`tempering`) end in each of its parts, roughly with its share of the mass,

    mass elsewhere / mass of the draws = chains outside of all draws / chains among them.

Where none is among them chains may have lost their way, and are believed as far as their evidence goes:

    mass elsewhere / mass of the draws = Z_chains / Z_draws.

Source: Del Moral, Doucet & Jasra 2006, JRSS B 68(3); Yao et al. 2018, arXiv 1802.02538 (k-hat does not see it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.errors import Finding, UserError
from ppl_vae.evaluation.bridge import Bridge
from ppl_vae.evaluation.tempering import ORDER, climbed, why_not
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.structure import Structure

__all__ = ["Elsewhere", "elsewhere"]

CHAINS, LARGEST, MOST = 400, 60, 800_000
"""Chains, and the numbers of each and the rows times chains for which they are sent, at most."""

TAILS, BEYOND = 0.001, 0.5
"""A chain is outside of all draws beyond these quantiles, and that share of their width further."""

WORTH = 0.05
"""The mass elsewhere, relative to that of the draws, that is worth telling; and the share of chains there."""


class Elsewhere(NamedTuple):
    """Where chains from the prior ended outside of all draws: a number of a site, and how much mass there is."""

    site: str
    value: float
    low: float
    high: float
    mass: float

    @property
    def words(self) -> str:
        """In a clause."""
        return (
            f"chains from the prior found a part of the posterior that no draw reached, where {self.site} is about "
            f"{self.value:.3g} (draws: {self.low:.3g} to {self.high:.3g}) and its mass {self.mass:.2g} times theirs"
        )

    def finding(self) -> Finding:
        """Where draws could not be taken from there."""
        return Finding(
            self.site,
            f"{self.words}: means and deviations are those of one part",
            ORDER,
            "warning",
        )


def elsewhere(
    pair: Pair,
    structure: Structure,
    batch: Batch,
    rows: int,
    draws: Mapping[str, Tensor],
    logs: Tensor,
    log_mass: float,
) -> Elsewhere | None:
    """What chains from the prior find that draws [draw, ...] with these log weights have not; None if there is nothing.

    Args:
        pair: model and guide.
        structure: of all data as one unit.
        batch: all data.
        rows: how many.
        draws: of some latents, by site.
        logs: of their weights, [draw].
        log_mass: the log evidence that they have found, in nats.
    """
    if structure.holes or rows * CHAINS > MOST or why_not(structure, rows):
        return None
    try:
        with preserved_randomness():
            seed_draws(0)
            bridge = Bridge(pair, structure, batch, "prior").mapped()
            if not bridge.size or bridge.size > LARGEST:
                return None
            u, log_evidence = climbed(bridge, batch, CHAINS)
            if u is None:
                return None
            found = bridge.values(batch, u)
    except (UserError, NotImplementedError, RuntimeError, ValueError):  # a prior that cannot be drawn from, for example
        return None
    return _outside(found, draws, logs.softmax(0), log_evidence - log_mass)


def _outside(
    found: Mapping[str, Tensor], draws: Mapping[str, Tensor], weights: Tensor, ahead: float
) -> Elsewhere | None:
    outside: Tensor | None = None
    worst: tuple[float, str, float, float, float] | None = None
    for name in [n for n in draws if n in found]:
        mine, theirs = (v.detach().double().cpu().reshape(len(v), -1) for v in (draws[name], found[name]))
        if mine.shape[1] != theirs.shape[1]:
            continue
        for i in range(mine.shape[1]):
            low, high = _range(mine[:, i], weights)
            margin = BEYOND * (high - low)
            beyond = (theirs[:, i] < low - margin) | (theirs[:, i] > high + margin)
            outside = beyond if outside is None else outside | beyond
            share = float(beyond.double().mean())
            if share and (worst is None or share > worst[0]):
                worst = share, name, float(theirs[beyond, i].median()), low, high
    if outside is None or worst is None:
        return None
    share = float(outside.double().mean())
    mass = share / (1 - share) if share < 1 - WORTH else math.exp(min(ahead, 50.0)) * share
    return Elsewhere(*worst[1:], mass) if share >= WORTH and mass >= WORTH else None


def _range(values: Tensor, weights: Tensor) -> tuple[float, float]:
    """Two quantiles of weighted draws."""
    order = values.argsort()
    below = weights[order].cumsum(0)
    at = torch.searchsorted(below, torch.tensor([TAILS, 1 - TAILS], dtype=below.dtype)).clamp(max=len(values) - 1)
    low, high = values[order][at].tolist()
    return low, high
