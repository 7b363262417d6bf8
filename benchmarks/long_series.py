"""What a training step costs on series of 1,000 steps, beside the same loop by hand, for Pyro and in torch alone.

    python benchmarks/long_series.py --steps 1000

The model is the linear-Gaussian state space of `sequences.py` without masks. By hand: a GRU both ways over what is
observed, and z_t normal about a linear map of z_{t-1}, the form that the generated FullRank has too; once as a Pyro
guide under SVI, once as a loop over tensors without any Pyro. Processor seconds of a step, forwards, backwards and the
optimizer, each the least of some, in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

import ppl_vae
from ppl_vae.guides import FullRank

SLOPE, SPREAD, NOISE = 0.9, 0.5, 1.0


def model(x):
    """A row is a series."""
    with pyro.plate("data", len(x)):
        z = x.new_zeros(len(x))
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Normal(SLOPE * z, SPREAD))
            pyro.sample(f"x_{t}", dist.Normal(z, NOISE), obs=x[:, t])


class ByHand(nn.Module):
    """The recurrent guide."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(1, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, 3)

    def numbers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Of every step: location, slope and scale, [row, step]."""
        loc, slope, raw = self.head(self.gru(x.unsqueeze(-1))[0]).unbind(-1)
        return loc, slope, nn.functional.softplus(raw)

    def guide(self, x):
        """As a Pyro guide."""
        pyro.module("by hand", self)
        loc, slope, scale = self.numbers(x)
        with pyro.plate("data", len(x)):
            z = x.new_zeros(len(x))
            for t in pyro.markov(range(x.shape[1])):
                z = pyro.sample(f"z_{t}", dist.Normal(loc[:, t] + slope[:, t] * z, scale[:, t]))

    def loss(self, x):
        """Minus the bound, in torch alone."""
        loc, slope, scale = self.numbers(x)
        z, total = x.new_zeros(len(x)), 0.0
        for t in range(x.shape[1]):
            q = torch.distributions.Normal(loc[:, t] + slope[:, t] * z, scale[:, t], validate_args=False)
            now = q.rsample()
            prior = torch.distributions.Normal(SLOPE * z, SPREAD, validate_args=False)
            seen = torch.distributions.Normal(now, NOISE, validate_args=False)
            total = total + (prior.log_prob(now) + seen.log_prob(x[:, t]) - q.log_prob(now)).sum()
            z = now
        return -total


def seconds(run: Callable[[], object]) -> float:
    """Of one processor."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def main() -> None:
    """Time the three ways in turns."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=1000)
    options.add_argument("--rows", type=int, default=16)
    options.add_argument("--hidden", type=int, default=64)
    options.add_argument("--turns", type=int, default=3)
    o = options.parse_args()
    torch.manual_seed(0)
    x = torch.randn(o.rows, o.steps)
    begin = time.process_time()
    guide = FullRank(model, {"x": x}, hidden=(o.hidden,))
    made = time.process_time() - begin
    by_hand = ByHand(o.hidden)
    svi = SVI(model, by_hand.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    plain = ByHand(o.hidden)
    adam = torch.optim.Adam(plain.parameters())

    def in_torch() -> None:
        adam.zero_grad()
        plain.loss(x).backward()
        adam.step()

    marks: list[float] = []
    between: dict[str, list[float]] = {"Pyro by hand": [], "torch by hand": []}

    def epoch_over(*_: object, **__: object) -> None:
        marks.append(time.process_time())
        between["Pyro by hand"].append(seconds(lambda: svi.step(x)))
        between["torch by hand"].append(seconds(in_torch))
        marks.append(time.process_time())

    begin = time.process_time()
    options_of_fit = {"batch_size": o.rows, "seed": 0, "compile": "off", "on_epoch": epoch_over, "restarts": 0}
    ppl_vae.fit(model, guide, {"x": x}, epochs=o.turns + 1, **options_of_fit)
    ours = [late - early for early, late in zip(marks[1::2], marks[2::2], strict=False)]
    print(f"{o.steps} steps, {o.rows} rows, {sum(p.numel() for p in guide.parameters())} parameters of FullRank")
    print(f"to make the guide {made:.2f}; before the first step and it {marks[0] - begin:.2f}")
    print(f"a step: ours {min(ours):.2f}, " + ", ".join(f"{n} {min(v):.2f}" for n, v in between.items()) + " s")


if __name__ == "__main__":
    main()
