"""A face for people who live in scikit-learn: a transformer that is a density, and a classifier of few labels.

Importing this module imports models and guides, as the command line does; `import ppl_vae` does not import it.
"""

from __future__ import annotations

from ppl_vae.sklearn._classifier import SemiSupervisedVAEClassifier
from ppl_vae.sklearn._transformer import VAETransformer

__all__ = ["SemiSupervisedVAEClassifier", "VAETransformer"]
