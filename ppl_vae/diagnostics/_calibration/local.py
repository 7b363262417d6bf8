"""At which rows a guide is wrong: a classifier between truths and the guide's draws, asked row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.diagnostics._calibration.classifier import (
    ROWS_EACH,
    Classifiers,
    features,
    kinds,
    local_statistics,
    swapped,
    units_of,
)
from ppl_vae.diagnostics._common.features import matrices
from ppl_vae.diagnostics._common.multiple_tests import holm
from ppl_vae.diagnostics._common.sentences import LONGER, listed
from ppl_vae.diagnostics._common.simulation import resampled, simulated
from ppl_vae.display import Displayed
from ppl_vae.display.working import shows_progress, tracked
from ppl_vae.errors import UserError, check_whole
from ppl_vae.evaluation.bridge import Bridge
from ppl_vae.evaluation.passes import Passes, passes, refuse_endless
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LocalCalibration", "local_calibration"]

SIGNIFICANT = 0.05

ROW_FEATURES = 8
"""Principal components of the rows' fields that the classifier sees, at most."""

REMEDIES = {
    "shift": LONGER,
    "width": "a richer guide (FullRank, IAF)",
    "dependence": "a guide with dependence (FullRank, LowRank, IAF)",
}


@dataclass(frozen=True, repr=False)
class LocalCalibration(Displayed):
    """What `local_calibration` found.

    Attributes:
        p_value: of the classifier on simulated rows: whether the guide is the posterior at all of them.
        corrected: the same, corrected for the test of rows.
        nats: how far it is, about KL(p(z | x) || q(z | x)) in nats per simulated row, by "shift", "width" and
            "dependence"; 0 on average for an exact guide.
        statistic: of every row of the data, how sure the classifier is of the guide's draws, the mean square of its
            answers; 1 on average under the null.
        row_p_values: of every row, corrected for all of them and for the test above.
        simulations: simulated rows.
        permutations: classifiers under the null.

    Example:
        >>> one = torch.ones(3)
        >>> LocalCalibration(0.4, 0.8, {"shift": 0.0}, one, one, 1000, 999).verdict.split(" (")[0]
        "Calibrated: a classifier does not tell the guide's draws from truths, at none of 3 rows"
    """

    p_value: float
    corrected: float
    nats: Mapping[str, float]
    statistic: Float[Tensor, " row"]
    row_p_values: Float[Tensor, " row"]
    simulations: int
    permutations: int

    @property
    def differs(self) -> list[int]:
        """The rows at which the guide is not the posterior, clearest first."""
        order = self.statistic.argsort(descending=True, stable=True).tolist()
        return [i for i in order if self.row_p_values[i] < SIGNIFICANT]

    @property
    def calibrated(self) -> bool:
        """Whether nothing is rejected: true of an exact posterior in at least 95 of 100 runs."""
        return self.corrected >= SIGNIFICANT and not self.differs

    @property
    def verdict(self) -> str:
        """What this means, in plain words, and what to try."""
        about = f"{self.simulations:,} simulated rows, {self.permutations:,} permutations, both tests at 5 % together"
        rows = f"{len(self.statistic):,} rows"
        if self.calibrated:
            return f"Calibrated: a classifier does not tell the guide's draws from truths, at none of {rows} ({about})."
        wrong = self.differs
        at = f"asked at each row of the data, it does at {len(wrong):,} of {len(self.statistic):,}"
        at += f", most clearly at {listed([str(i) for i in wrong])}" if wrong else ""
        largest = [kind for kind, value in self.nats.items() if value > 0.2 * max(sum(self.nats.values()), 1e-9)]
        largest = sorted(largest, key=lambda kind: -self.nats[kind])
        by = f", by its {listed(largest)}" if largest else ""
        far = f"about {max(sum(self.nats.values()), 0.0):.2g} nats{by}"
        tried = ", ".join(dict.fromkeys(REMEDIES[kind] for kind in largest)) or LONGER
        return f"Not calibrated: a classifier tells the guide's draws from truths, {far}; {at} ({about}). Try {tried}."

    def summary(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        return {
            "simulations": self.simulations,
            "permutations": self.permutations,
            "calibrated": self.calibrated,
            "p_value": self.p_value,
            "corrected_p": self.corrected,
            "nats": dict(self.nats),
            "rows": len(self.statistic),
            "rows_that_differ": self.differs,
            "smallest_row_p": float(self.row_p_values.min()),
            "verdict": self.verdict,
        }

    def figure(self) -> Figure:
        """The statistic of every row, and how far the guide is from the posterior in nats, by kind."""
        from ppl_vae.diagnostics._calibration.plot_local import local_figure

        return local_figure(self)


@takes_results
@exclusive
@shows_progress
def local_calibration(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    simulations: int = 2000,
    draws: int = 100,
    permutations: int = 999,
    seed: int = 0,
    progress: Any = "auto",
) -> LocalCalibration:
    """Whether the guide is the posterior at each row of the data: a local classifier two-sample test (L-C2ST).

    The model makes rows with their latents, z ~ p(z), x ~ p(x | z), and the guide draws z' ~ q(z | x). A classifier is
    fitted to tell (z, x) from (z', x). If it cannot, the guide is the posterior. Asked about the guide's draws at a row
    of the data, its answers are 0 where the guide is right; their mean square is the statistic of the row. Both tests
    are exact: under the null truth and draw may be swapped in any simulated row.

    The classifier is least squares on latents in units of the guide, their squares and products, and each times
    principal components of the row, so that all its retrainings under the null are one product of matrices. It finds
    shifts, widths and dependences that are wrong everywhere or in a part of the space of rows; of a posterior with the
    same mean and covariance and another shape it knows nothing: `calibration` ranks see that.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x); it need not have a density.
        data: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`).
        simulations: rows that the model makes.
        draws: from the guide at each row, of which its units are told.
        permutations: classifiers under the null.
        seed: of all draws; the global generators are left alone.
        progress: "auto" shows a bar on a terminal and in a notebook where it takes more than a second, True elsewhere,
            too, False nothing; a function is told how many steps are done, and of how many.

    Raises:
        UserError: for programs that break the contract, latents that all rows share, no continuous latents, or counts
            that are too small.
        NoDensity: for points and improper priors.

    Source: Linhart et al. 2023, arXiv 2306.03580; Lopez-Paz & Oquab 2017, arXiv 1610.06545.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> from ppl_vae.programs.toy import model
        >>> def guide(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(0.7 * x, 0.5**0.5))  # x / 2 is right, and where x is 0 this is, too
        >>> found = local_calibration(model, guide, torch.tensor([0.0, 2.5]), permutations=199)
        >>> found.calibrated, found.differs
        (False, [1])
    """
    simulations, draws = check_whole("simulations", simulations, 50), check_whole("draws", draws, 20)
    permutations, seed = check_whole("permutations", permutations, 19), check_whole("seed", seed, 0)
    refuse_endless("draws", draws, simulations)
    refuse_endless("permutations", permutations, simulations)
    pair = Pair(model, guide)
    split = rows_of(model, guide, data, rows_for="local_calibration").to(pair.device)
    with passes(pair, resampled(split, simulations, seed), draws, seed=seed) as plan:
        bridge = Bridge(pair, plan.structure, next(plan.batches()), "prior", "off")
        if not bridge.size:
            raise UserError("the guide draws no continuous latent of its own: see ppl_vae.diagnostics.calibration")
        draws = max(draws, 4 * bridge.size)
        pairs, made = _simulated(pair, plan, bridge, draws)
        principal = _Principal(split, made, simulations // (ROWS_EACH * features(pairs[:1, 0]).shape[-1]))
        middle = features(pairs).mean((0, 1))
        columns = features(pairs, principal.of(made), middle)
        found = swapped(columns[0] - columns[1], permutations)
        statistic, row_p = _at_rows(split, plan, bridge, draws, principal, found, middle)
    return LocalCalibration(
        p_value=found.p_value,
        corrected=holm([found.p_value, float(row_p.min())])[0],
        nats=kinds(found, bridge.size, simulations),
        statistic=statistic,
        row_p_values=torch.tensor([holm([float(p), found.p_value])[0] for p in row_p]),
        simulations=simulations,
        permutations=permutations,
    )


def _simulated(pair: Pair, plan: Passes, bridge: Bridge, draws: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A truth and a draw of every simulated row in units of the guide, [2, row, d], and the rows by field."""
    found, fields = [], []
    for batch in tracked(plan.batches(), "simulating", plan.count):
        made = simulated(pair, plan.structure, plan.split.schema, batch)
        latents = {n: made.sites[n]["value"] for n in bridge.sites}
        truth = bridge.placed(made.batch, latents, 1)
        drawn = torch.cat([*_drawn(bridge, made.batch, draws + 1, plan.at_once)])
        found.append(units_of(drawn[1:]).of(torch.cat([truth, drawn[:1]])))
        fields.append(made.batch)
    return torch.cat(found, 1), {n: torch.cat([f[n] for f in fields]) for n in fields[0]}


def _drawn(bridge: Bridge, batch: dict[str, Tensor], draws: int, at_once: int) -> Iterator[Tensor]:
    for start in range(0, draws, at_once):
        u = bridge.drawn(batch, min(at_once, draws - start), "guide")
        if not bool(u.isfinite().all()):
            raise UserError("the guide's draws are not finite for some rows: see ppl_vae.check")
        yield u


def _at_rows(
    split: Split, plan: Passes, bridge: Bridge, draws: int, principal: _Principal, found: Classifiers, middle: Tensor
) -> tuple[Tensor, Tensor]:
    """The statistic of every row of the data, and its p-value corrected for all rows."""
    parts = []
    for batch in tracked(split.scan(plan.rows), "classifying", -(-len(split) // plan.rows)):
        drawn = torch.cat([*_drawn(bridge, batch, 2 * draws, plan.at_once)])
        v = units_of(drawn[draws:]).of(drawn[:draws])
        parts.append(local_statistics(found, features(v, principal.of(batch), middle)))
    relative = torch.cat(parts)
    most = relative.max(0).values[1:]
    p_value = (1 + (most >= relative[:, :1] * (1 - 1e-9)).sum(1)) / (1 + len(most))
    return relative[:, 0], p_value


class _Principal:
    """The first principal components of the rows' fields, each of unit variance over simulated rows."""

    def __init__(self, split: Split, made: dict[str, Tensor], most: int) -> None:
        self.fields, self.made = list(split.schema), made
        whole = matrices(self.fields, made)[0].double()
        self.mean = whole.mean(0)
        _, size, directions = torch.linalg.svd(whole - self.mean, full_matrices=False)
        count = max(0, min(ROW_FEATURES, most - 1, int((size > 1e-6 * size[:1].clamp(min=1e-12)).sum())))
        self.directions = directions[:count].T * (len(whole) ** 0.5 / size[:count])

    def of(self, batch: dict[str, Tensor]) -> Tensor:
        """Of some rows, [row, component], at most 3 deviations from the mean."""
        columns = matrices(self.fields, self.made, batch, like=0)[1].double()
        width = len(self.mean)
        return ((columns[:, :width] - self.mean) @ self.directions).clamp(-3, 3).to(torch.get_default_dtype())
