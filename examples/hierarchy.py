"""A hierarchy with positive scales: every row has a level and a noise of its own, seen in five measurements.

    python examples/hierarchy.py              # writes hierarchy.csv into the current folder

The noise of a row is a positive latent: the guide draws a real number and carries it there by itself. Its posterior
is skewed and depends on the level's, so a flow is asked for, in one word, and a bound that is tighter than the ELBO,
which would understate how much the noise varies.
"""

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

import ppl_vae
from ppl_vae.bounds import IWAE
from ppl_vae.guides import IAF
from ppl_vae.schedules import Cosine

TRUTH = {"mean": 2.0, "spread": 1.5, "typical": 0.7, "variation": 0.5}


class Model(PyroModule):
    def __init__(self, mean=0.0, spread=1.0, typical=1.0, variation=1.0):
        super().__init__()
        self.mean = PyroParam(torch.tensor(mean))
        self.spread = PyroParam(torch.tensor(spread), constraint=constraints.positive)
        self.typical = PyroParam(torch.tensor(typical), constraint=constraints.positive)
        self.variation = PyroParam(torch.tensor(variation), constraint=constraints.positive)

    def forward(self, x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            level = pyro.sample("level", dist.Normal(self.mean, self.spread))
            noise = pyro.sample("noise", dist.LogNormal(self.typical.log(), self.variation))
            five = level.unsqueeze(-1) * torch.ones(5)
            return pyro.sample("x", dist.Normal(five, noise.unsqueeze(-1)).to_event(1), obs=x)


def simulate(rows=1000, seed=0):
    pyro.set_rng_seed(seed)
    x = Model(**TRUTH)(n=rows)
    return pd.DataFrame(x.detach().numpy(), columns=[f"m{i}" for i in range(1, 6)])


def main(epochs=60):
    simulate().to_csv("hierarchy.csv", index=False)
    data = ppl_vae.load("hierarchy.csv", test=0, validation=0)
    model = Model()
    guide = IAF(model, data, hidden=(64,))
    ppl_vae.fit(model, guide, data, IWAE(8), epochs=epochs, lr=Cosine(0.02, epochs), batch_size=100)
    found = {name: getattr(model, name).item() for name in TRUTH}
    print(pd.DataFrame({"simulated": TRUTH, "recovered": found}).round(2))
    return model, guide, data


if __name__ == "__main__":
    main()
