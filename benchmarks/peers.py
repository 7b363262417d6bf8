"""Other packages' models with the networks of the benchmarks; each raises ImportError where its package is missing."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PIXELS = 784


def pythae_vae(hidden: int, latent: int, activation: type[nn.Module]) -> Any:
    """pythae's VAE, 784-hidden-latent, with a cross-entropy for the pixels."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Sequential(nn.Linear(PIXELS, hidden), activation())
            self.loc, self.scale = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

        def forward(self, x: torch.Tensor) -> ModelOutput:
            h = self.hidden(x.reshape(len(x), -1))
            return ModelOutput(embedding=self.loc(h), log_covariance=self.scale(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(latent, hidden), activation(), nn.Linear(hidden, PIXELS), nn.Sigmoid()
            )

        def forward(self, z: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.layers(z))

    return VAE(VAEConfig(input_dim=(PIXELS,), latent_dim=latent, reconstruction_loss="bce"), Encoder(), Decoder())
