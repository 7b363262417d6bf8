"""A VAE with several layers of latents: z_L -> ... -> z_1 -> x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ppl_vae.data import Data, Schema
from ppl_vae.errors import UserError, check_several, check_whole
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.models._rows import RowModel, prior_of, rows_of
from ppl_vae.nn.heads import positive
from ppl_vae.nn.networks import MLP
from ppl_vae.priors import Prior

__all__ = ["Hierarchical"]


class Hierarchical(RowModel):
    """A ladder of latent layers: z_L ~ p(z), z_l ~ N(m_l(z_{l+1}), diag s_l(z_{l+1})^2), x ~ p(x | z_1).

    Shapes: z_l [..., d_l], x [..., *S]. The sites are `z1` (next to the data) to `zL`. A mean-field guide draws them
    from the top down, each layer conditioned on the one above it (and on x); a joint family all at once.

    Args:
        data: the data set (or its schema) whose field `x`, or whose columns, are modelled.
        prior: p(z_L); the standard normal by default.
        likelihood: p(x | z_1); by default the one that fits.
        latent_dims: d_1, ..., d_L, from the data up.
        hidden: widths of the hidden layers of every network.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        decoder: in place of these layers: a name (`conv`), an object of `ppl_vae.decoders`, a module or a function.

    Raises:
        UserError: for fewer than two layers, or a likelihood that is no distribution over the data.

    Source: Sonderby et al. 2016, arXiv 1602.02282.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> model = Hierarchical(ppl_vae.load("digits"), latent_dims=(8, 4))
        >>> model(n=3).shape
        torch.Size([3, 8, 8])
        >>> [block.sites for block in MeanField(model).blocks]
        [('z2',), ('z1',)]
    """

    def __init__(
        self,
        data: Data | Schema,
        *,
        prior: Prior | str | type[Prior] | None = None,
        likelihood: Likelihood | Columns | str | type[Likelihood] | None = None,
        latent_dims: Sequence[int] = (16, 8),
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
        decoder: Any = None,
    ) -> None:
        super().__init__(data)
        latent_dims = check_several("latent_dims", latent_dims, "numbers, such as (16, 8)")
        latent_dims = tuple(check_whole("latent_dims", size) for size in latent_dims)
        if len(latent_dims) < 2:
            raise UserError(
                f"latent_dims must be at least two numbers of at least 1, got {tuple(latent_dims)}: see VAE"
            )
        self.names = tuple(f"z{i + 1}" for i in range(len(latent_dims)))
        self.prior = prior_of(prior).build(latent_dims[-1])
        below = zip(latent_dims[1:], latent_dims, strict=False)
        self.steps = nn.ModuleList([MLP(above, hidden, 2 * here, activation) for above, here in below])
        self.decoded = self.names[:1]
        self.decodes(latent_dims[0], likelihood, hidden, activation, taken=self.names, decoder=decoder)

    def forward(self, x: Tensor | None = None, n: int = 1, **columns: Tensor) -> Tensor | dict[str, Tensor]:
        """Observe rows x (or columns by name), or simulate n rows."""
        given = rows_of(x=x, **columns)
        with self.rows(given, n):
            z = pyro.sample(self.names[-1], self.prior())
            for name, step in zip(self.names[-2::-1], reversed(self.steps), strict=True):
                loc, raw = step(z).chunk(2, dim=-1)
                z = pyro.sample(name, dist.Normal(loc, positive(raw)).to_event(1))
            return self.observe(z, given)
