"""The variational autoencoder's generative model: z ~ p(z), x ~ p(x | z)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor

from ppl_vae.data import Data, Schema
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.models._rows import RowModel, prior_of, rows_of
from ppl_vae.priors import Prior

__all__ = ["VAE"]


class VAE(RowModel):
    """A latent-variable model with a neural decoder: z ~ p(z), x ~ p(x | f(z)), one z for each row.

    log p(x) = log of the integral of p(x | z) p(z) over z in R^d, in nats. Shapes: z [..., d], x [..., *S].
    Called with rows it conditions on them; called with `n` it simulates that many. Of a table with columns of
    several types every column is a site, p(x | z) is their product, and simulated rows are a dict by column.

    Args:
        data: the data set (or its schema) whose field `x` is modelled; all fields but the label `y` if it has no x.
        prior: p(z); the standard normal by default.
        likelihood: p(x | z); by default the one that fits the field's kind, and `Columns()` if there is no x.
        latent_dim: d.
        hidden: widths of the decoder's hidden layers.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        decoder: in place of these layers: a name (`conv`), an object of `ppl_vae.decoders`, a module or a function.

    Raises:
        UserError: if the field is missing, the likelihood is no distribution over it, or a column has a name that
            the model needs.

    Source: Kingma & Welling 2014, arXiv 1312.6114.

    Example:
        >>> import ppl_vae
        >>> model = VAE(ppl_vae.load("digits"), latent_dim=4)
        >>> model(n=3).shape
        torch.Size([3, 8, 8])
        >>> table = {"height": [1.8, 1.6, 1.7], "left-handed": [0, 1, 0]}
        >>> sorted(VAE(ppl_vae.load(table, test=0, validation=0), latent_dim=2)(n=4))
        ['height', 'left-handed']
    """

    def __init__(
        self,
        data: Data | Schema,
        *,
        prior: Prior | str | type[Prior] | None = None,
        likelihood: Likelihood | Columns | str | type[Likelihood] | None = None,
        latent_dim: int = 16,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
        decoder: Any = None,
    ) -> None:
        super().__init__(data)
        self.prior = prior_of(prior).build(latent_dim)
        self.decodes(latent_dim, likelihood, hidden, activation, taken=("z",), starts="z", decoder=decoder)

    def forward(self, x: Tensor | None = None, n: int = 1, **columns: Tensor) -> Tensor | dict[str, Tensor]:
        """Observe rows x (or columns by name), or simulate n rows."""
        given = rows_of(x=x, **columns)
        with self.rows(given, n):
            z = pyro.sample("z", self.prior())
            return self.observe(z, given)
