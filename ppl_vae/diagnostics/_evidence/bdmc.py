"""Bidirectional Monte Carlo: how far annealed evidence can be from the truth, on rows that the model itself made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.checks.analysis import analyse
from ppl_vae.data import Data, Split, units_in
from ppl_vae.diagnostics._common.simulation import simulated
from ppl_vae.diagnostics._evidence.annealing import acceptance_words
from ppl_vae.diagnostics._evidence.ladder import Climb, LadderSettings, ladder
from ppl_vae.display import Displayed
from ppl_vae.display.working import shows_progress
from ppl_vae.errors import check_whole
from ppl_vae.evaluation import evidence_of
from ppl_vae.evaluation.bridge import Start
from ppl_vae.evaluation.joint_evaluation import fitted_rows
from ppl_vae.evaluation.joint_weights import shares_latents
from ppl_vae.evaluation.means import standard_error
from ppl_vae.evaluation.passes import judging, some_rows
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.structure import Structure, TraceSites
from ppl_vae.programs.trained import takes_results
from ppl_vae.speed.modes import Compile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Bidirectional", "bidirectional", "simulated_rows", "simulated_unit"]

CLOSE = 0.5
"""Nats per row by which bounds may differ and still tell apart guides that are worth telling apart."""


@dataclass(frozen=True, repr=False)
class Bidirectional(Displayed):
    """What `bidirectional` found, one value for each simulated row, in nats.

    In expectation `lower` <= log p(x) <= `upper`; `lower_se` and `upper_se` are Monte Carlo standard errors over
    chains. `acceptance` is the mean probability with which moves were accepted, in both directions. `rows` are the
    simulated rows.

    Example:
        >>> from ppl_vae.data import as_split
        >>> one, rows = torch.ones(2), as_split(torch.zeros(2))
        >>> found = Bidirectional(-3.1 * one, -3 * one, 0 * one, 0 * one, 0.7 * one, 16, 500, 10, "guide", rows)
        >>> round(found.gap_mean, 2)
        0.1
    """

    lower: Float[Tensor, " row"]
    upper: Float[Tensor, " row"]
    lower_se: Float[Tensor, " row"]
    upper_se: Float[Tensor, " row"]
    acceptance: Float[Tensor, " row"]
    chains: int
    temperatures: int
    steps: int
    start: Start
    rows: Split
    of: str = "row"

    @property
    def gap(self) -> Float[Tensor, " row"]:
        """Upper minus lower bound of each row; below 0 by chance alone."""
        return self.upper - self.lower

    @property
    def gap_mean(self) -> float:
        """Mean of the gap over rows: the error of annealed evidence on such rows is at most this in expectation."""
        return float(self.gap.mean())

    @property
    def gap_se(self) -> float:
        """Standard error of its mean, over rows, which are independent; of one data set that of its chains."""
        if self.of == "all data":
            return float((self.lower_se.square() + self.upper_se.square()).sum().sqrt())
        return float(standard_error(self.gap))

    def summary(self) -> dict[str, Any]:
        """Means over rows in nats per row."""
        return {
            "rows": len(self.gap),
            "chains": self.chains,
            "temperatures": self.temperatures,
            "leapfrog_steps": self.steps,
            "start": self.start,
            "lower": float(self.lower.mean()),
            "upper": float(self.upper.mean()),
            "gap": self.gap_mean,
            "gap_se": self.gap_se,
            "largest_gap": float(self.gap.max()),
            "acceptance": float(self.acceptance.mean()),
            "verdict": self.verdict,
        }

    @property
    def verdict(self) -> str:
        """How certain annealed log evidence is on rows like these."""
        bad = acceptance_words(self.acceptance)
        if bad:
            return f"No certificate: {bad}."
        rows, se = len(self.gap), 0.0 if math.isnan(self.gap_se) else self.gap_se
        certain = max(self.gap_mean, 0.0) + 2 * se
        on = f"{rows} simulated rows is certain to {certain:.2g} nats per row"
        if self.of == "all data":
            on = f"one simulated data set of {len(self.rows)} rows is certain to {certain:.2g} nats"
        words = f"Annealed log evidence on {on} (upper minus lower bound: {self.gap_mean:.2g} ± {se:.1g})"
        if certain <= CLOSE:
            return f"{words}; on data it is as good only as far as the data are like the model's rows."
        return f"{words}, which is too little to rely on: double the temperatures."

    def figure(self) -> Figure:
        """Both bounds, row by row, and the distribution of their difference."""
        from ppl_vae.diagnostics._evidence.plot_annealing import bounds

        return bounds(self.lower, self.upper, self.lower_se, self.upper_se)


@takes_results
@exclusive
@shows_progress
def bidirectional(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    rows: int = 100,
    chains: int = 16,
    temperatures: int = 500,
    steps: int = 10,
    start: Start = "guide",
    step_size: float | None = None,
    seed: int = 0,
    compile: Compile = "auto",
    floats_at_once: int | None = None,
    progress: Any = "auto",
) -> Bidirectional:
    """A lower and an upper bound of the log evidence of rows simulated from the model: what annealing is worth.

    z ~ p(z), x ~ p(x | z): so z is an exact draw from p(z | x). From the start up, annealing gives weights w with
    E[w] = p(x), and log mean w is a lower bound of log p(x) in expectation; from that z down through the same moves in
    reverse order, 1 / w has the expectation 1 / p(x), and -log mean (1 / w) is an upper bound. The mean of
    upper - lower bounds the error of either. Step sizes are those of `annealed_evidence`, frozen for both.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x), see `annealed_evidence`.
        data: rows from which conditions are taken, and which entries are missing: simulated row i misses what row i of
            the data misses (beginning anew after the last). Anything that `annealed_evidence` takes.
        rows: how many are simulated; where rows share latents, a data set of as many as there are, whose latents are
            all of one unit, as for `annealed_evidence`.
        chains: up and down, for each row.
        temperatures: as for `annealed_evidence`, like the rest.
        steps: leapfrog steps of a move.
        start: "guide" or "prior".
        step_size: of leapfrog steps, instead of adapted ones.
        seed: of the rows and of the draws; the global generators are left alone.
        compile: as for `evaluate`.
        floats_at_once: bounds the memory of one pass.
        progress: "auto" shows a bar on a terminal and in a notebook where it takes more than a second, True elsewhere,
            too, False nothing; a function is told how many steps are done, and of how many.

    Raises:
        UserError: as `annealed_evidence`, and for a site that observes no field as it is, so that what is simulated
            there cannot be put into a row.

    Source: Grosse et al. 2015, arXiv 1511.02543; Wu et al. 2017, arXiv 1611.04273.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> from ppl_vae.programs.toy import model
        >>> def guide(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 3, 1.0))
        >>> found = bidirectional(model, guide, torch.zeros(1), rows=20, temperatures=20, steps=3)
        >>> abs(found.gap_mean) < 0.1
        True
    """
    rows, seed = check_whole("rows", rows), check_whole("seed", seed, 0)
    pair, settings = Pair(model, guide), LadderSettings(chains, temperatures, steps, step_size).checked()
    chains, temperatures, steps = settings[:3]
    some = data.train if isinstance(data, Data) else rows_of(model, guide, data)
    if shares := shares_latents(pair, some.to(pair.device)):
        split = fitted_rows(model, guide, data)[0].to(pair.device)
        rows = len(split)
    else:
        split = rows_of(model, guide, data, rows_for="bidirectional").to(pair.device)
    made, latents = simulated_rows(pair, split, rows, seed=seed + 1)  # other numbers than those of the chains
    with ladder(
        model, guide, made, settings, start, climbs=2, seed=seed, compile=compile, floats_at_once=floats_at_once
    ) as (_, batches):
        parts: list[tuple[Climb, Climb]] = []
        exact: Tensor | None = None
        for batch in batches:
            whole = batch.batch if shares else made.batch()
            exact = batch.bridge.placed(whole, latents, 1) if exact is None else exact
            begin = sum(len(up.acceptance) for up, _ in parts)
            count = units_in(batch.batch)
            up = batch.up(batch.started())
            parts.append((up, batch.down(exact[:, begin : begin + count].expand(chains, -1, -1).clone())))
    ups, downs = (torch.cat([p[i].log_weight for p in parts], dim=1) for i in (0, 1))
    lower, reverse = evidence_of(ups), evidence_of(downs)
    return Bidirectional(
        lower=lower.log_evidence,
        upper=-reverse.log_evidence,
        lower_se=lower.log_evidence_se,
        upper_se=reverse.log_evidence_se,
        acceptance=torch.cat([(up.acceptance + down.acceptance) / 2 for up, down in parts]),
        chains=chains,
        temperatures=temperatures,
        steps=steps,
        start=start,
        rows=made,
        of="all data" if shares else "row",
    )


def simulated_rows(pair: Pair, like: Split, n: int, *, seed: int = 0) -> tuple[Split, Mapping[str, Tensor]]:
    """n rows (z, x) from the model: a split with the conditions and gaps of other rows, and the latents by site."""
    like = like.rows(torch.arange(n) % len(like))
    with judging(pair, seed):
        made = simulated(pair, analyse(pair, some_rows(like)), like.schema, like.batch())
    return Split(like.schema, "simulated", made.batch), _latents(made.sites)


def simulated_unit(
    pair: Pair, structure: Structure, like: Split, *, seed: int = 0
) -> tuple[Split, Mapping[str, Tensor]]:
    """All data as the model makes them, as one unit in the likeness of another, and the latents by site."""
    with judging(pair, seed):
        made = simulated(pair, structure, like.schema, like.batch())
    return replace(like, name="simulated", fields=made.batch), _latents(made.sites)


def _latents(sites: TraceSites) -> Mapping[str, Tensor]:
    return {n: s["value"] for n, s in sites.items() if not (s["is_observed"] or s["infer"].get("was_observed"))}
