"""Generative models p(z) p(x | z), one per file."""

from ppl_vae.models.cvae import CVAE
from ppl_vae.models.gaussian_mixture import GaussianMixture
from ppl_vae.models.gmvae import GMVAE
from ppl_vae.models.hierarchical import Hierarchical
from ppl_vae.models.information_bottleneck import InformationBottleneck
from ppl_vae.models.regression import Regression
from ppl_vae.models.vae import VAE

__all__ = ["CVAE", "GMVAE", "VAE", "GaussianMixture", "Hierarchical", "InformationBottleneck", "Regression"]
