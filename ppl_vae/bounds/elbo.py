"""The evidence lower bound."""

from __future__ import annotations

from torch import Tensor

from ppl_vae.bounds.base import Bound

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
