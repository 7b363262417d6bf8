"""The decoder of fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ppl_vae.decoders.base import Decoder
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.nn.networks import MLP, widths

__all__ = ["Dense"]


class Dense(Decoder):
    """Fully connected layers, for a field of any kind and for tables: f(z) = W h(z) + b.

    Shapes: z [..., d] -> [..., F].

    Args:
        hidden: widths of the hidden layers; none for a linear decoder.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.

    Example:
        >>> import torch, ppl_vae
        >>> from ppl_vae.models import VAE
        >>> model = VAE(ppl_vae.load("digits"), decoder=Dense(hidden=(32, 64)), latent_dim=4)
        >>> model.decoder(torch.zeros(7, 2, 4)).shape
        torch.Size([7, 2, 1088])
    """

    def __init__(self, hidden: Sequence[int] = (256,), activation: str = "gelu") -> None:
        super().__init__()
        self.hidden, self.activation = widths((hidden,) if isinstance(hidden, int) else hidden), activation

    def setup(self, likelihood: Likelihood | Columns) -> None:
        """One network for all features."""
        self.network = MLP(self.inputs, self.hidden, likelihood.size, self.activation)

    def features(self, z: Tensor) -> Tensor:
        """Apply it."""
        return self.network(z)
