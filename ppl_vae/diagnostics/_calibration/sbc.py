"""Calibration of an amortized guide: latents that the model drew, ranked among the guide's draws for their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.data import OneUnit, Split
from ppl_vae.diagnostics._calibration.quantities import DENSITY, DISTANCE, Quantity, checked
from ppl_vae.diagnostics._calibration.ranking import JOINT, ClassRanks, joined, ranked
from ppl_vae.diagnostics._calibration.ranks import hommel, rank_tests, simes
from ppl_vae.diagnostics._calibration.reliability import Reliability, reliability
from ppl_vae.diagnostics._calibration.units import refits, told
from ppl_vae.diagnostics._common.simulation import resampled, specific
from ppl_vae.display import Displayed
from ppl_vae.display.working import shows_progress, tracked
from ppl_vae.errors import UserError, check_whole
from ppl_vae.evaluation.bridge import Bridge
from ppl_vae.evaluation.joint_evaluation import fitted_rows, units
from ppl_vae.evaluation.passes import Passes, passes, refuse_endless
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.trained import takes_results

__all__ = ["JOINT", "LEVELS", "Calibration", "Tested", "calibration"]

LEVELS = (0.5, 0.8, 0.9, 0.95)
SIGNIFICANT = 0.05


class Tested(NamedTuple):
    """One test: of which latent, of what, its p-value, and that corrected for all tests of the calibration."""

    latent: str
    name: str
    p: float
    corrected: float


@dataclass(frozen=True, repr=False)
class Calibration(Displayed):
    """What `calibration` found.

    Attributes:
        names: entries of the latents that were ranked, then `quantities`.
        ranks: of the true value among the draws, 0 to `draws`; -1 where it was observed and so no latent.
        draws: from the guide for each row.
        tests: all of them, with p-values corrected together (Hommel).
        shift: how far truths lie above draws on average, in standard deviations of the draws, by name.
        width: how wide draws are relative to what they should be, by name.
        log_gamma: the log-gamma statistic of every set of ranks, less its 5% point: below 0 they are not uniform.
        coverage: share of rows whose true value is in the central interval of each of `levels`, [latent, level].
        coverage_se: its binomial standard error if the guide is exact, [latent, level].
        classes: discrete latents with categories: how reliable their probabilities are.
        quantities: functions of all latents together that were ranked, by name; the first is `JOINT`.
        regions: share of rows whose truth is in the region of highest density of each of `levels`, [level]; empty
            where the guide's density at given values cannot be had.
        notes: what could not be tested, a line each.
        of: what was simulated, rows or data sets.

    Example:
        >>> from ppl_vae.programs.toy import model, posterior as guide
        >>> found = calibration(model, guide, torch.zeros(10), simulations=40)
        >>> found.names, tuple(found.ranks.shape), found.verdict.split(":")[0]
        (('z', 'log p(x, z)', 'distance to a random point', 'log q(z | x)'), (40, 4), 'Calibrated')
    """

    names: tuple[str, ...]
    ranks: Int[Tensor, "simulation latent"]
    draws: int
    tests: tuple[Tested, ...]
    shift: Mapping[str, float]
    width: Mapping[str, float]
    coverage: Float[Tensor, "latent level"]
    coverage_se: Float[Tensor, "latent level"]
    classes: Mapping[str, Reliability]
    quantities: tuple[str, ...] = (JOINT,)
    regions: Float[Tensor, " level"] = field(default_factory=lambda: torch.zeros(0))
    notes: tuple[str, ...] = ()
    of: str = "rows"
    levels: tuple[float, ...] = field(default=LEVELS)
    log_gamma: Mapping[str, float] = field(default_factory=dict)

    @property
    def rejected(self) -> tuple[Tested, ...]:
        """Tests whose corrected p-value is below 0.05, most significant first.

        Where none is, but all of them together are (`p_value`), the k smallest that make it so: p_(k) <= 0.05 k / n.
        """
        found = sorted((t for t in self.tests if t.corrected < SIGNIFICANT), key=lambda t: t.p)
        if not found and not self.calibrated:
            ranked = sorted(self.tests, key=lambda t: t.p)
            found = ranked[: max(k + 1 for k, t in enumerate(ranked) if t.p * len(ranked) < SIGNIFICANT * (k + 1))]
        return tuple(found)

    @property
    def p_value(self) -> float:
        """Of all tests together (Simes): whether the guide is the posterior."""
        return simes(np.array([t.p for t in self.tests]))

    @property
    def calibrated(self) -> bool:
        """Whether the tests together do not reject at 5 %: true of an exact posterior in 95 of 100 runs."""
        return self.p_value >= SIGNIFICANT

    @property
    def verdict(self) -> str:
        """What this means, in plain words, and what to try."""
        from ppl_vae.diagnostics._calibration.verdict import calibration_verdict

        return calibration_verdict(self)

    def summary(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, by what they are."""
        coverage = {
            name: {f"{level:g}": float(c) for level, c in zip(self.levels, row, strict=True)}
            for name, row in zip(self.names, self.coverage, strict=True)
            if name not in self.quantities
        }
        return {
            "simulations": len(self.ranks),
            "draws": self.draws,
            "calibrated": self.calibrated,
            "verdict": self.verdict,
            "p_value": self.p_value,
            "smallest_corrected_p": min((t.corrected for t in self.tests), default=1.0),
            "rejected": [t._asdict() for t in self.rejected],
            "tests": [t._asdict() for t in self.tests],
            "shift": {n: float(v) for n, v in self.shift.items()},
            "log_gamma": {n: float(v) for n, v in self.log_gamma.items()},
            "width": {n: float(v) for n, v in self.width.items()},
            "coverage": coverage,
            "region_coverage": {f"{a:g}": float(c) for a, c in zip(self.levels, self.regions, strict=False)},
            "coverage_se": {f"{a:g}": (a * (1 - a) / max(len(self.ranks), 1)) ** 0.5 for a in self.levels},
            "classes": {name: found.summary() for name, found in self.classes.items()},
            "notes": list(self.notes),
        }

    def figure(self) -> Any:
        """ECDFs of the ranks with their simultaneous band, coverage, and the reliability of classes."""
        from ppl_vae.diagnostics._calibration.plot import calibration_figure

        return calibration_figure(self)


