"""Variational autoencoders as probabilistic programs, on Pyro.

A model p(z) p(x | z) and a guide q(z | x) are two Pyro programs; everything else is a function of their log
importance weights. Names are imported when they are first used, so that `import ppl_vae` is fast.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ppl_vae.registry.lazy import lazily

if TYPE_CHECKING:
    from ppl_vae.arviz import Posterior as Posterior
    from ppl_vae.arviz import posterior as posterior
    from ppl_vae.arviz import to_arviz as to_arviz
    from ppl_vae.bounds import ELBO as ELBO
    from ppl_vae.bounds import IWAE as IWAE
    from ppl_vae.checks.linter import check as check
    from ppl_vae.comparison.compare import Comparison as Comparison
    from ppl_vae.comparison.compare import compare as compare
    from ppl_vae.comparison.grid import compare_grid as compare_grid
    from ppl_vae.data import Data as Data
    from ppl_vae.data import load as load
    from ppl_vae.diagnostics import Certified as Certified
    from ppl_vae.diagnostics import certify as certify
    from ppl_vae.diagrams import Diagram as Diagram
    from ppl_vae.diagrams import draw as draw
    from ppl_vae.errors import Finding as Finding
    from ppl_vae.errors import UserError as UserError
    from ppl_vae.evaluation import Evaluation as Evaluation
    from ppl_vae.evaluation import JointEvaluation as JointEvaluation
    from ppl_vae.evaluation import Parts as Parts
    from ppl_vae.evaluation import evaluate as evaluate
    from ppl_vae.evaluation import in_parts as in_parts
    from ppl_vae.evaluation import log_weights as log_weights
    from ppl_vae.guides import IAF as IAF
    from ppl_vae.guides import FullRank as FullRank
    from ppl_vae.guides import MeanField as MeanField
    from ppl_vae.models import M2 as M2
    from ppl_vae.models import VAE as VAE
    from ppl_vae.models.wrapped import wrap as wrap
    from ppl_vae.prediction import Codes as Codes
    from ppl_vae.prediction import Coherence as Coherence
    from ppl_vae.prediction import Drawn as Drawn
    from ppl_vae.prediction import Explanation as Explanation
    from ppl_vae.prediction import Imputation as Imputation
    from ppl_vae.prediction import ImputationCheck as ImputationCheck
    from ppl_vae.prediction import Moved as Moved
    from ppl_vae.prediction import Prediction as Prediction
    from ppl_vae.prediction import Reconstruction as Reconstruction
    from ppl_vae.prediction import check_imputation as check_imputation
    from ppl_vae.prediction import coherence as coherence
    from ppl_vae.prediction import decode as decode
    from ppl_vae.prediction import encode as encode
    from ppl_vae.prediction import explain as explain
    from ppl_vae.prediction import export as export
    from ppl_vae.prediction import impute as impute
    from ppl_vae.prediction import interpolate as interpolate
    from ppl_vae.prediction import predict as predict
    from ppl_vae.prediction import reconstruct as reconstruct
    from ppl_vae.prediction import sample as sample
    from ppl_vae.prediction import transfer as transfer
    from ppl_vae.prediction import traverse as traverse
    from ppl_vae.reporting import report as report
    from ppl_vae.runs import Result as Result
    from ppl_vae.runs import open_run as open_run
    from ppl_vae.training import fit as fit
    from ppl_vae.training import warm_start as warm_start
    from ppl_vae.weights.log_weights import LogWeights as LogWeights

__version__ = "0.1.0"

if "torch" not in sys.modules:
    # Torch's threads wait for each other by spinning, which takes the core from the thread that is waited for where
    # other processes have work: spin briefly, then sleep. Read once, when torch is imported; yours counts if it is set.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__getattr__, __dir__, __all__ = lazily(
    __name__,
    [
        "ppl_vae.arviz:Posterior",
        "ppl_vae.arviz:posterior",
        "ppl_vae.arviz:to_arviz",
        "ppl_vae.bounds:ELBO",
        "ppl_vae.bounds:IWAE",
        "ppl_vae.checks.linter:check",
        "ppl_vae.comparison.compare:Comparison",
        "ppl_vae.comparison.compare:compare",
        "ppl_vae.comparison.grid:compare_grid",
        "ppl_vae.data:Data",
        "ppl_vae.data:load",
        "ppl_vae.diagnostics:Certified",
        "ppl_vae.diagnostics:certify",
        "ppl_vae.diagrams:Diagram",
        "ppl_vae.diagrams:draw",
        "ppl_vae.errors:Finding",
        "ppl_vae.errors:UserError",
        "ppl_vae.evaluation:Evaluation",
        "ppl_vae.evaluation:JointEvaluation",
        "ppl_vae.evaluation:Parts",
        "ppl_vae.evaluation:evaluate",
        "ppl_vae.evaluation:in_parts",
        "ppl_vae.evaluation:log_weights",
        "ppl_vae.guides:FullRank",
        "ppl_vae.guides:IAF",
        "ppl_vae.guides:MeanField",
        "ppl_vae.models:M2",
        "ppl_vae.models:VAE",
        "ppl_vae.models.wrapped:wrap",
        "ppl_vae.prediction:Imputation",
        "ppl_vae.prediction:Prediction",
        "ppl_vae.prediction:Reconstruction",
        "ppl_vae.prediction:Codes",
        "ppl_vae.prediction:Coherence",
        "ppl_vae.prediction:Drawn",
        "ppl_vae.prediction:Explanation",
        "ppl_vae.prediction:ImputationCheck",
        "ppl_vae.prediction:Moved",
        "ppl_vae.prediction:check_imputation",
        "ppl_vae.prediction:coherence",
        "ppl_vae.prediction:decode",
        "ppl_vae.prediction:encode",
        "ppl_vae.prediction:explain",
        "ppl_vae.prediction:export",
        "ppl_vae.prediction:interpolate",
        "ppl_vae.prediction:transfer",
        "ppl_vae.prediction:traverse",
        "ppl_vae.prediction:impute",
        "ppl_vae.prediction:predict",
        "ppl_vae.prediction:reconstruct",
        "ppl_vae.prediction:sample",
        "ppl_vae.reporting:report",
        "ppl_vae.runs:Result",
        "ppl_vae.runs:open_run",
        "ppl_vae.training:fit",
        "ppl_vae.training:warm_start",
        "ppl_vae.weights.log_weights:LogWeights",
    ],
    rooms=[
        "bounds",
        "data",
        "diagnostics",
        "guides",
        "likelihoods",
        "models",
        "plots",
        "priors",
        "schedules",
        "sklearn",
    ],
)
__all__ += ["__version__"]
