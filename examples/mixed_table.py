"""A table of real, count and binary columns with holes: one latent explains them all.

    python examples/mixed_table.py            # writes mixed_table.csv into the current folder

Columns become the fields that the model names; an empty cell is skipped by the likelihood and the encoder sees that
it is empty. The latent's sign is arbitrary, so it is turned until weight grows with it.
"""

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

import ppl_vae
from ppl_vae.guides import Spline
from ppl_vae.schedules import Cosine

FIELDS = {"body": ["weight", "pressure"], "visits": "visits", "smoker": "smoker"}
TRUTH = {
    "body_at": torch.tensor([0.5, -0.2]),
    "body_slope": torch.tensor([0.9, 0.6]),
    "body_noise": torch.tensor([0.5, 0.8]),
    "visits_at": torch.tensor(0.8),
    "visits_slope": torch.tensor(0.5),
    "smoker_at": torch.tensor(-0.5),
    "smoker_slope": torch.tensor(1.0),
}
START = {name: torch.full_like(value, 0.5) for name, value in TRUTH.items()}


class Model(PyroModule):
    def __init__(self, **values):
        super().__init__()
        for name, value in (START | values).items():
            setattr(self, name, PyroParam(value, constraints.positive if name.endswith("noise") else constraints.real))

    def forward(self, body=None, visits=None, smoker=None, n=1):
        with pyro.plate("data", n if body is None else len(body)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = self.body_at + z.unsqueeze(-1) * self.body_slope
            rate = (self.visits_at + self.visits_slope * z).exp()
            logit = self.smoker_at + self.smoker_slope * z
            return (
                pyro.sample("body", dist.Normal(mean, self.body_noise).to_event(1), obs=body),
                pyro.sample("visits", dist.Poisson(rate), obs=visits),
                pyro.sample("smoker", dist.Bernoulli(logits=logit), obs=smoker),
            )


def simulate(rows=1500, seed=0):
    pyro.set_rng_seed(seed)
    body, visits, smoker = Model(**TRUTH)(n=rows)
    table = torch.column_stack([body, visits, smoker]).detach()
    table[torch.rand(table.shape) < 0.2] = torch.nan
    return pd.DataFrame(table.numpy(), columns=["weight", "pressure", "visits", "smoker"])


def numbers(values):
    return {f"{n} {i or ''}": v for n, vs in values.items() for i, v in enumerate(vs.flatten().tolist())}


def main(epochs=60):
    simulate().to_csv("mixed_table.csv", index=False)
    data = ppl_vae.load("mixed_table.csv", fields=FIELDS, missing="allow", test=0, validation=0)
    model = Model()
    guide = Spline(model, data, hidden=(64,))
    ppl_vae.fit(model, guide, data, epochs=epochs, lr=Cosine(0.03, epochs), batch_size=150)
    sign = model.body_slope[0].detach().sign()
    found = {n: getattr(model, n).detach() * (sign if n.endswith("slope") else 1) for n in TRUTH}
    print(pd.DataFrame({"simulated": numbers(TRUTH), "recovered": numbers(found)}).round(2))
    return model, guide, data


if __name__ == "__main__":
    main()
