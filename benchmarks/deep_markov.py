"""A deep Markov model with the guide that Pyro's example writes by hand, and with generated ones, at equal epochs.

    python benchmarks/deep_markov.py --data digits
    python benchmarks/deep_markov.py --data simulated

The model is that of Krishnan et al. 2017 (arXiv 1609.09869) as in the example of Pyro: z_t is normal about a gated
network of the z before, x_t ~ Bernoulli(network of z_t). Its guide is q(z_t | z_{t-1}, h_t) with a recurrent network
backwards. Digits are read from top to bottom, a row of 8 binary pixels at every step; simulated series, of 10 to 20
steps, come from such a model. Each guide has a model of its own, started alike. Reported is the bound of held-out
series, in nats a step.
"""

from __future__ import annotations

import argparse
import time

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import ppl_vae
from ppl_vae import guides


class Transition(nn.Module):
    """z_{t-1} to the mean and deviation of z_t: a gate between a linear way and a proposal."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, size), nn.Sigmoid())
        self.proposal = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, size))
        self.spread, self.linear = nn.Linear(size, size), nn.Linear(size, size)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation."""
        gate, proposal = self.gate(z), self.proposal(z)
        scale = nn.functional.softplus(self.spread(proposal.relu()))
        return (1 - gate) * self.linear(z) + gate * proposal, scale


class DeepMarkov(nn.Module):
    """The model."""

    def __init__(self, entries: int, size: int = 8, hidden: int = 32) -> None:
        super().__init__()
        self.emitter = nn.Sequential(
            nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, entries)
        )
        self.transition = Transition(size, hidden)
        self.z_0 = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor, length: Tensor) -> list[Tensor]:
        """Observe series; returns the logits of every step."""
        pyro.module("deep markov", self)
        found = []
        with pyro.plate("data", len(x)):
            z = self.z_0.expand(len(x), -1)
            for t in pyro.markov(range(x.shape[1])):
                seen = (t < length).unsqueeze(-1)
                z = pyro.sample(f"z_{t}", dist.Normal(*self.transition(z)).mask(seen).to_event(1))
                found.append(self.emitter(z))
                emission = dist.Bernoulli(logits=found[-1], validate_args=False).mask(seen).to_event(1)
                pyro.sample(f"x_{t}", emission, obs=x[:, t])
        return found


class ByHand(nn.Module):
    """The example's guide: a recurrent network backwards, its state and tanh of z_{t-1} averaged."""

    def __init__(self, entries: int, size: int = 8, state: int = 64) -> None:
        super().__init__()
        self.rnn = nn.RNN(entries, state, nonlinearity="relu", batch_first=True)
        self.of_z, self.loc, self.scale = nn.Linear(size, state), nn.Linear(state, size), nn.Linear(state, size)
        self.z_0 = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor, length: Tensor) -> None:
        """Draw the latents of every step."""
        pyro.module("by hand", self)
        place = (length.unsqueeze(1) - 1 - torch.arange(x.shape[1])).clamp(min=0)
        turned = x.gather(1, place.unsqueeze(-1).expand_as(x))
        state = self.rnn(turned)[0]
        state = state.gather(1, place.unsqueeze(-1).expand_as(state))
        with pyro.plate("data", len(x)):
            z = self.z_0.expand(len(x), -1)
            for t in pyro.markov(range(x.shape[1])):
                h = 0.5 * (self.of_z(z).tanh() + state[:, t])
                fn = dist.Normal(self.loc(h), nn.functional.softplus(self.scale(h)))
                z = pyro.sample(f"z_{t}", fn.mask((t < length).unsqueeze(-1)).to_event(1))


def digits() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train and test rows: a binary row of pixels at every step."""
    data = ppl_vae.load("digits", binarise="static")
    parts = (data.train["x"], data.test["x"])
    train, test = ({"x": x.float(), "length": torch.full((len(x),), 8)} for x in parts)
    return train, test


def simulated(seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Series of 10 to 20 steps from a model with random networks."""
    with pyro.util.ignore_jit_warnings(), torch.no_grad():
        torch.manual_seed(1000 + seed)
        model = DeepMarkov(8, size=4)
        for layer in model.emitter:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(2.5)
        length = torch.randint(10, 21, (900,))
        length[0] = 20
        logits = torch.stack(model(torch.zeros(900, 20, 8), length), 1)
        x = torch.bernoulli(logits.sigmoid())
    rows = {"x": x, "length": length}
    return {n: v[:600] for n, v in rows.items()}, {n: v[600:] for n, v in rows.items()}


def main() -> None:
    """Train each guide with a model of its own and print what came out."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", choices=("digits", "simulated"), default="digits")
    options.add_argument("--guides", default="by_hand,MeanField,FullRank")
    options.add_argument("--epochs", type=int, default=60)
    options.add_argument("--batch-size", type=int, default=50)
    options.add_argument("--lr", type=float, default=3e-3)
    options.add_argument("--seed", type=int, default=0)
    o = options.parse_args()
    train, test = digits() if o.data == "digits" else simulated(o.seed)
    for name in o.guides.split(","):
        torch.manual_seed(o.seed)
        model = DeepMarkov(8)
        guide = ByHand(8) if name == "by_hand" else getattr(guides, name)(model, train, hidden=(64,))
        begin = time.process_time()
        settings = {"epochs": o.epochs, "batch_size": o.batch_size, "lr": o.lr, "seed": o.seed}
        ppl_vae.fit(model, guide, train, compile="off", **settings)
        seconds = time.process_time() - begin
        found = ppl_vae.evaluate(model, guide, test, particles=50, compile="off")
        steps = float(test["length"].sum())
        elbo, log_evidence = (float(v.double().sum()) / steps for v in (found.elbo, found.log_evidence))
        count = sum(p.numel() for p in guide.parameters())
        print(
            f"{o.data}, {name}: bound {elbo:.4f}, log p with 50 particles {log_evidence:.4f} nats a step, "
            f"{count} parameters, {seconds:.0f} s of one processor",
            flush=True,
        )


if __name__ == "__main__":
    main()
