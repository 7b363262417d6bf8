"""Held-out evidence and its error, row by row, in memory that does not grow with particles or rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import Data, Split, as_one_unit, as_split, is_unit
from ppl_vae.display import Displayed
from ppl_vae.display.working import working
from ppl_vae.errors import Finding, UserError, check_several, check_whole
from ppl_vae.evaluation.baselines import Baseline, against, beside, worthless
from ppl_vae.evaluation.certainty import CertifiedRows, certain, certified_summary, checked
from ppl_vae.evaluation.chunks import Chunks
from ppl_vae.evaluation.joint_evaluation import JointEvaluation, evaluate_jointly, fitted_rows
from ppl_vae.evaluation.joint_weights import shares_latents
from ppl_vae.evaluation.means import standard_error
from ppl_vae.evaluation.passes import Passes, passes, refuse_blind
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.evaluation.words import evidence_lines
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results
from ppl_vae.speed.modes import Compile, check_mode
from ppl_vae.weights.psis import FEWEST, khat_limit
from ppl_vae.weights.streaming import Groups, Largest, Sums

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "Evaluation", "Evidence", "evaluate", "evaluate_rows", "evidence_of"]

COLUMNS = ("elbo", "log_evidence", "log_evidence_se", "ess", "khat", "rate", "distortion")
"""What is told of every row, whatever was asked for."""


@dataclass(frozen=True, repr=False)
class Evaluation(Displayed):
    """What `evaluate` found, one value a row, in nats.

    `elbo` is the mean log weight, `log_evidence` the log of the mean weight over `particles` (its expectation
    is a lower bound that grows with the particles), `log_evidence_se` its Monte Carlo standard error by the
    delta method, `ess` the effective number of particles, (sum w)^2 / sum w^2, and `khat` the tail index of the
    weights, by which rows are known whose standard error cannot be believed (`unreliable`). `rate` is the KL part
    and `distortion` minus the likelihood part: rate + distortion = -elbo. `iwae` holds the bounds IWAE_k that
    were asked for, by k, and `iwae_se` their Monte Carlo standard errors. `findings` say why
    particles were not drawn as fast as asked for, if they were not. `baselines` are densities of the same rows without
    latents, fitted to the training rows: independent columns, and one full normal or a Gaussian copula where they are
    densities of such rows. `certified` is what `ppl_vae.certify` found of these rows, if it was given.
    """

    elbo: Float[Tensor, " row"]
    log_evidence: Float[Tensor, " row"]
    log_evidence_se: Float[Tensor, " row"]
    khat: Float[Tensor, " row"]
    ess: Float[Tensor, " row"]
    rate: Float[Tensor, " row"]
    distortion: Float[Tensor, " row"]
    particles: int
    iwae: Mapping[int, Float[Tensor, " row"]] = field(default_factory=dict)
    iwae_se: Mapping[int, Float[Tensor, " row"]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    certified: CertifiedRows | None = None

    def certain(self) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
        """The best that is known of log p(x), and its Monte Carlo standard error: certified, where it is."""
        if self.certified is None:
            return self.log_evidence, self.log_evidence_se
        return certain(self.certified, self.log_evidence, self.log_evidence_se)

    @property
    def unreliable(self) -> list[int]:
        """The rows whose k-hat is above `khat_limit`, worst first: there the guide misses much of the posterior."""
        order = self.khat.nan_to_num(-math.inf).argsort(descending=True, stable=True).tolist()
        return [i for i in order if self.khat[i] > khat_limit(self.particles)]

    def columns(self) -> dict[str, Float[Tensor, " row"]]:
        """Everything that is told of single rows, by name."""
        found = {name: getattr(self, name) for name in COLUMNS} | {f"iwae_{k}": v for k, v in self.iwae.items()}
        if self.certified is not None:
            found |= dict(zip(("certified_log_evidence", "certified_log_evidence_se"), self.certain(), strict=True))
        return found

    def summary(self) -> dict[str, float | int]:
        """Means over rows in nats per row; `_se` over rows, `_mc_se` of the Monte Carlo draws alone.

        k-hat is told from 25 particles on.

        Example:
            >>> one = torch.ones(4)
            >>> Evaluation(-one, -one, 0 * one, 0 * one, one, 0 * one, one, particles=1).summary()["nll"]
            1.0
        """
        rows = len(self.elbo)
        found: dict[str, float | int] = {
            "rows": rows,
            "particles": self.particles,
            "negative_elbo": -float(self.elbo.mean()),
            "negative_elbo_se": float(standard_error(self.elbo)),
            "nll": -float(self.log_evidence.mean()),
            "nll_se": float(standard_error(self.log_evidence)),
            "nll_mc_se": float(self.log_evidence_se.square().sum().sqrt() / rows),
            "rate": float(self.rate.mean()),
            "distortion": float(self.distortion.mean()),
            "ess": float(self.ess.mean()),
        }
        if self.particles >= FEWEST:
            found |= {"khat_median": float(self.khat.median()), "khat_max": float(self.khat.max())}
            found |= {"khat_limit": khat_limit(self.particles), "unreliable_rows": len(self.unreliable)}
        for k, values in self.iwae.items():
            found |= {f"iwae_{k}": float(values.mean()), f"iwae_{k}_se": float(standard_error(values))}
        if self.certified is not None:
            found |= certified_summary(self.certified, self.log_evidence, self.log_evidence_se)
        return found | against(self.certain()[0], self.baselines)

    def frame(self) -> pd.DataFrame:
        """A line for each row, with everything in `columns`: in nats, but for k-hat and the effective particles."""
        import pandas

        return pandas.DataFrame({name: values.cpu().numpy() for name, values in self.columns().items()})

    def display_title(self) -> str:
        """How many rows, and what the numbers are."""
        return f"{len(self.elbo):,} rows, nats per row, ± standard error over rows"

    def display_lines(self) -> list[tuple[str, str]]:
        """The held-out numbers in words."""
        return [(line.words, line.value) for line in evidence_lines(self.summary())]

    def display_verdict(self) -> str:
        """What warns of them."""
        return worthless(self.summary()) or ""


@takes_results
@exclusive
def evaluate(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    particles: int = 1000,
    *,
    rows: str | None = "auto",
    iwae: Sequence[int] = (),
    inner: int | None = None,
    certified: Any = None,
    seed: int = 0,
    compile: Compile = "auto",
    floats_at_once: int | None = None,
    progress: Any = "auto",
) -> Evaluation | JointEvaluation:
    """ELBO and importance-sampled log evidence of held-out rows, with standard errors and k-hat of every row.

    If all rows share latents, such as the coefficients of a regression, there is one importance weight for all rows:
    the result is a `JointEvaluation` with the log evidence of the whole data set. The rows are then those that the pair
    was fitted to (the training split), and test rows are evaluated by the posterior predictive density.

    log p(x) is estimated by log (1/K) sum_k p(x, z_k) / q(z_k | x), under whatever prior the model has.
    Discrete latents are enumerated inside each weight. Time grows with rows x particles, memory does not.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x), the proposal.
        data: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`). Baseline
            densities are reported, too, if the training rows are known: those of the data set, or those that a model of
            this package was made from.
        particles: K, draws per row; of shared latents, draws in total.
        rows: None takes all data as one unit, as for `fit`: there is one log weight, that of all data.
        iwae: values k <= K for which IWAE_k is reported, too, each the mean over K // k groups.
        inner: if rows share latents, draws of the latents of a row for each draw of the shared ones; by default 8.
        certified: the result of `ppl_vae.certify` for the same rows: its log evidence is reported, too.
        seed: random seed of the draws; the state of the global generators does not change.
        compile: as for `fit`: "auto" traces, then compiles a chunk of particles if there are enough (the encoder
            then runs once for each row), "on" always, "off" never.
        floats_at_once: bounds the memory of one pass; by default 40 MB, on CUDA a quarter of what is free.
        progress: "auto" shows a bar on a terminal and in a notebook where it takes more than a second, True elsewhere,
            too, False nothing; a function is told how many passes are done, and of how many. Not of shared latents.

    Raises:
        UserError: for particles < 1, an IWAE of more particles than there are, programs that break the contract, or,
            with shared latents, an IWAE, or held-out rows alone.
        NoDensity: for a guide that draws a latent of the rows from a point mass, such as a deterministic autoencoder.

    Source: Burda et al. 2016, arXiv 1509.00519 (evidence by importance sampling); Vehtari et al. 2024, arXiv 1507.02646
    (k-hat).

    Example:
        >>> from ppl_vae.programs.toy import model, posterior
        >>> result = evaluate(model, posterior, torch.zeros(3), particles=10)
        >>> [round(v, 3) for v in result.log_evidence.tolist()]
        [-1.266, -1.266, -1.266]
    """
    check_mode(compile)
    pair = Pair(model, guide)
    if not is_unit(data, rows):
        some = data.train if isinstance(data, Data) else rows_of(model, guide, data)
        if shares_latents(pair, some.to(pair.device)):
            if iwae or certified is not None:
                raise UserError(
                    f"{'iwae' if iwae else 'certified'} is of each row, and here all rows share latents: leave it out, "
                    "or take rows=None"
                )
            split, held_out = fitted_rows(model, guide, data)
            return evaluate_jointly(
                pair, split, held_out, particles, inner=inner, seed=seed, floats_at_once=floats_at_once
            )
    whole = is_unit(data, rows)
    split = as_one_unit(data) if whole else rows_of(model, guide, data)
    sure = checked(certified, split)
    found = replace(_evaluate(pair, split, particles, iwae, seed, compile, floats_at_once, progress), certified=sure)
    train = data.train if isinstance(data, Data) else getattr(model, "train_rows", None)
    if whole or train is None:
        return found
    return replace(found, baselines=tuple(beside(pair, split, as_split(train, schema=getattr(model, "schema", None)))))


@exclusive
def evaluate_rows(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    particles: int = 1000,
    *,
    iwae: Sequence[int] = (),
    seed: int = 0,
    progress: Any = None,
) -> Evaluation:
    """As `evaluate`, for those who need a number of every row.

    Raises:
        UserError: as `evaluate` does, and for latents shared by all rows, for which there is no evidence per row.

    Example:
        >>> evaluate_rows(lambda x=None: None, lambda x=None: None, torch.zeros(3), particles=0)
        Traceback (most recent call last):
        ppl_vae.errors.UserError: particles must be a whole number of at least 1, got 0
    """
    pair = Pair(model, guide)
    split = rows_of(model, guide, data)
    return _evaluate(pair, split, check_whole("particles", particles), iwae, seed, "auto", None, progress)


def _evaluate(
    pair: Pair,
    split: Split,
    particles: int,
    iwae: Sequence[int],
    seed: int,
    compile: Compile,
    floats_at_once: int | None,
    progress: Any = None,
) -> Evaluation:
    split = split.to(pair.device)
    sizes = _ladder(iwae, particles)
    with passes(pair, split, particles, seed=seed, floats_at_once=floats_at_once) as plan:
        chunks = Chunks(pair, plan.structure, compile)
        with working("evaluating", plan.count * len(plan.sizes()), progress) as step:
            parts = [_rows(chunks, plan, i, batch, sizes, step) for i, batch in enumerate(plan.batches())]
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    refuse_blind(columns[COLUMNS.index("log_evidence")])
    bounds = columns[len(COLUMNS) :]
    told: dict[str, Any] = dict(zip(COLUMNS, columns, strict=False))
    return Evaluation(
        **told,
        particles=particles,
        iwae=dict(zip(sizes, bounds[::2], strict=True)),
        iwae_se=dict(zip(sizes, bounds[1::2], strict=True)),
        findings=tuple(chunks.findings),
    )


def _ladder(iwae: Sequence[int], particles: int) -> list[int]:
    several = check_several("iwae", iwae, "numbers of particles, such as (1, 5)")
    sizes = sorted({check_whole("iwae", k) for k in several})
    if sizes and sizes[-1] > particles:
        raise UserError(f"iwae expects numbers of particles from 1 to {particles:,}, got {sizes[-1]:,}: draw more")
    return sizes


def _rows(
    chunks: Chunks,
    plan: Passes,
    index: int,
    batch: dict[str, Tensor],
    ladder: Sequence[int],
    step: Callable[[], None],
) -> tuple[Tensor, ...]:
    """The columns for one batch of rows."""
    sizes, to_come = plan.sizes(), plan.count - index - 1
    sums, largest, groups = Sums(), Largest(plan.particles), [Groups(k) for k in ladder]
    totals = [torch.zeros(())] * 3
    for i, k in enumerate(sizes):
        *found, log_weights = chunks(batch, k, len(sizes) - i + to_come * len(sizes))
        totals = [a.to(b) + b for a, b in zip(totals, found, strict=True)]
        sums.add(log_weights)
        largest.add(log_weights)
        for group in groups:
            group.add(log_weights)
        step()
    elbo, rate, likelihood = (v / plan.particles for v in totals)
    evidence = _evidence(sums, plan.particles)
    bounds = [value for group in groups for value in (group.mean(), group.standard_error())]
    return elbo, *evidence, largest.khat(), rate, -likelihood, *bounds


class Evidence(NamedTuple):
    """log of the mean weight of every row, its Monte Carlo standard error, and the effective number of particles."""

    log_evidence: Tensor
    log_evidence_se: Tensor
    ess: Tensor


def evidence_of(log_weights: Tensor) -> Evidence:
    """The evidence of rows from log weights [particle, row], in nats; the standard error is by the delta method.

    Example:
        >>> evidence_of(torch.zeros(5, 1)).ess
        tensor([5.])
    """
    sums = Sums()
    sums.add(log_weights)
    return _evidence(sums, len(log_weights))


def _evidence(sums: Sums, particles: int) -> Evidence:
    ess = (2 * sums.total - sums.squares).exp()
    relative_variance = (particles / ess - 1).clamp(min=0) / max(particles - 1, 1)
    se = relative_variance.sqrt() if particles > 1 else torch.full_like(ess, math.nan)
    return Evidence(sums.total - math.log(particles), se, ess)
