"""How near a generated guide comes to the exact evidence of a linear-Gaussian state space, with rows of unequal length.

    python benchmarks/sequences.py --guide FullRank --steps 100
    python benchmarks/sequences.py --guide FullRank --steps 100 --short 25    # begin with a guide of shorter series


z_t = 0.9 z_{t-1} + 0.5 e_t, x_t = z_t + d_t. The evidence of a row is that of the Kalman filter. Reported are the gap
per observed step, log p(x) - E[ELBO], the number of parameters of the guide, and the seconds of an epoch.
"""

from __future__ import annotations

import argparse
import math
import time

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

import ppl_vae
from ppl_vae import guides
from ppl_vae.schedules import Cosine

SLOPE, SPREAD, NOISE = 0.9, 0.5, 1.0


def model(x, length):
    """A row is a series of `length` steps; what comes after is masked."""
    with pyro.plate("data", len(x)):
        z = x.new_zeros(len(x))
        for t in pyro.markov(range(x.shape[1])):
            with poutine.mask(mask=t < length):
                z = pyro.sample(f"z_{t}", dist.Normal(SLOPE * z, SPREAD))
                pyro.sample(f"x_{t}", dist.Normal(z, NOISE), obs=x[:, t])


def simulated(rows: int, steps: int, seed: int) -> dict[str, Tensor]:
    """Rows of steps / 2 to `steps` steps."""
    generator = torch.Generator().manual_seed(seed)
    z, found = torch.zeros(rows), []
    for _ in range(steps):
        z = SLOPE * z + SPREAD * torch.randn(rows, generator=generator)
        found.append(z + NOISE * torch.randn(rows, generator=generator))
    length = torch.randint(steps // 2, steps + 1, (rows,), generator=generator)
    length[0] = steps
    return {"x": torch.stack(found, 1), "length": length}


def kalman(x: Tensor, length: Tensor) -> Tensor:
    """log p(x) of each row, in float64."""
    x, mean, variance = x.double(), x.new_zeros(len(x)).double(), torch.zeros(len(x)).double()
    total = torch.zeros(len(x)).double()
    for t in range(x.shape[1]):
        mean, variance = SLOPE * mean, SLOPE**2 * variance + SPREAD**2
        innovation, spread = x[:, t] - mean, variance + NOISE**2
        log_p = -0.5 * (innovation.square() / spread + spread.log() + math.log(2 * math.pi))
        total = total + torch.where(t < length, log_p, 0.0)
        gain = variance / spread
        mean, variance = mean + gain * innovation, (1 - gain) * variance
    return total


def main() -> None:
    """Train a guide and print what came out."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--guide", default="FullRank")
    options.add_argument("--steps", type=int, default=100)
    options.add_argument("--rows", type=int, default=2000)
    options.add_argument("--batch-size", type=int, default=64)
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--lr", type=float, default=3e-3)
    options.add_argument("--short", type=int, default=0)
    options.add_argument("--short-epochs", type=int, default=10)
    options.add_argument("--particles", type=int, default=50)
    options.add_argument("--hidden", type=int, default=64)
    options.add_argument("--seed", type=int, default=0)
    o = options.parse_args()
    start = None
    for steps, epochs, rows in ((o.short, o.short_epochs, 4 * o.rows), (o.steps, o.epochs, o.rows)):
        if not steps:
            continue
        torch.manual_seed(o.seed)
        train = simulated(rows, steps, o.seed)
        guide = getattr(guides, o.guide)(model, train, hidden=(o.hidden,))
        if start is not None:  # the parameters of a guide do not depend on how many steps there are
            guide.load_state_dict(start)
        begin = time.time()
        options_of_fit = {"epochs": epochs, "batch_size": o.batch_size, "lr": Cosine(o.lr, epochs), "seed": o.seed}
        ppl_vae.fit(model, guide, train, compile="off", **options_of_fit)
        seconds = (time.time() - begin) / max(epochs, 1)
        start = guide.state_dict()
    count = sum(p.numel() for p in guide.parameters())
    test = simulated(200, o.steps, o.seed + 1)
    found = ppl_vae.evaluate(model, guide, test, particles=o.particles, compile="off")
    gap = kalman(**test) - found.elbo.double()
    print(
        f"{o.guide}, {o.steps} steps: gap {float(gap.sum() / test['length'].sum()):.4f} nats a step, "
        f"{count} parameters, {seconds:.1f} s an epoch of {o.rows} rows"
    )


if __name__ == "__main__":
    main()
