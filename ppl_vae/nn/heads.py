"""What posterior families are made of: modules from features of a row to a distribution over R^d."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform
from torch.nn import functional as F

from ppl_vae.nn.flows import Flow

__all__ = [
    "Affine",
    "DiagonalNormal",
    "Flowing",
    "Inverse",
    "LinearHeads",
    "LowRankNormal",
    "StandardBase",
    "alternating",
    "is_normal",
    "positive",
]


def positive(raw: Tensor, start: float | Tensor = 1.0) -> Tensor:
    """softplus, shifted so that it is `start` at 0, and never 0, where log q would be infinite."""
    shift = start.expm1().log() if isinstance(start, Tensor) else math.log(math.expm1(start))
    return F.softplus(raw + shift) + torch.finfo(raw.dtype).eps


def is_normal(fn: Any) -> bool:
    """Whether a distribution over R^d is independent normals, which stay so when they are laid out anew."""
    return isinstance(fn, dist.Independent) and isinstance(fn.base_dist, dist.Normal)


class LinearHeads(nn.Module):
    """A linear map from features to several tensors: features [..., F] -> one [..., *shape] for each shape.

    With `small`, the map starts near zero, so that what it drives starts near the identity for every row.

    Example:
        >>> [p.shape for p in LinearHeads(3, [(2,), (4, 2)])(torch.zeros(5, 3))]
        [torch.Size([5, 2]), torch.Size([5, 4, 2])]
    """

    def __init__(self, features: int, shapes: Sequence[tuple[int, ...]], *, small: bool = False) -> None:
        super().__init__()
        self.shapes, self.sizes = list(shapes), [math.prod(s) for s in shapes]
        self.linear = nn.Linear(features, sum(self.sizes))
        with torch.no_grad():
            if not features:  # there is the bias alone, which torch makes 0: steps of flows would never leave it
                self.linear.bias.uniform_(-1, 1)
            if small or not features:
                for parameter in self.linear.parameters():
                    parameter.mul_(0.1)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Split the output and give every part its shape."""
        parts = self.linear(features).split(self.sizes, dim=-1)
        return tuple(p.reshape(p.shape[:-1] + s) for p, s in zip(parts, self.shapes, strict=True))


class DiagonalNormal(nn.Module):
    """Independent normals whose means and scales are linear in the features; scales start near `scale`.

    Shapes: features [..., F] -> batch shape [...], event shape [d].

    Example:
        >>> DiagonalNormal(3, 2)(torch.zeros(5, 3)).event_shape
        torch.Size([2])
    """

    def __init__(self, features: int, size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * size)
        self.scale = scale

    def forward(self, features: Tensor) -> Any:
        """N(m(h), diag s(h)^2)."""
        loc, raw = self.linear(features).chunk(2, dim=-1)
        return dist.Normal(loc, positive(raw, self.scale)).to_event(1)


class LowRankNormal(nn.Module):
    """N(m, V V' + diag s^2) with mean, directions and scales linear in the features; scales start near `scale`.

    Shapes: features [..., F] -> batch shape [...], event shape [d]. V [..., d, rank].

    Example:
        >>> LowRankNormal(3, 4, rank=2)(torch.zeros(5, 3)).cov_factor.shape
        torch.Size([5, 4, 2])
    """

    def __init__(self, features: int, size: int, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        self.parts = LinearHeads(features, [(size,), (size,), (size, rank)], small=True)
        self.scale = scale

    def forward(self, features: Tensor) -> Any:
        """The normal of some rows."""
        loc, raw, directions = self.parts(features)
        return dist.LowRankMultivariateNormal(loc, directions, positive(raw, self.scale).square())


class Flowing(nn.Module):
    """An amortized flow: a diagonal normal of the features, carried through transforms of the features.

    Args:
        base: module from features to a distribution over R^d.
        steps: modules from features to a transform of R^d; a plain transform is one that no row changes.
    """

    def __init__(self, base: nn.Module, steps: Iterable[nn.Module]) -> None:
        super().__init__()
        self.base = base
        self.steps = nn.ModuleList(steps)
        for phi in (p for step in self.steps if _is_fixed(step) for p in step.parameters()):
            nn.init.zeros_(phi)  # the identity, where zuko starts with a random transform

    def forward(self, features: Tensor) -> Flow:
        """The flow of some rows."""
        return Flow(self.base(features), [step(None if _is_fixed(step) else features) for step in self.steps])


def _is_fixed(step: nn.Module) -> bool:
    """Whether it is zuko's transform of a single number without features, which takes none."""
    return isinstance(getattr(getattr(step, "step", step), "phi", None), nn.ParameterList)


class Inverse(nn.Module):
    """A step of a flow, run backwards."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, features: Tensor | None) -> Any:
        """The inverse of the step's transform."""
        return self.step(features).inv


class StandardBase(nn.Module):
    """N(0, I) for every row: the base of flows that bring location and scale last. Shapes: [..., F] -> event [d]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Tensor) -> Any:
        """A standard normal with the batch shape and dtype of the features."""
        zero = features.new_zeros(features.shape[:-1] + (self.size,))
        return dist.Normal(zero, torch.ones_like(zero)).to_event(1)


class Affine(nn.Module):
    """Location and scale, linear in the features, as a step of a flow."""

    def __init__(self, features: int, size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.normal = DiagonalNormal(features, size, scale)

    def forward(self, features: Tensor) -> Any:
        """x -> m(h) + s(h) x."""
        normal = self.normal(features).base_dist
        return AffineTransform(normal.loc, normal.scale, event_dim=1)


def alternating(size: int, flows: int) -> list[Tensor]:
    """Orders of the entries for autoregressive steps, forwards and backwards in turn."""
    return [torch.arange(size) if i % 2 == 0 else torch.arange(size).flip(0) for i in range(flows)]
