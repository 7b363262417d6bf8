"""Log evidence by annealed importance sampling: a reference that does not need a good guide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.diagnostics._evidence.ladder import LadderSettings, ladder
from ppl_vae.display import Displayed
from ppl_vae.display.working import shows_progress
from ppl_vae.errors import UserError
from ppl_vae.evaluation import evidence_of
from ppl_vae.evaluation.bridge import Start
from ppl_vae.evaluation.means import standard_error
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.trained import takes_results
from ppl_vae.speed.modes import Compile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AnnealedEvidence", "acceptance_words", "annealed_evidence"]

MOVES, STIFF = 0.4, 0.97
"""Shares of accepted moves outside of which chains hardly move."""

FEW, UNSURE = 0.25, 0.2
"""A row is uncertain if its effective chains are fewer than this share, or its standard error is larger, in nats."""


@dataclass(frozen=True, repr=False)
class AnnealedEvidence(Displayed):
    """What `annealed_evidence` found, one value a row, in nats; of all data as one unit a single value.

    `log_evidence` is the log of the mean weight over chains, a lower bound of log p(x) in expectation,
    `log_evidence_se` its Monte Carlo standard error by the delta method, `ess` the effective number of chains,
    `acceptance` the mean probability with which moves were accepted. `log_weights` are those of the chains.

    Example:
        >>> one = torch.ones(2)
        >>> found = AnnealedEvidence(-3 * one, 0.1 * one, 15 * one, 0.7 * one, torch.zeros(16, 2), 500, 10, "guide")
        >>> found.summary()["rows"], round(found.summary()["acceptance"], 1)
        (2, 0.7)
    """

    log_evidence: Float[Tensor, " row"]
    log_evidence_se: Float[Tensor, " row"]
    ess: Float[Tensor, " row"]
    acceptance: Float[Tensor, " row"]
    log_weights: Float[Tensor, "chain row"]
    temperatures: int
    steps: int
    start: Start
    of: str = "row"

    @property
    def uncertain(self) -> Tensor:
        """Whether a row's number rests on a few chains, [row]."""
        few = self.ess < FEW * len(self.log_weights)
        return few | ~(self.log_evidence_se < UNSURE) if len(self.log_weights) > 1 else torch.ones_like(few)

    def summary(self) -> dict[str, Any]:
        """Means over rows in nats per row; `_se` over rows, `_mc_se` of the Monte Carlo draws alone."""
        rows = len(self.log_evidence)
        spread = float(standard_error(self.log_evidence))
        return {
            "rows": rows,
            "chains": len(self.log_weights),
            "temperatures": self.temperatures,
            "leapfrog_steps": self.steps,
            "start": self.start,
            "log_evidence": float(self.log_evidence.mean()),
            "log_evidence_se": spread,
            "log_evidence_mc_se": float(self.log_evidence_se.square().sum().sqrt() / rows),
            "ess": float(self.ess.mean()),
            "acceptance": float(self.acceptance.mean()),
            "uncertain_rows": int(self.uncertain.sum()),
            "verdict": self.verdict,
        }

    @property
    def verdict(self) -> str:
        """Whether to believe these numbers, and what to try if not."""
        mean, chains = float(self.log_evidence.mean()), len(self.log_weights)
        bad = acceptance_words(self.acceptance)
        if bad:
            return f"Not to be trusted: {bad}."
        lost, typical = int(self.uncertain.sum()), float(self.log_evidence_se.median())
        of = "of all data together" if self.of == "all data" else "per row"
        if chains == 1:
            return f"Log evidence {mean:.2f} nats {of} from a single chain, so without an error: run 16 chains."
        each = "" if self.of == "all data" else "each row to "
        words = f"Log evidence {mean:.2f} nats {of}, {each}±{typical:.2f} (Monte Carlo)"
        if not lost:
            rests = "it rests" if self.of == "all data" else "all rows rest"
            return f"{words}: {rests} on many of {'the' if self.of == 'all data' else 'their'} {chains} chains."
        if self.of == "all data":
            return (
                f"{words}, but a few of the {chains} chains decide: it is a lower bound that may be nats too low; "
                "double the temperatures until it stays."
            )
        return (
            f"{words}, but in {lost} of {len(self.ess)} rows a few of the {chains} chains decide: there it is a lower "
            "bound that may be nats too low; double the temperatures until it stays."
        )

    def figure(self) -> Figure:
        """Log evidence with its error row by row, effective chains, and how often moves were accepted."""
        from ppl_vae.diagnostics._evidence.plot_annealing import annealing

        return annealing(self.log_evidence, self.log_evidence_se, self.ess, self.acceptance, len(self.log_weights))


