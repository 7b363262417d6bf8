"""Rows of a split on their way from method to method, until one is sure of them."""

from __future__ import annotations

import copy
import time
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.diagnostics._certification.certified import OUT_OF_TIME, Certified
from ppl_vae.diagnostics._certification.methods import METHODS, Method
from ppl_vae.diagnostics._certification.rows import Estimate, Rows, concatenated
from ppl_vae.diagnostics._certification.validation import Validation
from ppl_vae.errors import UserError
from ppl_vae.evaluation.bridge import Bridge, Start
from ppl_vae.evaluation.passes import Passes, passes, refuse_blind
from ppl_vae.programs.program import Pair
from ppl_vae.programs.randomness import seed_draws
from ppl_vae.speed.modes import Compile

__all__ = ["Asked", "Climb", "Try", "planned"]

GRADIENTS = 3
"""A gradient holds about so many times what a density does."""

FITTED = 64
"""Draws of a batch of rows whose gradients are in memory at once: a mixture's parts times the draws of a step."""

MOST = 1024
"""Draws of a pass: more are no faster."""

KEPT = 2**24
"""Numbers of a row's draws and weights that are kept while it is estimated, in all rows of a batch."""


class Asked(NamedTuple):
    """What `certify` was asked for; `ends` is a time of `time.monotonic`."""

    accuracy: float
    draws: int
    seed: int
    ends: float | None
    compile: Compile
    floats_at_once: int | None

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return self.ends is not None and time.monotonic() > self.ends


def planned(pair: Pair, split: Split, asked: Asked) -> AbstractContextManager[Passes]:
    """The passes over these rows; inside, draws are seeded and networks do not train."""
    return passes(pair, split, FITTED * GRADIENTS, seed=asked.seed, floats_at_once=asked.floats_at_once)


class _Found:
    """What is known of the rows so far."""

    def __init__(self, rows: int, size: int, draws: int) -> None:
        self.log_evidence = torch.full((rows,), torch.nan, dtype=torch.float64)
        self.error = torch.full_like(self.log_evidence, torch.inf)
        self.khat = torch.full_like(self.log_evidence, torch.nan)
        self.cost = torch.zeros_like(self.log_evidence)
        self.method = ["none"] * rows
        self.sure = torch.zeros(rows, dtype=torch.bool)
        self.shape = draws, rows, size
        self.draws: Tensor | None = None  # of the first estimate's type, where it lives

    @property
    def left(self) -> Tensor:
        return (~self.sure).nonzero().squeeze(1)

    def take(self, name: str, rows: Tensor, estimate: Estimate, believed: Tensor) -> None:
        """Keep what a method is sure of, and of other rows what has the smaller error."""
        better = believed | (estimate.log_evidence_se < self.error[rows]) | self.log_evidence[rows].isnan()
        at = rows[better]
        self.log_evidence[at], self.error[at] = estimate.log_evidence[better], estimate.log_evidence_se[better]
        self.khat[at] = estimate.khat[better]
        if self.draws is None:
            self.draws = estimate.draws.new_zeros(self.shape)
        self.draws[:, at] = estimate.draws[:, better]
        for row in at.tolist():
            self.method[row] = name
        self.sure[rows[believed]] = True


