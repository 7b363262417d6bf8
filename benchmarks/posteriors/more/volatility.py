"""A stochastic volatility of 100 steps (simulated after Kim, Shephard and Chib 1998)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "volatility"
ROWS = None


def data(d):
    return {"y": torch.tensor(d["y"])}


def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    phi = pyro.sample("phi", dist.Uniform(-1.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    z = pyro.sample("z", dist.Normal(torch.zeros(100), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(0.0, (_levels(mu, phi, sigma, z) / 2).exp()).to_event(1), obs=y)


def _levels(mu, phi, sigma, z):
    h = [sigma * z[..., 0] / (1 - phi**2).sqrt()]
    for t in range(1, 100):
        h.append(phi * h[-1] + sigma * z[..., t])
    return mu.unsqueeze(-1) + torch.stack(h, -1)


def frame(found, fields):
    mu, phi, sigma, z = (found[n] for n in ("mu", "phi", "sigma", "z"))
    return {"mu": mu, "phi": phi, "sigma": sigma, "h": _levels(mu, phi, sigma, z)}
