"""The guide of points: an encoder without a posterior, with the penalties of regularised autoencoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.autoguide.drawing import GuideRun
from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.autoguide.inversion import Block
from ppl_vae.data import Schema, as_split
from ppl_vae.errors import NoDensity, UserError
from ppl_vae.nn.inputs import StandardisedInput

__all__ = ["Point"]


class Point(GeneratedGuide):
    """An amortized point estimate, q(z | x) = a point mass at f(x): the encoder of a deterministic autoencoder.

    It has no density, so its ELBO is no bound of anything: training maximises, in nats per row,

        log p(x | f(x')) + log p(z = f(x')) - sparsity |f(x')|_1 - contraction |d f / d x'|_F^2,

    where x' is x with a share `corruption` of its entries replaced by their training mean. With the flat prior of
    `AutoEncoder` this is a plain, sparse, contractive or denoising autoencoder; under a proper prior z is the most
    probable latent (MAP). Noise and penalties are of training mode: `guide.eval()` leaves them out, as `fit` does for
    validation rows. A KL weight weighs the penalties (and log p(z)).

    Latents with other supports are carried there by `biject_to`, and z is the most probable value in the model's own
    coordinates: the Jacobian is not counted, as in Pyro's AutoDelta; the penalties are of the unconstrained code.
    Discrete latents have classifiers, as in every generated guide. Shapes: features [..., F], z [..., d].

    Args:
        corruption: share of the observed entries that the encoder does not see, in [0, 1); labels are left alone.
        sparsity: nats for each unit of |f(x)|_1.
        contraction: nats for each unit of the squared Frobenius norm of the derivative of the code by the
            standardised entries; each row's is estimated without bias by one random projection (Hutchinson).

    Raises:
        UserError: for an option out of range, and for contraction with several particles or a label that is
            summed out.

    Source: Vincent et al. 2008, ICML (denoising); Ranzato et al. 2007, NIPS (sparse); Rifai et al. 2011, ICML
    (contractive); Hutchinson 1990 (the estimate of the norm).

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import AutoEncoder
        >>> data = ppl_vae.load("digits")
        >>> guide = Point(AutoEncoder(data, latent_dim=4), corruption=0.3).eval()
        >>> rows = data.test["x"][:5]
        >>> bool((guide(x=rows)["z"] == guide(x=rows)["z"]).all())
        True
    """

    joint = False
    corruption: float = 0.0
    sparsity: float = 0.0
    contraction: float = 0.0

    def family(self, features: int, size: int) -> nn.Module:
        """The code, linear in the features."""
        if not hasattr(self, "program") and (self.corruption or self.sparsity or self.contraction):
            raise UserError("corruption, sparsity and contraction are of a whole guide: write Point(model, ...)")
        return _Code(features, size)

    def setup(self, data: Any) -> None:
        """Read the model, create the networks, and the means of the training rows where noise needs them."""
        if self.corruption >= 1:
            raise UserError(f"corruption must be below 1, got {self.corruption}: the encoder would see nothing")
        super().setup(data)
        split = None if isinstance(data, Schema) else as_split(data, "train")
        fields = [f for f in (data if split is None else split.schema) if f.shape or f.kind != "categorical"]
        self.noisy = tuple(f.name for f in fields if self.corruption or self.contraction)
        self.standards = nn.ModuleList([StandardisedInput(f, split) for f in fields if f.name in self.noisy])
        self._seen: dict[str, Tensor] = {}

    def forward(self, *args: Tensor, **fields: Tensor) -> dict[str, Tensor]:
        """The code of the rows, at every latent; in training mode of corrupted rows, with the penalties."""
        fields = self._fields(args, fields)
        if not self.training:
            return super().forward(**fields)
        if self.corruption:
            fields = fields | {name: self._corrupted(name, x) for name, x in self._noisy(fields).items()}
        if not self.contraction:
            return super().forward(**fields)
        with self._differentiable(fields) as leaves:
            return super().forward(**(fields | leaves))

    def log_prob(self, values: Mapping[str, Tensor], **fields: Tensor) -> Tensor:
        """Raises NoDensity: there is no log q(z | x)."""
        raise NoDensity("Point has no density: draw its values, guide(x=rows), or use a guide such as MeanField(model)")

    def _noisy(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: fields[name].to(self._standard(name).mean.dtype) for name in self.noisy if name in fields}

    def _standard(self, name: str) -> Any:
        return self.standards[self.noisy.index(name)]

    def _corrupted(self, name: str, x: Tensor) -> Tensor:
        """Rows in which some of the entries that are there have their training mean."""
        standard = self._standard(name)
        there = x >= 0 if standard.categorical else ~torch.isnan(x)
        hidden = (torch.rand_like(x) < self.corruption) & there
        return torch.where(hidden, standard.mean.reshape(standard.shape), x)

    @contextmanager
    def _differentiable(self, fields: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Fields by which the code can be differentiated, also where a reader of shapes has switched gradients off."""
        self._seen = {name: x.detach().requires_grad_() for name, x in self._noisy(fields).items()}
        try:
            with torch.enable_grad():
                yield self._seen
        finally:
            self._seen = {}

    def _draw(self, block: Block, head: Any, run: GuideRun) -> None:
        if self.training and isinstance(head, dist.Delta):
            penalty = self.sparsity * head.v.abs().sum(-1)
            if self.contraction:
                penalty = penalty + self.contraction * self._stretch(head.v)
            head = dist.Delta(head.v, penalty, event_dim=1)  # log q is what a bound takes off
        super()._draw(block, head, run)

    def _stretch(self, code: Tensor) -> Tensor:
        """An unbiased estimate of |d f / d x|_F^2 for each row: E |J' v|^2 = |J|_F^2 for signs v."""
        rows = len(next(iter(self._seen.values())))
        if code.numel() != rows * code.shape[-1]:
            raise UserError(
                "contraction takes the derivative of one code for each row, but there are several (particles, or the "
                "values of a label that is summed out): use one particle and a model without such labels"
            )
        signs = torch.randn_like(code).sign()
        slopes = torch.autograd.grad(
            (code * signs).sum(), list(self._seen.values()), create_graph=True, allow_unused=True
        )
        total = code.new_zeros(rows)
        for name, slope in zip(self._seen, slopes, strict=True):
            if slope is not None:  # by entries in units of their training deviation
                total = total + (slope.reshape(rows, -1) * self._standard(name).scale).square().sum(-1)
        return total.reshape(code.shape[:-1])


class _Code(nn.Module):
    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, size)

    def forward(self, features: Tensor) -> Any:
        return dist.Delta(self.linear(features), event_dim=1)
