"""A VAE whose latent space is a mixture: clusters as a discrete latent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.data import Data, Schema
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.models._rows import RowModel, rows_of
from ppl_vae.priors import LabelConditional

__all__ = ["GMVAE"]


class GMVAE(RowModel):
    """Clusters in latent space: c ~ Categorical(w), z ~ N(m_c, diag s_c^2), x ~ p(x | f(z)).

    Shapes: c [...], z [..., d], x [..., *S]. The cluster of a row is enumerated exactly, weighted by the
    guide's classifier q(c | x); z is then drawn given c. The same as a VAE with a learned mixture prior, but with the
    cluster as a site of its own, so that rows can be assigned to clusters.

    Args:
        data: the data set (or its schema) whose field `x`, or whose columns, are modelled.
        clusters: number of clusters K.
        likelihood: p(x | z); by default the one that fits.
        latent_dim: d.
        hidden: widths of the decoder's hidden layers.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        decoder: in place of these layers: a name (`conv`), an object of `ppl_vae.decoders`, a module or a function.

    Raises:
        UserError: for a count below 1, or a likelihood that is no distribution over the data.

    Source: Jiang et al. 2017, arXiv 1611.05148; Dilokthanakul et al. 2016, arXiv 1611.02648.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> model = GMVAE(ppl_vae.load("digits"), clusters=5, latent_dim=4)
        >>> model(n=3).shape
        torch.Size([3, 8, 8])
        >>> [(block.sites, block.given) for block in MeanField(model).blocks]
        [(('cluster',), ()), (('z',), ('cluster',))]
    """

    def __init__(
        self,
        data: Data | Schema,
        *,
        clusters: int = 10,
        likelihood: Likelihood | Columns | str | type[Likelihood] | None = None,
        latent_dim: int = 16,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
        decoder: Any = None,
    ) -> None:
        super().__init__(data)
        self.prior = LabelConditional(clusters).build(latent_dim)
        with torch.no_grad():  # equal clusters would stay equal
            self.prior.loc.normal_()
        self.logits = nn.Parameter(torch.zeros(clusters))
        self.decodes(latent_dim, likelihood, hidden, activation, taken=("z", "cluster"), starts="z", decoder=decoder)
        if "z" in self.begun:
            self._start(*self.begun["z"], clusters)

    @torch.no_grad()
    def _start(self, codes: Tensor, spread: Tensor, clusters: int) -> None:
        """Begin at the clusters that k-means finds in the codes of the linear model that the rows begin at."""
        from scipy.cluster.vq import kmeans2

        if len(codes) < 2 * clusters:
            return
        centres, which = kmeans2(codes.double().numpy(), clusters, minit="++", seed=0, missing="warn")
        labels = torch.from_numpy(which)
        for c in range(clusters):
            if int((labels == c).sum()) > 1:
                own = codes[labels == c]
                self.prior.loc[c] = torch.from_numpy(centres[c]).to(self.prior.loc)
                variance = own.var(0) + spread[labels == c].square().mean(0)
                self.prior.log_scale[c] = variance.clamp(min=1e-2).log() / 2
                self.logits[c] = math.log(len(own) / len(codes))
            else:
                self.logits[c] = -math.log(len(codes))

    def forward(self, x: Tensor | None = None, n: int = 1, **columns: Tensor) -> Tensor | dict[str, Tensor]:
        """Observe rows x (or columns by name), or simulate n rows."""
        given = rows_of(x=x, **columns)
        with self.rows(given, n):
            cluster = pyro.sample("cluster", dist.Categorical(logits=self.logits))
            z = pyro.sample("z", self.prior(cluster))
            return self.observe(z, given)
