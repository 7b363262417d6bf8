"""Rows that belong together: a chain of steps, groups of members; their rows and exact evidence."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from cases.problem import F64

STEPS, SLOPE, SPREAD, NOISE = 5, 0.8, 0.6, 0.7
MEMBERS, BETWEEN, WITHIN, ERROR = 4, 1.0, 0.5, 0.8


def _rows(count: int, entries: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(1, entries + 1, (count,), generator=generator)
    length[0], length[1] = entries, 1
    return torch.randn(count, entries, dtype=F64, generator=generator), length


XL, LENGTH = _rows(6, STEPS, 0)
XG, _count = _rows(6, MEMBERS, 1)
XG[torch.arange(MEMBERS) >= _count.unsqueeze(1)] = torch.nan


def series(x=None, length=None):
    """A linear-Gaussian chain, masked after a row's last step."""
    with pyro.plate("data", len(x)):
        z = x.new_zeros(len(x))
        for t in range(x.shape[-1]):
            with poutine.mask(mask=t < length):
                z = pyro.sample(f"z{t}", dist.Normal(SLOPE * z, SPREAD))
                pyro.sample(f"x{t}", dist.Normal(z, NOISE), obs=x[..., t])


def series_guide(x=None, length=None):
    with pyro.plate("data", len(x)):
        for t in range(x.shape[-1]):
            with poutine.mask(mask=t < length):
                pyro.sample(f"z{t}", dist.Normal(0.4 * x[..., t], 0.6))


def series_evidence(x: Tensor, length: Tensor) -> Tensor:
    """By the covariance of the observed steps of each row."""
    ahead = torch.eye(STEPS, dtype=F64) - SLOPE * torch.diag(torch.ones(STEPS - 1, dtype=F64), -1)
    states = SPREAD**2 * torch.linalg.inv(ahead.T @ ahead)
    covariance = states + NOISE**2 * torch.eye(STEPS, dtype=F64)
    return torch.stack([_normal(row[:n], covariance[:n, :n]) for row, n in zip(x, length.tolist(), strict=True)])


def groups(x=None):
    """A level of each group, a latent of each member, one measurement of it; members that are not there are masked."""
    with pyro.plate("data", len(x), dim=-2):
        level = pyro.sample("level", dist.Normal(torch.zeros((), dtype=F64), BETWEEN))
        with pyro.plate("members", x.shape[-1], dim=-1), poutine.mask(mask=~torch.isnan(x)):
            member = pyro.sample("member", dist.Normal(level, WITHIN))
            pyro.sample("x", dist.Normal(member, ERROR), obs=x)


def groups_guide(x=None):
    seen = ~torch.isnan(x)
    filled = torch.where(seen, x, 0.0)
    with pyro.plate("data", len(x), dim=-2):
        mean = filled.sum(-1, keepdim=True) / (1 + seen.sum(-1, keepdim=True))
        level = pyro.sample("level", dist.Normal(mean, 0.6))
        with pyro.plate("members", x.shape[-1], dim=-1), poutine.mask(mask=seen):
            pyro.sample("member", dist.Normal(0.7 * level + 0.3 * filled, 0.5))


def groups_evidence(x: Tensor) -> Tensor:
    """By the covariance of the members that are there."""
    found = []
    for row in x:
        there = row[~torch.isnan(row)]
        n = len(there)
        covariance = BETWEEN**2 * torch.ones(n, n, dtype=F64) + (WITHIN**2 + ERROR**2) * torch.eye(n, dtype=F64)
        found.append(_normal(there, covariance))
    return torch.stack(found)


def _normal(x: Tensor, covariance: Tensor) -> Tensor:
    return dist.MultivariateNormal(torch.zeros_like(x), covariance).log_prob(x)
