"""One likelihood for each column of a table."""

from __future__ import annotations

import copy
from typing import Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.data.dataset import Split
from ppl_vae.data.schema import Field, Schema
from ppl_vae.data.summary import summaries
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.likelihoods.base import Likelihood
from ppl_vae.likelihoods.defaults import column_likelihood
from ppl_vae.registry.resolve import resolve
from ppl_vae.saving.recorded import Recorded

__all__ = ["Columns", "column_table"]

LABEL = "y"


class Columns(Recorded, nn.Module):
    """A likelihood for each column of a table, independent given z: log p(row | z) = sum_c log p_c(x_c | z) nats.

    Columns are the fields of a data set but for the label `y`; each is a site of its name, so a missing entry is
    skipped in its column alone. What is not named is chosen by the column's kind and its training values:
    Bernoulli, Categorical (Ordinal if the categories have an order), NegativeBinomial (a discretised logistic where
    counts spread less than Poisson's), LogNormal above 0, Beta between 0 and 1, else Normal.

    Shapes: features [..., F], F the sum over columns of |S| * width; sites [..., *S].

    Args:
        likelihoods: the likelihood of a column, by its name; `Columns(**{"blood pressure": Normal()})` for names
            with spaces.

    Raises:
        UserError: for a name that is no column, with the nearest right ones; for a likelihood that is no distribution
            over its column.

    Example:
        >>> import pandas, ppl_vae
        >>> from ppl_vae.likelihoods import Normal
        >>> table = pandas.DataFrame({"age": [31, 64, 45, 50], "visits": [0, 2, 9, 1], "smoker": [True, False] * 2})
        >>> data = ppl_vae.load(table, test=0, validation=0)
        >>> Columns(age=Normal()).of(data.schema, data.train)
        Columns(age: Normal, visits: NegativeBinomial, smoker: Bernoulli)
    """

    def __init__(self, **likelihoods: Likelihood | str | type[Likelihood]) -> None:
        super().__init__()
        named = {name: resolve("likelihood", likelihood) for name, likelihood in likelihoods.items()}
        for name, likelihood in named.items():
            if not isinstance(likelihood, Likelihood):
                raise UserError(
                    f"Columns: column {name!r} expects a likelihood such as Normal(), got {type(likelihood).__name__}"
                )
        self.__dict__["named"] = named  # not submodules: they are built for no column yet
        self.each = nn.ModuleList()

    named: dict[str, Likelihood]

    def of(self, schema: Schema, train: Split | None) -> Self:
        """A copy for the columns of a data set."""
        fields = [field for field in schema if field.name != LABEL]
        for name in self.named:
            if name not in (field.name for field in fields):
                raise _unknown(name, schema, fields)
        built = copy.deepcopy(self)
        for field in fields:
            rows = None if train is None else train[field.name]
            built.each.append((self.named.get(field.name) or column_likelihood(field, rows)).build(field, rows))
        # What was chosen is part of the model: a run folder has no rows from which to choose again.
        built.__dict__["named"] = built.recorded = {each.field.name: each for each in built._built()}
        return built

    def _built(self) -> list[Likelihood]:
        return [each for each in self.each if isinstance(each, Likelihood)]

    @property
    def size(self) -> int:
        """How many features it wants."""
        return sum(each.size for each in self._built())

    @property
    def fields(self) -> tuple[Field, ...]:
        """The columns."""
        return tuple(each.field for each in self._built())

    def bias(self, train: Split) -> Tensor:
        """The decoder's output bias [F] at which every column fits its marginal."""
        return torch.cat([each.bias(train) for each in self._built()])

    @property
    def linear(self) -> bool:
        """Whether a linear model can begin some column."""
        return any(each.linear for each in self._built())

    def targets(self, train: Split) -> Tensor:
        """What the features would be [row, F] if the row were known; NaN where they have no such value."""
        return torch.cat([each.targets(train) for each in self._built()], 1)

    def start_noise(self, noise: Tensor) -> Tensor:
        """As for a `Likelihood`, of all columns."""
        parts = noise.split([each.size for each in self._built()])
        return torch.cat([each.start_noise(part) for each, part in zip(self._built(), parts, strict=True)])

    def sites(self, features: Tensor) -> dict[str, dist.Distribution]:
        """Distributions by the name of the column."""
        parts = features.split([each.size for each in self._built()], dim=-1)
        return {each.field.name: each(part) for each, part in zip(self._built(), parts, strict=True)}

    def __repr__(self) -> str:
        return f"Columns({', '.join(f'{name}: {type(each).__name__}' for name, each in self.named.items())})"


def column_table(model: object, split: Split) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """What every column was read as and which likelihood the model gave it, as a header and rows.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load({"height": [1.8, 1.6, 1.7], "left": [0, 1, 0]}, test=0, validation=0)
        >>> column_table(VAE(data), data.train)[1][1]
        ('left', 'binary', 'Bernoulli', '33.3 % are 1', '')
    """
    own = getattr(model, "likelihood", None)
    each = [*own.each] if isinstance(own, Columns) else [own]
    named = {part.field.name: type(part).__name__ for part in each if isinstance(part, Likelihood)}
    lines = summaries(split)
    rows: list[tuple[str, ...]] = [
        (line.column, line.kind, named.get(line.field, ""), line.values, line.missing) for line in lines
    ]
    return ("column", "kind", "likelihood", "levels or range", "missing"), rows


def _unknown(name: str, schema: Schema, fields: list[Field]) -> UserError:
    matrix = next((field for field in fields if name in field.names and field.kind != "categorical"), None)
    if matrix is not None:
        return UserError(
            f"Columns: column {name!r} is a part of field {matrix.name!r}, as all columns are numbers of one type: "
            f"load the table with kinds={{{name!r}: ...}}, which makes every column a field"
        )
    if name == LABEL and name in schema:
        return UserError("Columns: field 'y' is the label, which is no column: load the table without label=")
    return unknown_name("column", name, [field.name for field in fields])
