"""pilots-pilots: recovery rates of pilots, two crossed groupings of the rows."""

import pyro
import pyro.distributions as dist
import torch

NAME = "pilots-pilots"


def data(d):
    group, scenario = (torch.tensor(d[name]) - 1 for name in ("group_id", "scenario_id"))
    return {"group": group, "scenario": scenario, "y": torch.tensor(d["y"]).float()}


def model(group, scenario, y=None):
    mu_a, mu_b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("mu_a", "mu_b"))
    sigma_a, sigma_b, sigma_y = (
        pyro.sample(name, dist.Uniform(0.0, 100.0)) for name in ("sigma_a", "sigma_b", "sigma_y")
    )
    with pyro.plate("groups", 5):
        a = pyro.sample("a", dist.Normal(10 * mu_a, sigma_a))
    with pyro.plate("scenarios", 8):
        b = pyro.sample("b", dist.Normal(10 * mu_b, sigma_b))
    with pyro.plate("data", len(group)):
        pyro.sample("y", dist.Normal(a[..., group] + b[..., scenario], sigma_y), obs=y)
