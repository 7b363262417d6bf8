"""Climb from the cheapest method to the dearest until the evidence of every row is known to a stated accuracy."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.diagnostics._certification.certified import OUT_OF_TIME, Certified
from ppl_vae.diagnostics._certification.methods import METHODS, Method
from ppl_vae.diagnostics._certification.rows import Estimate, Rows, concatenated
from ppl_vae.diagnostics._certification.validation import Reference, Validation, reference, validated
from ppl_vae.diagnostics._evidence.bdmc import simulated_rows
from ppl_vae.errors import UserError, check_number, check_whole
from ppl_vae.evaluation.bridge import Bridge
from ppl_vae.evaluation.joint_evaluation import units
from ppl_vae.evaluation.passes import Passes, passes, refuse_blind
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results
from ppl_vae.speed.modes import Compile, check_mode

__all__ = ["certify"]

GRADIENTS = 3
"""A gradient holds about so many times what a density does."""

FITTED = 64
"""Draws of a batch of rows whose gradients are in memory at once: a mixture's parts times the draws of a step."""

MOST = 1024
"""Draws of a pass: more are no faster."""

KEPT = 2**24
"""Numbers of a row's draws and weights that are kept while it is estimated, in all rows of a batch."""


@takes_results
@exclusive
def certify(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    accuracy: float = 0.05,
    *,
    seconds: float | None = None,
    rows: str | None = "auto",
    draws: int = 100,
    validate: int = 100,
    seed: int = 0,
    compile: Compile = "auto",
    floats_at_once: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Certified:
    """The log evidence of every row to a stated accuracy, and draws from its posterior, whatever that takes.

    A row climbs from method to method and stays at the first that is sure of it: draws of the guide; a t distribution
    with a full scale matrix, fitted to the row; more draws of the guide; a mixture of t distributions, fitted and then
    adapted to the row; chains of Hamiltonian Monte Carlo annealed from that mixture, then more and longer ones. For
    more than 128 latent numbers a row, it is the guide, refined for the row, and chains from the guide. Each estimates
    log p(x) by log (1/K) sum_k w_k with E[w_k] = p(x), on draws that its search has not seen; a tenth of them is the
    prior's, which finds what a family has lost. A method is sure where the Monte Carlo standard error is at most
    `accuracy` and k-hat below its limit. The logarithm's own bias is near -se^2 / 2.

    That errors are as large as they claim is tried, not assumed: every method that is sure of a row is run on rows
    that the model itself makes, and has to cover there what a dearer estimate says, which is in turn held against an
    upper bound by the latents that the rows were made from. A method that does not cover is not used.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x), where the search begins.
        data: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`).
        accuracy: largest standard error of a row's log evidence, nats.
        seconds: budget; rows that were not reached in time are left as they were estimated last.
        rows: None takes all data as one unit, as for `evaluate`; so are data whose rows share latents.
        draws: of the posterior kept for each row.
        validate: rows simulated to try each method on; 0 leaves this out, and says so.
        seed: of the draws; the global generators are left alone.
        compile: as for `evaluate`.
        floats_at_once: bounds the memory of one pass.
        progress: is told in words what is done, such as `print`.

    Raises:
        UserError: for an accuracy that is no positive number, counts below 1, programs that break the contract, or
            discrete latents without end.
        NoDensity: for a guide that draws a latent of the rows from a point mass.

    Source: Vehtari et al. 2024, arXiv 1507.02646 (k-hat); Neal 2001 (annealing); Grosse et al. 2015, arXiv 1511.02543
    (bounds from both sides on simulated rows).

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> from ppl_vae.programs.toy import model
        >>> def guide(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x * 0, 0.1))  # much too narrow
        >>> found = certify(model, guide, torch.tensor([0.0, 2.0]), validate=0)
        >>> exact = dist.Normal(0.0, 2**0.5).log_prob(torch.tensor([0.0, 2.0]))
        >>> bool(found.certified.all()), bool(((found.log_evidence - exact).abs() < 0.1).all())
        (True, True)
    """
    accuracy = float(check_number("accuracy", accuracy, positive=True))
    seconds = None if seconds is None else float(check_number("seconds", seconds, positive=True))
    draws, validate = check_whole("draws", draws), check_whole("validate", validate, 0)
    seed = check_whole("seed", seed, 0)
    check_mode(compile)
    pair = Pair(model, guide)
    split = units(pair, data, rows=rows, purpose="certify")
    ends = None if seconds is None else time.monotonic() + seconds
    with passes(pair, split, FITTED * GRADIENTS, seed=seed, floats_at_once=floats_at_once) as plan:
        climb = _Climb(pair, plan, accuracy, draws, seed, ends, compile)
        return climb.all_rows(validate, progress or (lambda words: None))


class _Found:
    """What is known of the rows so far."""

    def __init__(self, rows: int, size: int, draws: int) -> None:
        self.log_evidence = torch.full((rows,), torch.nan, dtype=torch.float64)
        self.error = torch.full_like(self.log_evidence, torch.inf)
        self.khat = torch.full_like(self.log_evidence, torch.nan)
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


class _Climb:
    """Rows of a split on their way from method to method."""

    def __init__(
        self, pair: Pair, plan: Passes, accuracy: float, draws: int, seed: int, ends: float | None, compile: Compile
    ) -> None:
        self.pair, self.plan, self.accuracy, self.draws, self.seed = pair, plan, accuracy, draws, seed
        self.ends = ends
        some = next(plan.batches())
        self.prior = Bridge(pair, plan.structure, some, "prior", compile)
        self.guide, self.no_guide = _guide_bridge(pair, plan, some, compile)
        # the gradients of all parts of a mixture, and what is kept of the draws of a row, fit into memory
        kept = KEPT // (10_000 * (self.prior.size + 1))
        self.at_once = max(1, min(plan.rows * plan.at_once // (FITTED * GRADIENTS), kept))

    def all_rows(self, validate: int, say: Callable[[str], None]) -> Certified:
        """Climb."""
        split = self.plan.split
        self._refuse_rows_without_density()
        found, simulations = _Found(len(split), self.prior.size, self.draws), _Simulations(self, validate)
        seconds: dict[str, float] = {}
        reasons: dict[str, str] = {}
        for index, method in enumerate(METHODS):
            left, began = found.left, time.monotonic()
            reason = self._reason(method, split) if len(left) else ""
            if reason:
                reasons[method.name] = reason
            if reason or not len(left):
                continue
            estimate = self.estimated(method, index, split, left)
            rows, believed = left[: len(estimate.khat)], estimate.believed(self.accuracy)
            if bool(believed.any()) and (trial := simulations.of(method, index)).fails:
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
            accuracy=self.accuracy,
            seconds=seconds,
            reasons=reasons,
            validations=simulations.tried,
            draws={} if found.draws is None else self._by_site(found.draws, found.log_evidence.isnan()),
            of="all data" if split.is_one_unit else "row",
        )

    def _refuse_rows_without_density(self) -> None:
        """Raise for a row whose joint density at a draw of the guide is no number, before anything is searched for."""
        begin = 0
        for batch in self.plan.batches():
            _, target = self.prior.densities(batch, self.prior.drawn(batch, 1, "guide"), 1)
            refuse_blind(target[0], begin)
            begin += target.shape[1]

    def _reason(self, method: Method, split: Split) -> str:
        """Why a method is not used; nothing where it is."""
        if self.ends is not None and time.monotonic() > self.ends:
            return OUT_OF_TIME
        return method.needs(self.rows(split, torch.arange(1), 1))

    def estimated(self, method: Method, index: int, split: Split, which: Tensor) -> Estimate:
        """What a method says of some rows of a split, batch after batch; of the first ones alone if time is up."""
        batches = which.split(self.at_once)
        found: list[Estimate] = []
        for i, some in enumerate(batches):
            if found and self.ends is not None and time.monotonic() > self.ends:
                break
            # the draws of a batch do not depend on what came before it
            torch.manual_seed(zlib.crc32(f"{self.seed} {split.name} {index} {some.tolist()}".encode()))
            found.append(method.estimate(self.rows(split, some, len(batches) - i)))
        return concatenated(found)

    def rows(self, split: Split, which: Tensor, batches: int) -> Rows:
        """Some rows of a split as methods take them."""
        batch = split.batch() if split.is_one_unit else split.batch(which)
        fit = self.plan.rows * self.plan.at_once // len(which)
        at_once = min(max(FITTED, fit), MOST)
        return Rows(self.prior, self.guide, batch, at_once, self.draws, batches, self.no_guide)

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


class _Simulations:
    """Rows made by the model, on which every method is tried once, when it is first sure of a row."""

    def __init__(self, climb: _Climb, count: int) -> None:
        self.climb, self.count = climb, count
        self.tried: dict[str, Validation] = {}
        self.untried = self._why_not()
        self.split: Split | None = None

    def _why_not(self) -> str:
        if not self.count:
            return "validate is 0"
        return "all data are one unit" if self.climb.plan.split.is_one_unit else ""

    def of(self, method: Method, index: int) -> Validation:
        """How the errors of a method do."""
        if not self.untried and self.split is None:
            try:
                self._make()
            except UserError as reason:
                self.untried = str(reason)
        if self.untried or self.split is None:
            found = Validation(untried=self.untried)
        else:
            estimate = self.climb.estimated(method, index, self.split, torch.arange(len(self.split)))
            count = len(estimate.khat)
            found = validated(estimate, self.known.first(count), self.climb.accuracy)
        self.tried[method.name] = found
        return found

    def _make(self) -> None:
        climb = self.climb
        split, latents = simulated_rows(climb.pair, climb.plan.split, self.count, seed=climb.seed + 1)
        exact = climb.prior.placed(split.batch(), latents, 1)
        parts = []
        for some in torch.arange(len(split)).split(climb.at_once):
            torch.manual_seed(zlib.crc32(f"{climb.seed} reference {int(some[0])}".encode()))
            left = -(-(len(split) - int(some[0])) // climb.at_once)
            parts.append(reference(climb.rows(split, some, left), exact[:, some]))
        self.known = Reference(*(torch.cat(column) for column in zip(*(p.columns() for p in parts), strict=True)))
        self.split = split


def _guide_bridge(pair: Pair, plan: Passes, some: Any, compile: Compile) -> tuple[Bridge | None, str]:
    """The bridge that begins at the guide; none where its density at given values cannot be had, and why."""
    try:
        bridge = Bridge(pair, plan.structure, some, "guide", compile)
        bridge.densities(some, bridge.drawn(some, 1), 1)
    except UserError as reason:
        return None, str(reason).split(": use start")[0]
    return bridge, ""
