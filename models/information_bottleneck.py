"""A classifier or regression through a bottleneck: x -> z -> y."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyro
from torch import Tensor, nn

from ppl_vae.data import Data, Schema
from ppl_vae.errors import UserError
from ppl_vae.models._response import Asked, as_chosen, asked_fields, responses
from ppl_vae.models._rows import RowModel, prior_of, rows_of
from ppl_vae.priors import Prior

__all__ = ["InformationBottleneck"]


class InformationBottleneck(RowModel):
    """The deep variational information bottleneck: z ~ r(z), y ~ p(y | f(z)), with a guide q(z | x) that sees x alone.

    `fit(..., beta=b)` maximises E_q[log p(y | z)] - b KL(q(z | x) || r(z)), nats per row. On average over rows the KL
    (the rate) is an upper bound of I(x; z), and H(y) minus the distortion a lower bound of I(z; y). x is not modelled:
    the guide reads it, the model only counts its rows. So at b = 1 this is an ELBO of log p(y) with x as side
    information, which the prior alone can reach, and the importance-sampled NLL is that of y without x. The numbers to
    read are rate, distortion, and `ppl_vae.predict`: p(y | x) = E_q(z | x) p(y | z). A small b (0.001 to 0.1) makes a
    classifier; towards b = 1 it forgets x. Shapes: z [..., d], y [..., *S].

    `Refined` guides would see y through the bound: do not predict with them.

    Args:
        data: the data set (or its schema); the guide reads all its fields but the response.
        response: the name of the field that is predicted, or of several of any kinds: given z they are independent, and
            a row counts those that it has.
        prior: r(z); the standard normal by default.
        likelihood: p(y | z); by default the one that fits; of several responses by name.
        latent_dim: d.
        hidden: widths of the network from z to y; none by default, as in the source: a linear map.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.

    Raises:
        UserError: if there is no such field, or no other one.

    Source: Alemi et al. 2017, arXiv 1612.00410.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> data = ppl_vae.load("digits")
        >>> model = InformationBottleneck(data, latent_dim=8)
        >>> guide = MeanField(model)
        >>> guide.encoder.names, model(n=3).shape
        (('x',), torch.Size([3]))
        >>> result = ppl_vae.fit(model, guide, data, beta=0.01, epochs=1)
        >>> ppl_vae.predict(model, guide, data.test).probs.shape
        torch.Size([447, 10])
    """

    default_beta: ClassVar[float] = 0.01
    """The KL weight of the command line, where nobody says another: at 1 it forgets the row."""

    def __init__(
        self,
        data: Data | Schema,
        *,
        response: str | Sequence[str] = "y",
        prior: Prior | str | type[Prior] | None = None,
        likelihood: Asked | Mapping[str, Asked] = None,
        latent_dim: int = 16,
        hidden: Sequence[int] = (),
        activation: str = "gated",
    ) -> None:
        super().__init__(data)
        fields = asked_fields(self.schema, response)
        names = [field.name for field in fields]
        self.encodes = tuple(name for name in self.schema.names if name not in names)
        if not self.encodes:
            told = ", ".join(map(repr, names))
            raise UserError(f"the data have only field {told}: a bottleneck needs others to predict it from")
        self.observes = (*names, *self.encodes)
        self.prior = prior_of(prior).build(latent_dim)
        self.response, *more = responses(fields, self.train_rows, latent_dim, hidden, activation, likelihood)
        self.more = nn.ModuleList(more)
        self.recorded["likelihood"] = as_chosen([self.response, *more])  # from the rows

    def forward(self, n: int = 1, **fields: Tensor) -> Tensor | dict[str, Tensor]:
        """Observe the responses of rows, or simulate them; all other fields only say how many rows there are."""
        given = rows_of(**fields)
        with self.rows(given, n):
            z = pyro.sample("z", self.prior())
            found = {each.name: each.observe(z, given.get(each.name)) for each in (self.response, *self.more)}
        return found if len(found) > 1 else found[self.response.name]
