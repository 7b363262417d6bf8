"""A regression with a latent for each row and noise that grows: three responses of a person to one dose.

    python examples/regression.py             # writes regression.csv into the current folder

A model may have any fields: the dose is only conditioned on, the responses are observed. The engine finds out which
is which, and the guide's encoder reads both.
"""

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

import ppl_vae
from ppl_vae.guides import MeanField
from ppl_vae.schedules import Cosine

FIELDS = {"dose": "dose", "response": ["r1", "r2", "r3"]}
TRUTH = {"intercept": 1.0, "slope": -0.5, "between": 0.8, "noise": 0.3, "growth": 0.6}


class Model(PyroModule):
    def __init__(self, intercept=0.0, slope=0.0, between=1.0, noise=1.0, growth=0.0):
        super().__init__()
        self.intercept = PyroParam(torch.tensor(intercept))
        self.slope = PyroParam(torch.tensor(slope))
        self.between = PyroParam(torch.tensor(between), constraint=constraints.positive)
        self.noise = PyroParam(torch.tensor(noise), constraint=constraints.positive)
        self.growth = PyroParam(torch.tensor(growth))

    def forward(self, dose, response=None):
        with pyro.plate("data", len(dose)):
            person = pyro.sample("person", dist.Normal(0.0, self.between))
            mean = (self.intercept + self.slope * dose + person).unsqueeze(-1) * torch.ones(3)
            scale = self.noise * (self.growth * dose).exp()
            return pyro.sample("response", dist.Normal(mean, scale.unsqueeze(-1)).to_event(1), obs=response)


def simulate(rows=1000, seed=0):
    pyro.set_rng_seed(seed)
    dose = 2 * torch.rand(rows)
    response = Model(**TRUTH)(dose).detach()
    return pd.DataFrame(torch.column_stack([dose, response]).numpy(), columns=["dose", "r1", "r2", "r3"])


def main(epochs=60):
    simulate().to_csv("regression.csv", index=False)
    data = ppl_vae.load("regression.csv", fields=FIELDS, test=0, validation=0)
    model = Model()
    guide = MeanField(model, data, hidden=(32,))
    ppl_vae.fit(model, guide, data, epochs=epochs, lr=Cosine(0.05, epochs), batch_size=100)
    found = {name: getattr(model, name).item() for name in TRUTH}
    print(pd.DataFrame({"simulated": TRUTH, "recovered": found}).round(2))
    return model, guide, data


if __name__ == "__main__":
    main()
