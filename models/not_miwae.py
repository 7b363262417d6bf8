"""A table whose values decide whether they are seen: z ~ p(z), x ~ p(x | z), mask ~ p(mask | x)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.data import Data, Schema
from ppl_vae.data.convert import missing_in
from ppl_vae.errors import UserError, check_choice
from ppl_vae.likelihoods import Normal
from ppl_vae.models._rows import RowModel, prior_of, rows_of
from ppl_vae.nn.networks import MLP
from ppl_vae.priors import Prior

__all__ = ["NotMIWAE"]

EXACT = 1e-6
"""The deviation, in units of a column's own, of an entry that the latents determine: that of float32."""


class SelfMasking(nn.Module):
    """logit P(entry is seen) = a + b x for each column alone; with `hides` b has its sign. x [..., C] -> [..., C]."""

    def __init__(self, columns: int, hides: str | None) -> None:
        super().__init__()
        self.sign = {"large": -1.0, "small": 1.0}.get(hides or "")
        self.slope = nn.Parameter(torch.zeros(columns))
        self.offset = nn.Parameter(torch.zeros(columns))

    def forward(self, x: Tensor) -> Tensor:
        """A line for each column."""
        slope = self.slope if self.sign is None else self.sign * F.softplus(self.slope)
        return self.offset + slope * x


class NotMIWAE(RowModel):
    """A VAE in which what is seen is an observation, too: z ~ p(z), x ~ Normal(f(z), s), seen ~ Bernoulli(g(x)).

    log p(x_observed, seen) = log of the integral of p(z) p(x | z) p(seen | x) over z and the missing x, in nats. So a
    value may be missing because of what it is: imputed entries follow p(x_missing | x_observed, seen). The mask is read
    off the rows: an entry that is NaN was not seen. It is modelled in the columns that have holes in the training rows;
    in others missing entries are taken to be missing at random. The missing entries are latents, f(z) + s * noise
    with noise ~ N(0, I) [..., D], for which a guide needs no more than what is known of the row. Whether values are
    missing because they are large or because they are small the data tell only by the shape of the columns: say
    `hides` where you know it.

    Shapes: z [..., d], noise, x and seen [..., D]. Called with rows it conditions on them; with `n` it simulates
    complete rows. Train with IWAE: the ELBO pulls the missing entries towards one value.

    Args:
        data: the data set (or its schema) whose field `x` are numbers with missing entries.
        mask: how x decides what is seen: "self_masking" (a logistic regression of each column on itself),
            "linear" (on all columns) or "network" (a hidden layer of all columns).
        hides: of self-masking, which values tend to be missing, "large" or "small"; None learns it.
        prior: p(z); the standard normal by default.
        latent_dim: d.
        hidden: widths of the decoder's hidden layers.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.

    Raises:
        UserError: if the field is no row of numbers or none is missing, or for another word.

    Source: Ipsen, Mattei & Frellsen 2021, arXiv 2006.12871.

    Example:
        >>> import ppl_vae
        >>> x = torch.randn(100, 3)
        >>> data = ppl_vae.load(torch.where(x > 0, torch.nan, x), missing="allow")
        >>> model = NotMIWAE(data, latent_dim=2, hides="large")
        >>> model(n=4).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        data: Data | Schema,
        *,
        mask: Literal["self_masking", "linear", "network"] = "self_masking",
        hides: Literal["large", "small"] | None = None,
        prior: Prior | str | type[Prior] | None = None,
        latent_dim: int = 16,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
    ) -> None:
        super().__init__(data)
        check_choice("mask", mask, ("self_masking", "linear", "network"))
        if hides is not None:
            check_choice("hides", hides, ("large", "small"))
            if mask != "self_masking":
                raise UserError(f"hides= is of self-masking, got mask={mask!r}: leave one of them out")
        field = self.schema["x"]
        if len(field.shape) != 1 or field.kind not in Normal.kinds or not field.missing:
            raise UserError(
                f"NotMIWAE expects rows x of numbers with missing entries, got {field}: load them with "
                "missing='allow', as one matrix"
            )
        self.prior = prior_of(prior).build(latent_dim)
        self.decodes(latent_dim, Normal(), hidden, activation, taken=("z", "noise", "seen"), starts="z")
        rows = self.train_rows
        gone = (
            torch.ones(field.shape[0], dtype=torch.bool) if rows is None else missing_in(field.kind, rows["x"]).any(0)
        )
        self.register_buffer("columns", gone)
        count = field.shape[0]
        self.mask: nn.Module = (
            SelfMasking(count, hides)
            if mask == "self_masking"
            else MLP(count, (64,) if mask == "network" else (), count, "tanh")
        )

    columns: Tensor

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """Observe rows x and which of their entries are there, or simulate n complete rows."""
        with self.rows(rows_of(x=x), n):
            z = pyro.sample("z", self.prior())
            own: Any = self.likelihood
            complete = own(self.decoder(z)).base_dist
            unit = torch.ones_like(complete.loc)
            noise = pyro.sample("noise", dist.Normal(torch.zeros_like(unit), unit).to_event(1))
            value = complete.loc + complete.scale * noise
            gone = torch.ones_like(value, dtype=torch.bool) if x is None else torch.isnan(x)
            whole = value if x is None else torch.where(gone, value, x.nan_to_num())
            seen = dist.Bernoulli(logits=self.mask((whole - own.shift) / own.unit))
            pyro.sample(
                "seen",
                seen.mask(self.columns).to_event(1),
                obs=None if x is None else (~gone).to(value.dtype),
                infer={"leaf": True},
            )
            # an entry that is missing is what the latents say, in a draw and on average; its density is skipped
            known = torch.where(gone, value, complete.loc)
            scale = torch.where(gone, EXACT * complete.scale, complete.scale)
            fn = dist.Delta(value).to_event(1) if x is None else dist.Normal(known, scale).to_event(1)
            return pyro.sample("x", fn, obs=x, infer={"leaf": True})
