"""The evidence lower bound."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from pyro.util import check_traceenum_requirements
from torch import Tensor

from ppl_vae.bounds.base import Bound
from ppl_vae.bounds.whole import elbo_of_whole
from ppl_vae.data import WholeBatch
from ppl_vae.errors import ProgramError
from ppl_vae.programs.execution import run, traced
from ppl_vae.programs.locking import one_at_a_time
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import Structure, sample_sites

__all__ = ["ELBO"]


class ELBO(Bound):
    """The evidence lower bound, E_q[log p(x, z) - log q(z | x)] <= log p(x), in nats per row.

    Equal to `pyro.infer.Trace_ELBO` in value and gradient, and to `TraceEnum_ELBO` where discrete latents are
    summed out. With `analytic_kl` the KL divergence of a site is used in place of its sampled value where it
    is known: the same expectation, with less variance while q is far from the posterior (close to it the noise
    of the sampled KL and of the likelihood cancel, and the sampled form has less). Sites without a
    reparameterised sampler get a score-function gradient, with the mean of the other particles as its baseline.

    Args:
        particles: draws per row, K; the bound is the mean over them.
        analytic_kl: use closed-form KL divergences where there are any.
        estimator: "stl" leaves out the score of the guide, whose mean is zero: no gradient noise at q = p
            (Roeder et al. 2017, arXiv 1703.09194).

    Raises:
        UserError: if particles is less than 1 or the estimator is unknown.

    Source: Kingma & Welling 2014, arXiv 1312.6114; Rezende et al. 2014, arXiv 1401.4082.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> from ppl_vae.guides import MeanField
        >>> data = ppl_vae.load("digits")
        >>> model = VAE(data, latent_dim=4)
        >>> elbo = ELBO()(model, MeanField(model))
        >>> bool(elbo(x=data.train["x"][:10]) > 0)
        True
    """

    estimators = ("reparameterised", "stl")

    def of(self, log_w: Tensor) -> Tensor:
        """Mean over particles."""
        return log_w.mean(0)

    def _without_each(self, log_w: Tensor) -> Tensor | float:
        """With particle k replaced by the mean of the others the mean of all is that mean."""
        k = len(log_w)
        return 0.0 if k == 1 else (log_w.sum(0) - log_w) / (k - 1)

    def _read(self, bare: Any) -> Structure:
        """Some pairs are for `ppl_vae.bounds.whole`, whose costs are weighed plate by plate.

        Of one unit the score function of a site is weighed with the costs that depend on it, not with all; and a site
        may ask for draws of its own, `infer={"enumerate": "parallel", "num_samples": 100}`.
        """
        structure = super()._read(bare)
        if several := _drawn_several_times(bare.guide):
            raise ProgramError(several, f"site {several!r} asks for num_samples of its own", "see ppl_vae.bounds.whole")
        if structure.is_one_unit and structure.scored:
            sites = ", ".join(sorted(structure.scored))
            raise ProgramError(sites, f"the gradient of {sites} is taken plate by plate", "see ppl_vae.bounds.whole")
        if structure.is_one_unit and structure.enumerates and is_validation_enabled():
            with preserved_randomness(), torch.no_grad():
                drawn = run(bare, structure, WholeBatch(bare.batch))
            check_traceenum_requirements(drawn.model, drawn.guide)  # warns of values that leave their plate
        return structure

    def _of_whole(
        self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
    ) -> Tensor:
        """An ELBO needs no rows: whatever two programs belong together have one, as Pyro's own ELBOs show."""
        nesting = None if self.max_plate_nesting == float("inf") else int(self.max_plate_nesting)
        first = not self._last_whole.is_(model, guide)
        alone, drawing = (partial(program, *args, **kwargs) for program in (model, guide))
        try:
            with one_at_a_time():
                value = elbo_of_whole(alone, drawing, self.particles, nesting, first=first)
        except Exception as other:
            raise _one_line(error, other) from other
        self._last_whole.see(model, guide)
        return value


def _drawn_several_times(guide: Any) -> str | None:
    """The first site of a guide that asks for draws of its own, beside the particles."""
    with preserved_randomness(), torch.no_grad():
        sites = sample_sites(traced(guide, {}))
    asked = (n for n, s in sites.items() if {"num_samples", "enumerate"} <= s["infer"].keys())
    return next((n for n in asked if sites[n]["infer"]["num_samples"] and sites[n]["infer"]["enumerate"]), None)


def _one_line(error: Exception, other: Exception) -> ProgramError:
    """What the engine says about a pair, with what Pyro says about it."""
    if isinstance(other, ProgramError):
        return other
    reason = " ".join(str(other).split("Trace Shapes")[0].split())[:300]
    said = error if isinstance(error, ProgramError) else None
    return ProgramError(
        said.site if said else None,
        f"{said.problem if said else 'the programs have no ELBO'} ({reason or type(other).__name__})",
        said.remedy if said else "see docs/programs.md for what a model and a guide may be",
    )
