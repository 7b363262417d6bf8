"""A VAE as an imputer: means, or draws for multiple imputation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.impute import MissingIndicator
from sklearn.utils.validation import check_is_fitted

from ppl_vae.data import Schema
from ppl_vae.errors import UserError, check_flag, check_whole
from ppl_vae.models import VAE
from ppl_vae.prediction import Imputation, impute
from ppl_vae.programs.locking import exclusive
from ppl_vae.registry.resolve import resolve
from ppl_vae.sklearn._base import VAEEstimator, plain
from ppl_vae.sklearn._parameters import parameters
from ppl_vae.sklearn._rows import known_rows, new_rows

__all__ = ["VAEImputer"]


@parameters(weight_decay="auto", particles=1000, sample_posterior=False, add_indicator=False, keep_empty_features=False)
class VAEImputer(TransformerMixin, VAEEstimator):
    """Missing entries by a VAE: E[x_missing | x_observed], or draws of them, in the manner of `IterativeImputer`.

    The model is trained on what was observed alone (no entry is filled in first), and imputes by importance weights
    p(x_observed, z) / q(z | x_observed), so that means and draws are those of the model, whatever the guide. It is
    right where entries are missing at random: for values that decide whether they are seen, see
    `docs/imputation.md`. X is a matrix of numbers with NaN, or a DataFrame with columns of several types, which comes
    back as a DataFrame with its holes filled (categories by the likeliest level).

    Args:
        particles: draws of z for each row.
        sample_posterior: whether `transform` gives one draw of the missing entries in place of their means: for
            multiple imputation, use `draws` or estimators with several `random_state`.
        add_indicator: whether `MissingIndicator`'s columns are appended, as scikit-learn's imputers do; of matrices.
        keep_empty_features: whether a column without any entry in `fit` comes back, as 0; otherwise it is dropped.
            Further arguments as for `ppl_vae.sklearn._base.VAEEstimator`; `weight_decay` is that of the command.

    Raises:
        ValueError: what scikit-learn refuses; numbers out of range.

    Source: Mattei & Frellsen 2019, arXiv 1812.02633 (MIWAE); Rubin 1987, Multiple Imputation.

    Example:
        >>> X = np.random.RandomState(0).randn(200, 1) @ np.ones((1, 3))
        >>> X[::3, 0] = np.nan
        >>> imputer = VAEImputer(1, hidden=(8,), epochs=20, random_state=0).fit(X)
        >>> filled = imputer.transform(X)
        >>> bool(np.abs(filled[::3, 0] - X[::3, 1]).max() < 0.5), imputer.draws(X[:2], 5).shape
        (True, (5, 2, 3))
    """

    particles: int
    sample_posterior: bool
    add_indicator: bool
    keep_empty_features: bool
    indicator_: MissingIndicator | None

    @exclusive
    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on what is observed of rows X; y is not used."""
        for name in ("sample_posterior", "add_indicator", "keep_empty_features"):
            check_flag(name, getattr(self, name))
        likelihood = self._likelihood()
        X = self._checked(X, reset=True, likelihood=likelihood)
        self._there, self.indicator_ = None, None
        if isinstance(X, np.ndarray):
            self._there = ~np.isnan(X).all(0)
            if not self._there.any():
                raise UserError("VAEImputer expects some observed entry, got a matrix of missing ones")
            if self.add_indicator:
                self.indicator_ = MissingIndicator(error_on_new=False).fit(X)
            X = X[:, self._there]
        elif self.add_indicator:
            raise UserError("add_indicator appends columns to a matrix, got a DataFrame with columns of several types")
        # fields without holes stay as they are: their guide then knows that it never saw one, and `impute` helps it
        self._train(new_rows(X, likelihood, self._names()), VAE, resolve("prior", self.prior))
        return self

    def _names(self) -> tuple[str, ...]:
        names = tuple(getattr(self, "feature_names_in_", ()))
        return names if self._there is None or not names else tuple(np.array(names)[self._there].tolist())

    def _found(self, X: Any, draws: int) -> tuple[Imputation, Any]:
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        seen = X[:, self._there] if isinstance(X, np.ndarray) else X
        rows = known_rows(seen, Schema(tuple(replace(f, missing=True) for f in self._schema))).to(self._pair.device)
        found = impute(self.model_, self.guide_, rows, draws=draws, particles=plain(self.particles), seed=self._seed)
        return replace(found, source=X if hasattr(X, "columns") else None), X

    @exclusive
    def transform(self, X: Any) -> Any:
        """Rows with their missing entries filled; observed entries are as they came, bit for bit."""
        found, X = self._found(X, 1)
        if not isinstance(X, np.ndarray):
            return found.frame(0 if self.sample_posterior else None)
        rows = {name: draws[0] for name, draws in found.draws.items()} if self.sample_posterior else found.mean
        filled = self._filled(X, rows["x"].cpu().numpy() if rows else X[:, self._there])
        return filled if self.indicator_ is None else np.hstack([filled, self.indicator_.transform(X)])

    @exclusive
    def draws(self, X: Any, n_draws: int = 5) -> Any:
        """Completed rows, [draw, row, column], for multiple imputation; of a DataFrame a list of DataFrames."""
        n_draws = check_whole("n_draws", n_draws, 1)
        found, X = self._found(X, n_draws)
        if not isinstance(X, np.ndarray):
            return [found.frame(d) for d in range(n_draws)]
        draws = found.draws["x"].cpu().numpy() if found.draws else [X[:, self._there]] * n_draws
        return np.stack([self._filled(X, draw) for draw in draws])

    def _filled(self, X: np.ndarray, values: np.ndarray) -> np.ndarray:
        there: Any = self._there
        filled = X.copy()
        filled[:, there] = np.where(np.isnan(X[:, there]), values, X[:, there])
        if self.keep_empty_features:
            filled[:, ~there] = 0.0
            return filled
        return filled[:, there]

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the columns that `transform` gives."""
        from sklearn.utils.validation import _check_feature_names_in

        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        kept = names if self._there is None or self.keep_empty_features else names[self._there]
        if self.indicator_ is None:
            return np.asarray(kept, dtype=object)
        return np.concatenate([kept, self.indicator_.get_feature_names_out(names)])
