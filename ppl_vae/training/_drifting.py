"""Whether the posterior of what all rows share still moved when training ended: an unfinished fit is not a result.

Of one unit it is the posterior of all of its latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae.data import Rows
from ppl_vae.errors import Finding, spelled
from ppl_vae.programs.execution import for_particles, traced
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.structure import Structure, sample_sites
from ppl_vae.training._spread import Walk, spread_walk
from ppl_vae.weights.completion import expanded

__all__ = ["Drift", "Moment", "drift_of", "jitter_of"]

SNAPSHOTS, DRAWS, NUMBERS = 40, 64, 1000
"""Looks at the guide in a run, draws at each (always the same noise), and numbers that are followed at most."""

SHIFT, WIDTH, ARRIVED, NATS, ERRORS = 0.25, 0.2, 0.1, 1.0, 3.0
"""What drifts: a mean by posterior deviations, a log deviation, the bound of all rows, each beyond so many standard
errors of its own jitter; and when a mean has arrived."""

JITTER, SHAKES = 0.3, 0.1
"""A mean may go to and fro by so many posterior deviations; from so many on, the mean of the last weights is tried."""

STEADY, CREEP = 0.99, 0.05
"""A walk that does not slow down has far to go, however slow it is: its ratio at most; what is no walk at all."""


class Moment(NamedTuple):
    """Mean and deviation of every number that all rows share, [number], after so many epochs; and the draws."""

    epoch: int
    mean: Tensor
    sd: Tensor
    draws: Tensor | None = None


class Drift:
    """Looks at these latents every so many epochs: the draws of the guide with the same noise each time."""

    def __init__(self, pair: Pair, structure: Structure, epochs: int) -> None:
        self.pair, self.structure = pair, structure
        of_all = set(structure.latents) if structure.is_one_unit else structure.global_latents
        self.sites = sorted(of_all - structure.auxiliary - structure.summed_guide - structure.points)
        self.every = max(1, epochs // SNAPSHOTS)
        self.moments: list[Moment] = []
        self.names: list[str] = []

    def look(self, epoch: int, rows: Rows) -> None:
        """Take in an epoch, if it is one of those that are looked at; nothing else changes by it."""
        if not self.sites or epoch % self.every:
            return
        training = [module for module in self.pair.modules() if module.training]
        self.pair.eval()
        with preserved_randomness(), torch.no_grad():
            seed_draws(0)
            values = self._draws(rows.batch(slice(0, 2)))
        for module in training:
            module.training = True
        self.names = [name for name, value in values.items() for _ in range(value.shape[1])][:NUMBERS]
        drawn = torch.cat([value.double().cpu() for value in values.values()], 1)[:, :NUMBERS]
        self.moments.append(Moment(epoch, drawn.mean(0), drawn.std(0), drawn.float()))

    def _draws(self, batch: Batch) -> dict[str, Tensor]:
        k = DRAWS if self.structure.broadcasts else 1
        parts: list[dict[str, Tensor]] = []
        for _ in range(0, DRAWS, k):
            sites = sample_sites(traced(for_particles(self.pair.guide, self.structure, k), batch))
            found = {n: expanded(self.structure, sites[n], sites[n]["value"], k).reshape(k, -1) for n in self.sites}
            parts.append(found)
        return {n: torch.cat([p[n] for p in parts]) for n in self.sites}

    @property
    def goes_to_and_fro(self) -> bool:
        """Whether the last weights are not to be taken without a look at the mean of them."""
        seen = jitter_of(self.moments, self.names)
        return seen is not None and seen[1] > SHAKES

    def findings(
        self, history: Sequence[Mapping[str, Any]], rows: int, steps: int, averaged: bool = False
    ) -> tuple[Finding, ...]:
        """What is to be said at the end of training on so many rows, with so many steps in an epoch.

        `averaged` says that the mean of the last weights was kept, whose error is less than theirs.
        """
        if not self.sites:
            return ()
        found = drift_of(self.moments, self.names)
        bounds = rows * torch.tensor([r["train"] for r in history], dtype=torch.float64)
        recent = bounds[-(found[2] if found else max(6, len(bounds) // 4)) :]
        half = len(recent) // 2
        rise = float(recent[half:].mean() - recent[:half].mean()) if half else 0.0
        walk = None if found else spread_walk(*_spreads(self.moments))
        if walk is not None:
            return (_unfinished(*self._walked(walk), steps, averaged),)
        if found is None and not (half > 2 and rise > NATS and float(_beyond(recent)) > 0):
            shaken = jitter_of(self.moments, self.names, of_mean=averaged)
            return () if shaken is None or shaken[1] < JITTER else (_unsettled(*shaken),)
        site, moved, epochs, more = found or (None, 0.0, len(recent), 0)
        moves = "" if site is None else f"{site} still moved by {moved:.2g} of its posterior deviations, and "
        return (_unfinished(site, f"{moves}the bound of all rows by {rise:+.3g} nats", epochs, more, steps, averaged),)

    def _walked(self, walk: Walk) -> tuple[str, str, int, int]:
        """What of the spread still moved: the site, in words, over how many epochs, and the epochs that are left."""
        site = self.names[walk.number]
        epochs = self.moments[-1].epoch - self.moments[-walk.looks].epoch + 1
        what = f"a direction in which {site} is correlated with others" if walk.is_axis else site
        more = 0
        if math.isfinite(walk.left):
            more = max(1, math.ceil(math.log(ARRIVED / max(walk.left, ARRIVED)) / math.log(walk.slows) * epochs))
        grows = "grew" if walk.change > 0 else "shrank"
        return site, f"the deviation of {what} still {grows} by {abs(math.expm1(walk.change)):.0%}", epochs, more


def _unfinished(site: str | None, moves: str, epochs: int, more: int, steps: int, averaged: bool) -> Finding:
    count = more or 4 * epochs
    return Finding(
        site,
        f"not finished: over the last {epochs:,} epochs {moves}",
        f"train for {'about' if more else 'at least'} {count * steps:,} steps ({count:,} epochs) more"
        + ("" if averaged else ", or take a larger learning rate"),  # by which they would go to and fro by more
        "warning",
    )


def _unsettled(site: str, apart: float) -> Finding:
    return Finding(
        site,
        f"not settled: at a constant learning rate the mean of {site} goes to and fro by {apart:.2g} of its posterior "
        "deviations, and training ended at one of these places",
        f"let the rate fall, {spelled('lr=ppl_vae.schedules.Cosine(lr, epochs)', '--lr-schedule cosine')}, or take a "
        "smaller one and more epochs",
        "warning",
    )


def _spreads(moments: Sequence[Moment]) -> tuple[Tensor, list[Tensor]]:
    if not moments:
        return torch.zeros(0, 0), []
    return torch.stack([m.sd for m in moments]), [m.draws for m in moments if m.draws is not None]


def drift_of(moments: Sequence[Moment], names: Sequence[str]) -> tuple[str, float, int, int] | None:
    """The number that drifts most: its site, how far it moved, over how many epochs, and epochs until it stands.

    The last quarter of what was seen, and at least six looks, is cut into halves; their mean locations are compared, in
    deviations. Looks before it tell whether the movement slows down, geometrically, and so how far it has to go: the
    epochs that are left are those until less than a tenth of a deviation remains; 0 where it does not slow down.

    Example:
        >>> at = [Moment(e, torch.tensor([3 - 3 * 0.99**e]), torch.tensor([0.1])) for e in range(1, 101)]
        >>> drift_of(at, ["mu"])[:1], drift_of(at + at[-1:] * 300, ["mu"])
        (('mu',), None)
    """
    window = max(6, len(moments) // 4) // 2 * 2
    if len(moments) < window + window // 2:
        return None
    half = window // 2
    means, sds = torch.stack([m.mean for m in moments]), torch.stack([m.sd for m in moments]).clamp(min=1e-12)
    before, first = (means[-(i + 1) * half : len(means) - i * half].mean(0) for i in (2, 1))
    shift = _beyond(means[-window:]) / sds[-half:].mean(0)
    width = _beyond(sds[-window:].log())
    slows = (shift / ((first - before).abs() / sds[-half:].mean(0)).clamp(min=1e-12)).clamp(max=STEADY)
    left = (shift * slows / (1 - slows)).where(shift > CREEP, 0.0)
    scored = torch.maximum(torch.maximum(shift, left) / SHIFT, width / WIDTH)
    worst = int(scored.argmax())
    if not scored[worst] > 1:
        return None
    epochs, rate, rest = moments[-1].epoch - moments[-window].epoch + 1, float(slows[worst]), float(left[worst])
    more = 0
    if 0 < rate < 0.95:
        more = max(1, math.ceil(math.log(ARRIVED / max(rest, ARRIVED)) / math.log(rate) * epochs / 2))
    return names[worst], max(float(shift[worst]), float(width[worst])), epochs, more


def jitter_of(moments: Sequence[Moment], names: Sequence[str], *, of_mean: bool = False) -> tuple[str, float] | None:
    """The number whose mean jitters most over the last quarter of what was seen, by its standard deviation over that of
    the posterior; None where too little was seen. The noise of the draws is the same at each look, and no part of it.

    Args:
        of_mean: rather the standard error of the mean over these looks, from that of their two halves.

    Example:
        >>> at = [Moment(e, torch.tensor([3 + 0.05 * (-1) ** e]), torch.tensor([0.1])) for e in range(1, 41)]
        >>> site, apart = jitter_of(at, ["mu"])
        >>> site, round(apart, 1)
        ('mu', 0.5)
    """
    window = max(6, len(moments) // 4)
    if len(moments) < window:
        return None
    means, sds = (torch.stack(values) for values in zip(*((m.mean, m.sd) for m in moments[-window:]), strict=True))
    jitter = (means[: window // 2].mean(0) - means[window // 2 :].mean(0)).abs() / 2 if of_mean else means.std(0)
    apart = jitter / sds.mean(0).clamp(min=1e-12)
    worst = int(apart.argmax())
    return names[worst], float(apart[worst])


def _beyond(values: Tensor) -> Tensor:
    """How far the second half of values [time, ...] is from the first; 0 where that is within their jitter."""
    first, second = values[: len(values) // 2], values[len(values) // 2 :]
    apart = (second.mean(0) - first.mean(0)).abs()
    error = (first.var(0) / len(first) + second.var(0) / len(second)).sqrt()
    return apart.where(apart > ERRORS * error, 0.0)
