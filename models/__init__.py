"""Generative models p(z) p(x | z), one per file."""

from ppl_vae.models._rows import RowModel
from ppl_vae.models.auto_encoder import AutoEncoder
from ppl_vae.models.cvae import CVAE
from ppl_vae.models.gaussian_mixture import GaussianMixture
from ppl_vae.models.gmvae import GMVAE
from ppl_vae.models.hierarchical import Hierarchical
from ppl_vae.models.information_bottleneck import InformationBottleneck
from ppl_vae.models.m1 import M1
from ppl_vae.models.m1m2 import M1M2
from ppl_vae.models.m2 import M2
from ppl_vae.models.regression import Regression
from ppl_vae.models.vae import VAE

__all__ = [
    "CVAE",
    "GMVAE",
    "M1",
    "M1M2",
    "M2",
    "VAE",
    "AutoEncoder",
    "GaussianMixture",
    "Hierarchical",
    "InformationBottleneck",
    "Regression",
    "RowModel",
]
