"""A VAE as a transformer: rows to latents and back, their log density, and new rows."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from ppl_vae.data.example import blank
from ppl_vae.errors import check_whole
from ppl_vae.evaluation import evaluate_rows
from ppl_vae.models import VAE
from ppl_vae.prediction.coding import decode, decode_columns, encode, simulate
from ppl_vae.programs.locking import exclusive
from ppl_vae.registry.resolve import resolve
from ppl_vae.sklearn._base import VAEEstimator, plain
from ppl_vae.sklearn._parameters import parameters
from ppl_vae.sklearn._rows import generator_of, to_frame

__all__ = ["VAETransformer"]

ROWS_AT_ONCE = 5000
"""How many rows are encoded in one pass."""


@parameters(score_particles=1000)
class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, VAEEstimator):
    """A VAE, z ~ p(z), x ~ p(x | f(z)), with a generated guide q(z | x), as a scikit-learn transformer and density.

    `transform` gives E_q[z | x], `inverse_transform` E[x | z], `score_samples` log p(x) in nats by importance sampling
    from q, `sample` new rows. Shapes: X [row, column], Z [row, d]. X is a matrix of numbers, NaN where an entry is
    missing, or a DataFrame with columns of several types. It is computed in X's type, float64 or float32.

    Args:
        latent_dim: d; further arguments as for `ppl_vae.sklearn._base.VAEEstimator`.
        score_particles: draws of z for each row in `score_samples`.

    Raises:
        ValueError: what scikit-learn refuses; rows that the likelihood is no distribution over; numbers out of range.

    Source: Kingma & Welling 2014, arXiv 1312.6114; Burda et al. 2016, arXiv 1509.00519 (the log density).

    Example:
        >>> X = np.random.RandomState(0).randn(200, 2) @ np.ones((2, 5))
        >>> vae = VAETransformer(latent_dim=2, hidden=(16,), epochs=2, random_state=0).fit(X)
        >>> vae.transform(X).shape, vae.inverse_transform(vae.transform(X)).shape, vae.score_samples(X).shape
        ((200, 2), (200, 5), (200,))
        >>> vae.sample(3, random_state=0).shape, vae.get_feature_names_out().tolist()
        ((3, 5), ['vaetransformer0', 'vaetransformer1'])
    """

    score_particles: int

    def __sklearn_tags__(self) -> Any:
        """float32 and float64 stay what they are."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self._latent_dim

    @property
    def _latent_dim(self) -> int:
        return int(self.model_.prior.latent_dim)

    @exclusive
    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on rows X; y is not used."""
        self._train(self._training_rows(X), VAE, resolve("prior", self.prior))
        return self

    @exclusive
    def transform(self, X: Any) -> np.ndarray:
        """The posterior means E_q[z | x], [row, d] (by draws where a family has no closed-form mean)."""
        check_is_fitted(self)
        rows, pair = self._rows(X), self._pair.eval()
        parts = [
            encode(pair.guide, rows.batch(slice(start, start + ROWS_AT_ONCE)), seed=self._seed)["z"]
            for start in range(0, len(rows), ROWS_AT_ONCE)
        ]
        return torch.cat(parts).cpu().numpy()

    @exclusive
    def inverse_transform(self, Z: Any) -> Any:
        """The means E[x | z] of given latents, [row, column]; of a DataFrame a DataFrame, categories the likeliest."""
        check_is_fitted(self)
        Z = check_array(Z, dtype=[np.float64, np.float32])
        if Z.shape[1] != self._latent_dim:
            raise ValueError(f"Z has {Z.shape[1]} columns, but the model has latent_dim={self._latent_dim}")
        pair, schema = self._pair.eval(), self._schema
        weight = next(pair.parameters())
        batch = {f.name: blank(f, len(Z)).to(weight.device) for f in schema}
        latents = {"z": torch.tensor(Z, dtype=weight.dtype, device=weight.device)}
        if "x" not in schema:
            return to_frame(decode_columns(pair.model, latents, batch, schema.fields), schema)
        return decode(pair.model, latents, batch).cpu().numpy()

    @exclusive
    def score_samples(self, X: Any, y: Any = None) -> np.ndarray:
        """log p(x) of each row in nats, [row]: log (1/K) sum_k p(x, z_k) / q(z_k | x), K = `score_particles`.

        Of a row with missing entries it is the log density of those that were observed. The draws are those of
        `random_state` at every call, and of their own for every row.
        """
        check_is_fitted(self)
        rows, particles = self._rows(X), plain(self.score_particles)
        return evaluate_rows(self.model_, self.guide_, rows, particles, seed=self._seed).log_evidence.cpu().numpy()

    @exclusive
    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`, in nats per row: what GridSearchCV maximises."""
        return float(self.score_samples(X).mean())

    @exclusive
    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """New rows, z ~ p(z), x ~ p(x | z), [n_samples, column]; of a DataFrame a DataFrame."""
        check_is_fitted(self)
        n_samples = check_whole("n_samples", n_samples)
        seed = int(generator_of(random_state).randint(2**31 - 1))
        schema = self._schema
        pair = self._pair.eval()
        drawn = simulate(pair, schema, n_samples, seed=seed)
        if "x" not in schema:
            return to_frame(torch.stack([drawn[name].double() for name in schema.names], -1), schema)
        return drawn["x"].to(next(pair.parameters()).dtype).cpu().numpy()
