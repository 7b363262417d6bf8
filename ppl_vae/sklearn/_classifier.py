"""The semi-supervised VAE (M2) as a classifier: rows without a label help those with one."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from ppl_vae.data import Field, Schema, Split
from ppl_vae.errors import UserError, check_number
from ppl_vae.models import M2
from ppl_vae.prediction import predict
from ppl_vae.programs.locking import exclusive
from ppl_vae.registry.resolve import resolve
from ppl_vae.sklearn._base import VAEEstimator, plain
from ppl_vae.sklearn._parameters import parameters
from ppl_vae.training.settings import Settings

__all__ = ["SemiSupervisedVAEClassifier"]


@parameters(prior="label_conditional", validation_fraction=0.0, label_weight="auto", label_share=Settings.label_share)
class SemiSupervisedVAEClassifier(ClassifierMixin, VAEEstimator):
    """The semi-supervised VAE M2, y ~ p(y), z ~ p(z | y), x ~ p(x | f(y, z)), as a scikit-learn classifier.

    Rows without a label are marked in y as in `sklearn.semi_supervised`: by -1; in labels of dtype object (strings)
    by -1 or None, and NaN is such a mark everywhere. Their label is summed out exactly. `predict_proba` is q(y | x).
    Shapes: X [row, column], y [row], probabilities [row, class].

    Args:
        latent_dim: length of z; further arguments as for `ppl_vae.sklearn._base.VAEEstimator`.
        prior: p(z | y), by default a normal for each class; a prior that does not know labels is p(z).
        label_weight: weight of log q(y | x) of every row with a label; "auto" is N / L for N rows, L of them with a
            label, which weighs the classifier's loss as if every row had one (Kingma et al. take 0.1 N / L).
        label_share: where some rows have no label, how many of every batch's rows have one, between 0 and 1; None is
            as it happens. Where hardly any row has a label 0.5 may help: see `ppl_vae.fit`.

    Raises:
        ValueError: what scikit-learn refuses; fewer than two classes; rows that the likelihood is no distribution over.

    Source: Kingma et al. 2014, arXiv 1406.5298.

    Example:
        >>> X = np.random.RandomState(0).randn(100, 2) + np.repeat([[-3], [3]], 50, axis=0)
        >>> y = np.array(["left"] * 50 + ["right"] * 50, dtype=object)
        >>> y[5:95] = None
        >>> vae = SemiSupervisedVAEClassifier(latent_dim=2, hidden=(16,), epochs=30, random_state=0).fit(X, y)
        >>> vae.predict([[-3.0, -3.0], [3.0, 3.0]]).tolist(), vae.predict_proba(X).shape
        (['left', 'right'], (100, 2))
    """

    label_weight: Any
    label_share: float | None
    classes_: np.ndarray

    @exclusive
    def fit(self, X: Any, y: Any) -> Self:
        """Train on rows X with labels y, some of which may be missing."""
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        rows = self._training_rows(X)
        self.classes_, codes = _codes(y)
        check_consistent_length(X, codes)
        labels = len(self.classes_)
        field = Field("y", "categorical", cardinality=labels, missing=True)  # rows to predict have none
        rows = Split(Schema((*rows.schema, field)), "train", rows.fields | {"y": torch.from_numpy(codes)})
        prior = resolve("prior", self.prior, {"labels": labels})
        share = self.label_share if (codes < 0).any() else None
        self._train(rows, M2, prior, label_weight=self._label_weight(codes), label_share=share)
        return self

    def _label_weight(self, codes: np.ndarray) -> float:
        if isinstance(self.label_weight, str):
            if self.label_weight != "auto":
                raise UserError(f"label_weight must be a number or 'auto', got {self.label_weight!r}")
            return len(codes) / int((codes >= 0).sum())
        return check_number("label_weight", plain(self.label_weight), otherwise=" (or 'auto')")

    @exclusive
    def predict_proba(self, X: Any) -> np.ndarray:
        """q(y | x), [row, class], in the order of `classes_`."""
        check_is_fitted(self)
        found: Any = predict(self.model_, self.guide_, self._rows(X), "y", draws=self._draws, seed=self._seed)
        return found.probs.cpu().numpy()

    @exclusive
    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row, [row]."""
        likeliest = self.predict_proba(X).argmax(1)
        return self.classes_[likeliest]

    @property
    def _draws(self) -> int:
        """One draw where q(y | x) depends on no latent drawn before, as in every generated guide of M2."""
        blocks = getattr(self.guide_, "blocks", ())
        return 1 if any("y" in block.sites and not block.given for block in blocks) else 64


MARK = -1
"""What stands for no label."""


def _codes(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """The classes in order, and for each row the place of its class, -1 where it has no label.

    Raises:
        ValueError: for labels that are no classes, or fewer than two classes.
    """
    y = column_or_1d(y, warn=True)
    assert_all_finite(y, allow_nan=True, input_name="y")
    if y.dtype.kind in "US" and (y == np.array(str(MARK), y.dtype)).any():
        raise UserError(
            "y is an array of strings, in which numpy has made '-1' of -1: mark rows without a label in an array of "
            "dtype object"
        )
    known = ~_unlabelled(y)
    labels = np.array(y[known].tolist()) if y.dtype.kind == "O" else y[known]
    if len(labels):
        check_classification_targets(labels)
    classes, codes = np.unique(labels.astype(y.dtype), return_inverse=True)
    if len(classes) < 2:
        raise UserError(
            f"SemiSupervisedVAEClassifier needs labels of at least two classes, got {len(classes)} class "
            f"({', '.join(map(str, classes)) or 'none'}) besides {MARK}, which marks rows without a label"
        )
    found = np.full(len(y), MARK, dtype=np.int64)
    found[known] = codes
    return classes, found


def _unlabelled(y: np.ndarray) -> np.ndarray:
    if y.dtype.kind == "O":
        return np.array([v is None or v != v or (not isinstance(v, (str, bool)) and v == MARK) for v in y], dtype=bool)
    if y.dtype.kind == "f":
        return np.isnan(y) | (y == MARK)
    return y == MARK if y.dtype.kind == "i" else np.zeros(len(y), dtype=bool)
