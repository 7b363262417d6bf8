"""One field given latents, p(y | f(z)): what models of a response share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from ppl_vae.data import Field, Schema, Split
from ppl_vae.decoders import Decoder
from ppl_vae.decoders.own import likelihood_over, network_of
from ppl_vae.errors import UserError, check_several, shown, unknown_name
from ppl_vae.likelihoods import Likelihood, column_likelihood
from ppl_vae.nn.networks import MLP
from ppl_vae.registry.resolve import resolve

__all__ = ["Response", "as_chosen", "asked_fields", "responses"]

Asked = Likelihood | str | type[Likelihood] | None


def asked_fields(schema: Schema, response: str | Sequence[str]) -> list[Field]:
    """The fields that are responses, by name.

    Raises:
        UserError: for a name that there is not, or one given twice.
    """
    names = [response] if isinstance(response, str) else list(check_several("response", response, "names of fields"))
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"response expects names of fields, got {shown(response)}")
    if not names or len({*names}) < len(names):
        raise UserError(f"response expects names of fields, each once, got {names}")
    fields = [schema[name] for name in names]
    for name in names:
        if name in ("n", "data", "self", "z"):
            raise UserError(f"field {name!r} has the name of a site or argument of the model: rename it")
    return fields


def responses(
    fields: Sequence[Field],
    train: Split | None,
    inputs: int,
    hidden: Sequence[int],
    activation: str,
    likelihood: Asked | Mapping[str, Asked],
    *,
    beside: bool = False,
) -> list[Response]:
    """A network from latents to each of some fields; likelihoods by name, or one for the only field.

    Raises:
        UserError: for one likelihood of several fields, or a likelihood of a field that is no response.
    """
    names = [field.name for field in fields]
    if likelihood is not None and not isinstance(likelihood, Mapping):
        if len(names) > 1:
            raise UserError(f"likelihoods of several responses are told by name, {{{names[0]!r}: ...}}")
        likelihood = {names[0]: likelihood}
    for name in likelihood or {}:
        if name not in names:
            raise unknown_name("response", name, names)
    chosen = likelihood or {}
    return [Response(f, train, inputs, hidden, activation, chosen.get(f.name), beside=beside) for f in fields]


def as_chosen(several: Sequence[Response]) -> Likelihood | dict[str, Likelihood]:
    """The likelihoods of some responses as a run folder records them."""
    found = {each.name: each.likelihood.as_chosen for each in several}
    return found[several[0].name] if len(several) == 1 else found


class Response(nn.Module):
    """A network from latents to the likelihood of one field; the network starts at the training rows' marginal.

    Shapes: z [..., inputs] -> a site with batch shape [...] and the field's event shape. Rows that miss the field (NaN
    or -1) are skipped there.

    Args:
        field: the response; by its kind and its training values the likelihood is chosen, as for columns.
        train: the training rows.
        inputs: length of the latent vector.
        hidden: widths of the hidden layers; none for a linear response.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        likelihood: instead of the one that fits.
        decoder: instead of these layers, as `decoder=` of other models.
        beside: add a linear map beside the network.

    Example:
        >>> import torch
        >>> answer = Response(Field("y", "categorical", (), 3), None, 2, ())
        >>> answer(torch.zeros(5, 2)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        field: Field,
        train: Split | None,
        inputs: int,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
        likelihood: Likelihood | str | type[Likelihood] | None = None,
        decoder: Any = None,
        *,
        beside: bool = False,
    ) -> None:
        super().__init__()
        rows = None if train is None else train[field.name]
        self.name = field.name
        chosen = resolve("likelihood", likelihood, of=Likelihood) or column_likelihood(field, rows)
        over: Any = likelihood_over(decoder, chosen)
        self.likelihood: Likelihood = over.build(field, rows)
        self.network = network_of(decoder, inputs, self.likelihood, hidden, activation, beside=beside)
        if rows is not None and isinstance(self.network, MLP | Decoder):
            self.network.start_at(self.likelihood.initial_bias(rows))

    def forward(self, z: Tensor) -> pyro.distributions.Distribution:
        """p(y | z)."""
        return self.likelihood(self.network(z))

    def observe(self, z: Tensor, value: Tensor | None) -> Tensor:
        """The statement of p(y | z), observed where a value is given."""
        return pyro.sample(self.name, self(z), obs=value, infer={"leaf": True})
