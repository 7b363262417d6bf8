"""What a likelihood p(x | z) is: a module from decoder features to a normalised distribution over one field."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.data.dataset import Split
from ppl_vae.data.schema import Field, Schema
from ppl_vae.errors import UserError
from ppl_vae.saving.recorded import Recorded

__all__ = ["Likelihood", "fitting", "with_gaps"]


class Likelihood(Recorded, nn.Module, ABC):
    """A distribution over a field of shape S, given `width` features for each of its entries.

    `likelihood.build(field)` fits it to a field; calling it with features [..., |S| * width] returns a
    distribution with event shape S. Every likelihood is normalised: a density for continuous, a mass for
    discrete fields. A subclass gives `kinds`, `support` and `entries` (and `setup`, if it has parameters).

    Raises:
        UserError: if the field's kind is not one that this likelihood is a distribution over, or a training value
            is outside its support, with the row and the likelihoods that fit.
    """

    kinds: ClassVar[tuple[str, ...]]
    support: ClassVar[Any]
    width: int = 1
    linear: ClassVar[bool] = False
    """Whether features are close to linear in a row, so that a linear model can begin it: see `linear_targets`."""
    field: Field

    def build(self, field: Field, train: Tensor | None = None) -> Self:
        """A copy for this field; `train` [n, *S] are the training rows, from which scales may be initialised."""
        name = type(self).__name__
        if field.kind not in self.kinds:
            raise UserError(
                f"field {field.name!r} is {field.kind}, which {name} is no distribution over"
                f"{_place(outside(self.support, field, train))}: use {' or '.join(fitting(field, train))}"
            )
        support = self.support_of(field)
        # What is stored of a binary field may be grey levels, from which each batch draws its 0 and 1.
        if field.kind != "binary" and (found := outside(support, field, train)):
            raise UserError(
                f"field {field.name!r}{_place(found)} is outside the support of {name}, {support}: "
                f"use {' or '.join(fitting(field, train))}"
            )
        built = copy.deepcopy(self)
        built.field = field
        built.setup(train)
        return built

    def support_of(self, field: Field) -> Any:
        """Where single entries of this field may lie."""
        return self.support

    def setup(self, train: Tensor | None) -> None:
        """Create parameters, once the field is known."""

    @abstractmethod
    def entries(self, features: Tensor) -> dist.Distribution:
        """The distribution of single entries from features [..., *S, width]: batch shape [..., *S]."""

    def forward(self, features: Tensor) -> dist.Distribution:
        """The distribution of the whole field: batch shape [...], event shape S."""
        shape = self.field.shape
        each = features.reshape(features.shape[:-1] + shape + (self.width,))
        return self.entries(each).to_event(len(shape))

    def initial_bias(self, train: Tensor) -> Tensor:
        """The decoder's output bias [|S| * width] at which p(x) fits the train rows' marginals; zeros if unknown."""
        return torch.zeros(self.size)

    def linear_targets(self, train: Tensor) -> Tensor:
        """What the features would be [row, |S| * width] if the row were known; NaN where they have no such value."""
        return torch.full((len(train), self.size), torch.nan)

    def start_noise(self, noise: Tensor) -> Tensor:
        """Begin at a linear model that leaves so much of each feature's target unexplained (deviations, [|S| * width]).

        Returns the output bias of features that say the spread; NaN for the others.
        """
        return torch.full((self.size,), torch.nan)

    # -- what a model asks, of one field here and of several in `Columns` ------------------------------------

    def of(self, schema: Schema, train: Split | None) -> Self:
        """A copy for the field `x` of a data set."""
        if "x" not in schema:
            name, first = type(self).__name__, schema.names[0]
            raise UserError(
                f"{name} is a likelihood of field 'x', but the data has {', '.join(schema.names)}: use "
                f"Columns(), with {name} for one of them if you like, Columns({first}={name}())"
            )
        return self.build(schema["x"], None if train is None else train["x"])

    @property
    def size(self) -> int:
        """How many features it wants."""
        return self.field.size * self.width

    @property
    def as_chosen(self) -> Likelihood:
        """What a run folder records, from which it is made again."""
        return self

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields that it is a distribution over."""
        return (self.field,)

    def bias(self, train: Split) -> Tensor:
        """`initial_bias` for the rows of a split."""
        return self.initial_bias(train[self.field.name])

    def targets(self, train: Split) -> Tensor:
        """`linear_targets` for the rows of a split."""
        return self.linear_targets(train[self.field.name])

    def sites(self, features: Tensor) -> dict[str, dist.Distribution]:
        """Distributions by the name of the field."""
        return {self.field.name: self(features)}


def with_gaps(field: Field, values: Tensor) -> Tensor:
    """Values as floats, missing ones as NaN."""
    floats = values if values.is_floating_point() else values.to(torch.get_default_dtype())
    return floats.masked_fill(values == -1, torch.nan) if field.kind == "categorical" else floats


def outside(support: Any, field: Field, values: Tensor | None) -> tuple[list[int], float] | None:
    """Row and entry of the first value outside a support, and the value; missing ones are nowhere."""
    if values is None:
        return None
    values = with_gaps(field, values)
    wrong = (~support.check(values) & ~torch.isnan(values)).nonzero()
    return (wrong[0].tolist(), float(values[tuple(wrong[0].tolist())])) if len(wrong) else None


def _place(found: tuple[list[int], float] | None) -> str:
    if found is None:
        return ""
    (row, *entry), value = found
    return f" (training row {row}{f', entry {tuple(entry)}' if entry else ''}: value {value:g})"


def fitting(field: Field, values: Tensor | None = None) -> list[str]:
    """The names of the likelihoods that are distributions over this field and these values of it, the default first.

    Example:
        >>> fitting(Field("x", "binary"))
        ['Bernoulli', 'Categorical']
    """
    from ppl_vae import likelihoods  # which is made of the classes that this file is for

    public = [getattr(likelihoods, name) for name in likelihoods.__all__]
    concrete = [c for c in public if isinstance(c, type) and issubclass(c, Likelihood) and not inspect.isabstract(c)]
    over_kind = [cls() for cls in concrete if field.kind in cls.kinds]
    if values is not None and field.kind != "binary":
        over_kind = [each for each in over_kind if not outside(each.support_of(field), field, values)]
    first = type(likelihoods.default_likelihood(field)).__name__
    return sorted((type(each).__name__ for each in over_kind), key=lambda name: (name != first, name))
