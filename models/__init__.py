"""Generative models p(z) p(x | z), one per file."""

from ppl_vae.models.auto_encoder import AutoEncoder
from ppl_vae.models.gmvae import GMVAE
from ppl_vae.models.hierarchical import Hierarchical
from ppl_vae.models.vae import VAE

__all__ = ["GMVAE", "VAE", "AutoEncoder", "Hierarchical"]
