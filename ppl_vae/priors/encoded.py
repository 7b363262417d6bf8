"""Priors that are made of the guide's own encoder: how they come to know it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.data import Field, Split, as_split
from ppl_vae.errors import ProgramError, UserError
from ppl_vae.nn.heads import DiagonalNormal
from ppl_vae.priors.base import Prior
from ppl_vae.programs.structure import is_shapes_only

__all__ = ["EncodedPrior"]


class EncodedPrior(Prior):
    """A prior made of the normals q(z | u) that the guide's encoder gives for rows u.

    A generated guide calls `attach` once its networks exist; to a guide that was written by hand the prior is
    introduced with `encode_with`. The networks stay the guide's: they are not registered here a second time.
    A guide made later from the same model takes the place of the earlier one, and p(z) is then made of the later one.
    """

    zero: Tensor
    head: DiagonalNormal | None
    networks: tuple[Callable[..., Any], Callable[..., Any] | None] | None

    def __init__(self, site: str = "z") -> None:
        super().__init__()
        self.site = site

    def setup(self) -> None:
        """No networks yet."""
        self.head = None
        self.register_buffer("zero", torch.zeros(self.latent_dim), persistent=False)
        object.__setattr__(self, "networks", None)

    # -- meeting the guide -----------------------------------------------------------------------------------

    def attach(self, guide: Any, fields: Sequence[Field], train: Split | None) -> None:
        """Take a generated guide's encoder, and its head for this prior's site where that is a normal one.

        For a guide of another family log q of arbitrary z is not known, or not from features alone: then the normals
        come from a head of the prior's own on the same features.
        """
        theirs = guide.normal_head(self.site)
        self.head = None if theirs is not None else DiagonalNormal(int(guide.encoder.size), self.latent_dim)
        self._use((guide.encoder, theirs or self.head), fields, train)

    def encode_with(self, encoder: Callable[[Mapping[str, Tensor]], Any], data: Any) -> None:
        """Take the encoder of a guide that was written by hand.

        Args:
            encoder: from fields by name, [K, *S], to normals with batch shape [K] and event shape [d].
            data: the data set (of which the training rows are taken), or anything else with rows.
        """
        split = as_split(data, "train")
        self._use((encoder, None), tuple(split.schema), split)

    def _use(self, networks: tuple[Callable[..., Any], Any], fields: Sequence[Field], train: Split | None) -> None:
        object.__setattr__(self, "networks", networks)  # past torch's registration of submodules
        self.take(fields, train)

    @abstractmethod
    def take(self, fields: Sequence[Field], train: Split | None) -> None:
        """Create what depends on the fields of a row; `train` is None for a run folder, whose state follows."""

    # -- the density -----------------------------------------------------------------------------------------

    def posterior(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Means and scales of q(z | u), each [K, d], for rows u by field name."""
        if self.networks is None:
            raise self._unattached()
        encoder, head = self.networks
        fn = encoder(rows) if head is None else head(encoder(rows))
        normal = fn.base_dist if isinstance(fn, dist.Independent) else None
        if not isinstance(normal, dist.Normal) or fn.event_shape != self.zero.shape:
            shape = f"event shape {tuple(fn.event_shape)}" if hasattr(fn, "event_shape") else "no shape"
            raise UserError(
                f"{type(self).__name__} for site {self.site!r} expected an encoder that gives Normal(...).to_event(1) "
                f"with event shape {tuple(self.zero.shape)}, got {type(fn).__name__} with {shape}: return that, or "
                "name the right site with site="
            )
        return normal.loc, normal.scale

    @abstractmethod
    def density(self) -> dist.Distribution:
        """p(z), once there is an encoder."""

    def forward(self, condition: Tensor | None = None) -> dist.Distribution:
        """p(z); where a guide only asks for shapes before it has networks, a distribution of the same shape."""
        if self.networks is not None:
            return self.density()
        if is_shapes_only():
            return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)
        raise self._unattached()

    def _unattached(self) -> ProgramError:
        return ProgramError(
            self.site,
            f"{type(self).__name__} of site {self.site!r} is made of the guide's encoder and has met no guide yet",
            "generate one from the model, MeanField(model), or introduce yours, model.prior.encode_with(encoder, data)",
        )