@takes_results
@exclusive
@shows_progress
def calibration(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    rows: str | None = "auto",
    simulations: int | None = None,
    draws: int = 99,
    steps: int = 300,
    lr: float = 0.05,
    quantities: Mapping[str, Quantity] | None = None,
    seed: int = 0,
    progress: Any = "auto",
) -> Calibration:
    """Whether the guide's posteriors can be believed: simulation-based calibration.

    Draw z_i ~ p(z), x_i ~ p(x | z_i) from the model and `draws` values from q(z | x_i). If q is the posterior, the rank
    of z_i among them is uniform, in every entry of z and for any function of z and x. Tested are, for every entry and
    for quantities of all latents together, which show a wrong dependence between them or on the row: log p(x, z), the
    distance to a random point (TARP), log q(z | x), whose ranks are the coverage of regions of highest density, and
    those that you name. Each for uniformity, symmetry (a shift), and spread (too
    narrow, too wide); of classes whether their probabilities are too sure, and whether each comes up as often as
    said. p-values are corrected for the number of tests.

    The rows are the model's own: this tells whether the guide inverts this model, where the model puts its rows, not
    whether the model fits the data. Labels that may be exchanged, and other modes that the guide leaves out, count as
    errors of the guide, since the posterior has them all.

    Where all rows share latents, whole data sets are simulated, each as large as the data, and the guide's parameters
    are trained for each by `steps` steps of Adam: what is judged is the family together with such a fit. A guide that
    has no parameters is taken as it is. Ranked are the shared latents and log p of everything.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x); afterwards it is what it was.
        data: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`). Of the
            rows only conditions and which entries are missing are used.
        rows: None takes all data as one unit, as for `fit`.
        simulations: rows to simulate, by default 1,000; or data sets, by default 100.
        draws: from the guide for each of them.
        steps: of a refit: the budget is simulations x steps.
        lr: of a refit, at its start.
        quantities: functions of your own by name, from latents by site [draw, row, ...] and the rows' fields to [draw,
            row]: {"radius": lambda z, x: z["z"].square().sum(-1)}. Not where whole data sets are simulated.
        seed: of all draws; the global generators are left alone.
        progress: "auto" shows a bar on a terminal and in a notebook where it takes more than a second, True elsewhere,
            too, False nothing; a function is told how many steps are done, and of how many.

    Raises:
        UserError: for programs that break the contract, no latents that the guide draws, too few simulations or
            draws, or draws that are not finite.
        NoDensity: for points and improper priors.

    Source: Talts et al. 2018, arXiv 1804.06788; Yao et al. 2018, arXiv 1802.02538; Säilynoja et al. 2022, arXiv
    2103.10522; Modrák et al. 2023, arXiv 2211.02383 (quantities of all latents); Lemos et al. 2023, arXiv 2302.03026
    (TARP); Hermans et al. 2022, arXiv 2110.06581 (regions of highest density).

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> from ppl_vae.programs.toy import model
        >>> def guide(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.57))  # the right deviation is 0.71
        >>> found = calibration(model, guide, torch.zeros(10))
        >>> found.calibrated, round(found.width["z"], 1)
        (False, 0.8)
    """
    draws, steps, seed = check_whole("draws", draws, 9), check_whole("steps", steps, 0), check_whole("seed", seed, 0)
    pair = Pair(model, guide)
    split = units(pair, data, rows=rows, purpose="calibration")
    count = (100 if split.is_one_unit else 1000) if simulations is None else simulations
    count = check_whole("simulations", count, 20)
    refuse_endless("draws", draws, count)
    own = checked(quantities)
    if split.is_one_unit:
        if own:
            raise UserError("quantities are ranked where rows are simulated, and here all data are one unit")
        return _of_units(pair, data if rows is not None else None, split, count, draws, steps, lr, seed)
    with passes(pair, resampled(split, count, seed), draws, seed=seed) as plan:
        if not specific(plan.structure):
            raise UserError("the guide draws no latent of the model, so that there is nothing to calibrate")
        bridge, notes = _bridge(pair, plan)
        batches = tracked(plan.batches(), "ranking", plan.count)
        parts = [ranked(pair, plan, batch, own, bridge) for batch in batches]
        ranks, classes, more = joined(parts, draws)
        notes += more
    if not {*ranks, *classes} - {JOINT, DISTANCE, DENSITY, *own}:
        raise UserError(f"there is nothing to calibrate: {'; '.join(notes) or 'the latents are constants'}")
    return _judged(ranks, classes, draws, seed, (*notes, *_untested(plan)), own)


