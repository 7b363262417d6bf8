"""Rows and a response that share latents: z -> x, z -> y."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from ppl_vae.data import Data, Schema
from ppl_vae.errors import check_flag
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.models._response import Asked, as_chosen, asked_fields, responses
from ppl_vae.models._rows import RowModel, prior_of, rows_of
from ppl_vae.nn.networks import MLP
from ppl_vae.priors import Prior

__all__ = ["Regression"]


class Regression(RowModel):
    """A latent-variable regression: z ~ p(z), x ~ p(x | f(z)), y ~ p(y | g(z)), so that y is predicted through z.

    log p(x, y) = log of the integral of p(x | z) p(y | z) p(z), in nats. Shapes: z [..., d], x [..., *S], y [..., *R].
    Rows whose y is missing are skipped at y alone and still teach x: semi-supervised by construction. y may be a
    number, a count or a category; linear networks (`hidden=()`) and normals are supervised principal components.
    `ppl_vae.predict(model, guide, data)` is p(y | x), averaged over q(z | x).

    What the guide sees: if every training row has its y, a generated guide sees x alone, since at prediction there is
    no y. Then the predictive mean is right, but its deviation too small, as q is fitted to posteriors that know y: in
    the linear-normal case s^2 + v s^2 / (v + s^2) instead of s^2 + v, with s^2 = var(y | z) and v = var(E[y | z] | x).
    If some training rows miss y (hide a share of them, NaN or -1, and load with missing="allow"), the guide sees y
    where it is, learns both posteriors, and the deviation is right. `sees_response` decides otherwise.

    Args:
        data: the data set (or its schema); all fields but the response are modelled as a VAE models them.
        response: the name of y, or of several responses of any kinds, which are independent given z.
        prior: p(z); the standard normal by default.
        likelihood: p(x | z); by default the one that fits.
        response_likelihood: p(y | z); by default the one that fits; of several responses by name.
        latent_dim: d.
        hidden: widths of the hidden layers of both networks.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        decoder: in place of these layers: a name (`conv`), an object of `ppl_vae.decoders`, a module or a function.
        sees_response: whether a generated guide sees y; by default if some training rows miss it.

    Raises:
        UserError: if there is no such field, or no other one.

    Source: Yu, Yu, Tresp, Kriegel & Wu 2006, KDD (supervised probabilistic principal components).

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from sklearn.datasets import load_diabetes
        >>> x, y = load_diabetes(return_X_y=True)
        >>> data = ppl_vae.load({"x": x, "y": y}, kinds={"y": "real"})
        >>> model = Regression(data, latent_dim=4)
        >>> result = ppl_vae.fit(model, MeanField(model), data, epochs=1)
        >>> found = ppl_vae.predict(model, result.guide, data.test)
        >>> found.mean.shape, found.sd.shape
        (torch.Size([88]), torch.Size([88]))
    """

    def __init__(
        self,
        data: Data | Schema,
        *,
        response: str | Sequence[str] = "y",
        prior: Prior | str | type[Prior] | None = None,
        likelihood: Likelihood | Columns | str | type[Likelihood] | None = None,
        response_likelihood: Asked | Mapping[str, Asked] = None,
        latent_dim: int = 16,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
        decoder: Any = None,
        sees_response: bool | None = None,
    ) -> None:
        super().__init__(data)
        fields = asked_fields(self.schema, response)
        names = tuple(field.name for field in fields)
        self.prior = prior_of(prior).build(latent_dim)
        taken = ("z", *names)
        self.decodes(
            latent_dim,
            likelihood,
            hidden,
            activation,
            taken=taken,
            starts="z",
            also=names,
            without=names,
            decoder=decoder,
        )
        self.response, *more = responses(
            fields, self.train_rows, latent_dim, hidden, activation, response_likelihood, beside=self.linear
        )
        self.more = nn.ModuleList(more)
        parts = [(each.network, each.likelihood) for each in (self.response, *more)]
        if self.linear and isinstance(self.decoder, MLP):
            self.begin("z", (self.decoder, self.likelihood), *((n, p) for n, p in parts if isinstance(n, MLP)))
        self.recorded["response_likelihood"] = as_chosen([self.response, *more])  # as they were chosen from the rows
        if sees_response is not None:
            check_flag("sees_response", sees_response)
        seen = {field.name for field in fields if (field.missing if sees_response is None else sees_response)}
        self.encodes = tuple(name for name in self.observes if name in seen or name not in names)

    def forward(self, x: Tensor | None = None, n: int = 1, **fields: Tensor) -> dict[str, Tensor]:
        """Observe rows and their response, or simulate n of them; returns the fields by name."""
        given = rows_of(x=x, **fields)
        with self.rows(given, n):
            z = pyro.sample("z", self.prior())
            rows = self.observe(z, given)
            found = {each.name: each.observe(z, given.get(each.name)) for each in (self.response, *self.more)}
        return {**(rows if isinstance(rows, dict) else {"x": rows}), **found}
