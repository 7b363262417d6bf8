"""The gap between log evidence and ELBO taken apart: what the family costs, and what the encoder adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.autoguide.refining import moved, offsets_of, refine
from ppl_vae.diagnostics._common.refitting import refitted
from ppl_vae.diagnostics._evidence.annealing import annealed_evidence
from ppl_vae.display import Displayed
from ppl_vae.display.working import shows_progress, tracked
from ppl_vae.errors import check_number, check_whole, unknown_name
from ppl_vae.evaluation import evidence_of
from ppl_vae.evaluation.chunks import both
from ppl_vae.evaluation.joint_evaluation import units
from ppl_vae.evaluation.means import standard_error
from ppl_vae.evaluation.passes import FLOATS_AT_ONCE, Passes, passes, refuse_endless
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Batch, Pair, Programs
from ppl_vae.programs.randomness import seed_draws
from ppl_vae.programs.trained import takes_results
from ppl_vae.speed.modes import Compile
from ppl_vae.weights.psis import khat, khat_limit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Gap", "gap"]

EvidenceMethod = Literal["iwae", "ais"]

DRAWS = 16
"""Draws of each row in a refining step."""


@dataclass(frozen=True, repr=False)
class Gap(Displayed):
    """What `gap` found, one value a row, in nats; `_se` are Monte Carlo standard errors.

    `log_evidence` - `elbo` = `approximation` + `amortization`: what the family leaves after it was refined for the row
    (log evidence - refined ELBO), and what the encoder's answer loses to that (refined ELBO - ELBO). The evidence is a
    lower bound in expectation, and so is the approximation gap; refining ends before the optimum, so that the
    amortization gap is a lower bound too. `khat` is the tail index of the refined guide's weights, of "iwae" alone. Of
    all data as one unit there is a single value, and `amortization` is what training the guide further gains.

    Example:
        >>> one, o = torch.ones(2), torch.zeros(2)
        >>> found = Gap(-4 * one, o, -3.5 * one, o, -3 * one, o, one / 2, o, one / 2, o, "iwae", 9, 9)
        >>> found.summary()["amortization"]
        0.5
    """

    elbo: Float[Tensor, " row"]
    elbo_se: Float[Tensor, " row"]
    refined_elbo: Float[Tensor, " row"]
    refined_elbo_se: Float[Tensor, " row"]
    log_evidence: Float[Tensor, " row"]
    log_evidence_se: Float[Tensor, " row"]
    approximation: Float[Tensor, " row"]
    approximation_se: Float[Tensor, " row"]
    amortization: Float[Tensor, " row"]
    amortization_se: Float[Tensor, " row"]
    evidence: EvidenceMethod
    particles: int
    steps: int
    khat: Float[Tensor, " row"] | None = None
    of: str = "row"

    def summary(self) -> dict[str, Any]:
        """Means over rows in nats per row; `_se` over rows, `_mc_se` of the Monte Carlo draws alone."""
        found: dict[str, Any] = {
            "rows": len(self.elbo),
            "particles": self.particles,
            "refining_steps": self.steps,
            "evidence": self.evidence,
        }
        for name in ("elbo", "refined_elbo", "log_evidence", "approximation", "amortization"):
            values, errors = getattr(self, name), getattr(self, f"{name}_se")
            found |= {
                name: float(values.mean()),
                f"{name}_se": float(standard_error(values)),
                f"{name}_mc_se": float(errors.square().sum().sqrt() / len(values)),
            }
        return found | {"unreliable_rows": self.unreliable_rows, "verdict": self.verdict}

    @property
    def unreliable_rows(self) -> int:
        """In how many rows the weights of "iwae" have too heavy a tail, so that the evidence may lie far too low."""
        return 0 if self.khat is None else int((self.khat > khat_limit(self.particles)).sum())

    @property
    def verdict(self) -> str:
        """Which of the two gaps to work on, and how."""
        family, encoder = float(self.approximation.mean()), float(self.amortization.mean())
        total = family + encoder
        error = float((self.log_evidence_se.square() + self.elbo_se.square()).sum().sqrt() / len(self.elbo))
        whole = self.of == "all data"
        words = f"Log evidence {'of all data ' * whole}is {total:.2f} nats {'per row ' * (not whole)}above the ELBO"
        if total < max(3 * error, 0.05):
            return f"{words}: the guide loses almost nothing."
        if whole:
            return f"{words}, {self._of_unit(family, encoder)}"
        split = f"{family:.2f} of them the family's (approximation), {encoder:.2f} the encoder's (amortization)"
        if encoder > 2 * family:
            cure = "a larger encoder, longer training or Refined(guide) helps, a richer family does not"
        elif family > 2 * encoder:
            cure = "a richer family (FullRank, IAF, Spline) helps, a larger encoder does not"
        else:
            cure = "a richer family (FullRank, IAF, Spline) and a larger encoder or Refined(guide) both help"
        words = f"{words}, {split}: {cure}."
        if self.unreliable_rows > 0.1 * len(self.elbo):
            words += (
                f" In {self.unreliable_rows:,} of {len(self.elbo):,} rows the weights of the refined guide have too "
                "heavy a tail: there the evidence, and with it the approximation gap, may be too low; annealed "
                "estimates (evidence='ais', command line --gap-evidence ais) are unaffected."
            )
        return words

    def _of_unit(self, family: float, training: float) -> str:
        split = f"{family:.2f} of them the family's (approximation), {training:.2f} gained by training it further"
        richer, longer = "a richer family (FullRank, IAF, Spline) helps", "longer training helps"
        if training > 2 * family:
            cure = f"{longer}, a richer family does not"
        else:
            cure = f"{richer}, longer training does not" if family > 2 * training else f"{richer}, and {longer}"
        heavy = ""
        if self.unreliable_rows:
            heavy = (
                " The weights of the refined guide have too heavy a tail: the evidence, and with it the approximation "
                "gap, may be too low; annealed estimates (evidence='ais') are unaffected."
            )
        return f"{split}: {cure}.{heavy}"

    def figure(self) -> Figure:
        """Both gaps row by row, largest first, and one against the other."""
        from ppl_vae.diagnostics._evidence.plot_gaps import gaps

        return gaps(self.approximation, self.amortization, self.approximation_se, self.amortization_se)


@takes_results
@exclusive
@shows_progress
def gap(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    rows: str | None = "auto",
    evidence: EvidenceMethod = "iwae",
    particles: int = 2000,
    steps: int = 200,
    lr: float = 0.05,
    chains: int = 16,
    temperatures: int = 500,
    seed: int = 0,
    compile: Compile = "auto",
    floats_at_once: int | None = None,
    progress: Any = "auto",
) -> Gap:
    """What the guide costs, row by row, and why: log p(x) - ELBO = approximation gap + amortization gap.

        approximation = log p(x) - max over q in the family of ELBO(q),    amortization = that max - ELBO(q(z | x)).

    The best member of the family is sought from the encoder's answer by gradient steps on offsets of the row's own:
    of a generated guide, of what its heads say; of any other program, of the parameters of its distributions. Both
    ELBOs are then estimated with the same fresh random numbers: their difference is much more exact than either.
    Discrete latents count as in `evaluate`: in expectation in the ELBO, summed out in the evidence.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        data: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`).
        rows: None takes all data as one unit, as for `evaluate`; so are data whose rows share latents. The guide's own
            parameters are then trained further instead of offsets.
        evidence: "iwae", the log of the mean weight under the refined guide, or "ais", `annealed_evidence` from the
            guide. Both are lower bounds in expectation, and so is then the approximation gap.
        particles: draws per row for ELBOs and "iwae", K.
        steps: gradient steps of refining.
        lr: their size at the start; it falls to 0.
        chains: of "ais".
        temperatures: of "ais".
        seed: of the draws; the global generators are left alone.
        compile: of "ais", as for `evaluate`.
        floats_at_once: bounds the memory of one pass; by default as for `evaluate`.
        progress: "auto" shows a bar on a terminal and in a notebook where it takes more than a second, True elsewhere,
            too, False nothing; a function is told how many steps are done, and of how many.

    Raises:
        UserError: for counts below 1, programs that break the contract, a plain guide of rows with a
            distribution that cannot be made anew from its parameters, and what `annealed_evidence` refuses.
        NoDensity: for a guide that draws a latent of the rows from a point mass.

    Source: Cremer et al. 2018, arXiv 1801.03558.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> from ppl_vae.programs.toy import model
        >>> def guide(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2 + 0.5, 0.5**0.5))
        >>> found = gap(model, guide, torch.tensor([0.0, 2.0]), steps=50)
        >>> offset = 0.5**2 / (2 * 0.5)  # KL divergence of two normals with variance 0.5, half a unit apart
        >>> bool(((found.amortization - offset).abs() < 4 * found.amortization_se).all())
        True
        >>> bool((found.approximation.abs() < 0.01).all())  # the posterior is normal
        True
    """
    if not isinstance(evidence, str) or evidence not in get_args(EvidenceMethod):
        raise unknown_name("evidence", evidence, get_args(EvidenceMethod))
    seed = check_whole("seed", seed, 0)
    particles, steps = check_whole("particles", particles), check_whole("steps", steps)
    lr = check_number("lr", lr, positive=True)
    pair = Pair(model, guide)
    split = units(pair, data, rows=rows, purpose="gap")
    refuse_endless("steps", steps, len(split))
    annealed = None
    if evidence == "ais":
        annealed = annealed_evidence(
            model,
            guide,
            split,
            chains=chains,
            temperatures=temperatures,
            seed=seed + 1,  # other numbers than those of the ELBOs
            compile=compile,
            floats_at_once=floats_at_once,
        )
    with passes(pair, split, max(particles, 3 * DRAWS), seed=seed, floats_at_once=floats_at_once) as plan:
        plan = _narrower(plan, particles)
        draws = _draws_of_unit if split.is_one_unit else _draws
        batches = tracked(plan.batches(), "refining", plan.count)
        parts = [draws(pair, plan, batch, steps, lr).estimates() for batch in batches]
    found = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    if annealed is not None:
        del found["khat"]
        found["log_evidence"], found["log_evidence_se"] = annealed.log_evidence, annealed.log_evidence_se
        found["approximation"] = annealed.log_evidence - found["refined_elbo"]
        found["approximation_se"] = torch.hypot(annealed.log_evidence_se, found["refined_elbo_se"])
    of = "all data" if split.is_one_unit else "row"
    return Gap(**found, evidence=evidence, particles=particles, steps=steps, of=of)


def _narrower(plan: Passes, particles: int) -> Passes:
    """Fewer rows at once: refining holds the draws of a row with their gradients, and their weights are all kept."""
    rows = min(plan.rows, plan.rows * plan.at_once // (3 * DRAWS), FLOATS_AT_ONCE // (8 * particles))
    return replace(plan, rows=max(1, rows), particles=particles, at_once=min(plan.at_once, particles))


class _Draws(NamedTuple):
    """Log weights [particle, row] of the guide and of the refined one, in expectation over discrete latents, and of
    the refined one with these summed out; draw by draw from the same random numbers.
    """

    guide: Tensor
    refined: Tensor
    summed: Tensor

    def estimates(self) -> dict[str, Tensor]:
        """ELBOs, evidence and gaps of the rows with their standard errors, [row] each."""
        found = evidence_of(self.summed)
        relative = (self.summed - found.log_evidence).exp()
        values = {
            "elbo": _mean(self.guide),
            "refined_elbo": _mean(self.refined),
            "log_evidence": (found.log_evidence, found.log_evidence_se),
            # log of a mean minus a mean of the same draws: by the delta method
            "approximation": (found.log_evidence - self.refined.mean(0), _mean(relative - self.refined)[1]),
            "amortization": _mean(self.refined - self.guide),
        }
        told = {n: value for name, pair in values.items() for n, value in zip((name, f"{name}_se"), pair, strict=True)}
        return told | {"khat": khat(self.summed)}


def _mean(draws: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of draws [particle, row] and its standard error."""
    return draws.mean(0), standard_error(draws)


def _draws(pair: Pair, plan: Passes, batch: Batch, steps: int, lr: float) -> _Draws:
    """Refine the guide for these rows, then draw from both."""
    offsets = offsets_of(pair, plan.structure, batch)
    with torch.enable_grad():
        chosen = refine(pair, offsets, batch, steps=steps, lr=lr, particles=DRAWS)
    better = moved(pair, offsets, [o.detach() for o in chosen])
    numbers = torch.randint(2**31, (len(plan.sizes()),)).tolist()
    first = [w for w, _ in _weights(pair, plan, batch, numbers)]
    return _Draws(torch.cat(first).double(), *_both(better, plan, batch, numbers))


def _draws_of_unit(pair: Pair, plan: Passes, batch: Batch, steps: int, lr: float) -> _Draws:
    """Train the guide further for these data, then draw from what it was and from what it has become."""
    numbers = torch.randint(2**31, (len(plan.sizes()),)).tolist()
    first = torch.cat([w for w, _ in _weights(pair, plan, batch, numbers)]).double()
    with refitted(pair, plan.structure, batch, steps=steps, lr=lr, particles=DRAWS):
        return _Draws(first, *_both(pair, plan, batch, numbers))


def _both(pair: Programs, plan: Passes, batch: Batch, numbers: list[int]) -> tuple[Tensor, Tensor]:
    expected, marginal = zip(*_weights(pair, plan, batch, numbers), strict=True)
    return torch.cat(expected).double(), torch.cat(marginal).double()


def _weights(pair: Programs, plan: Passes, batch: Batch, numbers: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Log weights [particle, row] in expectation over discrete latents, and with these summed out, by given numbers."""
    for k, seed in zip(plan.sizes(), numbers, strict=True):
        seed_draws(seed)
        expected, marginal = both(pair, plan.structure, batch, k)
        yield expected.log_weight, marginal.log_weight
