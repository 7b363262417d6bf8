"""Hamiltonian Monte Carlo for many chains of many rows at once, and step sizes that are right for each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["TARGET", "Density", "Transition", "next_step_size", "transition"]

TARGET = 0.7
"""The share of moves that is best accepted: 0.65 in many dimensions (Beskos et al. 2013), more in few."""

JITTER = 0.2
"""Step sizes vary by this share from move to move: a trajectory of one length may be a period of the posterior."""

GAIN, LARGEST = 0.5, 10.0

Density = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""From u [chain, row, d] and b to log f_0 and log f_1 [chain, row], and the gradient of their mixture by b in u."""


class Transition(NamedTuple):
    """Where chains are after a transition, both log densities there, and the probabilities of the moves."""

    u: Float[Tensor, "chain row d"]
    start: Float[Tensor, "chain row"]
    target: Float[Tensor, "chain row"]
    acceptance: Float[Tensor, "chain row"]


def transition(density: Density, u: Tensor, b: Tensor, size: Tensor, scale: Tensor, steps: int) -> Transition:
    """One move of Hamiltonian Monte Carlo that leaves f_0^(1 - b) f_1^b as it is, and is its own reverse.

    Momenta are drawn anew, `steps` leapfrog steps of `size` [row] in units of `scale` [row, d] follow, and the end is
    accepted with probability min(1, exp(-change of energy)); an end whose energy is not a number is not.

    Source: Neal 2011, arXiv 1206.1901.

    Example:
        >>> normal = lambda u, b: (u[..., 0] * 0, -u.square().sum(-1) / 2, -b * u)
        >>> u, one = torch.zeros(1000, 1, 2), torch.ones(())
        >>> for _ in range(10):
        ...     u = transition(normal, u, one, torch.ones(1), torch.ones(1, 2), steps=4).u
        >>> bool((u.var(0) - 1).abs().max() < 0.2)
        True
    """
    momentum = torch.randn_like(u)
    jitter = 1 + JITTER * (2 * torch.rand_like(u[..., 0]) - 1)
    threshold = torch.rand_like(u[..., 0]).log()
    stride = (size * jitter).unsqueeze(-1) * scale
    start, target, gradient = density(u, b)
    here, before = u, _energy(start, target, b, momentum)
    ends = start, target
    momentum = momentum + stride * gradient / 2
    for step in range(steps):
        u = u + stride * momentum
        start, target, gradient = density(u, b)
        momentum = momentum + stride * gradient / (1 if step + 1 < steps else 2)
    change = before - _energy(start, target, b, momentum)
    accept = threshold < change
    return Transition(
        torch.where(accept.unsqueeze(-1), u, here),
        torch.where(accept, start, ends[0]),
        torch.where(accept, target, ends[1]),
        change.clamp(max=0).exp().nan_to_num(0.0),
    )


def _energy(start: Tensor, target: Tensor, b: Tensor, momentum: Tensor) -> Tensor:
    return momentum.square().sum(-1) / 2 - ((1 - b) * start + b * target)


def next_step_size(size: Tensor, acceptance: Tensor) -> Tensor:
    """The step size [row] after moves with these probabilities [chain, row]: larger if more than TARGET are accepted.

    Example:
        >>> next_step_size(torch.ones(1), torch.tensor([[1.0]])) > 1
        tensor([True])
    """
    return (size * (GAIN * (acceptance.mean(0) - TARGET)).exp()).clamp(max=LARGEST)
