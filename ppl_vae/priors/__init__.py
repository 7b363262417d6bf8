"""Priors p(z) of a latent vector, one idea per file: modules that return a distribution when called."""

from ppl_vae.priors.base import Prior
from ppl_vae.priors.conditional import LabelConditional
from ppl_vae.priors.diagonal import Diagonal
from ppl_vae.priors.exemplar import Exemplar
from ppl_vae.priors.flow import CouplingFlowPrior, FlowPrior, SplineFlowPrior
from ppl_vae.priors.mixture import Mixture
from ppl_vae.priors.standard_normal import StandardNormal
from ppl_vae.priors.vamp import VampPrior

__all__ = [
    "CouplingFlowPrior",
    "Diagonal",
    "Exemplar",
    "FlowPrior",
    "LabelConditional",
    "Mixture",
    "Prior",
    "SplineFlowPrior",
    "StandardNormal",
    "VampPrior",
]
