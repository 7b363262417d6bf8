"""Distributions of the generated programs; in the guide their draws are a function of given noise.

So every number that is computed from a guide's draws is determined, and two ways of weighing them agree to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine import runtime
from pyro.poutine.indep_messenger import IndepMessenger
from torch import Tensor

__all__ = ["F64", "FAMILIES", "PLATES", "Noise"]

F64 = torch.float64
PLATES = ("data", "more", "a", "b")
"""Names of the plates that programs have; one of another name is the engine's, for particles."""


class Noise:
    """Noise [particle, plates..., event...] of one site, standard normal or, for a discrete site, uniform."""

    def __init__(self, values: Tensor, depth: int) -> None:
        self.values, self.depth = values, depth

    def over(self, batch: tuple[int, ...]) -> Tensor:
        """That of this run's particles, at the dim at which they are; of the first one, where there is no such dim."""
        around = [m for m in runtime._PYRO_STACK if isinstance(m, IndepMessenger) and m.name not in PLATES]
        values = self.values
        if around:
            left = -around[0].dim - 1  # the number of dims to the right of the particles
            values = values[: around[0].size]
            plates, event = values.shape[1 : 1 + self.depth], values.shape[1 + self.depth :]
            plates = (1,) * (left - self.depth) + plates[max(self.depth - left, 0) :]
            values = values.reshape(len(values), *plates, *event)
        else:
            values = values[0]
        while values.dim() > len(batch):
            values = values[0]
        return values


def _drawn_by(base: type, rule: Callable[[Any, Tensor, tuple[int, ...]], Tensor]) -> type:
    class Scripted(base):  # type: ignore[misc, valid-type]
        noise: Noise

        def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
            new = super().expand(batch_shape)
            new.__class__, new.noise = type(self), self.noise
            return new

        def rsample(self, sample_shape: Any = ()) -> Tensor:
            batch = tuple(self.batch_shape)
            return rule(self, self.noise.over(batch), batch)

        def sample(self, sample_shape: Any = ()) -> Tensor:
            return self.rsample(sample_shape).detach()

    Scripted.__name__ = base.__name__
    return Scripted


def _by_inverse(fn: Any, noise: Tensor, batch: tuple[int, ...]) -> Tensor:
    """The value of a finite set at which the distribution function passes the noise."""
    values = fn.enumerate_support(expand=False)
    probs = torch.stack([fn.log_prob(v.expand(batch + fn.event_shape)).exp() for v in values])
    index = (noise.expand(batch) > probs.cumsum(0)[:-1]).sum(0)
    return values.reshape((len(values),) + fn.event_shape)[index]


SCRIPTED = {
    "Normal": _drawn_by(dist.Normal, lambda fn, noise, batch: (fn.loc + fn.scale * noise).expand(batch)),
    **{
        name: _drawn_by(getattr(dist, name), _by_inverse)
        for name in ("Categorical", "Bernoulli", "Binomial", "OneHotCategorical")
    },
}


def _new(name: str, noise: Noise | None, *args: Any, **kwargs: Any) -> Any:
    if noise is None:
        return getattr(dist, name)(*args, **kwargs)
    fn = SCRIPTED[name](*args, **kwargs)
    fn.noise = noise
    return fn


def _real(eta: Any) -> Tensor:
    return torch.as_tensor(eta, dtype=F64)


def _logits(eta: Any) -> Tensor:
    return _real(eta)[..., None] * torch.tensor([1.0, 0.3, -0.7], dtype=F64) + torch.tensor([0.0, 0.5, 0.4], dtype=F64)


def _vector(eta: Any, noise: Noise | None = None) -> Any:
    return _new("Normal", noise, _real(eta)[..., None] * torch.tensor([1.0, 0.6], dtype=F64), 0.8).to_event(1)


def _carried(eta: Any, noise: Noise, transform: Any) -> Any:
    return dist.TransformedDistribution(_new("Normal", noise, _real(eta), 0.7), [transform])


def _flat() -> Any:
    return dist.ImproperUniform(dist.constraints.real, (), ())


def _gamma(eta: Any, noise: Noise | None = None) -> Any:
    if noise is not None:
        return _carried(eta, noise, dist.transforms.ExpTransform())
    return dist.Gamma(1.5 + torch.exp(0.3 * _real(eta)), 1.2)


def _beta(eta: Any, noise: Noise | None = None) -> Any:
    if noise is not None:
        return _carried(eta, noise, dist.transforms.SigmoidTransform())
    return dist.Beta(1.5 + torch.exp(0.3 * _real(eta)), 1.7)


FAMILIES: dict[str, Callable[..., Any]] = {
    "Normal": lambda eta, noise=None: _new("Normal", noise, _real(eta), 0.8),
    "Flat": lambda eta, noise=None: _flat() if noise is None else _new("Normal", noise, _real(eta), 0.8),
    "Factor": lambda eta: -0.1 * _real(eta).square(),
    "Vector": _vector,
    "Gamma": _gamma,
    "Beta": _beta,
    "Categorical": lambda eta, noise=None: _new("Categorical", noise, logits=_logits(eta)),
    "OneHotCategorical": lambda eta, noise=None: _new("OneHotCategorical", noise, logits=_logits(eta)),
    "Bernoulli": lambda eta, noise=None: _new("Bernoulli", noise, logits=_real(eta)),
    "Binomial": lambda eta, noise=None: _new("Binomial", noise, 2, logits=_real(eta)),
}
"""What a kind of site is drawn from, given a linear predictor; in the guide with noise."""
