"""A face for people who live in scikit-learn: density, codes, imputation, regression, outliers, clusters, few labels.

Importing this module imports models and guides, as the command line does; `import ppl_vae` does not import it.
"""

from __future__ import annotations

from ppl_vae.sklearn._classifier import SemiSupervisedVAEClassifier
from ppl_vae.sklearn._clusterer import GMVAEClusterer
from ppl_vae.sklearn._imputer import VAEImputer
from ppl_vae.sklearn._outliers import VAEOutlierDetector
from ppl_vae.sklearn._regressor import VAERegressor
from ppl_vae.sklearn._transformer import VAETransformer

__all__ = [
    "GMVAEClusterer",
    "SemiSupervisedVAEClassifier",
    "VAEImputer",
    "VAEOutlierDetector",
    "VAERegressor",
    "VAETransformer",
]
