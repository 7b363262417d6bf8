"""Priors p(z) of a latent vector, one idea per file: modules that return a distribution when called."""

from typing import TYPE_CHECKING

from ppl_vae.registry.lazy import lazily

if TYPE_CHECKING:
    from ppl_vae.priors.base import Prior as Prior
    from ppl_vae.priors.conditional import LabelConditional as LabelConditional
    from ppl_vae.priors.diagonal import Diagonal as Diagonal
    from ppl_vae.priors.exemplar import Exemplar as Exemplar
    from ppl_vae.priors.flow import CouplingFlowPrior as CouplingFlowPrior
    from ppl_vae.priors.flow import FlowPrior as FlowPrior
    from ppl_vae.priors.flow import SplineFlowPrior as SplineFlowPrior
    from ppl_vae.priors.mixture import Mixture as Mixture
    from ppl_vae.priors.standard_normal import StandardNormal as StandardNormal
    from ppl_vae.priors.vamp import VampPrior as VampPrior

NAMES = {
    "coupling_flow_prior": "ppl_vae.priors.flow:CouplingFlowPrior",
    "diagonal": "ppl_vae.priors.diagonal:Diagonal",
    "exemplar": "ppl_vae.priors.exemplar:Exemplar",
    "flow_prior": "ppl_vae.priors.flow:FlowPrior",
    "label_conditional": "ppl_vae.priors.conditional:LabelConditional",
    "mixture": "ppl_vae.priors.mixture:Mixture",
    "spline_flow_prior": "ppl_vae.priors.flow:SplineFlowPrior",
    "standard_normal": "ppl_vae.priors.standard_normal:StandardNormal",
    "vamp_prior": "ppl_vae.priors.vamp:VampPrior",
}
"""The words for `--prior` and where each class is; it is imported when it is first used."""

__getattr__, __dir__, __all__ = lazily(__name__, [*NAMES.values(), "ppl_vae.priors.base:Prior"])
