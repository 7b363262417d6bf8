"""Networks that turn observed fields into features and latent values into likelihood parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.errors import UserError

if TYPE_CHECKING:
    from ppl_vae.data import Field, Split

__all__ = ["MLP", "FieldEncoder", "GatedLinear", "NormalHead", "concatenate", "field_input"]


class GatedLinear(nn.Module):
    """A linear map times a sigmoid gate: h = (W x + b) * sigmoid(V x + c).

    Shapes: x [..., F] -> h [..., H]. Source: Dauphin et al. 2017, arXiv 1612.08083; used for VAEs by
    Tomczak & Welling 2018, arXiv 1705.07120.

    Example:
        >>> GatedLinear(3, 5)(torch.zeros(2, 3)).shape
        torch.Size([2, 5])
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.both = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """One matrix product for the value and its gate."""
        return F.glu(self.both(x), dim=-1)


class MLP(nn.Module):
    """A multilayer perceptron: hidden layers with an activation (or gates), then a linear map.

    Shapes: x [..., F] -> [..., outputs]; any number of leading dims, so that particles and enumerated
    values broadcast. `activation` is "gelu", "relu", "softplus", "tanh" or "gated".

    Raises:
        UserError: if the activation is unknown or a width is not positive.

    Example:
        >>> MLP(4, (8, 8), 3)(torch.zeros(7, 2, 4)).shape
        torch.Size([7, 2, 3])
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, activation: str = "gelu") -> None:
        super().__init__()
        if min([inputs, outputs, *hidden]) < 1:
            raise UserError(f"network widths must be at least 1, got {inputs}, {tuple(hidden)}, {outputs}")
        layers: list[nn.Module] = []
        for width in hidden:
            layers += _hidden_layer(inputs, width, activation)
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Apply every layer."""
        return self.last(self.layers(x))


_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def _hidden_layer(inputs: int, outputs: int, activation: str) -> list[nn.Module]:
    if activation == "gated":
        return [GatedLinear(inputs, outputs)]
    if activation not in _ACTIVATIONS:
        from ppl_vae.errors import unknown_name

        raise unknown_name("activation", activation, [*_ACTIVATIONS, "gated"])
    return [nn.Linear(inputs, outputs), _ACTIVATIONS[activation]()]


class NormalHead(nn.Module):
    """Independent normals whose means and scales are linear in the features, N(m_i(h), s_i(h)^2).

    Shapes: h [..., F] -> event shape [size], batch shape [...].

    Example:
        >>> NormalHead(8, 3)(torch.zeros(5, 8)).event_shape
        torch.Size([3])
    """

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * size)

    def forward(self, features: Tensor) -> dist.Distribution:
        """One matrix product for means and scales."""
        loc, raw = self.linear(features).chunk(2, dim=-1)
        # Shifted so that scales start near 1, the prior's; never 0, where log q would be infinite.
        return dist.Normal(loc, F.softplus(raw + 0.5413) + torch.finfo(raw.dtype).eps).to_event(1)


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along the last dim, broadcasting all dims to its left (particles, enumerated values).

    Example:
        >>> concatenate([torch.zeros(5, 2), torch.zeros(3, 1, 4)]).shape
        torch.Size([3, 5, 6])
    """
    if len(parts) == 1:
        return parts[0]
    batch = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return torch.cat([p.expand(batch + p.shape[-1:]) for p in parts], dim=-1)


def field_input(field: Field, train: Split | None) -> nn.Module:
    """The first layer of an encoder for one field: flatten, standardise by the train split, mark what is missing."""
    if field.kind == "categorical" and field.shape == ():
        return OneHotInput(field)
    return StandardisedInput(field, train)


class OneHotInput(nn.Module):
    """A label as a one-hot vector; a missing label (-1) is the zero vector. Shapes: [...] -> [..., C]."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        if field.cardinality is None:
            raise UserError(f"field {field.name!r} is categorical but has no cardinality")
        self.size = field.cardinality
        self.register_buffer("levels", torch.arange(field.cardinality), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        """Compare with every level: unlike F.one_hot this neither reads values nor refuses -1."""
        levels = torch.arange(self.size, device=y.device)
        return (y.unsqueeze(-1) == levels).to(torch.get_default_dtype())


class StandardisedInput(nn.Module):
    """Flattened entries minus the train mean over the train deviation; NaN becomes 0 and a mask is appended.

    The deviation is one number per entry for tables and one for the whole field for images and grey levels,
    where pixels that hardly vary must not be blown up. Shapes: [..., *shape] -> [..., D] or [..., 2 D].
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, field: Field, train: Split | None) -> None:
        super().__init__()
        self.shape, self.missing = field.shape, field.missing
        self.categorical = field.kind == "categorical"
        self.size = field.size * (2 if field.missing else 1)
        mean, scale = torch.zeros(field.size), torch.ones(field.size)
        if train is not None:
            x = train[field.name].reshape(len(train), -1).to(torch.get_default_dtype())
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
        if not self.missing:
            return (x - self.mean) / self.scale
        seen = x >= 0 if self.categorical else ~torch.isnan(x)
        standard = (torch.where(seen, x, self.mean) - self.mean) / self.scale
        return torch.cat([standard, seen.to(standard.dtype)], dim=-1)


class FieldEncoder(nn.Module):
    """Features of the observed fields of a row, for a guide: one input layer per field, then an MLP.

    Shapes: fields [B, *shape] -> features [B, F].

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
    ) -> None:
        super().__init__()
        self.inputs = nn.ModuleDict({f.name: field_input(f, train) for f in fields})
        width = sum(int(layer.size) for layer in self.inputs.values())  # type: ignore[arg-type, misc]
        self.size = hidden[-1] if hidden else width
        layers: list[nn.Module] = []
        for size in hidden:
            layers += _hidden_layer(width, size, activation)
            width = size
        self.layers = nn.Sequential(*layers)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Encode the fields that this encoder was built for."""
        return self.layers(concatenate([layer(batch[name]) for name, layer in self.inputs.items()]))
