"""The stacked semi-supervised VAE: a label and a style make features, the features make the row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.data import Data, Schema
from ppl_vae.errors import UserError, check_several, check_whole
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.models._rows import RowModel, label_of, prior_of, rows_of
from ppl_vae.nn.heads import positive
from ppl_vae.nn.inputs import OneHotInput
from ppl_vae.nn.networks import MLP, concatenate
from ppl_vae.priors import Prior

__all__ = ["M1M2"]


class M1M2(RowModel):
    """M2 of the features of a VAE: y ~ Categorical(w), z2 ~ p(z), z1 ~ N(m(y, z2), diag s(y, z2)^2), x ~ p(x | f(z1)).

    Everything is trained together, in one bound; or the features first, as in the source: fit a `VAE` with d1 latents,
    then `ppl_vae.warm_start(model, guide, first)`, and go on. A generated guide draws in the model's
    `order`: the features q(z1 | x) of the row alone, then the label q(y | z1) and the style q(z2 | y, z1) of these
    alone, since they say all that the row could tell. Rows with and without a label are as in `M2`. Shapes: y [...],
    z1 [..., d1], z2 [..., d2], x [..., *S]; in nats.

    Args:
        data: the data set (or its schema) with the label `y`, whose field `x`, or whose columns, are modelled.
        prior: p(z2); the standard normal by default.
        likelihood: p(x | z1); by default the one that fits.
        latent_dims: d1, d2.
        hidden: widths of the hidden layers of both networks.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        decoder: in place of these layers: a name (`conv`), an object of `ppl_vae.decoders`, a module or a function.

    Raises:
        UserError: for other than two latent_dims, if the data has no label y, or the likelihood is no distribution
            over the rest.

    Source: Kingma et al. 2014, arXiv 1406.5298.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> model = M1M2(ppl_vae.load("digits", labels=100), latent_dims=(8, 4))
        >>> model(y=torch.tensor([3, 3, 7])).shape
        torch.Size([3, 8, 8])
        >>> [(block.sites, block.given, block.row) for block in MeanField(model).blocks]
        [(('z1',), (), True), (('y',), ('z1',), False), (('z2',), ('z1', 'y'), False)]
    """

    order: ClassVar[tuple[str, ...]] = ("z1", "y", "z2")

    def __init__(
        self,
        data: Data | Schema,
        *,
        prior: Prior | str | type[Prior] | None = None,
        likelihood: Likelihood | Columns | str | type[Likelihood] | None = None,
        latent_dims: Sequence[int] = (32, 8),
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
        decoder: Any = None,
    ) -> None:
        super().__init__(data)
        latent_dims = check_several("latent_dims", latent_dims, "numbers, such as (16, 8)")
        latent_dims = tuple(check_whole("latent_dims", size) for size in latent_dims)
        if len(latent_dims) != 2:
            raise UserError(
                f"latent_dims must be two numbers of at least 1, features and style, got {tuple(latent_dims)}"
            )
        features, style = latent_dims
        self.one_hot = OneHotInput(label_of(self.schema, "M1M2"))
        self.loud = style**0.5  # as in M2
        self.logits = nn.Parameter(torch.zeros(self.one_hot.size))
        self.prior = prior_of(prior).build(style)
        self.features = MLP(style + self.one_hot.size, hidden, 2 * features, activation)
        self.decoded = ("z1",)
        self.decodes(features, likelihood, hidden, activation, taken=("z1", "z2", "y"), decoder=decoder)

    def forward(
        self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1, **columns: Tensor
    ) -> Tensor | dict[str, Tensor]:
        """Observe rows x (or columns by name) and labels y where they are not -1, or simulate rows."""
        given = rows_of(x=x, **columns)
        with self.rows(given | rows_of(y=y), n):
            y = pyro.sample("y", dist.Categorical(logits=self.logits), obs=y)
            z2 = pyro.sample("z2", self.prior(y))
            loc, raw = self.features(concatenate([self.loud * self.one_hot(y), z2])).chunk(2, dim=-1)
            z1 = pyro.sample("z1", dist.Normal(loc, positive(raw)).to_event(1))
            return self.observe(z1, given)