def acceptance_words(acceptance: Tensor) -> str:
    """What is wrong with the moves of chains, [row]; nothing if they are as they should be.

    Example:
        >>> acceptance_words(torch.tensor([0.7, 0.6])), acceptance_words(torch.tensor([0.01, 0.02]))
        ('', 'only 1% of the moves were accepted, so that chains stay where they started; ...')
    """
    share = float(acceptance.mean())
    if share < MOVES:
        cure = "take a smaller step_size, or none, so that it is adapted"
        return f"only {share:.0%} of the moves were accepted, so that chains stay where they started; {cure}"
    if share > STIFF and not bool((acceptance == 1).all()):
        cure = "take a larger step_size, or none, so that it is adapted"
        return f"{share:.0%} of the moves were accepted, a sign of steps too small to get anywhere; {cure}"
    return ""


@takes_results
@exclusive
@shows_progress
def annealed_evidence(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    rows: str | None = "auto",
    chains: int = 16,
    temperatures: int = 500,
    steps: int = 10,
    start: Start = "guide",
    step_size: float | None = None,
    seed: int = 0,
    compile: Compile = "auto",
    floats_at_once: int | None = None,
    progress: Any = "auto",
) -> AnnealedEvidence:
    """Log evidence of rows by annealed importance sampling with Hamiltonian Monte Carlo moves.

    With f_0 = q(z | x) or p(z), f_1 = p(x, z) and powers 0 = b_0 < ... < b_T = 1, a chain starts at z_0 ~ f_0, is moved
    at each b_t by a transition that leaves f_0^(1 - b_t) f_1^b_t as it is, and has the weight

        log w = sum_t (b_t - b_(t-1)) (log f_1(z_(t-1)) - log f_0(z_(t-1))).

    E[w] = p(x) whatever the transitions, so that log (1/K) sum_k w_k is a lower bound of log p(x) in expectation and
    grows to it with temperatures and chains. Continuous latents of a row, [K, B, d], move together in unconstrained
    space; discrete latents of finite support are summed out of f_0 and f_1.

    The transitions are chosen before the climb that is reported: step sizes (one for each row and power, for
    about 70% acceptance) are adapted on another, coarser climb whose draws are then thrown away, and their unit is the
    deviation of other draws from the start. Adapting on the way would make the weights' transitions depend on their
    own chains and the bound a little wrong; this one stays one.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x): where chains start. With start="prior" only its sites count.
        data: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`).
        rows: None takes all data as one unit, as for `evaluate`; so are data whose rows share latents, whose log
            evidence is that of all rows together and whose latents, shared and of rows, all move together.
        chains: for each row, K.
        temperatures: T, the number of powers above 0.
        steps: leapfrog steps of a move.
        start: "guide", which is near the posterior, or "prior", which does not believe the guide.
        step_size: of leapfrog steps in units of the start's deviation, instead of the adapted ones.
        seed: of the draws; the global generators are left alone.
        compile: as for `evaluate`: density and gradient, which a move takes steps + 1 times, are captured and compiled
            where this pays; the numbers are the eager ones.
        floats_at_once: bounds the memory of one pass; by default as for `evaluate`.
        progress: "auto" shows a bar on a terminal and in a notebook where it takes more than a second, True elsewhere,
            too, False nothing; a function is told how many steps are done, and of how many.

    Raises:
        UserError: for counts below 1, programs that break the contract, discrete latents without end,
            and with start="guide" a guide whose density at given values cannot be had (planar flows).
        NoDensity: for a guide that draws a latent of the rows from a point mass.

    Source: Neal 2001, Annealed importance sampling; Wu et al. 2017, arXiv 1611.04273 (of decoders).

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> from ppl_vae.programs.toy import model
        >>> def guide(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 3, 1.0))
        >>> found = annealed_evidence(model, guide, torch.tensor([0.0, 2.0]), temperatures=10, steps=3)
        >>> exact = dist.Normal(0.0, 2**0.5).log_prob(torch.tensor([0.0, 2.0]))
        >>> bool(((found.log_evidence - exact).abs() < 4 * found.log_evidence_se).all())
        True
    """
    settings = LadderSettings(chains, temperatures, steps, step_size).checked()
    with ladder(
        model, guide, data, settings, start, rows=rows, seed=seed, compile=compile, floats_at_once=floats_at_once
    ) as (plan, batches):
        climbs = [some.up(some.started()) for some in batches]
    weights = torch.cat([c.log_weight for c in climbs], dim=1)
    _refuse_nan(weights)
    return AnnealedEvidence(
        **evidence_of(weights)._asdict(),
        acceptance=torch.cat([c.acceptance for c in climbs]),
        log_weights=weights,
        temperatures=temperatures,
        steps=steps,
        start=start,
        of="all data" if plan.split.is_one_unit else "row",
    )


def _refuse_nan(log_weights: Tensor) -> None:
    bad = torch.isnan(log_weights).any(0).nonzero()
    if len(bad):
        raise UserError(
            f"row {int(bad[0])} has no weights (NaN): the model or guide computes with its missing entries; let both "
            "replace them, x.nan_to_num(), or use a generated guide"
        )
