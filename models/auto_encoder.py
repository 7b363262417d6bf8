"""The deterministic autoencoder: the networks of a VAE, without a prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
from torch import Tensor

from ppl_vae.data import Data, Schema
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.models._rows import RowModel, rows_of
from ppl_vae.priors.flat import Flat

__all__ = ["AutoEncoder"]


class AutoEncoder(RowModel):
    """A deterministic autoencoder: a decoder x ~ p(x | g(z)) whose codes z have no prior; its guide is `Point`.

    Trained with `Point(model)`, z = f(x), it maximises log p(x | g(f(x))), in nats per row, a reconstruction error with
    its normaliser. This is no bound of log p(x): there is no p(z), hence no p(x), and more latents make it larger
    without end. `ppl_vae.evaluate` refuses, `ppl_vae.reconstruct` gives what can be said. Everything else is as in
    `VAE`, so that the two can be compared with the same networks. Shapes: z [..., d], x [..., *S].

    Called with `n` it decodes n draws of N(0, I), to show that an autoencoder does not know where its codes are: these
    are no samples of a model.

    Args:
        data: the data set (or its schema) whose field `x` is modelled; all fields but the label `y` if it has no x.
        likelihood: p(x | z), which says what a reconstruction error is; by default the one that fits.
        latent_dim: d.
        hidden: widths of the decoder's hidden layers.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        decoder: in place of these layers: a name (`conv`), an object of `ppl_vae.decoders`, a module or a function.

    Raises:
        UserError: as `VAE`.

    Source: Bourlard & Kamp 1988, Biological Cybernetics 59; Hinton & Salakhutdinov 2006, Science 313. With a squared
    error (`Normal(scale=1.0)`) and no hidden layers it finds the principal subspace.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import Point
        >>> data = ppl_vae.load("digits")
        >>> model = AutoEncoder(data, latent_dim=4)
        >>> guide = Point(model)
        >>> result = ppl_vae.fit(model, guide, data, epochs=1)
        >>> bool((ppl_vae.reconstruct(model, guide, data.test).log_likelihood < 0).all())
        True
        >>> ppl_vae.evaluate(model, guide, data.test)
        Traceback (most recent call last):
        ppl_vae.errors.NoDensity: no evidence: site 'z' is a point in the guide and its prior is flat, and ...
    """

    default_guide: ClassVar[str] = "point"
    """What `ppl-vae fit` takes when no guide is named."""

    def __init__(
        self,
        data: Data | Schema,
        *,
        likelihood: Likelihood | Columns | str | type[Likelihood] | None = None,
        latent_dim: int = 16,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
        decoder: Any = None,
    ) -> None:
        super().__init__(data)
        self.prior = Flat().build(latent_dim)
        self.decodes(latent_dim, likelihood, hidden, activation, taken=("z",), decoder=decoder)

    def forward(self, x: Tensor | None = None, n: int = 1, **columns: Tensor) -> Tensor | dict[str, Tensor]:
        """Observe rows x (or columns by name), or decode n draws of N(0, I)."""
        given = rows_of(x=x, **columns)
        with self.rows(given, n):
            z = pyro.sample("z", self.prior())
            return self.observe(z, given)
