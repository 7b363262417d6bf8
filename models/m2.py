"""The semi-supervised VAE with a label latent: y ~ p(y), z ~ p(z), x ~ p(x | y, z)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.data import Data, Schema
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.models._rows import RowModel, label_of, prior_of, rows_of
from ppl_vae.nn.inputs import OneHotInput
from ppl_vae.nn.networks import concatenate
from ppl_vae.priors import Prior

__all__ = ["M2"]


class M2(RowModel):
    """A label and a style: y ~ Categorical(w), z ~ p(z) or p(z | y), x ~ p(x | f(y, z)), y present in some rows.

    Rows with a label give log p(x, y), rows without (-1) log p(x) = log sum_y p(x, y): both kinds stand in one
    minibatch, in one bound, y summed out exactly under the guide's classifier q(y | x) where it is missing. Rows with
    a label teach q(y | x) nothing by the bound alone: `fit(label_weight=...)` adds the classifier's own loss. In nats.
    Shapes: y [...], z [..., d], x [..., *S].

    Args:
        data: the data set (or its schema) with the label `y`, whose field `x`, or whose columns, are modelled.
        prior: p(z), or p(z | y) with `LabelConditional`; the standard normal by default.
        likelihood: p(x | y, z); by default the one that fits.
        latent_dim: d.
        hidden: widths of the decoder's hidden layers.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        decoder: in place of these layers: a name (`conv`), an object of `ppl_vae.decoders`, a module or a function.

    Raises:
        UserError: if the data has no label y, or the likelihood is no distribution over the rest.

    Source: Kingma et al. 2014, arXiv 1406.5298.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> data = ppl_vae.load("digits", labels=100)
        >>> model = M2(data, latent_dim=4)
        >>> model(y=torch.tensor([3, 3, 7])).shape
        torch.Size([3, 8, 8])
        >>> [(block.sites, block.given) for block in MeanField(model).blocks]
        [(('y',), ()), (('z',), ('y',))]
    """

    decoded = ("z", "y")

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
        label = label_of(self.schema, "M2")
        self.prior = prior_of(prior).build(latent_dim)
        self.one_hot = OneHotInput(label)
        # A label's vector is as long as a style's usually is: otherwise the decoder would learn to listen to it last,
        # and by then z would say what it says.
        self.loud = latent_dim**0.5
        self.logits = nn.Parameter(torch.zeros(self.one_hot.size))
        self.decodes(latent_dim + self.one_hot.size, likelihood, hidden, activation, taken=("z", "y"), decoder=decoder)

    def forward(
        self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1, **columns: Tensor
    ) -> Tensor | dict[str, Tensor]:
        """Observe rows x (or columns by name) and labels y where they are not -1, or simulate rows."""
        given = rows_of(x=x, **columns)
        with self.rows(given | rows_of(y=y), n):
            y = pyro.sample("y", dist.Categorical(logits=self.logits), obs=y)
            z = pyro.sample("z", self.prior(y))
            return self.observe(self.decoder_input({"z": z, "y": y}), given)

    def decoder_input(self, values: Mapping[str, Tensor]) -> Tensor:
        """The label's vector beside the style."""
        return concatenate([self.loud * self.one_hot(values["y"]), values["z"]])
