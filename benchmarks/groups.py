"""How near a generated guide comes to the exact evidence of a two-level normal model, with groups of unequal size.

    python benchmarks/groups.py --guide FullRank
    python benchmarks/groups.py --guide FullRank --visits     # a latent of every visit as well

u_g ~ N(0, 1), y_gi ~ N(u_g, 0.8); with --visits v_gi ~ N(u_g, 0.6), y_gi ~ N(v_gi, 0.53). Groups have 1 to 40 rows.
Reported is the gap, log p(y_g) - E[ELBO], in nats a group, for the groups that were trained on and for new ones.
"""

from __future__ import annotations

import argparse
import time

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

import ppl_vae
from ppl_vae import guides
from ppl_vae.bounds import ELBO
from ppl_vae.schedules import Cosine

GROUP, WITHIN, VISIT = 1.0, 0.8, 0.6


def model(y):
    """A row is a group, its visits are in a plate of their own."""
    with pyro.plate("groups", len(y), dim=-2):
        u = pyro.sample("u", dist.Normal(0.0, GROUP))
        with pyro.plate("visits", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(u, WITHIN), obs=y)


def with_visits(y):
    """As `model`, with a latent of every visit."""
    with pyro.plate("groups", len(y), dim=-2):
        u = pyro.sample("u", dist.Normal(0.0, GROUP))
        with pyro.plate("visits", y.shape[1], dim=-1), poutine.mask(mask=~torch.isnan(y)):
            v = pyro.sample("v", dist.Normal(u, VISIT))
            pyro.sample("y", dist.Normal(v, (WITHIN**2 - VISIT**2) ** 0.5), obs=y)


def simulated(groups: int, seed: int) -> pd.DataFrame:
    """A long table of groups of 1 to 40 rows."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.randint(1, 41, (groups,), generator=generator)
    count[0] = 40
    u = GROUP * torch.randn(groups, generator=generator)
    group = torch.arange(groups).repeat_interleave(count)
    y = u[group] + WITHIN * torch.randn(len(group), generator=generator)
    return pd.DataFrame({"patient": group.numpy(), "y": y.numpy()})


def evidence(y: Tensor) -> Tensor:
    """log p of each group, in float64, from n, the mean and the squares about it."""
    y = y.double()
    n = (~torch.isnan(y)).sum(1)
    mean = y.nanmean(1)
    squares = (y - mean.unsqueeze(1)).square().nansum(1)
    of_mean = dist.Normal(0.0, (GROUP**2 + WITHIN**2 / n).sqrt()).log_prob(mean)
    about = -0.5 * squares / WITHIN**2 - 0.5 * (n - 1) * torch.log(torch.tensor(2 * torch.pi * WITHIN**2)) - n.log() / 2
    return of_mean + about


def main() -> None:
    """Train a guide and print what came out."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--guide", default="FullRank")
    options.add_argument("--visits", action="store_true")
    options.add_argument("--groups", type=int, default=300)
    options.add_argument("--batch-size", type=int, default=50)
    options.add_argument("--epochs", type=int, default=200)
    options.add_argument("--lr", type=float, default=3e-3)
    options.add_argument("--particles", type=int, default=4)
    options.add_argument("--hidden", type=int, default=64)
    options.add_argument("--seed", type=int, default=0)
    o = options.parse_args()
    program = with_visits if o.visits else model
    torch.manual_seed(o.seed)
    data = ppl_vae.load(simulated(o.groups, o.seed), group="patient", validation=0, test=0)
    new = ppl_vae.load(simulated(300, o.seed + 1), group="patient", validation=0, test=0)
    guide = getattr(guides, o.guide)(program, data, hidden=(o.hidden,))
    begin = time.time()
    lr, bound = Cosine(o.lr, o.epochs), ELBO(o.particles, estimator="stl")
    ppl_vae.fit(
        program, guide, data, epochs=o.epochs, batch_size=o.batch_size, lr=lr, seed=o.seed, compile="off", bound=bound
    )
    said = []
    for name, rows in (("trained on", data.train), ("new", new.train)):
        found = ppl_vae.evaluate(program, guide, rows, particles=400, compile="off").elbo.double()
        gap = evidence(rows["y"]) - found
        said.append(f"{name} {float(gap.mean()):.4f} (se {float(gap.std() / len(gap) ** 0.5):.4f})")
    print(f"{o.guide}{' with visits' * o.visits}: gap {', '.join(said)} nats a group; {time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
