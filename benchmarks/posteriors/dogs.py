"""dogs-dogs_nonhierarchical: thirty dogs learn to avoid a shock, each with two rates."""

import pyro
import pyro.distributions as dist
import torch

NAME = "dogs-dogs_nonhierarchical"


def data(d):
    return {"y": torch.tensor(d["y"]).float()}


def model(y):
    shocks = y.cumsum(-1) - y
    avoided = torch.arange(y.shape[-1]) - shocks
    mu = pyro.sample("mu", dist.TransformedDistribution(dist.Uniform(torch.zeros(2), 1.0), LOGIT).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(torch.ones(2)).to_event(1))
    factor = pyro.sample("L", dist.LKJCholesky(2, 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        log_a, log_b = _log_rates(mu, scale, factor, z).unbind(-1)
        p = (shocks * log_a[..., None] + avoided * log_b[..., None]).exp().clamp(1e-6, 1 - 1e-6)
        pyro.sample("y", dist.Bernoulli(p).to_event(1), obs=y)


def _log_rates(mu, scale, factor, z):
    return torch.nn.functional.logsigmoid(mu + scale * (factor @ z[..., None])[..., 0])


LOGIT = torch.distributions.transforms.SigmoidTransform().inv
