"""Chains that climb from one end of a bridge to the other, and step sizes that were found on another climb."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.display.working import stepping
from ppl_vae.errors import check_number, check_whole
from ppl_vae.evaluation.bridge import Bridge, Start
from ppl_vae.evaluation.joint_evaluation import units
from ppl_vae.evaluation.passes import Passes, passes, refuse_endless
from ppl_vae.evaluation.transitions import next_step_size, transition
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.speed.modes import Compile, check_mode

__all__ = ["Climb", "Ladder", "LadderSettings", "ladder", "rungs"]

SETTLING, SHARE, LEAST = 15, 5, 20
"""Step sizes are adapted by so many moves at the start, then on every fifth rung, on so many at least."""

DRAWS = 64
"""Draws from the start whose deviation is the unit of step sizes."""


def rungs(count: int) -> Tensor:
    """The powers b_0 = 0 < ... < b_count = 1, dense at both ends: sigmoids of equal steps, scaled to [0, 1].

    Source: Wu et al. 2017, arXiv 1611.04273.

    Example:
        >>> rungs(4).tolist()
        [0.0, 0.10499..., 0.5, 0.89500..., 1.0]
    """
    curve = torch.linspace(-4.0, 4.0, count + 1, dtype=torch.float64).sigmoid()
    return (curve - curve[0]) / (curve[-1] - curve[0])


class LadderSettings(NamedTuple):
    """How chains climb: see `annealed_evidence`."""

    chains: int
    temperatures: int
    steps: int
    step_size: float | None

    def checked(self) -> LadderSettings:
        """Python's own numbers, or a UserError for those that mean nothing."""
        chains, temperatures, steps = (check_whole(n, getattr(self, n)) for n in ("chains", "temperatures", "steps"))
        size = None if self.step_size is None else float(check_number("step_size", self.step_size, positive=True))
        return LadderSettings(chains, temperatures, steps, size)


def moves_of(settings: LadderSettings, size: int) -> tuple[int, int, int]:
    """Rungs of a climb over so many latent numbers, those that adapting visits, and the moves that it takes."""
    count = settings.temperatures if size else 1
    coarse = min(count, max(LEAST, count // SHARE))
    return count, coarse, SETTLING + coarse if settings.step_size is None and size else 0


class Climb(NamedTuple):
    """Log weights [chain, row] in nats, the share of moves that was accepted [row], and where chains ended."""

    log_weight: Float[Tensor, "chain row"]
    acceptance: Float[Tensor, " row"]
    u: Float[Tensor, "chain row d"]


class Ladder:
    """Climbs for one batch of rows: adapt first, which freezes step sizes; then any number of climbs."""

    def __init__(
        self,
        bridge: Bridge,
        settings: LadderSettings,
        batch: Batch,
        to_come: int,
        climbs: int,
        step: Callable[[], None] = lambda: None,
    ) -> None:
        self.step = step
        self.bridge, self.settings, self.batch = bridge, settings, batch
        count, self.coarse, adapting = moves_of(settings, bridge.size)
        self.powers = rungs(count).tolist()
        each = (settings.steps + 1) * (adapting + climbs * count)
        self.left = each * (1 + to_come)
        self._adapt()

    def density(self, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a transition asks for."""
        self.left -= 1
        return self.bridge(self.batch, u, b, max(self.left, 1))

    def started(self) -> Tensor:
        """u drawn from the start of the bridge."""
        return self.bridge.drawn(self.batch, self.settings.chains)

    def up(self, u: Tensor) -> Climb:
        """From draws of the start: weights whose mean is p(x) in expectation."""
        return self._climb(u, self.powers, self.sizes)

    def down(self, u: Tensor) -> Climb:
        """From draws of the posterior: weights whose mean is 1 / p(x) in expectation."""
        return self._climb(u, self.powers[::-1], self.sizes.flip(0))

    def _climb(self, u: Tensor, powers: list[float], sizes: Tensor) -> Climb:
        start, target, _ = self.density(u, u.new_tensor(powers[0]))
        total = torch.zeros_like(start, dtype=torch.float64)
        accepted = []
        for i, (below, b) in enumerate(pairwise(powers)):
            self.step()
            total += (b - below) * (target - start).double()
            if i + 2 < len(powers):
                u, start, target, acceptance = self._move(u, b, sizes[i + 1])
                accepted.append(acceptance.mean(0))
        ones = torch.ones_like(start[0])
        return Climb(total, torch.stack(accepted).mean(0) if accepted else ones, u)

    def _move(self, u: Tensor, b: float, size: Tensor) -> tuple[Tensor, ...]:
        return transition(self.density, u, u.new_tensor(b), size, self.scale, self.settings.steps)

    def _adapt(self) -> None:
        """Step sizes of every rung and row, [rung, row]: from a climb of its own, with draws of its own."""
        chains, count, given = self.settings.chains, len(self.powers) - 1, self.settings.step_size
        u = torch.cat([self.bridge.drawn(self.batch, chains) for _ in range(-(-DRAWS // chains))])
        if not self.bridge.size:  # all was summed out: nothing moves
            self.sizes = u.new_ones(count + 1, u.shape[1])
            return
        self.scale = u.std(0).clamp(min=1e-4)
        u = u[:chains]
        size = u.new_full(u.shape[1:2], given or self.bridge.size**-0.25)
        if given is not None:
            self.sizes = size.expand(count + 1, -1)
            return
        found = []
        path = torch.linspace(0, count, self.coarse + 1).round().long().tolist()
        for rung in [0] * SETTLING + path[:-1]:
            u, _, _, acceptance = self._move(u, self.powers[rung], size)
            size = next_step_size(size, acceptance)
            self.step()
            found.append(size)
        nearest = torch.searchsorted(torch.tensor(path[:-1]), torch.arange(count + 1), right=True) - 1
        self.sizes = torch.stack(found[SETTLING:])[nearest.to(u.device)]


@contextmanager
def ladder(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    settings: LadderSettings,
    start: Start,
    *,
    rows: str | None = "auto",
    climbs: int = 1,
    seed: int = 0,
    compile: Compile = "auto",
    floats_at_once: int | None = None,
) -> Iterator[tuple[Passes, Iterator[Ladder]]]:
    """The batches of some rows, each with its adapted ladder; inside, draws are seeded and networks do not train.

    All data are one unit, and one row here, with rows=None and where all rows share latents.
    """
    settings = settings.checked()
    check_mode(compile)
    pair = Pair(model, guide)
    split = units(pair, data, rows=rows, purpose="annealed_evidence")
    refuse_endless("steps", settings.steps, len(split), settings.chains * settings.temperatures)
    with passes(pair, split, 3 * settings.chains, seed=seed, floats_at_once=floats_at_once) as plan:
        # a gradient holds about three times what a density does, and all chains of a row climb together
        plan = replace(plan, rows=max(1, plan.rows * plan.at_once // (3 * settings.chains)))
        bridge = Bridge(pair, plan.structure, next(plan.batches()), start, compile)
        count, _, adapting = moves_of(settings, bridge.size)
        with stepping("annealing", plan.count * (adapting + climbs * count)) as step:
            yield (
                plan,
                (
                    Ladder(bridge, settings, batch, plan.count - i - 1, climbs, step)
                    for i, batch in enumerate(plan.batches())
                ),
            )
