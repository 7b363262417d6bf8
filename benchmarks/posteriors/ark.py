"""arK-arK: an autoregression of order five, its lags as predictors of a row."""

import pyro
import pyro.distributions as dist
import torch

NAME = "arK-arK"


def data(d):
    y, k = torch.tensor(d["y"]), d["K"]
    return {"lags": torch.stack([y[k - i - 1 : len(y) - i - 1] for i in range(k)], 1), "r": y[k:]}


def model(lags, r=None):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(5), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("data", len(lags)):
        pyro.sample("r", dist.Normal(alpha + (lags * beta).sum(-1), sigma), obs=r)
