"""A mixture with a discrete label: three kinds of rows, named in one row of ten, and a size within each kind.

    python examples/mixture.py                # writes mixture.csv into the current folder

The label is a latent where it is missing and observed where it is there; the guide has a classifier for it. Nothing
is said about either: missing labels are summed out exactly.
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

KINDS = ["ash", "beech", "cedar"]
TRUTH = {
    "shares": torch.tensor([0.5, 0.3, 0.2]),
    "centres": torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]]),
    "growth": torch.tensor([0.8, 0.6]),
    "noise": torch.tensor(0.5),
}


class Model(PyroModule):
    def __init__(self, shares=None, centres=None, growth=None, noise=None):
        super().__init__()
        self.shares = PyroParam(torch.ones(3) / 3 if shares is None else shares, constraint=constraints.simplex)
        self.centres = PyroParam(torch.zeros(3, 2) if centres is None else centres)
        self.growth = PyroParam(torch.ones(2) if growth is None else growth)
        self.noise = PyroParam(torch.ones(()) if noise is None else noise, constraint=constraints.positive)

    def forward(self, x=None, y=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            y = pyro.sample("y", dist.Categorical(self.shares), obs=y)
            size = pyro.sample("size", dist.Normal(0.0, 1.0))
            mean = self.centres[y] + size.unsqueeze(-1) * self.growth
            return y, pyro.sample("x", dist.Normal(mean, self.noise).to_event(1), obs=x)


def simulate(rows=1500, seed=0):
    pyro.set_rng_seed(seed)
    y, x = Model(**TRUTH)(n=rows)
    table = pd.DataFrame(x.detach().numpy(), columns=["length", "width"])
    named = torch.rand(rows) < 0.1
    return table.assign(kind=[KINDS[k] if seen else None for k, seen in zip(y.tolist(), named.tolist(), strict=True)])


def numbers(values):
    return {f"{n} {i or ''}": v for n, vs in values.items() for i, v in enumerate(vs.flatten().tolist())}


def main(epochs=150):
    simulate().to_csv("mixture.csv", index=False)
    data = ppl_vae.load("mixture.csv", label="kind", missing="allow", test=0, validation=0)
    model = Model()
    guide = FullRank(model, data, hidden=(64,))
    ppl_vae.fit(model, guide, data, epochs=epochs, lr=Cosine(0.02, epochs), batch_size=150)
    found = {name: getattr(model, name).detach() for name in TRUTH}
    print(pd.DataFrame({"simulated": numbers(TRUTH), "recovered": numbers(found)}).round(2))
    return model, guide, data


if __name__ == "__main__":
    main()
