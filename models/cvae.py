"""A VAE of x under conditions c: z ~ p(z), x ~ p(x | z, c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae.data import Data, Field, Schema
from ppl_vae.data.convert import Raw, convert
from ppl_vae.errors import UserError, check_flag, check_several, shown
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.models._rows import RowModel, prior_of, rows_of
from ppl_vae.nn.encoders import FieldEncoder
from ppl_vae.nn.heads import DiagonalNormal
from ppl_vae.nn.networks import concatenate, widths
from ppl_vae.priors import LabelConditional, Prior

__all__ = ["CVAE"]

WIDEST = 64
"""The width of the network of the conditions, at most."""


class CVAE(RowModel):
    """Rows under conditions: z ~ p(z) (or p(z | c)), x ~ p(x | f(z, h(c))), with c given, not modelled.

    log p(x | c) = log of the integral of p(x | z, c) p(z) over z in R^d, in nats: every bound and evidence is
    conditional. Shapes: z [..., d], x [..., *S]; c are the fields named in `given`, which enter the decoder through a
    network h(c) of one-hot vectors (labels) and numbers standardised by the training rows. They are no sites but
    arguments: called with rows the model conditions on x and c; called with c alone it draws one row for each; one
    value, `model(n=16, y=3)`, stands for all n rows. A generated guide encodes x and c.

    A missing condition means "unknown": a zero vector in place of the one-hot, the mean and a mask in place of a
    number. The model learns it from training rows without the condition; if there were none, it is refused.

    Args:
        data: the data set (or its schema); all its other fields (`x`, or the columns) are modelled.
        given: the name of the condition, or several.
        prior: p(z); the standard normal by default. `LabelConditional(C)` is p(z | c) for one label.
        learned_prior: let a network of the conditions give p(z | c) = N(m(c), diag s(c)^2).
        likelihood: p(x | z, c); by default the one that fits.
        latent_dim: d.
        hidden: widths of the hidden layers of the decoder, of h (at most 64) and of the learned prior.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        decoder: in place of these layers: a name (`conv`), an object of `ppl_vae.decoders`, a module or a function.

    Raises:
        UserError: for a condition that is no field or leaves nothing to model, for two priors at once, and when rows
            are asked for without conditions.

    Source: Sohn et al. 2015, NeurIPS 28; Kingma et al. 2014, arXiv 1406.5298 (p(x | y, z)).

    Example:
        >>> import ppl_vae
        >>> model = CVAE(ppl_vae.load("digits"), given="y", latent_dim=4)
        >>> model(n=3, y=7).shape, model(y=torch.arange(10)).shape
        (torch.Size([3, 8, 8]), torch.Size([10, 8, 8]))
        >>> model(n=3)
        Traceback (most recent call last):
        ppl_vae.errors.UserError: CVAE draws rows given y and was called without: say which, model(n=3, y=...)
    """

    def __init__(
        self,
        data: Data | Schema,
        *,
        given: str | Sequence[str] = "y",
        prior: Prior | str | type[Prior] | None = None,
        learned_prior: bool = False,
        likelihood: Likelihood | Columns | str | type[Likelihood] | None = None,
        latent_dim: int = 16,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
        decoder: Any = None,
    ) -> None:
        super().__init__(data)
        self.needs = (given,) if isinstance(given, str) else check_several("given", given, "names of fields")
        hidden, learned_prior = widths(hidden), check_flag("learned_prior", learned_prior)
        fields = self._conditions(prior, learned_prior)
        # Through a network of their own: beside z, the few entries of a one-hot vector would be learned last, and
        # by then z would say what they say.
        self.condition = FieldEncoder(fields, self.train_rows, [min(width, WIDEST) for width in hidden], activation)
        if learned_prior:
            network = FieldEncoder(fields, self.train_rows, hidden, activation)
            self.prior: Any = torch.nn.Sequential(network, DiagonalNormal(network.size, latent_dim))
        else:
            self.prior = prior_of(prior).build(latent_dim)
        self.decoded = ("z", *self.needs)
        size = latent_dim + self.condition.size
        taken = ("z", *self.needs)
        self.decodes(
            size, likelihood, hidden, activation, taken=taken, also=self.needs, without=self.needs, decoder=decoder
        )

    def _conditions(self, prior: Prior | str | type[Prior] | None, learned: bool) -> list[Field]:
        """The fields that are conditions; refuses those that cannot be."""
        names = self.schema.names
        if not all(isinstance(n, str) for n in self.needs):
            raise UserError(f"given expects names of fields, got {shown(self.needs)}")
        if not self.needs or len({*self.needs}) < len(self.needs) or "x" in self.needs:
            raise UserError(f"given expects the names of different fields other than x, got {self.needs}")
        fields = [self.schema[name] for name in self.needs]
        if {*names} - {"y"} <= {*self.needs}:
            raise UserError(f"given={self.needs} leaves no field to model of {', '.join(names)}: leave one out")
        if learned and prior is not None:
            raise UserError("prior= and learned_prior=True are two priors: leave one out")
        if isinstance(prior, LabelConditional):
            label = fields[0]
            if len(fields) > 1 or label.kind != "categorical" or label.shape or label.missing:
                raise UserError(
                    f"LabelConditional is p(z | c) of one label that all rows have, got {', '.join(map(str, fields))}: "
                    "use learned_prior=True"
                )
            if prior.labels != label.cardinality:
                raise UserError(
                    f"field {label.name!r} has {label.cardinality} labels: LabelConditional({prior.labels})"
                )
        return fields

    def forward(self, x: Tensor | None = None, n: int = 1, **fields: Any) -> Tensor | dict[str, Tensor]:
        """Observe rows x (or columns by name) under their conditions, or simulate a row for each condition."""
        absent = [name for name in self.needs if fields.get(name) is None]
        if absent:
            name = absent[0]
            raise UserError(f"CVAE draws rows given {name} and was called without: say which, model(n={n}, {name}=...)")
        conditions = {name: fields.pop(name) for name in self.needs}
        given = rows_of(x=x, **fields)
        conditions = conditions if given else self._asked(conditions, n)
        with self.rows(given or conditions, n):
            z = pyro.sample("z", self._prior(conditions))
            return self.observe(self.decoder_input({"z": z, **conditions}), given)

    def decoder_input(self, values: Mapping[str, Tensor]) -> Tensor:
        """The latents beside the features of the conditions."""
        return concatenate([values["z"], self.condition({name: values[name] for name in self.needs})])

    def _prior(self, conditions: dict[str, Tensor]) -> Any:
        if not isinstance(self.prior, Prior):
            return self.prior(conditions)
        return self.prior(conditions[self.needs[0]]) if isinstance(self.prior, LabelConditional) else self.prior()

    def _asked(self, conditions: dict[str, Any], n: int) -> dict[str, Tensor]:
        """The conditions of rows to simulate, checked; a single value stands for n rows."""
        where = next(self.parameters()).device
        found = {}
        for name, value in conditions.items():
            field = self.schema[name]
            tensor = torch.as_tensor(value)
            if tuple(tensor.shape) == field.shape:
                tensor = tensor.expand(n, *field.shape)
            found[name] = convert(field, Raw(tensor, coded=True)).to(where)
        rows = {name: len(value) for name, value in found.items()}
        if len({*rows.values()}) > 1:
            raise UserError(f"CVAE expects one condition of each kind for every row, got {rows} rows")
        return found