def _bridge(pair: Pair, plan: Passes) -> tuple[Bridge | None, list[str]]:
    """What gives the guide's density at given values, or a note why that cannot be had."""
    some = next(plan.batches())
    try:
        with preserved_randomness():
            bridge = Bridge(pair, plan.structure, some, "guide", "off")
            bridge.densities(some, bridge.drawn(some, 1), 1)
    except UserError as reason:
        return None, [f"regions of highest density are not tested: {str(reason).split(': use start')[0]}"]
    return (bridge if bridge.size else None), []


def _of_units(
    pair: Pair, data: Any, split: Split, simulations: int, draws: int, steps: int, lr: float, seed: int
) -> Calibration:
    whole = data is None or isinstance(data, OneUnit)
    some = None if whole else fitted_rows(pair.model, pair.guide, data)[0].to(pair.device)
    with passes(pair, split, draws, seed=seed) as plan:
        names = told(pair, plan, some)
        parts, poor = refits(pair, plan, names, simulations, steps, lr)
        ranks, classes, notes = joined(parts, draws)
    return replace(_judged(ranks, classes, draws, seed, (*notes, *poor)), of="data sets")


# -- judging -------------------------------------------------------------------------------------------------------


def _judged(
    ranks: dict[str, Tensor],
    classes: dict[str, ClassRanks],
    draws: int,
    seed: int,
    notes: tuple[str, ...],
    own: Mapping[str, Quantity] | None = None,
) -> Calibration:
    together = (JOINT, DISTANCE, DENSITY, *(own or ()))
    ranks = {n: v for n, v in ranks.items() if n not in together} | {n: ranks[n] for n in together if n in ranks}
    found = {name: rank_tests(column[column >= 0].numpy(), draws) for name, column in ranks.items()}
    tests = [(name, what, getattr(t, what)) for name, t in found.items() for what in ("uniform", "symmetric", "spread")]
    replicates = max(9999, 100 * (len(tests) + 2 * len(classes)))  # enough to reject one among so many tests
    reliable = {
        name: reliability(name, probs, labels, replicates=replicates, seed=seed)
        for name, (probs, labels) in classes.items()
    }
    for name, one in reliable.items():
        tests += [(name, "confidence", one.p_confidence), (name, "frequency", one.p_frequency)]
    corrected = hommel(np.array([p for *_, p in tests]))
    table = torch.stack(list(ranks.values()), 1)
    coverage = torch.stack([_coverage(column, draws) for column in ranks.values()])
    level = torch.tensor(LEVELS, dtype=torch.float64)
    counts = (table >= 0).sum(0).unsqueeze(-1)
    return Calibration(
        names=tuple(ranks),
        ranks=table,
        draws=draws,
        tests=tuple(Tested(*test, float(c)) for test, c in zip(tests, corrected, strict=True)),
        shift={name: t.shift for name, t in found.items()},
        width={name: t.width for name, t in found.items()},
        coverage=coverage,
        coverage_se=(level * (1 - level) / counts).sqrt(),
        classes=reliable,
        quantities=tuple(name for name in together if name in ranks),
        regions=_regions(ranks[DENSITY], draws) if DENSITY in ranks else torch.zeros(0),
        notes=notes,
        log_gamma={name: t.log_gamma for name, t in found.items()},
    )


def _coverage(ranks: Tensor, draws: int) -> Tensor:
    """The share of truths in central intervals, [level]: ranks count in part, as intervals of (draws + 1)ths."""
    seen = ranks[ranks >= 0].double()
    level = torch.tensor(LEVELS, dtype=torch.float64)
    low, high = (0.5 - level / 2) * (draws + 1), (0.5 + level / 2) * (draws + 1)
    inside = torch.minimum(seen.unsqueeze(1) + 1, high) - torch.maximum(seen.unsqueeze(1), low)
    return inside.clamp(0, 1).mean(0)


def _regions(ranks: Tensor, draws: int) -> Tensor:
    """The share of truths in regions of highest density, [level]: with a density above that of enough draws."""
    outside = (1 - torch.tensor(LEVELS, dtype=torch.float64)) * (draws + 1)
    return (ranks.double().unsqueeze(1) + 1 - outside).clamp(0, 1).mean(0)


def _untested(plan: Passes) -> list[str]:
    """What the guide does not draw."""
    return [
        f"{name} is summed out in the model and is no part of the guide" for name in sorted(plan.structure.summed_model)
    ]
