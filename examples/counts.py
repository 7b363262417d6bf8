"""Counts with a rate for each row: Gamma-Poisson, the model behind the negative binomial.

    python examples/counts.py                 # writes counts.csv into the current folder

The posterior of every rate is a Gamma, known in closed form, so the guide can be compared with it row by row.
"""

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

import ppl_vae
from ppl_vae.guides import Spline
from ppl_vae.prediction.coding import encode
from ppl_vae.schedules import Cosine

DAYS = 4
TRUTH = {"shape": 2.0, "rate": 0.5}


class Model(PyroModule):
    def __init__(self, shape=1.0, rate=1.0):
        super().__init__()
        self.shape = PyroParam(torch.tensor(shape), constraint=constraints.positive)
        self.rate = PyroParam(torch.tensor(rate), constraint=constraints.positive)

    def forward(self, x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            mean = pyro.sample("mean", dist.Gamma(self.shape, self.rate))
            days = mean.unsqueeze(-1) * torch.ones(DAYS)
            return pyro.sample("x", dist.Poisson(days).to_event(1), obs=x)


def simulate(rows=1000, seed=0):
    pyro.set_rng_seed(seed)
    x = Model(**TRUTH)(n=rows)
    return pd.DataFrame(x.int().numpy(), columns=[f"day{i}" for i in range(1, DAYS + 1)])


def main(epochs=40):
    simulate().to_csv("counts.csv", index=False)
    data = ppl_vae.load("counts.csv", test=0, validation=0)
    model = Model()
    guide = Spline(model, data, hidden=(64, 64))
    ppl_vae.fit(model, guide, data, epochs=epochs, lr=Cosine(0.01, epochs), batch_size=100)
    found = {name: getattr(model, name).item() for name in TRUTH}
    print(pd.DataFrame({"simulated": TRUTH, "recovered": found}).round(2))
    x = data.train["x"][:5]
    exact = (model.shape + x.sum(-1)) / (model.rate + DAYS)
    print("\nposterior means of five rows, exact and found")
    print(pd.DataFrame({"exact": exact.detach(), "found": encode(guide, {"x": x}, draws=2000)["mean"]}).round(2))
    return model, guide, data


if __name__ == "__main__":
    main()
