"""The density of what all rows share at chosen points, its highest point and its curvature there.

    log p(v, all data) + log |d value / d v|,   v in R^d,

where v has the rows' own continuous latents, too (discrete ones are summed out). A normal with the curvature of the
highest point is the Laplace approximation: where the posterior is near a normal, nothing starts better. Where the
density has no highest point, as in a hierarchy whose scale may go to 0, there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.autoguide.inversion import Block
from ppl_vae.autoguide.whitening import Given
from ppl_vae.data import WholeBatch
from ppl_vae.errors import UserError
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure
from ppl_vae.training._start_patience import Patience
from ppl_vae.weights.log_weights import weigh

__all__ = ["Density", "Endless", "LaplaceApproximation", "in_doubles", "laplace"]

ITERATIONS, SHRINK = 100, 14
"""Newton steps at most, and how often one is halved at most."""

HELD = 0.5
"""The deviation of what is held where it is, in unconstrained numbers."""

ASIDE = 1e-3
"""How far from a start the first step is taken."""

NATS = 1e-5
"""A Newton step that promises less than this is the last one."""


class LaplaceApproximation(NamedTuple):
    """A normal in the unconstrained numbers: its mean [d] and its covariance [d, d]."""

    mean: Tensor
    covariance: Tensor

    @property
    def narrowing(self) -> Tensor:
        """Deviation given all others over the deviation, [d]: how much too narrow independent normals are."""
        return (torch.linalg.inv(self.covariance).diagonal() * self.covariance.diagonal()).rsqrt()

    @property
    def correlation(self) -> Tensor:
        """[d, d]."""
        sd = self.covariance.diagonal().sqrt()
        return self.covariance / sd / sd[:, None]


class Density:
    """log p(v, all data) in nats at several v [k, D] at once: [k]; `scale` is N / B of the rows at hand.

    v are the numbers of the shared latents, then those of the rows' own continuous latents, if there are any.
    """

    def __init__(self, pair: Pair, structure: Structure, batch: Batch, scale: float = 1.0) -> None:
        self.pair, self.structure, self.batch, self.scale = pair, structure, batch, scale
        self.guide = cast(GeneratedGuide, pair.guide.program)
        self.widths = list(self.guide.shared.widths)
        self.own = [] if structure.is_one_unit else [b for b in self.guide.drawn if not self._classified(b)]
        self.rows = 0 if structure.is_one_unit else len(next(iter(batch.values())))
        self.width_of = [sum(self.guide.sites[n].width for n in block.sites) for block in self.own]
        self.widths += [width * self.rows for width in self.width_of]

    def _classified(self, block: Block) -> bool:
        return self.guide.sites[block.sites[0]].classified is not None

    @property
    def size(self) -> int:
        """How many numbers v has."""
        return sum(self.widths)

    @property
    def is_mixed(self) -> bool:
        """Whether rows have discrete latents beside continuous ones, steps or members: no density is made of these."""
        others = any(b.steps or b.each for b in self.guide.drawn)
        return others or (bool(self.own) and len(self.own) < len(self.guide.drawn))

    def __call__(self, vectors: Tensor) -> Tensor:
        if len(vectors) > 1 and not self.structure.broadcasts:
            return torch.cat([self(v) for v in vectors.split(1)])
        parts, shared = vectors.split(self.widths, 1), len(self.guide.shared.widths)
        batch_shape = (self.rows,) + (1,) * (-1 - self.structure.dim)

        def of_rows(place: int) -> Given:
            return Given(parts[shared + place].unflatten(1, (self.rows, self.width_of[place])), batch_shape)

        with self.guide.instead(lambda place: Given(parts[place]), of_rows if self.own else None):
            weights = weigh(self.pair, self.structure, self.batch, len(vectors), discrete="marginal")
        total = self.scale * weights.log_weight.sum(1)
        return total if weights.log_global is None else total + weights.log_global

    def derivatives(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value, gradient [d] and Hessian [d, d]: row i is the derivative of entry i of the i-th copy's gradient."""
        copies = v.detach().expand(len(v), -1).clone().requires_grad_()
        values = self(copies)
        (gradients,) = torch.autograd.grad(values.sum(), copies, create_graph=True)
        hessian = torch.zeros_like(gradients)
        if gradients.requires_grad:
            (hessian,) = torch.autograd.grad(gradients.diagonal().sum(), copies)
        return values[0].detach(), gradients[0].detach(), (hessian + hessian.T) / 2


@contextmanager
def in_doubles(batch: Batch) -> Iterator[Batch]:
    """The batch in double precision, and what a program makes anew, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = {n: v.double() if v.is_floating_point() else v for n, v in batch.items()}
        yield WholeBatch(found) if isinstance(batch, WholeBatch) else found
    finally:
        torch.set_default_dtype(before)


class Endless(ArithmeticError):
    """Newton's method has gone uphill for as long as it may, and has not arrived."""


def laplace(
    density: Density, start: Tensor, held: Tensor | None = None, patience: Patience | None = None
) -> LaplaceApproximation | None:
    """The normal at the highest point that Newton's method finds from a start [d]; None where it finds none.

    Entries that are `held` [d] stay at the start, with a deviation of HELD: the normal is that of the others given
    them. Negative curvature is taken by its size: every step goes uphill (Dauphin et al. 2014, arXiv 1406.2572).

    Raises:
        Endless: where it does not arrive in its iterations, or the patience is over.
    """
    try:
        return _newton(density, start, start > torch.inf if held is None else held, patience)
    except (
        UserError,
        RuntimeError,
        ValueError,
    ):  # a program that cannot be evaluated there, or has no second derivative
        return None


def _newton(density: Density, v: Tensor, held: Tensor, patience: Patience | None) -> LaplaceApproximation | None:
    exact = v.dtype == torch.float64
    # off the middle: at 0 formulas such as log(1 + exp(-|v|)) have no second derivative
    v = v + ASIDE * torch.linspace(-1, 1, len(v), dtype=v.dtype, device=v.device).sin() * ~held
    lengths = 0.5 ** torch.arange(-1, SHRINK, dtype=v.dtype, device=v.device)
    for _ in range(ITERATIONS if patience is None else patience.iterations(ITERATIONS)):
        if patience is not None and patience.is_over():
            break
        value, gradient, hessian = density.derivatives(v)
        if not bool(value.isfinite() & gradient.isfinite().all() & hessian.isfinite().all()):
            return None
        gradient = gradient.masked_fill(held, 0.0)
        hessian = hessian.masked_fill(held | held[:, None], 0.0) - torch.diag(held / HELD**2)
        curvature, axes = torch.linalg.eigh(-hessian)
        size = curvature.abs().clamp(min=1e-10 * float(curvature.abs().max()) + 1e-30)
        along = axes.T @ gradient
        step = axes @ (along / size)
        if float((along.square() / size).sum()) < (NATS if exact else 1e-2):
            if float(curvature.min()) <= 0:
                return None
            return LaplaceApproximation(v, (axes / size) @ axes.T)
        with torch.no_grad():
            values = density(v + lengths[:, None] * step)
        best = int(values.nan_to_num(-torch.inf, -torch.inf, -torch.inf).argmax())
        if not bool(values[best] > value):
            return None
        v = v + lengths[best] * step
    raise Endless
