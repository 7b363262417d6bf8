"""A latent-variable regression as a regressor, with predictive deviations."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from ppl_vae.data import Field, Schema, Split
from ppl_vae.errors import UserError, shown
from ppl_vae.models import Regression
from ppl_vae.prediction import Imputation, impute
from ppl_vae.programs.locking import exclusive
from ppl_vae.registry.resolve import resolve
from ppl_vae.sklearn._base import VAEEstimator, plain
from ppl_vae.sklearn._parameters import parameters

__all__ = ["VAERegressor"]


@parameters(particles=1000)
class VAERegressor(RegressorMixin, VAEEstimator):
    """Rows and a number that share latents, z ~ p(z), x ~ p(x | f(z)), y ~ p(y | g(z)), as a scikit-learn regressor.

    `predict` is E[y | x], by importance weights p(x, z) / q(z | x), so that it is that of the model, whatever the
    guide. Rows whose y is NaN teach x alone. Shapes: X [row, column], NaN where an entry is missing; y [row].

    Args:
        particles: draws of z for each row in `predict`. Further arguments as for
            `ppl_vae.sklearn._base.VAEEstimator`.

    Raises:
        ValueError: what scikit-learn refuses; a y without any number.

    Source: Yu, Yu, Tresp, Kriegel & Wu 2006, KDD (supervised probabilistic principal components).

    Example:
        >>> X = np.random.RandomState(0).randn(60, 3)
        >>> model = VAERegressor(3, hidden=(16,), epochs=2, particles=20, random_state=0).fit(X, X.sum(1))
        >>> mean, sd = model.predict(X, return_std=True)
        >>> mean.shape, sd.shape
        ((60,), (60,))
    """

    particles: int

    @exclusive
    def fit(self, X: Any, y: Any) -> Self:
        """Train on rows X and numbers y; NaN where y is not known."""
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        rows = self._training_rows(X)
        y = _numbers(column_or_1d(y, warn=True))
        check_consistent_length(X, y)
        if not np.isfinite(y).any() or np.isinf(y).any():
            raise ValueError("y contains infinity, or NaN alone")
        values = torch.from_numpy(y.copy()).to(next(iter(rows.fields.values())).dtype)
        field = Field("y", "real", missing=bool(np.isnan(y).any()))
        rows = Split(Schema((*rows.schema, field)), "train", rows.fields | {"y": values})
        self._train(rows, Regression, resolve("prior", self.prior))
        return self

    def _found(self, X: Any, draws: int) -> Imputation:
        check_is_fitted(self)
        rows = self._rows(X)
        schema = Schema((*rows.schema, Field("y", "real", missing=True)))
        kind = next(iter(rows.fields.values())).dtype
        unknown = torch.full((len(rows),), torch.nan, dtype=kind, device=self._pair.device)
        hidden = Split(schema, "test", rows.fields | {"y": unknown})
        return impute(self.model_, self.guide_, hidden, draws=draws, particles=plain(self.particles), seed=self._seed)

    @exclusive
    def predict(self, X: Any, return_std: bool = False) -> Any:
        """E[y | x], [row]; with `return_std` the deviation of y given x beside it, of 200 draws."""
        found = self._found(X, 200 if return_std else 1)
        mean = found.mean["y"].cpu().numpy()
        return (mean, found.draws["y"].std(0).cpu().numpy()) if return_std else mean

    @exclusive
    def sample_y(self, X: Any, n_samples: int = 1) -> np.ndarray:
        """Draws of y given x, [row, n_samples]."""
        if n_samples < 1:
            raise UserError(f"n_samples must be a whole number of at least 1, got {n_samples!r}")
        return self._found(X, n_samples).draws["y"].T.cpu().numpy()


def _numbers(y: np.ndarray) -> np.ndarray:
    try:
        return y.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"y must be numbers, NaN where one is not known, got {shown(y)}") from error
