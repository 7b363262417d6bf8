"""Plain networks: linear maps with gates, multilayer perceptrons, and joining what broadcasts."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.errors import check_several, check_whole, unknown_name

__all__ = ["MLP", "Beside", "GatedLinear", "Mixer", "concatenate", "hidden_layer", "hidden_layers", "widths"]


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


class Beside(nn.Linear):
    """A linear map beside a network, which starts at 0; weight decay leaves it, and so pulls to a linear model.

    Example:
        >>> Beside(3, 2)(torch.ones(1, 3)).tolist()
        [[0.0, 0.0]]
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        nn.init.zeros_(self.weight)


class MLP(nn.Module):
    """A multilayer perceptron: hidden layers with an activation (or gates), then a linear map.

    Shapes: x [..., F] -> [..., outputs]; any number of leading dims, so that particles and enumerated
    values broadcast. `activation` is "gelu", "relu", "softplus", "tanh" or "gated". With `beside` a linear map of the
    inputs is added to what comes out.

    Raises:
        UserError: if the activation is unknown or a width is no whole number of at least 1.

    Example:
        >>> MLP(4, (8, 8), 3)(torch.zeros(7, 2, 4)).shape
        torch.Size([7, 2, 3])
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, activation: str = "gelu", *, beside: bool = False
    ) -> None:
        super().__init__()
        hidden = widths(hidden)
        self.layers = hidden_layers(inputs, hidden, activation)
        self.last = nn.Linear(hidden[-1] if hidden else inputs, check_whole("outputs", outputs))
        self.beside = Beside(inputs, outputs) if beside and hidden else None
        self.inputs = inputs

    @torch.no_grad()
    def begin_at(self, bias: Tensor, weight: Tensor) -> None:
        """Begin at bias + W x, with the network at 0 beside it; where a bias is NaN the network's own stays."""
        if self.beside is None and self.last.in_features != self.inputs:
            return
        self.last.weight.zero_()
        self.last.bias.copy_(torch.where(bias.isnan(), self.last.bias, bias.to(self.last.bias)))
        (self.last if self.beside is None else self.beside).weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Apply every layer."""
        found = self.last(self.layers(x))
        return found if self.beside is None else found + self.beside(x)

    def start_at(self, bias: Tensor) -> None:
        """Let the last layer start at these outputs."""
        with torch.no_grad():
            self.last.bias.copy_(bias)


_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def widths(hidden: Sequence[int] | int) -> tuple[int, ...]:
    """The widths of hidden layers, checked; one number is one layer.

    Raises:
        UserError: if they are not whole numbers of at least 1.

    Example:
        >>> widths(256), widths([64, 32])
        ((256,), (64, 32))
        >>> widths("wide")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: hidden expects the widths of hidden layers, such as (256,), got 'wide'
    """
    if isinstance(hidden, Integral) and not isinstance(hidden, bool):
        hidden = (int(hidden),)
    several = check_several("hidden", hidden, "the widths of hidden layers, such as (256,)")
    return tuple(check_whole("the width of a hidden layer", width) for width in several)


def hidden_layers(inputs: int, hidden: Sequence[int], activation: str) -> nn.Sequential:
    """Hidden layers one after another, each with its activation."""
    pairs = zip((inputs, *hidden), hidden, strict=False)
    return nn.Sequential(*(layer for sizes in pairs for layer in hidden_layer(*sizes, activation)))


def hidden_layer(inputs: int, outputs: int, activation: str) -> list[nn.Module]:
    """One hidden layer with its activation, or with gates."""
    if not isinstance(activation, str) or activation not in (*_ACTIVATIONS, "gated"):
        raise unknown_name("activation", activation, [*_ACTIVATIONS, "gated"])
    if activation == "gated":
        return [GatedLinear(inputs, outputs)]
    return [nn.Linear(inputs, outputs), _ACTIVATIONS[activation]()]


class Mixer(nn.Sequential):
    """A hidden layer of several inputs, as of their concatenation, which is not made where they broadcast.

    W [a, b] = U a + V b, and each product is as large as its own input: a label that is summed out over C values has
    C of them, a row has one, and only their sum is for all values of all rows.

    Shapes: parts [..., F1], [..., F2], ... -> [..., H], where the dims to the left broadcast.

    Example:
        >>> Mixer(6, 5, "gated")([torch.zeros(8, 2), torch.zeros(3, 1, 4)]).shape
        torch.Size([3, 8, 5])
    """

    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        super().__init__(*hidden_layer(inputs, outputs, activation))

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """The layer of all parts together."""
        first, *others = self
        if isinstance(first, GatedLinear):
            return F.glu(_linear(first.both, parts), dim=-1)
        h = _linear(first, parts)
        for layer in others:
            h = layer(h)
        return h


def _linear(layer: Any, parts: Sequence[Tensor]) -> Tensor:
    if all(part.shape[:-1] == parts[0].shape[:-1] for part in parts):
        return layer(concatenate(parts))
    weights = layer.weight.split([part.shape[-1] for part in parts], dim=1)
    # as concatenation would promote them: a label is written in the default dtype, whatever the network's is
    products = [F.linear(part.to(weight.dtype), weight) for part, weight in zip(parts, weights, strict=True)]
    smallest, *others = sorted(products, key=Tensor.numel)  # so that what is added first is small, too
    return functools.reduce(torch.add, others, smallest + layer.bias)


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
