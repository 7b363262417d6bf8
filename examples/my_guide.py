"""A guide of your own: the posterior of examples/counts.py written by hand, with a Gamma instead of a flow.

ppl-vae fit examples/counts.py:Model --guide examples/my_guide.py:Guide --data counts.csv
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.prior_count = PyroParam(torch.tensor(1.0), constraint=constraints.positive)
        self.prior_days = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("mean", dist.Gamma(self.prior_count + x.sum(-1), self.prior_days + x.shape[-1]))
