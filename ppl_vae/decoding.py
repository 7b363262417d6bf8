"""The likelihood side that models share: which one, its network, and its sample statements."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pyro
import torch
from torch import Tensor

from ppl_vae.data import Data, Schema
from ppl_vae.data.dataset import Split
from ppl_vae.errors import UserError
from ppl_vae.likelihoods import Columns, Likelihood, default_likelihood
from ppl_vae.networks import MLP

__all__ = ["chosen", "how_many", "network", "observe", "parts_of"]


def parts_of(data: Data | Schema) -> tuple[Schema, Split | None]:
    """The schema of what a model was given, and the training rows if it has any."""
    return (data, None) if isinstance(data, Schema) else (data.schema, data.train)


def chosen(
    likelihood: Likelihood | Columns | None, data: Data | Schema, taken: Collection[str]
) -> Likelihood | Columns:
    """The likelihood of a data set: of field `x`, or of every column if there is none.

    Raises:
        UserError: for a column with a name that the model has `taken` for a site or an argument.
    """
    schema, train = parts_of(data)
    default = default_likelihood(schema["x"]) if "x" in schema else Columns()
    built = (likelihood or default).of(schema, train)
    for field in built.fields if isinstance(built, Columns) else ():
        if field.name in {"n", "data", "self", *taken}:
            raise UserError(f"column {field.name!r} has the name of a site or argument of the model: rename it")
    return built


def network(
    likelihood: Likelihood | Columns, inputs: int, hidden: Sequence[int], activation: str, data: Data | Schema
) -> MLP:
    """The network from latents to the likelihood's features, which starts at the marginals of the training rows."""
    made, (_, train) = MLP(inputs, hidden, likelihood.size, activation), parts_of(data)
    if train is not None:
        with torch.no_grad():
            made.last.bias.copy_(likelihood.bias(train))
    return made


def observe(
    likelihood: Likelihood | Columns, features: Tensor, rows: Mapping[str, Tensor]
) -> Tensor | dict[str, Tensor]:
    """The sample statements of p(x | features), observed where there are rows; what they give, by column if several."""
    found = {
        name: pyro.sample(name, fn, obs=rows.get(name), infer={"leaf": True})
        for name, fn in likelihood.sites(features).items()
    }
    return found if isinstance(likelihood, Columns) else found["x"]


def how_many(rows: Mapping[str, Tensor], n: int) -> int:
    """The number of rows that came, or that are to be simulated."""
    return len(next(iter(rows.values()))) if rows else n
