"""The variational autoencoder's generative model: z ~ p(z), x ~ p(x | z)."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from ppl_vae.data import Data, Schema
from ppl_vae.errors import UserError
from ppl_vae.likelihoods import Columns, Likelihood, default_likelihood
from ppl_vae.networks import MLP
from ppl_vae.priors import Prior, StandardNormal
from ppl_vae.recorded import Recorded

__all__ = ["VAE"]


class VAE(Recorded, PyroModule):
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
        activation: of the hidden layers, see `ppl_vae.networks.MLP`.

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
        prior: Prior | None = None,
        likelihood: Likelihood | Columns | None = None,
        latent_dim: int = 16,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
    ) -> None:
        super().__init__()
        self.data = data  # a generated guide reads it
        self.schema = data if isinstance(data, Schema) else data.schema
        train = None if isinstance(data, Schema) else data.train
        self.prior = (prior or StandardNormal()).build(latent_dim)
        self.likelihood = (likelihood or _default(self.schema)).of(self.schema, train)
        self.observes = tuple(field.name for field in self.likelihood.fields)
        if isinstance(self.likelihood, Columns):
            _check_names(self.observes)
            self.recorded["likelihood"] = self.likelihood  # as it was chosen from the rows
        self.decoder = MLP(latent_dim, hidden, self.likelihood.size, activation)
        if train is not None:
            with torch.no_grad():
                self.decoder.last.bias.copy_(self.likelihood.bias(train))

    def forward(self, x: Tensor | None = None, n: int = 1, **columns: Tensor) -> Tensor | dict[str, Tensor]:
        """Observe rows x (or columns by name), or simulate n rows."""
        rows = columns if x is None else {"x": x, **columns}
        with pyro.plate("data", len(next(iter(rows.values()))) if rows else n):
            z = pyro.sample("z", self.prior())
            sites = self.likelihood.sites(self.decoder(z))
            found = {
                name: pyro.sample(name, fn, obs=rows.get(name), infer={"leaf": True}) for name, fn in sites.items()
            }
        return found if isinstance(self.likelihood, Columns) else found["x"]


def _default(schema: Schema) -> Likelihood | Columns:
    return default_likelihood(schema["x"]) if "x" in schema else Columns()


def _check_names(columns: Sequence[str]) -> None:
    for name in columns:
        if name in ("z", "n", "data", "self"):
            raise UserError(f"column {name!r} has the name of a site or argument of VAE: rename it")
