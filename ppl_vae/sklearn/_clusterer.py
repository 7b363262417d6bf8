"""A VAE with a mixture of normals as its prior, as a clusterer."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import ClusterMixin
from sklearn.utils.validation import check_is_fitted

from ppl_vae.errors import check_whole
from ppl_vae.models import GMVAE
from ppl_vae.prediction import predict
from ppl_vae.programs.locking import exclusive
from ppl_vae.sklearn._base import VAEEstimator, plain
from ppl_vae.sklearn._parameters import parameters

__all__ = ["GMVAEClusterer"]


@parameters(without=("prior",), n_clusters=8)
class GMVAEClusterer(ClusterMixin, VAEEstimator):
    """Clusters in the latent space of a VAE: c ~ p(c), z ~ N(m_c, s_c^2), x ~ p(x | f(z)); a row's are q(c | x).

    Args:
        n_clusters: how many normals the mixture has; some may stay without rows. Further arguments as for
            `ppl_vae.sklearn._base.VAEEstimator`, but for the prior.

    Raises:
        ValueError: what scikit-learn refuses; a number of clusters below 1.

    Source: Jiang et al. 2017, arXiv 1611.05148.

    Example:
        >>> X = np.random.RandomState(0).randn(90, 4) + np.repeat([[-5], [0], [5]], 30, axis=0)
        >>> found = GMVAEClusterer(2, hidden=(16,), n_clusters=3, epochs=3, lr=0.01, random_state=0).fit(X)
        >>> found.labels_.shape, found.predict_proba(X).shape
        ((90,), (90, 3))
    """

    labels_: np.ndarray
    n_clusters: int
    prior = None

    @exclusive
    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on rows X; y is not used."""
        clusters = check_whole("n_clusters", plain(self.n_clusters), 1)
        rows = self._training_rows(X)

        def make(data: Any, prior: Any = None, **options: Any) -> GMVAE:
            return GMVAE(data, clusters=clusters, **options)

        self._train(rows, make, None)
        rows = rows.to(self._pair.device)
        self._order = np.arange(clusters)
        likeliest = self._probabilities(rows).argmax(1)
        # clusters that have rows come first, so that labels are 0, 1, ... also where some are left empty
        self._order = np.argsort(~np.isin(self._order, likeliest), kind="stable")
        self.labels_ = self._probabilities(rows).argmax(1)
        return self

    def _probabilities(self, rows: Any) -> np.ndarray:
        found = predict(self.model_, self.guide_, rows, "cluster", draws=1, seed=self._seed)
        if found.probs is None:
            raise RuntimeError("the cluster of a row has probabilities")
        return found.probs.cpu().numpy()[:, self._order]

    @exclusive
    def predict_proba(self, X: Any) -> np.ndarray:
        """q(c | x), [row, cluster]."""
        check_is_fitted(self)
        return self._probabilities(self._rows(X))

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest cluster of each row, [row]."""
        return self.predict_proba(X).argmax(1)
