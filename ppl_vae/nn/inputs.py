"""Input layers: what a field of a row is to a network, standardised by the training rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ppl_vae.errors import UserError
from ppl_vae.nn.networks import MLP

if TYPE_CHECKING:
    from ppl_vae.data import Field, Split

__all__ = [
    "ConvolutionalInput",
    "OneHotInput",
    "SetInput",
    "StandardisedInput",
    "channels_of",
    "entries_of",
    "entry_of",
    "input_layer",
]

CONVOLUTIONS_FROM = 16
"""Images with at least this many pixels on both sides are read by convolutions."""


class OneHotInput(nn.Module):
    """A label as a one-hot vector; a missing label (-1) is the zero vector. Shapes: [...] -> [..., C]."""

    def __init__(self, field: Field, train: Split | None = None) -> None:
        super().__init__()
        if field.cardinality is None:
            raise UserError(f"field {field.name!r} is categorical but has no cardinality")
        self.size, self.missing = field.cardinality, field.missing

    def forward(self, y: Tensor) -> Tensor:
        """Compare with every level: unlike F.one_hot this neither reads values nor refuses -1."""
        levels = torch.arange(self.size, device=y.device)
        return (y.unsqueeze(-1) == levels).to(torch.get_default_dtype())


class StandardisedInput(nn.Module):
    """Flattened entries minus the train mean over the train deviation; NaN becomes 0 and a mask is appended.

    The deviation is one number per entry for tables and one for the whole field for images and grey levels,
    where pixels that hardly vary must not be blown up. In training mode normal noise of deviation `noise` is added to
    what was observed. Shapes: [..., *shape] -> [..., D] or [..., 2 D].
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, field: Field, train: Split | None = None, noise: float = 0.0) -> None:
        super().__init__()
        self.shape, self.missing, self.noise = field.shape, field.missing, noise
        self.categorical = field.kind == "categorical"
        self.size = field.size * (2 if field.missing else 1)
        mean, scale = torch.zeros(field.size), torch.ones(field.size)
        if train is not None:
            mean, variance = train.moments(field.name)
            if field.kind in ("binary", "unit", "categorical", "count"):
                variance = variance.mean().expand(field.size)
            scale = torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise; append the mask of what was observed if the field has holes."""
        x = x.reshape(x.shape[: x.dim() - len(self.shape)] + (-1,))
        seen = x >= 0 if self.categorical else ~torch.isnan(x)
        standard = (torch.where(seen, x, self.mean) - self.mean) / self.scale
        if self.noise and self.training:
            standard = standard + self.noise * torch.randn_like(standard) * seen
        # Without holes in training there is no mask; rows with holes that come later are read at their mean.
        return torch.cat([standard, seen.to(standard.dtype)], dim=-1) if self.missing else standard


class ConvolutionalInput(nn.Module):
    """An image through two strided convolutions; missing pixels are a channel of their own.

    Shapes: [..., H, W] or [..., C, H, W] (C at most 4, else [..., H, W, C]) -> [..., 32 ceil(H / 4) ceil(W / 4)].

    Example:
        >>> from ppl_vae.data import Field
        >>> ConvolutionalInput(Field("x", "unit", (28, 28)))(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 1568])
    """

    def __init__(self, field: Field, train: Split | None = None, noise: float = 0.0) -> None:
        super().__init__()
        self.flat, self.missing = StandardisedInput(field, train, noise), field.missing
        self.last = len(field.shape) == 3 and field.shape[0] > 4
        channels, self.picture = channels_of(field.shape)
        self.planes = channels * (2 if field.missing else 1)
        self.first = nn.Conv2d(self.planes, 16, 5, stride=2, padding=2)
        self.second = nn.Conv2d(16, 32, 5, stride=2, padding=2)
        self.size = 32 * math.prod(-(-side // 4) for side in self.picture)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise, convolve twice, flatten."""
        flat = self.flat(x)
        if self.last:  # channels last: bring them first
            flat = flat.unflatten(-1, (-1, *self.picture, self.flat.shape[-1])).movedim(-1, -3)
        planes = flat.reshape(-1, self.planes, *self.picture)
        hidden = nn.functional.gelu(self.second(nn.functional.gelu(self.first(planes))))
        return hidden.reshape(flat.shape[: x.dim() - len(self.flat.shape)] + (self.size,))


class SetInput(nn.Module):
    """Repeated measurements of a row, in any order: a network of each, averaged over those that were observed.

    h = (1/n) sum_i f(x_i), and the observed share. Shapes: [..., n, *shape] -> [..., H + 1]. Source: Zaheer et al.
    2017, arXiv 1703.06114.

    Example:
        >>> from ppl_vae.data import Field
        >>> h = SetInput(Field("x", "real", (4, 2)))
        >>> x = torch.randn(3, 4, 2)
        >>> torch.allclose(h(x), h(x.flip(1)), atol=1e-6)
        True
    """

    def __init__(self, field: Field, train: Split | None = None, noise: float = 0.0, width: int = 64) -> None:
        super().__init__()
        self.missing, entry = field.missing, replace(entry_of(field), missing=True)
        self.entry = StandardisedInput(entry, entries_of(field, train), noise)
        self.each = MLP(self.entry.size, (width,), width)
        self.size = width + 1

    def forward(self, x: Tensor) -> Tensor:
        """Standardise each measurement, mark what is missing, average its features."""
        known = self.entry(x)
        some = known[..., self.entry.size // 2 :].amax(-1, keepdim=True)
        share = some.mean(-2)
        return torch.cat([(self.each(known) * some).mean(-2) / share.clamp(min=1e-6), share], dim=-1)


def entry_of(field: Field) -> Field:
    """One entry along the first axis of a field, as a field."""
    return replace(field, shape=field.shape[1:], names=(), origin=())


def entries_of(field: Field, train: Split | None) -> Split | None:
    """All entries of a field as rows."""
    if train is None:
        return None
    train = train.head
    return replace(
        train.select([field.name]),
        schema=type(train.schema)((entry_of(field),)),
        fields={field.name: train[field.name].flatten(0, 1)},
        draws=frozenset(),
        hidden={},
        outliers=None,
    )


def input_layer(
    field: Field, repeated: bool = False, convolutions: bool = True, noise: float = 0.0
) -> Callable[[Field, Split | None], nn.Module]:
    """From a field and the training rows to the layer that reads a field such as this."""
    if field.kind == "categorical" and field.shape == ():
        return OneHotInput
    if repeated and field.kind != "categorical":
        return partial(SetInput, noise=noise)
    if convolutions and field.is_image and min(channels_of(field.shape)[1]) >= CONVOLUTIONS_FROM:
        return partial(ConvolutionalInput, noise=noise)
    return partial(StandardisedInput, noise=noise)


def channels_of(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """The number of channels and the sides of a picture: [H, W], [C, H, W] with C at most 4, or [H, W, C].

    Example:
        >>> channels_of((8, 8)), channels_of((3, 32, 32)), channels_of((32, 32, 3))
        ((1, (8, 8)), (3, (32, 32)), (3, (32, 32)))
    """
    if len(shape) == 2:
        return 1, shape
    return (shape[0], shape[1:]) if shape[0] <= 4 else (shape[-1], shape[:-1])
