"""The variational autoencoder's generative model: z ~ p(z), x ~ p(x | z)."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from ppl_vae.data import Data, Schema
from ppl_vae.likelihoods import Likelihood, default_likelihood
from ppl_vae.networks import MLP
from ppl_vae.priors import Prior, StandardNormal
from ppl_vae.recorded import Recorded

__all__ = ["VAE"]


class VAE(Recorded, PyroModule):
    """A latent-variable model with a neural decoder: z ~ p(z), x ~ p(x | f(z)), one z for each row.

    log p(x) = log of the integral of p(x | z) p(z) over z in R^d, in nats. Shapes: z [..., d], x [..., *S].
    Called with rows it conditions on them; called with `n` it simulates that many.

    Args:
        data: the data set (or its schema) whose field `x` is modelled.
        prior: p(z); the standard normal by default.
        likelihood: p(x | z); by default the one that fits the field's kind.
        latent_dim: d.
        hidden: widths of the decoder's hidden layers.
        activation: of the hidden layers, see `ppl_vae.networks.MLP`.

    Raises:
        UserError: if the field is missing, or the likelihood is no distribution over it.

    Source: Kingma & Welling 2014, arXiv 1312.6114.

    Example:
        >>> import ppl_vae
        >>> model = VAE(ppl_vae.load("digits"), latent_dim=4)
        >>> model(n=3).shape
        torch.Size([3, 8, 8])
    """

    def __init__(
        self,
        data: Data | Schema,
        *,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        latent_dim: int = 16,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
    ) -> None:
        super().__init__()
        self.data = data  # a generated guide reads it
        self.schema = data if isinstance(data, Schema) else data.schema
        field = self.schema["x"]
        rows = None if isinstance(data, Schema) else data.train["x"]
        self.prior = (prior or StandardNormal()).build(latent_dim)
        self.likelihood = (likelihood or default_likelihood(field)).build(field, rows)
        self.decoder = MLP(latent_dim, hidden, field.size * self.likelihood.width, activation)
        if rows is not None:
            with torch.no_grad():
                self.decoder.last.bias.copy_(self.likelihood.initial_bias(rows))

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """Observe rows x, or simulate n rows."""
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)
