"""A VAE as an outlier detector: rows of low density."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from ppl_vae.errors import UserError
from ppl_vae.programs.locking import exclusive
from ppl_vae.sklearn._parameters import parameters
from ppl_vae.sklearn._transformer import VAETransformer

__all__ = ["VAEOutlierDetector"]


@parameters(contamination=0.1)
class VAEOutlierDetector(OutlierMixin, VAETransformer):
    """Rows of low density under a VAE, in the manner of `sklearn.ensemble.IsolationForest`.

    `score_samples` is log p(x) in nats (of what was observed), `decision_function` that minus `offset_`, `predict` 1
    of inliers and -1 of outliers, rows below `offset_`. Density alone can fail as a score: a simple row is probable,
    usual or not (Nalisnick et al. 2019, arXiv 1810.09136); `ppl_vae.diagnostics.anomaly` compares it with simpler ones.

    Args:
        contamination: the share of outliers among the training rows, above 0 and at most 0.5: `offset_` is that
            quantile of their scores. Further arguments as for `ppl_vae.sklearn.VAETransformer`.

    Raises:
        ValueError: what scikit-learn refuses; a contamination out of range.

    Example:
        >>> X = np.r_[np.random.RandomState(0).randn(95, 3), 6 + np.zeros((5, 3))]
        >>> found = VAEOutlierDetector(2, hidden=(8,), epochs=2, contamination=0.05, random_state=0).fit(X)
        >>> found.predict(X).shape, sorted(set(found.predict(X).tolist()))
        ((100,), [-1, 1])
    """

    offset_: float

    @exclusive
    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on rows X, outliers among them or not; y is not used."""
        if not isinstance(self.contamination, float | np.floating) or not 0 < self.contamination <= 0.5:
            raise UserError(f"contamination must be above 0 and at most 0.5, got {self.contamination!r}")
        super().fit(X)
        self.offset_ = float(np.quantile(self.score_samples(X), self.contamination))
        return self

    contamination: float

    def decision_function(self, X: Any) -> np.ndarray:
        """log p(x) minus `offset_`, nats, [row]: below 0 for outliers."""
        check_is_fitted(self)
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 of inliers, -1 of outliers, [row]."""
        return np.where(self.decision_function(X) < 0, -1, 1)
