"""The Sylvester-flow guide, with every parameter of every step a function of the row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.transforms.householder import ConditionedHouseholder
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.errors import unknown_name
from ppl_vae.nn.heads import DiagonalNormal, Flowing, LinearHeads

__all__ = ["Sylvester"]


class Sylvester(GeneratedGuide):
    """An amortized Sylvester flow: z <- z + Q R1 tanh(R2 Q' z + b), Q orthonormal, R1 and R2 upper triangular.

    Shapes: features [..., F], z [..., d], Q [..., d, m], R1 and R2 [..., m, m], b [..., m]. All of them depend on the
    row; m = d, but for the "orthogonal" basis, where m is the smaller of `rank` and d. A planar flow is m = 1.

    Args:
        basis: how Q is made: "householder" by reflections, "orthogonal" by a QR decomposition (exactly orthonormal, so
            that the density is exact), "triangular" by the identity and the reversal in turn.

    Raises:
        NoInverse: when log q of a value that it did not just draw is asked (STL, DReG on several sites).

    Source: van den Berg et al. 2018, arXiv 1803.05649.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> guide = Sylvester(VAE(data, latent_dim=4), flows=2, basis="orthogonal")
        >>> guide(x=data.test["x"][:5])["z"].shape
        torch.Size([5, 4])
    """

    flows: int = 4
    basis: str = "householder"
    rank: int = 8

    def family(self, features: int, size: int) -> nn.Module:
        """A diagonal normal, then steps whose parts are linear in the features."""
        if self.basis not in _BASES:
            raise unknown_name("basis", self.basis, _BASES)
        make, width = _BASES[self.basis], min(self.rank, size) if self.basis == "orthogonal" else size
        steps = [_Step(make(features, size, width, i), features, width) for i in range(self.flows)]
        return Flowing(DiagonalNormal(features, size, self.init_scale), steps)


class _Step(nn.Module):
    def __init__(self, basis: nn.Module, features: int, width: int) -> None:
        super().__init__()
        self.basis, self.calm = basis, width**-0.5  # as in the full-rank guide
        self.parts = LinearHeads(features, [(width, width), (width, width), (width,), (width,), (width,)], small=True)

    def forward(self, features: Tensor) -> Any:
        above1, above2, raw1, raw2, bias = self.parts(features)
        # |diag R1 diag R2| < 1 keeps 1 + tanh' diag R1 diag R2 positive: the map is one to one
        diagonal1, diagonal2 = (1 - 1e-4) * raw1.tanh(), (1 - 1e-4) * raw2.tanh()
        upper1 = self.calm * above1.triu(1) + torch.diag_embed(diagonal1)
        upper2 = self.calm * above2.triu(1) + torch.diag_embed(diagonal2)
        return _SylvesterTransform(self.basis(features), upper1, upper2, bias, diagonal1 * diagonal2)


class _SylvesterTransform(Transform):
    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, q: Tensor, upper1: Tensor, upper2: Tensor, bias: Tensor, diagonal: Tensor) -> None:
        super().__init__()
        self.q, self.upper1, self.upper2, self.bias, self.diagonal = q, upper1, upper2, bias, diagonal

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The map and log |det(I + diag(tanh') R2 R1)|, whose matrix is triangular."""
        inner = (self.upper2 @ (self.q.mT @ z.unsqueeze(-1))).squeeze(-1) + self.bias
        h = inner.tanh()
        moved = z + (self.q @ (self.upper1 @ h.unsqueeze(-1))).squeeze(-1)
        return moved, torch.log1p((1 - h.square()) * self.diagonal).sum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        raise NotImplementedError


class _Reflections(nn.Module):
    """Q as a product of d Householder reflections, applied to the columns of the identity."""

    def __init__(self, features: int, size: int, width: int, step: int) -> None:
        super().__init__()
        self.parts = LinearHeads(features, [(min(size, 8), 1, size)], small=True)
        self.start = nn.Parameter(torch.randn(min(size, 8), 1, size))  # as in the Householder guide

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.parts(features)[0] + self.start
        identity = torch.eye(vectors.shape[-1], dtype=vectors.dtype, device=vectors.device)
        return ConditionedHouseholder(vectors.movedim(-3, -2))(identity)


class _Orthogonal(nn.Module):
    """Q as the orthonormal part of a matrix [d, m]."""

    def __init__(self, features: int, size: int, width: int, step: int) -> None:
        super().__init__()
        self.parts = LinearHeads(features, [(size, width)], small=True)
        self.start = nn.Parameter(torch.linalg.qr(torch.randn(size, width))[0])

    def forward(self, features: Tensor) -> Tensor:
        return torch.linalg.qr(self.parts(features)[0] + self.start)[0]


class _Alternating(nn.Module):
    """Q as the identity, then the reversal of the entries, in turn."""

    def __init__(self, features: int, size: int, width: int, step: int) -> None:
        super().__init__()
        identity = torch.eye(size)
        self.register_buffer("q", identity if step % 2 == 0 else identity.flip(0), persistent=False)

    q: Tensor

    def forward(self, features: Tensor) -> Tensor:
        return self.q.to(features.dtype)


_BASES: dict[str, Callable[[int, int, int, int], nn.Module]] = {
    "householder": _Reflections,
    "orthogonal": _Orthogonal,
    "triangular": _Alternating,
}
