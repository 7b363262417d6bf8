"""What the two estimators share: parameters, rows, and how a pair is made and trained."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import validate_data

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.data import Data, Schema, Split
from ppl_vae.errors import UserError, made_by, shown
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.models import RowModel
from ppl_vae.nn.networks import widths
from ppl_vae.programs.program import Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.registry import catalog
from ppl_vae.registry.resolve import resolve
from ppl_vae.sklearn._parameters import parameters
from ppl_vae.sklearn._rows import by_column, generator_of, halves, known_rows, new_rows
from ppl_vae.training import fit
from ppl_vae.training.keywords import described
from ppl_vae.training.settings import SETTINGS, Settings

__all__ = ["VAEEstimator", "plain"]


OF_TRAINING: dict[str, Any] = {
    each.name: each.default
    for each in fields(Settings)
    if each.name != "seed" and not SETTINGS[each.name].of_labels  # there is random_state, and labels are a classifier's
}
"""The settings of training that every estimator has, with their defaults."""


@parameters(**OF_TRAINING)
class VAEEstimator(BaseEstimator):
    """An estimator that holds a model and its guide.

    Args:
        latent_dim: length of z, d.
        hidden: widths of the hidden layers of both networks, or the only one.
        activation: of the hidden layers: gated, gelu, relu, softplus or tanh.
        guide: q(z | x): a name of `ppl-vae list guides`, a class, one with options (`IAF(flows=2)`), or a callable
            from the model to a guide.
        prior: p(z): a name, a class or an object of `ppl_vae.priors`; None is the standard normal.
        likelihood: p(x | z): a name, a class or an object of `ppl_vae.likelihoods`. None is a normal with a learned
            scale for each column, or `Columns()` for a DataFrame with columns that are no numbers.
        bound: a name, a class or an object of `ppl_vae.bounds`; None is the ELBO.
        validation_fraction: share of the rows that are held out to stop early and to keep the best weights.
        verbose: whether a bar, or lines where there is no terminal, tells of the training.
        random_state: None, an int or a RandomState.
        {settings}
    """

    model_: RowModel
    guide_: Callable[..., Any]

    def __init__(
        self,
        latent_dim: int = 16,
        *,
        hidden: tuple[int, ...] | int = (256,),
        activation: str = "gated",
        guide: Any = "mean_field",
        prior: Any = None,
        likelihood: Any = None,
        bound: Any = None,
        validation_fraction: float = 0.1,
        verbose: bool = False,
        random_state: Any = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.activation = activation
        self.guide = guide
        self.prior = prior
        self.likelihood = likelihood
        self.bound = bound
        self.validation_fraction = validation_fraction
        self.verbose = verbose
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Missing entries (NaN) are skipped, if training has some."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """A pickled estimator lives on the CPU, so that it opens where there is no CUDA."""
        state = super().__getstate__()
        if "model_" in state and self._pair.device.type != "cpu":
            state["model_"], state["guide_"] = copy.deepcopy((self.model_, self.guide_))
            Pair(state["model_"], state["guide_"]).to("cpu")
        return state

    # -- rows --------------------------------------------------------------------------------------------------

    def _checked(self, X: Any, *, reset: bool, likelihood: Any = None) -> Any:
        """X as scikit-learn wants it checked: a matrix of floats, or a DataFrame with columns of several types."""
        apart = by_column(X, likelihood) if reset else "x" not in self._schema
        if apart and hasattr(X, "columns"):
            return validate_data(self, X, reset=reset, skip_check_array=True)
        return validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan")

    def _likelihood(self) -> Any:
        return None if self.likelihood is None else resolve("likelihood", self.likelihood, of=(Likelihood, Columns))

    def _training_rows(self, X: Any) -> Split:
        likelihood = self._likelihood()
        X = self._checked(X, reset=True, likelihood=likelihood)
        return new_rows(X, likelihood, tuple(getattr(self, "feature_names_in_", ())))

    def _rows(self, X: Any) -> Split:
        X = self._checked(X, reset=False)
        for field in self._schema if isinstance(X, np.ndarray) else ():
            if not field.missing and np.isnan(X).any():
                raise UserError(
                    f"Input X contains NaN, but {type(self).__name__} was fitted on complete rows and its guide has "
                    "never seen a missing entry: fit it on rows that have some, or impute them"
                )
        return known_rows(X, self._schema).to(self._pair.device)

    @property
    def _schema(self) -> Schema:
        """The fields of X."""
        return Schema(tuple(field for field in self.model_.schema if field.name != "y"))

    @property
    def _pair(self) -> Pair:
        return Pair(self.model_, self.guide_)

    # -- training ----------------------------------------------------------------------------------------------

    def _train(self, rows: Split, make: Callable[..., RowModel], prior: Any, **options: Any) -> None:
        """Make the pair and train it; the global generators are left as they were."""
        random = generator_of(self.random_state)
        self._seed = int(random.randint(2**31 - 1))
        data = halves(rows, self.validation_fraction, random)
        with preserved_randomness():
            seed_draws(self._seed)
            model, guide = self._programs(data, make, prior)
        settings = {name: plain(getattr(self, name)) for name in OF_TRAINING}
        result = fit(
            model,
            guide,
            data,
            self._own_bound(),
            seed=self._seed,
            progress=bool(self.verbose),
            **settings,
            **options,
        )
        if result.stopped == "interrupted":  # whoever searches over many fits means to end the search
            raise KeyboardInterrupt
        for finding in result.findings:
            if finding.problem.startswith("not finished"):
                warnings.warn(f"{finding.problem}: {finding.remedy}", ConvergenceWarning, stacklevel=3)
        model.data = model.recorded["data"] = model.schema  # an estimator does not keep its training rows
        model.begun = {}
        self.model_, self.guide_, self.history_ = model, result.guide, result.history

    def _own_bound(self) -> Any:
        """A copy: Pyro's own bounds keep what they saw."""
        bound = resolve("bound", self.bound)
        try:
            return copy.deepcopy(bound)
        except TypeError as error:
            raise UserError(f"bound expects a name, a class or an object of a bound, got {shown(bound)}") from error

    def _programs(self, data: Data, make: Callable[..., RowModel], prior: Any) -> tuple[RowModel, Any]:
        sizes = {"hidden": widths(plain(self.hidden)), "activation": self.activation}
        likelihood = self._likelihood()
        model = make(data, prior=prior, likelihood=likelihood, latent_dim=plain(self.latent_dim), **sizes)
        target = catalog.find("guides", self.guide).load() if isinstance(self.guide, str) else self.guide
        if isinstance(target, GeneratedGuide):
            guide = type(target)(model, **(sizes | target.recorded))
        elif isinstance(target, type):
            guide = resolve("guide", target, {"model": model, **sizes})
        elif callable(target):
            guide = made_by("guide", target, model, of="the model")
        else:
            raise UserError(f"guide expects a name, a class or a function of the model, got {shown(target)}")
        if any(values.dtype == torch.float64 for values in data.train.fields.values()):
            Pair(model, guide).double()
        return model, guide


VAEEstimator.__doc__ = (VAEEstimator.__doc__ or "").replace("{settings}", described(OF_TRAINING))


def plain(value: Any) -> Any:
    """A number of numpy's, as a grid of parameters may hold it, as Python's."""
    return value.item() if isinstance(value, np.generic) else value
