"""A verdict on the joint weights of what all rows share: k-hat, what is at fault, and the components of a mixture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure

from ppl_vae.diagnostics._joint.components import Components, components_of
from ppl_vae.display import Displayed
from ppl_vae.errors import UserError, check_whole
from ppl_vae.evaluation.faults import Fault, Missed, Unseen, faults_of, in_words, missed_by
from ppl_vae.evaluation.joint_evaluation import fitted_rows
from ppl_vae.evaluation.joint_weights import joint_passes, shares_latents, weighed_particles
from ppl_vae.plots.drawing import BLUE, Plot, house_axes
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results
from ppl_vae.weights.psis import khat, khat_limit, smooth

__all__ = ["JointWeightsVerdict", "joint_posterior"]


@dataclass(frozen=True, repr=False)
class JointWeightsVerdict(Displayed):
    """What `joint_posterior` found: `khat` and `ess` of so many `particles`, `faults` largest first, `components`.

    Example:
        >>> found = JointWeightsVerdict(0.9, 12.0, 1000, (Fault("tau", 0.8, 0.1, 1.7),), ())
        >>> found.verdict.split(":")[0]
        'Not to be believed'
    """

    khat: float
    ess: float
    particles: int
    faults: tuple[Fault, ...]
    components: tuple[Components, ...]
    missed: Missed | Unseen | None = None

    @property
    def verdict(self) -> str:
        """Whether means, deviations and evidence can be believed, what is at fault, and what to know of components."""
        limit, said = khat_limit(self.particles), in_words(self.faults)[1]
        if self.khat <= limit:
            words = f"Believable: k-hat of the joint weights is {self.khat:.2f}, below {limit:.2f}"
            words += f"; {self.ess:,.0f} of {self.particles:,} draws count."
        else:
            words = f"Not to be believed: k-hat of the joint weights is {self.khat:.2f}, above {limit:.2f}"
            words += f"; {said}." if said else "."
        told = [c.words for c in self.components if c.words]
        told += [] if self.missed is None else [self.missed.finding(self._sites).problem]
        return " ".join([words, *(f"{w[0].upper()}{w[1:]}." for w in told)])

    @property
    def _sites(self) -> list[str]:
        return [f.what for f in self.faults if f.what not in ("dependence", "rows")] or ["what all rows share"]

    def summary(self) -> dict[str, Any]:
        """Plain numbers, by what they are."""
        return {
            "khat": self.khat,
            "ess": self.ess,
            "particles": self.particles,
            "verdict": self.verdict,
            "faults": {f.what: {"share": f.share, "shift": f.shift, "width": f.width} for f in self.faults},
            "components": {
                c.site: {
                    "shares": list(c.shares),
                    "exchangeable": c.exchangeable,
                    "switched": c.switched,
                    "alike": [list(pair) for pair in c.alike],
                }
                for c in self.components
            },
        }

    def figure(self) -> Figure:
        """The shares of the variance of log w."""
        figure = Plot(figsize=(6.5, 1.2 + 0.3 * len(self.faults)), layout="constrained")
        ax = house_axes(figure.add_subplot(), "share of the variance of log w under the guide")
        words = {"dependence": "dependence of shared latents", "rows": "draws of the rows' own latents"}
        ax.barh([words.get(f.what, f.what) for f in self.faults], [f.share for f in self.faults], color=BLUE)
        ax.set_xlim(0, 1)
        ax.invert_yaxis()
        return figure


@takes_results
@exclusive
def joint_posterior(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, *, particles: int = 2000, seed: int = 0
) -> JointWeightsVerdict:
    """Whether the posterior of what all rows share can be believed, by weights of draws from the guide and beyond.

    k-hat is that of p(g, all data) / m(g), the weights of `ppl_vae.posterior`; a part of the posterior that the guide
    leaves out, and draws from beyond it found, is said. Where k-hat is high, the variance of log w says which site,
    which dependence or whose draws make it so. Of a mixture it is told whether components are empty or alike, whether
    they may be exchanged, and whether the draws do it.

    Args:
        model: p(g) prod_n p(x_n | g).
        guide: q(g).
        data: the rows that it was fitted to; of a data set the training split.
        particles: draws of the guide.
        seed: of all draws; the global generators are left alone.

    Raises:
        UserError: for rows that share no latent, or held-out rows alone.

    Source: Yao et al. 2018, arXiv 1802.02538 (k-hat); Stephens 2000, JRSS B 62 (label switching).
    """
    particles = check_whole("particles", particles, 100)
    pair = Pair(model, guide)
    split = fitted_rows(model, guide, data)[0].to(pair.device)
    if not shares_latents(pair, split):
        raise UserError("rows of this pair share no latent: see k-hat of single rows, ppl_vae.evaluate")
    with joint_passes(pair, split, particles, None, seed=seed) as (plan, inner):
        shared, found = weighed_particles(pair, plan, inner)
        log_weight = found.log_weight
        ess = float(1 / log_weight.softmax(0).square().sum())
        # components are those of the guide where few draws have all the weight
        chances = smooth(log_weight[:, None]).softmax(0)[:, 0] if ess > 50 else torch.ones(particles) / particles
        names = sorted(shared.of_model(plan.structure))
        return JointWeightsVerdict(
            float(khat(log_weight[:, None])),
            ess,
            particles,
            faults_of(shared, names, found),
            components_of(pair, plan, shared, chances),
            missed_by(shared, names, log_weight),
        )
