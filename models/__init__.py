"""Generative models p(z) p(x | z), one per file."""

from ppl_vae.models.auto_encoder import AutoEncoder
from ppl_vae.models.cvae import CVAE
from ppl_vae.models.gmvae import GMVAE
from ppl_vae.models.hierarchical import Hierarchical
from ppl_vae.models.m1m2 import M1M2
from ppl_vae.models.m2 import M2
from ppl_vae.models.vae import VAE

__all__ = ["CVAE", "GMVAE", "M1M2", "M2", "VAE", "AutoEncoder", "Hierarchical"]