class Climb:
    """Rows of a split on their way from method to method."""

    def __init__(self, pair: Pair, plan: Passes, asked: Asked) -> None:
        self.pair, self.plan, self.asked = pair, plan, asked
        self.start: Start = "guide"
        some = next(plan.batches())
        self.prior = Bridge(pair, plan.structure, some, "prior", asked.compile)
        self.guide, self.no_guide = _guide_bridge(pair, plan, some, asked.compile)

    def on(self, plan: Passes, asked: Asked, start: Start = "guide") -> Climb:
        """Other rows, and other wishes, with the same densities; where searches begin."""
        other = copy.copy(self)
        other.plan, other.asked, other.start = plan, asked, start
        return other

    @property
    def at_once(self) -> int:
        """Rows of a batch: gradients of all parts of a mixture, and what is kept of a row's draws, fit into memory."""
        kept = KEPT // (10_000 * (self.prior.size + 1))
        return max(1, min(self.plan.rows * self.plan.at_once // (FITTED * GRADIENTS), kept))

    def all_rows(self, tried: Try, say: Callable[[str], None]) -> Certified:
        """Climb; a method that is sure of a row is `tried` first."""
        split, accuracy = self.plan.split, self.asked.accuracy
        self.refuse_rows_without_density()
        found = _Found(len(split), self.prior.size, self.asked.draws)
        seconds: dict[str, float] = {}
        reasons: dict[str, str] = {}
        validations: dict[str, Validation] = {}
        for index, method in enumerate(METHODS):
            left, began = found.left, time.monotonic()
            reason = self._reason(method) if len(left) else ""
            if reason:
                reasons[method.name] = reason
            if reason or not len(left):
                continue
            estimate = self.estimated(method, index, left)
            rows, believed = left[: len(estimate.khat)], estimate.believed(accuracy)
            found.cost[rows] += (time.monotonic() - began) / len(rows)
            if bool(believed.any()):
                trial = validations[method.name] = tried(self, method, index)
                if trial.fails:
                    reasons[method.name], believed = trial.words, torch.zeros_like(believed)
            found.take(method.name, rows, estimate, believed)
            seconds[method.name] = time.monotonic() - began
            say(f"{method.words}: {int(believed.sum()):,} rows certified, {len(found.left):,} left")
        return Certified(
            log_evidence=found.log_evidence,
            log_evidence_se=found.error,
            khat=found.khat,
            method=tuple(found.method),
            certified=found.sure,
            accuracy=accuracy,
            cost=found.cost,
            seconds=seconds,
            reasons=reasons,
            validations=validations,
            draws={} if found.draws is None else self._by_site(found.draws, found.log_evidence.isnan()),
            of="all data" if split.is_one_unit else "row",
            fingerprint=split.fingerprint(),
        )

    def refuse_rows_without_density(self) -> None:
        """Raise for a row whose joint density at a draw of the guide is no number, before anything is searched for."""
        begin = 0
        for batch in self.plan.batches():
            _, target = self.prior.densities(batch, self.prior.drawn(batch, 1, "guide"), 1)
            refuse_blind(target[0], begin)
            begin += target.shape[1]

    def _reason(self, method: Method) -> str:
        """Why a method is not used; nothing where it is."""
        return OUT_OF_TIME if self.asked.late else method.needs(self.rows(torch.arange(1), 1))

    def estimated(self, method: Method, index: int, which: Tensor) -> Estimate:
        """What a method says of some rows, batch after batch; of the first ones alone if time is up."""
        batches = which.split(self.at_once)
        found: list[Estimate] = []
        for i, some in enumerate(batches):
            if found and self.asked.late:
                break
            self.seeded(str(index), some)
            found.append(method.estimate(self.rows(some, len(batches) - i)))
        return concatenated(found)

    def seeded(self, purpose: str, some: Tensor) -> None:
        """Begin draws for a batch of rows that do not depend on what came before it."""
        seed_draws(zlib.crc32(f"{self.asked.seed} {self.plan.split.name} {purpose} {some.tolist()}".encode()))

    def rows(self, which: Tensor, batches: int) -> Rows:
        """Some rows as methods take them, with so many batches to come."""
        split = self.plan.split
        batch = split.batch() if split.is_one_unit else split.batch(which)
        fit = self.plan.rows * self.plan.at_once // len(which)
        at_once = min(max(FITTED, fit), MOST)
        return Rows(self.prior, self.guide, batch, at_once, self.asked.draws, batches, self.no_guide, self.start)

    def _by_site(self, u: Tensor, unknown: Tensor) -> dict[str, Tensor]:
        """Draws of latents by site; NaN in rows of which nothing is known, where values are real."""
        split = self.plan.split
        if split.is_one_unit:
            return self.prior.latents(split.batch(), u)
        parts = [
            self.prior.latents(split.batch(some), u[:, some]) for some in torch.arange(len(split)).split(self.at_once)
        ]
        found = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
        for value in found.values():
            if value.is_floating_point():
                value[:, unknown] = torch.nan
        return found


Try = Callable[[Climb, Method, int], Validation]
"""How a method, which has this place among all, does on rows of which the truth is known."""


def _guide_bridge(pair: Pair, plan: Passes, some: Any, compile: Compile) -> tuple[Bridge | None, str]:
    """The bridge that begins at the guide; none where its density at given values cannot be had, and why."""
    try:
        bridge = Bridge(pair, plan.structure, some, "guide", compile)
        bridge.densities(some, bridge.drawn(some, 1), 1)
    except UserError as reason:
        return None, str(reason).split(": use start")[0]
    return bridge, ""
