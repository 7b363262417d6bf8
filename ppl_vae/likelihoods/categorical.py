"""Likelihoods of one of C levels, without and with an order."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from ppl_vae.data.schema import Field
from ppl_vae.errors import UserError
from ppl_vae.likelihoods.base import Likelihood
from ppl_vae.likelihoods.logistic import log_mass

__all__ = ["Categorical", "Ordinal"]


def levels_of(field: Field) -> int:
    """The number C of levels of a field.

    Raises:
        UserError: if the field does not say.
    """
    levels = 2 if field.kind == "binary" else int(field.cardinality or 0)
    if levels < 1:
        raise UserError(f"field {field.name!r} has no number of levels: give Field(cardinality=...)")
    return levels


def frequencies(train: Tensor, levels: int) -> Tensor:
    """Smoothed relative frequencies [|S|, C] of the levels, entry by entry; missing ones do not count."""
    counts = (train.reshape(len(train), -1, 1) == torch.arange(levels, device=train.device)).sum(0) + 0.1
    return counts / counts.sum(-1, keepdim=True)


class Categorical(Likelihood):
    """Independent entries with C levels: log p(x | logits) = log_softmax(l)[x] nats each.

    Shapes: features [..., |S| * C], x [..., *S].

    Raises:
        UserError: for a field that does not say how many levels it has.

    Example:
        >>> Categorical().build(Field("x", "categorical", (8, 8), 17))(torch.zeros(5, 64 * 17)).batch_shape
        torch.Size([5])
    """

    kinds = ("categorical", "count", "binary")
    support = constraints.nonnegative_integer

    def support_of(self, field: Field) -> Any:
        """0 to C - 1."""
        return constraints.integer_interval(0, levels_of(field) - 1)

    def setup(self, train: Tensor | None) -> None:
        """Features are one logit for each level."""
        self.width = levels_of(self.field)

    def entries(self, features: Tensor) -> dist.Distribution:
        """One logit a level."""
        return dist.Categorical(logits=features)

    def initial_bias(self, train: Tensor) -> Tensor:
        """The smoothed log frequencies of the levels, entry by entry."""
        return frequencies(train, self.width).log().reshape(-1)


class Ordinal(Likelihood):
    """Independent entries with C ordered levels, cut from a logistic variable around one feature f.

    log p(x = k | f) = log(sigmoid(c[k+1] - f) - sigmoid(c[k] - f)) nats each, c[0] = -inf < c[1] < ... < c[C] = inf:
    the proportional-odds model. The C - 1 cutpoints of an entry are learned; they start at its frequencies.
    Equal to `pyro.distributions.OrderedLogistic`, which loses levels far from f to rounding.

    Shapes: features [..., |S|], x [..., *S].

    Raises:
        UserError: for a field that does not say how many levels it has.

    Source: McCullagh 1980, J. R. Stat. Soc. B 42.

    Example:
        >>> rating = Ordinal().build(Field("rating", "categorical", (), 5))
        >>> rating(torch.tensor([[-9.0], [0.0], [9.0]])).probs.argmax(-1)
        tensor([0, 2, 4])
    """

    kinds = ("categorical", "count")
    support = constraints.nonnegative_integer
    least_gap = 1e-4  # equal cutpoints would give a level no mass at all

    def support_of(self, field: Field) -> Any:
        """0 to C - 1."""
        return constraints.integer_interval(0, levels_of(field) - 1)

    def setup(self, train: Tensor | None) -> None:
        """The first cutpoint and the gaps between them, from the cumulative frequencies."""
        levels = max(levels_of(self.field), 2)
        each = torch.full((self.field.size, levels), 1 / levels) if train is None else frequencies(train, levels)
        cuts = torch.logit(each.cumsum(-1)[:, :-1], eps=1e-6).reshape(*self.field.shape, levels - 1)
        gaps = (cuts.diff(dim=-1) - self.least_gap).clamp(min=1e-3)
        self.first = nn.Parameter(cuts[..., :1].clone())
        self.raw_gaps = nn.Parameter(gaps + torch.log(-torch.expm1(-gaps)))

    @property
    def cutpoints(self) -> Tensor:
        """The cutpoints in ascending order, [*S, C - 1]."""
        return torch.cat([self.first, self.first + (F.softplus(self.raw_gaps) + self.least_gap).cumsum(-1)], dim=-1)

    def entries(self, features: Tensor) -> dist.Distribution:
        """One place on the logistic scale an entry."""
        above = self.cutpoints - features
        middle = log_mass(above[..., :-1], above[..., 1:])
        return dist.Categorical(
            logits=torch.cat([F.logsigmoid(above[..., :1]), middle, F.logsigmoid(-above[..., -1:])], dim=-1)
        )
