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
from ppl_vae.nn.networks import Beside

__all__ = [
    "Affine",
    "DiagonalNormal",
    "Flowing",
    "Inverse",
    "LinearHeads",
    "LowRankNormal",
    "NormalHead",
    "StandardBase",
    "alternating",
    "is_normal",
    "positive",
]


def positive(raw: Tensor, start: float | Tensor = 1.0) -> Tensor:
    """softplus, shifted so that it is `start` at 0, and never 0, where log q would be infinite."""
    shift = start.expm1().log() if isinstance(start, Tensor) else _before_softplus(start)
    return F.softplus(raw + shift) + torch.finfo(raw.dtype).eps


def _before_softplus(value: float) -> float:
    return math.log(math.expm1(value)) if value < 30 else value  # where the two are equal


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


class NormalHead(nn.Module):
    """A normal whose means and raw scales are the first 2 d outputs of one linear map of the features.

    With `set_beside` the last so many features have a further map to both, which weight decay leaves alone.
    """

    size: int
    scale: float

    def __init__(self) -> None:
        super().__init__()
        self.beside: Beside | None = None

    @property
    def outputs(self) -> nn.Linear:
        """The linear map."""
        raise NotImplementedError

    def set_beside(self, features: int) -> None:
        """Add a linear map from the last so many features to means and raw scales."""
        self.beside = Beside(features, 2 * self.size)

    @torch.no_grad()
    def start_at(self, inputs: Tensor, codes: Tensor, spread: Tensor) -> bool:
        """Start at these means and deviations [n, d] of rows with inputs [n, F], as far as they are linear in them."""
        linear = self.outputs
        if self.beside is None and linear.in_features != inputs.shape[1]:
            return False
        x = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=-1).double()
        ridge = 1e-4 * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        means = torch.linalg.solve(x.T @ x + ridge, x.T @ codes.double())
        left = (codes.double() - x @ means).square().mean(0)
        scale = (spread.double().square() + left).sqrt()
        raw = scale + torch.log(-torch.expm1(-scale)) - _before_softplus(self.scale)
        found = torch.cat([means, torch.linalg.solve(x.T @ x + ridge, x.T @ raw)], 1)
        linear.weight.zero_()
        linear.bias.zero_()
        place = linear.weight[: 2 * self.size] if self.beside is None else self.beside.weight
        place.copy_(found[:-1].T)
        linear.bias[: 2 * self.size] = found[-1].to(linear.bias)
        return True

    def joined(self, loc: Tensor, raw: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Means and raw scales, with what the map beside adds."""
        if self.beside is None:
            return loc, raw
        more = self.beside(features[..., -self.beside.in_features :])
        return loc + more[..., : self.size], raw + more[..., self.size :]


class DiagonalNormal(NormalHead):
    """Independent normals whose means and scales are linear in the features; scales start near `scale`.

    Shapes: features [..., F] -> batch shape [...], event shape [d].

    Example:
        >>> DiagonalNormal(3, 2)(torch.zeros(5, 3)).event_shape
        torch.Size([2])
    """

    def __init__(self, features: int, size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * size)
        self.scale, self.size = scale, size

    @property
    def outputs(self) -> nn.Linear:
        """Means, then raw scales."""
        return self.linear

    def forward(self, features: Tensor) -> Any:
        """N(m(h), diag s(h)^2)."""
        loc, raw = self.linear(features).chunk(2, dim=-1)
        loc, raw = self.joined(loc, raw, features)
        return dist.Normal(loc, positive(raw, self.scale)).to_event(1)


class LowRankNormal(NormalHead):
    """N(m, V V' + diag s^2) with mean, directions and scales linear in the features; scales start near `scale`.

    Shapes: features [..., F] -> batch shape [...], event shape [d]. V [..., d, rank].

    Example:
        >>> LowRankNormal(3, 4, rank=2)(torch.zeros(5, 3)).cov_factor.shape
        torch.Size([5, 4, 2])
    """

    def __init__(self, features: int, size: int, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        self.parts = LinearHeads(features, [(size,), (size,), (size, rank)], small=True)
        self.scale, self.size = scale, size

    @property
    def outputs(self) -> nn.Linear:
        """Means, raw scales, then directions."""
        return self.parts.linear

    def forward(self, features: Tensor) -> Any:
        """The normal of some rows."""
        loc, raw, directions = self.parts(features)
        loc, raw = self.joined(loc, raw, features)
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
