"""Generative models p(z) p(x | z), one per file."""

from typing import TYPE_CHECKING

from ppl_vae.registry.lazy import lazily

if TYPE_CHECKING:
    from ppl_vae.models._rows import RowModel as RowModel
    from ppl_vae.models.auto_encoder import AutoEncoder as AutoEncoder
    from ppl_vae.models.cvae import CVAE as CVAE
    from ppl_vae.models.gaussian_mixture import GaussianMixture as GaussianMixture
    from ppl_vae.models.gmvae import GMVAE as GMVAE
    from ppl_vae.models.hierarchical import Hierarchical as Hierarchical
    from ppl_vae.models.information_bottleneck import InformationBottleneck as InformationBottleneck
    from ppl_vae.models.m1 import M1 as M1
    from ppl_vae.models.m1m2 import M1M2 as M1M2
    from ppl_vae.models.m2 import M2 as M2
    from ppl_vae.models.multimodal import Multimodal as Multimodal
    from ppl_vae.models.not_miwae import NotMIWAE as NotMIWAE
    from ppl_vae.models.regression import Regression as Regression
    from ppl_vae.models.vae import VAE as VAE

NAMES = {
    "auto_encoder": "ppl_vae.models.auto_encoder:AutoEncoder",
    "cvae": "ppl_vae.models.cvae:CVAE",
    "gaussian_mixture": "ppl_vae.models.gaussian_mixture:GaussianMixture",
    "gmvae": "ppl_vae.models.gmvae:GMVAE",
    "hierarchical": "ppl_vae.models.hierarchical:Hierarchical",
    "information_bottleneck": "ppl_vae.models.information_bottleneck:InformationBottleneck",
    "m1": "ppl_vae.models.m1:M1",
    "m1m2": "ppl_vae.models.m1m2:M1M2",
    "m2": "ppl_vae.models.m2:M2",
    "multimodal": "ppl_vae.models.multimodal:Multimodal",
    "not_miwae": "ppl_vae.models.not_miwae:NotMIWAE",
    "regression": "ppl_vae.models.regression:Regression",
    "vae": "ppl_vae.models.vae:VAE",
}
"""The words for `MODEL` and where each class is; it is imported when it is first used."""

__getattr__, __dir__, __all__ = lazily(__name__, [*NAMES.values(), "ppl_vae.models._rows:RowModel"])
