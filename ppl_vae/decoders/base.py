"""What a decoder is: a network that is sized by the latent vector and the likelihood that it feeds."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from ppl_vae.data import Field
from ppl_vae.errors import check_whole
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.saving.recorded import Recorded

__all__ = ["Decoder"]


class Decoder(Recorded, nn.Module, ABC):
    """A network f(z) from latent vectors [..., d] to the features [..., F] of a likelihood.

    `decoder.build(d, likelihood)` sizes it. Leading dims (particles, enumerated values) broadcast. A number for each
    feature is added to what the network says; it starts at the marginals of the training rows. A subclass gives `setup`
    and `features`: see `Dense`.
    """

    inputs: int = 0
    offset: nn.Parameter

    def build(self, inputs: int, likelihood: Likelihood | Columns) -> Self:
        """A copy of this decoder from `inputs` numbers to the features that a likelihood asks for."""
        built = copy.deepcopy(self)
        built.inputs = check_whole("inputs", inputs)
        built.offset = nn.Parameter(torch.zeros(likelihood.size))
        built.setup(likelihood)
        return built

    @classmethod
    def suits(cls, field: Field) -> bool:
        """Whether this decoder is meant for a field of this kind and shape, where it is named for several."""
        return True

    def over(self, likelihood: Likelihood | Columns) -> Likelihood | Columns:
        """The likelihood whose features this decoder makes, from the one that was chosen for the field."""
        return likelihood

    @abstractmethod
    def setup(self, likelihood: Likelihood | Columns) -> None:
        """Create the network, once `inputs` is known.

        Raises:
            UserError: for a likelihood of a field that this network does not make.
        """

    @abstractmethod
    def features(self, z: Tensor) -> Tensor:
        """The features [n, F] of latent vectors [n, d]."""

    def forward(self, z: Tensor) -> Tensor:
        """f(z), [..., F]."""
        return self.features(z.reshape(-1, self.inputs)).reshape(*z.shape[:-1], -1) + self.offset

    def start_at(self, bias: Tensor) -> None:
        """Let the features of a network that says nothing be these."""
        with torch.no_grad():
            self.offset.copy_(bias)
