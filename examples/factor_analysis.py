"""Factor analysis: six columns that share two factors, with noise of their own.

    python examples/factor_analysis.py        # writes factor_analysis.csv into the current folder

Factors may be turned without changing the data, so what is compared is what no rotation changes: the variance of a
column that the factors explain, and its noise.
"""

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

import ppl_vae
from ppl_vae.guides import FullRank
from ppl_vae.schedules import Cosine

TRUTH = {
    "loadings": torch.tensor([[0.9, 0.8, 0.7, 0.0, 0.0, 0.4], [0.0, 0.0, 0.3, 0.8, 0.9, 0.5]]),
    "offset": torch.tensor([1.0, -1.0, 0.0, 2.0, 0.5, 0.0]),
    "noise": torch.tensor([0.5, 0.6, 0.7, 0.6, 0.5, 0.8]),
}


class Model(PyroModule):
    def __init__(self, loadings=None, offset=None, noise=None):
        super().__init__()
        self.loadings = PyroParam(0.3 * torch.randn(2, 6) if loadings is None else loadings)
        self.offset = PyroParam(torch.zeros(6) if offset is None else offset)
        self.noise = PyroParam(torch.ones(6) if noise is None else noise, constraint=constraints.positive)

    def forward(self, x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = self.offset + z @ self.loadings
            return pyro.sample("x", dist.Normal(mean, self.noise).to_event(1), obs=x)


def simulate(rows=1500, seed=0):
    pyro.set_rng_seed(seed)
    x = Model(**TRUTH)(n=rows)
    return pd.DataFrame(x.detach().numpy(), columns=[f"c{i}" for i in range(1, 7)])


def unturned(loadings, noise, offset=None):
    values = {"shared variance": loadings.detach().square().sum(0), "noise": noise.detach()}
    return {f"{name} of c{i + 1}": v for name, vs in values.items() for i, v in enumerate(vs.tolist())}


def main(epochs=60):
    simulate().to_csv("factor_analysis.csv", index=False)
    data = ppl_vae.load("factor_analysis.csv", test=0, validation=0)
    model = Model()
    guide = FullRank(model, data, hidden=())  # the posterior mean is linear in x: no hidden layer is needed
    ppl_vae.fit(model, guide, data, epochs=epochs, lr=Cosine(0.03, epochs), batch_size=150)
    print(pd.DataFrame({"simulated": unturned(**TRUTH), "recovered": unturned(model.loadings, model.noise)}).round(2))
    return model, guide, data


if __name__ == "__main__":
    main()
