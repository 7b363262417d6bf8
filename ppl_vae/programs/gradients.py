"""Gradient estimators that treat the path through a draw apart from the guide's own density.

The reparameterised gradient of log w = log p(x, z) - log q(z | x) has two parts: through the draw z(phi), and
through q's parameters at a fixed z. The second has mean zero (ELBO) or can be turned into a path term (IWAE);
"stl" and "dreg" leave it out. A bound may also scale the path of every particle, with `PathScale`.
"""

from __future__ import annotations

from typing import Any, Literal

from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.programs.structure import Structure

__all__ = ["Estimator", "PathScale", "detached", "rescaled"]

Estimator = Literal["reparameterised", "stl", "dreg"]


class PathScale:
    """Multiplies the gradient that flows back into draws by a factor [particle, row], known after the weights."""

    def __init__(self, structure: Structure, particles: int) -> None:
        self.structure, self.particles = structure, particles
        self.factor: Tensor | None = None

    def attach(self, value: Tensor, event_dim: int) -> Tensor:
        """The same value, whose gradient will be scaled."""
        if not value.requires_grad:
            return value
        wrapped = value.view_as(value)
        wrapped.register_hook(lambda gradient: self._scale(gradient, event_dim))
        return wrapped

    def _scale(self, gradient: Tensor, event_dim: int) -> Tensor:
        if self.factor is None:
            return gradient
        factor = self.factor.reshape((self.particles,) + (1,) * (self.structure.nesting - 1) + (-1,))
        factor = factor.movedim(-1, self.structure.dim)
        if self.particles == 1:
            factor = factor.squeeze(0)
        return gradient * factor.reshape(factor.shape + (1,) * event_dim)


def _with_values(trace: Trace, change: Any) -> Trace:
    """A copy of a guide's trace with its drawn, reparameterised values changed."""
    copy = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"] or not isinstance(site["value"], Tensor):
            continue
        if site["infer"].get("_enumerate_dim") is None and site["value"].is_floating_point():
            copy.nodes[name] = site | {"value": change(site)}
    return copy


def detached(trace: Trace) -> Trace:
    """The trace with its draws cut off from the parameters that made them."""
    return _with_values(trace, lambda site: site["value"].detach())


def rescaled(trace: Trace, scale: PathScale) -> Trace:
    """The trace with its draws' gradients scaled."""
    return _with_values(trace, lambda site: scale.attach(site["value"], getattr(site["fn"], "event_dim", 0)))
