"""Encoders: from the observed fields of a row to the features on which its posterior depends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ppl_vae.errors import UserError, absent_field, unknown_name
from ppl_vae.nn.networks import MLP, concatenate, hidden_layers, widths
from ppl_vae.nn.own_input import OwnInput

if TYPE_CHECKING:
    from ppl_vae.data import Field, Split

__all__ = [
    "ConvolutionalInput",
    "FieldEncoder",
    "OneHotInput",
    "SetInput",
    "StandardisedInput",
    "adapted",
    "channels_of",
    "encoder_of",
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
            x = _precise(train[field.name].reshape(len(train), -1))
            x = torch.where(x == -1, torch.nan, x) if self.categorical and field.missing else x
            mean = x.nanmean(0).nan_to_num()
            variance = (x - mean).square().nanmean(0).nan_to_num()
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

    mean: Tensor
    scale: Tensor

    def __init__(self, field: Field, train: Split | None = None, noise: float = 0.0, width: int = 64) -> None:
        super().__init__()
        self.shape, self.missing, self.noise = field.shape[1:], field.missing, noise
        each = math.prod(self.shape)
        mean, scale = torch.zeros(each), torch.ones(each)
        if train is not None:
            x = _precise(train[field.name].reshape(-1, each))
            mean = x.nanmean(0).nan_to_num()
            variance = (x - mean).square().nanmean(0).nan_to_num()
            scale = torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.each = MLP(2 * each, (width,), width)
        self.size = width + 1

    def forward(self, x: Tensor) -> Tensor:
        """Standardise each measurement, mark what is missing, average its features."""
        x = x.reshape(x.shape[: x.dim() - len(self.shape)] + (-1,))
        seen = ~torch.isnan(x)
        standard = (torch.where(seen, x, self.mean) - self.mean) / self.scale
        if self.noise and self.training:
            standard = standard + self.noise * torch.randn_like(standard) * seen
        some = seen.any(-1, keepdim=True).to(standard.dtype)
        hidden = self.each(torch.cat([standard, seen.to(standard.dtype)], dim=-1)) * some
        share = some.mean(-2)
        return torch.cat([hidden.mean(-2) / share.clamp(min=1e-6), share], dim=-1)


def _precise(x: Tensor) -> Tensor:
    """Floats at least of the default type: float64 rows far from 0 are standardised in float64."""
    return x.to(torch.promote_types(x.dtype, torch.get_default_dtype()))


class FieldEncoder(nn.Module):
    """Features of the observed fields of a row, for a guide: one input layer for each field, then hidden layers.

    Tables and small images are standardised vectors, labels one-hot vectors, images from 16 x 16 on are read by
    convolutions, and fields named in `repeated` by a network that does not see the order of their measurements.
    Everything is standardised by the training rows alone. Shapes: fields [B, *shape] -> features [B, F].

    Args:
        fields: the observed fields.
        train: the training rows; without them nothing is standardised.
        hidden: widths of the hidden layers.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        repeated: names of fields whose first dimension counts exchangeable measurements.
        convolutions: False reads images as vectors.
        beside: give the inputs of the hidden layers as features too, behind the hidden ones.
        noise: deviation of the normal noise that is added in training mode to standardised entries (labels have none):
            features that are not led astray by it. Each noisy row is read by a guide of its own, so that a bound stays
            a bound (Im et al. 2017, arXiv 1511.06406); evaluation is without noise.
        own: modules for some fields by name, in the place of their input layers (`ppl_vae.nn.own_input.OwnInput`).

    Raises:
        UserError: for a noise that is negative or no number.

    Example:
        >>> import ppl_vae
        >>> data = ppl_vae.load("digits")
        >>> encoder = FieldEncoder([data.schema["x"]], data.train, hidden=(32,))
        >>> encoder(data.train.batch(slice(0, 5))).shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        fields: Sequence[Field],
        train: Split | None,
        hidden: Sequence[int] = (256, 256),
        activation: str = "gelu",
        *,
        repeated: Iterable[str] = (),
        convolutions: bool = True,
        noise: float = 0.0,
        own: Mapping[str, nn.Module] | None = None,
        beside: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= noise < math.inf:
            raise UserError(f"noise must not be negative, got {noise}")
        repeated = frozenset(repeated)
        self.names = tuple(f.name for f in fields)
        # a list: torch forbids dots and the names of its own attributes in a ModuleDict, and a column may have either
        own = own or {}
        if unknown := own.keys() - {*self.names}:
            raise unknown_name("field of the encoder", min(unknown), self.names)
        layers = [
            OwnInput(own[f.name], f)
            if f.name in own
            else input_layer(f, f.name in repeated, convolutions, noise)(f, train)
            for f in fields
        ]
        self.inputs = nn.ModuleList(layers)
        width = sum(int(layer.size) for layer in self.inputs)  # type: ignore[arg-type, misc]
        hidden = widths(hidden)
        self.beside = width if beside and hidden else 0
        self.size = (hidden[-1] if hidden else width) + self.beside
        self.layers = hidden_layers(width, hidden, activation)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Encode the fields that this encoder was built for."""
        inputs = self.read(batch)
        hidden = self.layers(inputs)
        return torch.cat([hidden, inputs], dim=-1) if self.beside else hidden

    def read(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the hidden layers are given of the fields, [B, width]."""
        return concatenate([self._input(name, batch) for name in self.names])

    def input_of(self, name: str) -> nn.Module:
        """The input layer of a field."""
        return self.inputs[self.names.index(name)]

    def sees_holes(self, name: str) -> bool:
        """Whether a field had missing entries in the rows that this encoder was made for."""
        return bool(self.input_of(name).missing)

    def _input(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        layer = self.input_of(name)
        if name not in batch and isinstance(layer, OneHotInput):  # rows without labels may come without the field
            rows = next(iter(batch.values()))
            return layer(rows.new_full(rows.shape[:1], -1, dtype=torch.long))
        if name not in batch:
            raise absent_field(name, batch)
        return layer(batch[name])


class _OnField(nn.Module):
    """A network of one tensor, given the only observed field."""

    def __init__(self, network: nn.Module, name: str, size: int) -> None:
        super().__init__()
        self.network, self.name, self.size = network, name, size

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.network(batch[self.name])


class _OnFields(nn.Module):
    """A network of the dict of fields that does not say how many features it gives."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.network(batch)


def encoder_of(
    encoder: Any, fields: Sequence[Field], train: Split | None, batch: Mapping[str, Tensor], **options: Any
) -> nn.Module:
    """An encoder of fields from what a user gave: a module of all, one for each of some, or a function that makes one.

    Modules by field name stand in the place of input layers, in a `FieldEncoder` with these options. A function is
    called with (fields, train).

    Raises:
        UserError: for another thing, and what `adapted` and `FieldEncoder` refuse.
    """
    if isinstance(encoder, Mapping):
        return FieldEncoder(fields, train, own=encoder, **options)
    if not isinstance(encoder, nn.Module):
        if not callable(encoder):
            raise UserError(
                "encoder must be a module from the fields to features [B, F], a dict of modules by field or a function "
                f"of (fields, train) that makes a module, got {type(encoder).__name__}"
            )
        encoder = encoder(fields, train)
    return adapted(encoder, {f.name: batch[f.name] for f in fields})


def adapted(encoder: nn.Module, batch: Mapping[str, Tensor]) -> nn.Module:
    """A user's encoder as one from the dict of fields to features [B, F], with F in `size`.

    Raises:
        UserError: if it does not give features [B, F] for a batch.
    """
    if isinstance(encoder, FieldEncoder | _OnField | _OnFields):
        return encoder
    rows = len(next(iter(batch.values())))
    tries: list[tuple[object, Callable[[int], nn.Module]]] = [(batch, lambda size: _OnFields(encoder, size))]
    if len(batch) == 1:
        name, value = next(iter(batch.items()))
        tries.append((value, lambda size: _OnField(encoder, name, size)))
    reason = ""
    for given, wrap in tries:
        try:
            with torch.no_grad():
                features = encoder(given)
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            reason = f"it fails ({' '.join(str(error).split())[:200]})"
            continue
        if isinstance(features, Tensor) and features.dim() == 2 and len(features) == rows:
            return wrap(features.shape[1])
        reason = f"it gives {tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__}"
    shapes = ", ".join(f"{n} {tuple(v.shape)}" for n, v in batch.items())
    raise UserError(
        f"encoder must be a module from the dict of observed fields, or from the only one, to features [{rows}, F]; "
        f"for {shapes} {reason}"
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
