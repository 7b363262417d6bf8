"""Gaussian problems: one normal latent, probabilistic PCA (also with holes), a hierarchy with a global mean."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from cases.problem import F64, t

# -- one normal latent: z ~ N(0, 1), x ~ N(z, 1); log p(x) = log N(x; 0, 2), posterior N(x / 2, 1 / 2) ---------------


def normal_model(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def normal_evidence(x: Tensor) -> Tensor:
    return dist.Normal(t(0.0), math.sqrt(2.0)).log_prob(x)


def normal_posterior(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))


SLOPE, WIDTH = 0.4, 0.8


class NormalGuide(nn.Module):
    """q(z | x) = N(slope x, width^2), both parameters; the posterior has slope 1/2 and width sqrt(1/2)."""

    def __init__(self, slope=SLOPE, width=WIDTH):
        super().__init__()
        self.slope = nn.Parameter(t(slope))
        self.log_width = nn.Parameter(t(math.log(width)))

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, self.log_width.exp()))


# -- linear-Gaussian (probabilistic PCA) ---------------------------------------------------------------------

W = t([[1.0, 0.5, -0.3, 0.2], [0.1, -0.8, 0.6, 0.9]])  # [latent, entry]
SIGMA, OFFSET = 0.7, t([0.3, -0.2, 0.0, 0.5])
X = t([[0.5, -1.0, 0.2, 1.5], [2.0, 0.3, -0.7, 0.1], [-1.2, 1.1, 0.4, -0.6]])


def linear_gaussian(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W + OFFSET, SIGMA).to_event(1), obs=x)


PRECISION = torch.eye(2, dtype=F64) + W @ W.T / SIGMA**2
COVARIANCE = torch.linalg.inv(PRECISION)


def posterior_mean(x: Tensor) -> Tensor:
    return (x - OFFSET) @ W.T @ COVARIANCE / SIGMA**2


def linear_gaussian_exact(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(posterior_mean(x), COVARIANCE))


SCALES = t([0.9, 0.5])


def linear_gaussian_off(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * posterior_mean(x) + 0.1, SCALES).to_event(1))


def gaussian_evidence(x: Tensor) -> Tensor:
    covariance = W.T @ W + SIGMA**2 * torch.eye(4, dtype=F64)
    return dist.MultivariateNormal(OFFSET, covariance).log_prob(x)


def gaussian_elbo(x: Tensor, mean: Tensor, scales: Tensor) -> Tensor:
    """log evidence - KL(N(mean, diag) || posterior), the closed form of a mean-field ELBO."""
    gap = mean - posterior_mean(x)
    quadratic = torch.einsum("bi,ij,bj->b", gap, PRECISION, gap)
    trace = (PRECISION.diagonal() * scales**2).sum()
    log_det = torch.logdet(COVARIANCE) - 2 * scales.log().sum()
    return gaussian_evidence(x) - 0.5 * (trace + quadratic - len(scales) + log_det)


X_HOLES = torch.where(torch.tensor([[False, True, False, False], [False] * 4, [True, True, False, True]]), torch.nan, X)


def linear_gaussian_holes(x=None):
    mean = 0.5 * posterior_mean(torch.nan_to_num(x))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(mean, 0.8).to_event(1))


def gaussian_evidence_holes(x: Tensor) -> Tensor:
    covariance = W.T @ W + SIGMA**2 * torch.eye(4, dtype=F64)
    rows = []
    for row in x:
        seen = ~torch.isnan(row)
        rows.append(dist.MultivariateNormal(OFFSET[seen], covariance[seen][:, seen]).log_prob(row[seen]))
    return torch.stack(rows)


# -- latents shared by all rows: a normal hierarchy with a global mean ------------------------------------------

XH = t([0.5, -0.3, 1.2, 2.0, 0.1, -1.0, 0.7])
GLOBAL = {"loc": t(0.3), "scale": t(0.4), "slope": t(0.5), "width": t(0.8)}


def hierarchy(x=None):
    mean = pyro.sample("mean", dist.Normal(t(0.0), 2.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def hierarchy_guide(x=None):
    pyro.sample("mean", dist.Normal(GLOBAL["loc"], GLOBAL["scale"]))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(GLOBAL["slope"] * x, GLOBAL["width"]))


def hierarchy_evidence(x: Tensor) -> Tensor:
    """log p of all rows together."""
    covariance = 4.0 + torch.eye(len(x), dtype=F64) * 1.25
    return dist.MultivariateNormal(torch.zeros(len(x), dtype=F64), covariance).log_prob(x)


def hierarchy_elbo(x: Tensor) -> Tensor:
    """The ELBO of all rows in closed form."""
    m, s, a, v = (GLOBAL[k] for k in ("loc", "scale", "slope", "width"))
    half = 0.5 * math.log(2 * math.pi)
    shared = -half - math.log(2.0) - (m**2 + s**2) / 8 + half + s.log() + 0.5
    prior = -half - ((a * x - m) ** 2 + v**2 + s**2) / 2
    likelihood = -half - math.log(0.5) - ((x - a * x) ** 2 + v**2) / (2 * 0.25)
    entropy = half + v.log() + 0.5
    return shared + (prior + likelihood + entropy).sum()
