"""Problems with discrete latents: labels in all or some rows, with and without style; a chain; flags."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from cases.problem import F64, t

WEIGHTS, CENTRES = t([0.2, 0.3, 0.5]), t([-1.0, 0.4, 2.0])
XM = t([-0.6, 0.1, 1.9, 0.9, 3.0])
YM = torch.tensor([-1, 0, 2, -1, 1])


def mixture(x=None, y=None):
    with pyro.plate("rows", len(x)):
        y = pyro.sample("y", dist.Categorical(WEIGHTS), obs=y)
        pyro.sample("x", dist.Normal(CENTRES[y], 0.8), obs=x)


def mixture_classifier(x=None):
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Categorical(logits=torch.stack([-x, 0.3 * x, x], -1)))


def nothing(x=None):
    return None


def styled(x=None, y=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(WEIGHTS), obs=y)
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        pyro.sample("x", dist.Normal(z + CENTRES[y], 0.6), obs=x)


def styled_guide(x=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(logits=torch.stack([-x, 0.3 * x, x], -1)))
        pyro.sample("z", dist.Normal(0.6 * (x - CENTRES[y]), 0.6))


def styled_collapsed(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.3 * x, 1.0))


def labelled_evidence(x: Tensor, y: Tensor, scale: float) -> Tensor:
    joint = WEIGHTS.log() + dist.Normal(CENTRES, scale).log_prob(x.unsqueeze(-1))
    known = joint.gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(y >= 0, known, joint.logsumexp(-1))


UNLABELLED = torch.full_like(YM, -1)

# -- two discrete latents that depend on each other, one inside an inner plate of repeated measurements --------

TRANSITION = t([[0.7, 0.3], [0.2, 0.8]])


def chain(x=None):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Categorical(t([0.4, 0.6])))
        b = pyro.sample("b", dist.Categorical(TRANSITION[a]))
        pyro.sample("x", dist.Normal(CENTRES[b] + 0.5 * a, 1.0), obs=x)


def chain_guide(x=None):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Categorical(logits=torch.stack([-x, x], -1)))
        pyro.sample("b", dist.Categorical(logits=torch.stack(torch.broadcast_tensors(1.0 * a, 0.5 * x), -1)))


def chain_evidence(x: Tensor) -> Tensor:
    total = []
    for a in (0, 1):
        for b in (0, 1):
            prior = math.log((0.4, 0.6)[a]) + TRANSITION[a, b].log()
            total.append(prior + dist.Normal(CENTRES[b] + 0.5 * a, 1.0).log_prob(x))
    return torch.stack(total).logsumexp(0)


XR = t([[0.2, 1.4, -0.5], [1.0, 0.7, 2.2], [-1.0, -0.2, 0.3], [0.0, 0.1, 0.4]])


def repeated(x=None):
    """A latent z for each row, a discrete outlier flag for each of its measurements."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        with pyro.plate("measurement", 3, dim=-2):
            flag = pyro.sample("flag", dist.Bernoulli(t(0.2)))
            pyro.sample("x", dist.Normal(z, 0.5 + 2.0 * flag), obs=x.T)


def repeated_guide(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.7 * x.mean(-1), 0.6))


def repeated_evidence(x: Tensor) -> Tensor:
    """Sum over the flags of three measurements; z is then Gaussian."""
    total = []
    for flags in torch.cartesian_prod(*[t([0.0, 1.0])] * 3):
        covariance = torch.diag((0.5 + 2.0 * flags) ** 2) + 1.0
        log_prior = dist.Bernoulli(t(0.2)).log_prob(flags).sum()
        total.append(log_prior + dist.MultivariateNormal(torch.zeros(3, dtype=F64), covariance).log_prob(x))
    return torch.stack(total).logsumexp(0)
