"""The variational mixture of posteriors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppl_vae.data import Field, Split
from ppl_vae.priors.base import at_least_one
from ppl_vae.priors.encoded import EncodedPrior
from ppl_vae.priors.normal_mixture import NormalMixture

__all__ = ["VampPrior"]


class VampPrior(EncodedPrior):
    """The guide's posterior averaged over K learned pseudo-inputs, log p(z) = log (1/K) sum_k q(z | u_k) nats.

    The pseudo-inputs u_k live among the data: they start at training rows and stay within the field's support (0 to
    1, the levels of a category as real numbers, ...), missing entries filled with the mean. A label that the encoder
    sees stays that of the row. They go through the guide's own encoder, which so gets gradients from p(z) too; q is
    the guide's where its family is a mean-field normal, else a diagonal normal on the same features. A guide
    made from the model introduces itself; for one that was written by hand call `encode_with`.

    Shapes: z [d], u_k [*S].

    Args:
        components: K.
        site: the name of the latent site that this is the prior of.

    Raises:
        UserError: if components is less than 1, or the prior is used before it has met a guide.

    Source: Tomczak & Welling 2018, arXiv 1705.07120.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import VAE
        >>> model = VAE(ppl_vae.load("digits"), prior=VampPrior(20), latent_dim=4)
        >>> guide = MeanField(model)
        >>> model.prior().event_shape, model.prior.pseudo["x"]().shape
        (torch.Size([4]), torch.Size([20, 8, 8]))
    """

    def __init__(self, components: int = 500, *, site: str = "z") -> None:
        super().__init__(site)
        at_least_one(self, components=components)
        self.components = components

    def take(self, fields: Sequence[Field], train: Split | None) -> None:
        """Pseudo-inputs at random training rows, the same ones for all fields."""
        train = None if train is None else train.head
        index = None if train is None else _random_rows(len(train), self.components)
        parts: dict[str, nn.Module] = {}
        for field in fields:
            rows = None if train is None else train[field.name]
            is_label = field.kind == "categorical" and field.shape == ()
            parts[field.name] = (_Labels if is_label else _PseudoInputs)(field, self.components, rows, index)
        self.pseudo = nn.ModuleDict(parts)

    def density(self) -> NormalMixture:
        """One pass of the encoder over all pseudo-inputs."""
        loc, scale = self.posterior({name: rows() for name, rows in self.pseudo.items()})
        return NormalMixture(loc.new_zeros(self.components), loc, scale)


def _random_rows(rows: int, wanted: int) -> Tensor:
    """Rows without repetition while there are any; more than there are begin again."""
    return torch.cat([torch.randperm(rows) for _ in range(math.ceil(wanted / rows))])[:wanted]


class _Labels(nn.Module):
    """Labels stay as they were: the encoder sees one-hot vectors, between which there is no way."""

    value: Tensor

    def __init__(self, field: Field, count: int, rows: Tensor | None, index: Tensor | None) -> None:
        super().__init__()
        missing = torch.full((count,), -1)
        self.register_buffer("value", missing if rows is None else rows[index].cpu())

    def forward(self) -> Tensor:
        """[K]."""
        return self.value


class _PseudoInputs(nn.Module):
    """Learned rows of one field, [K, *S]: u = shift + unit * raw, cut off at the ends of the field's support.

    `raw` is measured in deviations of the column, or in widths of the support where it has two ends, so that one
    learning rate fits all fields.
    """

    shift: Tensor
    unit: Tensor

    def __init__(self, field: Field, count: int, rows: Tensor | None, index: Tensor | None) -> None:
        super().__init__()
        self.low, self.high = _ends(field)
        zeros = torch.zeros(field.shape)
        shift, unit, start = zeros, zeros + 1, torch.zeros(count, *field.shape)
        if rows is not None:
            seen = rows.cpu().to(start.dtype)
            seen = torch.where(seen == -1, torch.nan, seen) if field.kind == "categorical" else seen
            mean = seen.nanmean(0).nan_to_num()
            deviation = (seen - mean).square().nanmean(0).nan_to_num().sqrt()
            shift, unit = mean, torch.where(deviation > 0, deviation, torch.ones_like(deviation))
            start = torch.where(torch.isnan(seen), mean, seen)[index]
        if math.isfinite(self.high - self.low):
            shift, unit = zeros + self.low, zeros + max(self.high - self.low, 1)
        self.register_buffer("shift", shift)
        self.register_buffer("unit", unit)
        # The noise sets apart pseudo-inputs that began at equal rows, as the authors do.
        self.raw = nn.Parameter((start - shift) / unit + 0.01 * torch.randn_like(start))

    def forward(self) -> Tensor:
        """[K, *S]."""
        return (self.shift + self.unit * self.raw).clamp(self.low, self.high)


def _ends(field: Field) -> tuple[float, float]:
    if field.kind in ("binary", "unit"):
        return 0.0, 1.0
    if field.kind == "categorical":
        return 0.0, float((field.cardinality or 1) - 1)
    if field.kind == "count":
        return 0.0, float((field.cardinality or math.inf) - 1)
    return (torch.finfo(torch.float32).tiny if field.kind == "positive" else -math.inf), math.inf
