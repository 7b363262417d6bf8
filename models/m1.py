"""A VAE whose latents are the features of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor

from ppl_vae.data import Data, Schema
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.models._response import Response
from ppl_vae.models._rows import RowModel, label_of, prior_of, rows_of
from ppl_vae.priors import Prior

__all__ = ["M1"]


class M1(RowModel):
    """VAE features and a classifier: z ~ p(z), x ~ p(x | f(z)), y ~ Categorical(g(z)).

    The classifier learns from the rows that have a label (elsewhere y is -1), but it does not shape the features: no
    gradient goes from y through z, and the guide q(z | x) does not see y. So this is both steps of the source, features
    without labels and then a classifier of them, in one fit. (With several particles the weights do see y: use ELBO.)
    `ppl_vae.predict` gives p(y | x) = E_q(z | x) p(y | z). Shapes: y [...], z [..., d], x [..., *S]; in nats.

    Args:
        data: the data set (or its schema) with the label `y`, whose field `x`, or whose columns, are modelled.
        prior: p(z); the standard normal by default.
        likelihood: p(x | z); by default the one that fits.
        latent_dim: d.
        hidden: widths of the decoder's hidden layers.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        decoder: in place of these layers: a name (`conv`), an object of `ppl_vae.decoders`, a module or a function.
        classifier: widths of the hidden layers of g; none for a linear one.

    Raises:
        UserError: if the data has no label y, or the likelihood is no distribution over the rest.

    Source: Kingma et al. 2014, arXiv 1406.5298.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> data = ppl_vae.load("digits", labels=100)
        >>> model = M1(data, latent_dim=4, hidden=(32,))
        >>> guide = MeanField(model, hidden=(32,))
        >>> result = ppl_vae.fit(model, guide, data, epochs=1)
        >>> ppl_vae.predict(model, guide, data.test).probs.shape
        torch.Size([447, 10])
    """

    encodes: tuple[str, ...]

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
        classifier: Sequence[int] = (256,),
    ) -> None:
        super().__init__(data)
        label = label_of(self.schema, "M1")
        self.prior = prior_of(prior).build(latent_dim)
        self.decodes(
            latent_dim, likelihood, hidden, activation, taken=("z", "y"), also=("y",), without=("y",), decoder=decoder
        )
        self.response = Response(label, self.train_rows, latent_dim, classifier, activation)
        self.encodes = tuple(name for name in self.observes if name != "y")

    def forward(
        self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1, **columns: Tensor
    ) -> Tensor | dict[str, Tensor]:
        """Observe rows x (or columns by name) and labels y where they are not -1, or simulate n rows."""
        given = rows_of(x=x, **columns)
        with self.rows(given, n):
            z = pyro.sample("z", self.prior())
            rows = self.observe(z, given)
            self.response.observe(z.detach(), y)
        return rows
