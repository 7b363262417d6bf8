"""Thirty binary outcomes along a line: a Gaussian process with its length and height (simulated)."""

import pyro
import pyro.distributions as dist
import torch

NAME = "gp_class"
ROWS = None


def data(d):
    return {"x": torch.tensor(d["x"]), "y": torch.tensor(d["y"]).float()}


def model(x, y=None):
    rho = pyro.sample("rho", dist.InverseGamma(5.0, 5.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(3.0))
    z = pyro.sample("z", dist.Normal(torch.zeros(30), 1.0).to_event(1))
    pyro.sample("y", dist.Bernoulli(logits=_f(x, rho, alpha, z)).to_event(1), obs=y)


def _f(x, rho, alpha, z):
    apart = (x[:, None] - x) / rho[..., None, None]
    k = alpha[..., None, None] ** 2 * torch.exp(-(apart**2) / 2) + 1e-4 * torch.eye(30)
    return (torch.linalg.cholesky(k) @ z.unsqueeze(-1)).squeeze(-1)


def frame(found, fields):
    f = _f(fields["x"].double(), *(found[n].double() for n in ("rho", "alpha", "z")))
    return {"rho": found["rho"], "alpha": found["alpha"], "f": f}
