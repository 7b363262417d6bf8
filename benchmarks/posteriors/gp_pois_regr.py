"""gp_pois_regr-gp_pois_regr: counts with the log rate of a Gaussian process, coupled across rows."""

import pyro
import pyro.distributions as dist
import torch

NAME = "gp_pois_regr-gp_pois_regr"
ROWS = None


def data(d):
    return {"x": torch.tensor(d["x"]).double(), "k": torch.tensor(d["k"]).float()}


def rates(x, rho, alpha, raw):
    rho, alpha = rho.double()[..., None, None], alpha.double()[..., None, None]
    covariance = alpha**2 * (-0.5 * ((x[:, None] - x) / rho) ** 2).exp() + 1e-10 * torch.eye(len(x)).double()
    return (torch.linalg.cholesky(covariance) @ raw.double()[..., None])[..., 0]


def model(x, k=None):
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    raw = pyro.sample("f_tilde", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
    pyro.sample("k", dist.Poisson(rates(x, rho, alpha, raw).exp().float()).to_event(1), obs=k)


def frame(found, fields):
    f = rates(fields["x"], found["rho"], found["alpha"], found["f_tilde"])
    return {"rho": found["rho"], "alpha": found["alpha"], "f": f}
