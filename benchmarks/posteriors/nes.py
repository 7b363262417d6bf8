"""nes1980-nes: party identification by ideology, race, age, education, sex and income, flat priors."""

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

NAME = "nes1980-nes"


def data(d):
    t = {name: torch.tensor(values).float() for name, values in d.items() if name != "N"}
    ages = [(t["age_discrete"] == k).float() for k in (2, 3, 4)]
    one = torch.ones_like(t["gender"])
    columns = [one, t["real_ideo"], t["race_adj"], *ages, t["educ1"], t["gender"], t["income"]]
    return {"a": torch.stack(columns, 1), "r": t["partyid7"]}


def model(a, r=None):
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (9,)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("data", len(a)):
        pyro.sample("r", dist.Normal((a * beta).sum(-1), sigma), obs=r)
