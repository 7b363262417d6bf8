"""Several kinds of data of one row at once: what they share, and what each has of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.data import Data, Field, Schema
from ppl_vae.decoders.own import suits
from ppl_vae.decoders.sequences import Recurrent
from ppl_vae.errors import UserError, check_whole, shown, unknown_name
from ppl_vae.likelihoods import Likelihood
from ppl_vae.models._response import Response
from ppl_vae.models._rows import RowModel, prior_of, rows_of
from ppl_vae.nn.networks import concatenate
from ppl_vae.priors import Prior

__all__ = ["Multimodal"]


class Multimodal(RowModel):
    """Several fields that share a latent and have one each: z ~ p(z), w_m ~ N(0, I), x_m ~ p(x_m | f_m(z, w_m)).

    log p(x_1, ..., x_M) = log of the integral of p(z) prod_m p(w_m) p(x_m | z, w_m), in nats. Any field may be missing
    in any row, and is then skipped: the evidence is that of the fields that are there, and
    log p(a, b) = log p(a) + log p(b | a). A label y is a field as any other. Shapes: z [..., d], w_m [..., d_m].

    A generated guide sees all fields through one encoder, which has to have seen in training what may be missing
    later; with `experts="product"`, `"mixture"` or `"mopoe"` it has one encoder for each field, and any may be missing.
    w_m sees its own field, and z.

    Args:
        data: the data set (or its schema); all of its fields are modelled.
        prior: p(z); the standard normal by default.
        private: how many latents of its own a field has, one number for all that are vectors or pictures, or by name
            (0 for none, and for fields that are not named).
        likelihoods: by field, instead of those that fit.
        decoders: by field, instead of fully connected layers, as `decoder=` of other models; one name for all fields
            that it suits: `conv` for pictures, `gru` for rows of several steps.
        latent_dim: d, what the fields share.
        hidden: widths of the hidden layers of every network.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.

    Raises:
        UserError: for fewer than two fields, unknown names, or a field with the name of a site or an argument.

    Source: Tsai et al. 2019, arXiv 1806.06176 (factors shared and private); Wu & Goodman 2018, arXiv 1802.05335.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> model = Multimodal(ppl_vae.load("digits"), private=4, latent_dim=8)
        >>> {name: tuple(values.shape) for name, values in model(n=3).items()}
        {'x': (3, 8, 8), 'y': (3,)}
        >>> [(block.sites, block.given) for block in MeanField(model, experts="mixture").blocks]
        [(('z',), ()), (('w_x',), ('z',))]
    """

    def __init__(
        self,
        data: Data | Schema,
        *,
        prior: Prior | str | type[Prior] | None = None,
        private: int | Mapping[str, int] = 8,
        likelihoods: Mapping[str, Likelihood | str | type[Likelihood]] | None = None,
        decoders: Mapping[str, Any] | str | None = None,
        latent_dim: int = 16,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
    ) -> None:
        super().__init__(data)
        fields = [*self.schema]
        if len(fields) < 2:
            raise UserError(f"Multimodal is of several fields, got {', '.join(map(str, fields))}: use VAE")
        self.private = _private(private, fields)
        self.prior = prior_of(prior).build(latent_dim)
        taken = {"n", "data", "self", "z", *(f"w_{name}" for name in self.private)}
        if clash := [f.name for f in fields if f.name in taken]:
            raise UserError(f"field {clash[0]!r} has the name of a site or argument of the model: rename it")
        if not isinstance(likelihoods, Mapping | None):
            raise UserError(f"likelihoods expects them by the name of their field, got {shown(likelihoods)}")
        named: dict[str, Mapping[str, Any]] = {
            "likelihoods": likelihoods or {},
            "decoders": decoders if isinstance(decoders, Mapping) else {},
        }
        for what in named.values():
            for name in what:
                if name not in self.schema:
                    raise unknown_name("field", name, self.schema.names)
        if isinstance(decoders, str):
            named["decoders"] = {field.name: decoders for field in fields if suits(decoders, field)}
        self.each = nn.ModuleList(
            [
                Response(
                    field,
                    self.train_rows,
                    latent_dim + self.private.get(field.name, 0),
                    hidden,
                    activation,
                    named["likelihoods"].get(field.name),
                    named["decoders"].get(field.name),
                )
                for field in fields
            ]
        )
        # as they were chosen
        self.recorded["likelihoods"] = {each.name: each.likelihood.as_chosen for each in self._responses()}
        self.reads = {each.name: "gru" for each in self._responses() if isinstance(each.likelihood, Recurrent)}
        self.observes = tuple(field.name for field in fields)

    def _responses(self) -> list[Response]:
        return [each for each in self.each if isinstance(each, Response)]

    def forward(self, n: int = 1, **fields: Tensor) -> dict[str, Tensor]:
        """Observe the fields that are given, and simulate the others of as many rows, or n rows; all by name."""
        given = rows_of(**fields)
        with self.rows(given, n):
            z = pyro.sample("z", self.prior())
            found = {}
            for each in self._responses():
                own = []
                if size := self.private.get(each.name, 0):
                    standard = dist.Normal(torch.zeros(size, dtype=z.dtype, device=z.device), 1.0).to_event(1)
                    own = [pyro.sample(f"w_{each.name}", standard)]
                found[each.name] = each.observe(concatenate([z, *own]), given.get(each.name))
        return found


def _private(private: int | Mapping[str, int], fields: Sequence[Field]) -> dict[str, int]:
    """How many latents of its own each field has, where it has any."""
    if isinstance(private, Mapping):
        for name in private:
            if name not in (f.name for f in fields):
                raise unknown_name("field", name, [f.name for f in fields])
        found = {name: check_whole(f"private[{name!r}]", size, 0) for name, size in private.items()}
    else:
        found = {f.name: check_whole("private", private, 0) for f in fields if f.shape}
    return {name: size for name, size in found.items() if size}
