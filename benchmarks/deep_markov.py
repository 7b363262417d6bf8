"""Pyro's deep Markov model as its author wrote it, with the guide of the example and with nothing but a generated one.

    python benchmarks/deep_markov.py EXAMPLES/dmm.py --data simulated --epochs 40
    python benchmarks/deep_markov.py EXAMPLES/dmm.py --data digits --epochs 20

EXAMPLES is the folder `examples` of Pyro's repository; its file is loaded as it is, and `DMM.model` and `DMM.guide` are
what is trained, each with a model of its own that starts alike, at equal epochs. The data are simulated by such a model
with random networks, 10 to 20 steps, or scikit-learn's digits, binary, read from top to bottom. Reported is the bound
of held-out rows and log p with 50 particles, in nats a step.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

import ppl_vae
from ppl_vae import guides


def example(path: Path) -> Any:
    """The module of the example; its guide unpacks rows to the length of the field, not to that of the longest row."""
    spec: Any = importlib.util.spec_from_file_location("dmm", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reverse = module.poly.reverse_sequences

    def pad_and_reverse(output: Any, lengths: Tensor) -> Tensor:
        return reverse(
            nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=module.steps)[0], lengths
        )

    module.poly = SimpleNamespace(pad_and_reverse=pad_and_reverse, reverse_sequences=reverse)
    return module


def fields(module: Any, x: Tensor, length: Tensor) -> dict[str, Tensor]:
    """The arguments of the example, by name."""
    return {
        "mini_batch": x,
        "mini_batch_reversed": module.poly.reverse_sequences(x, length),
        "mini_batch_mask": (torch.arange(x.shape[1]) < length.unsqueeze(1)).to(x.dtype),
        "mini_batch_seq_lengths": length,
    }


class ByHand(nn.Module):
    """The example's guide, given its rows packed as its data loader does."""

    def __init__(self, module: Any, dmm: nn.Module) -> None:
        super().__init__()
        self.module, self.dmm = module, dmm

    def forward(self, mini_batch, mini_batch_reversed, mini_batch_mask, mini_batch_seq_lengths):
        """Draw the latents of every step."""
        self.module.steps = mini_batch.shape[1]
        lengths = mini_batch_seq_lengths
        packed = nn.utils.rnn.pack_padded_sequence(mini_batch_reversed, lengths, batch_first=True, enforce_sorted=False)
        self.dmm.guide(mini_batch, packed, mini_batch_mask, lengths)


def simulated(module: Any, seed: int) -> tuple[Tensor, Tensor]:
    """Series of 10 to 20 steps from a model with random networks whose emissions are far apart."""
    torch.manual_seed(1000 + seed)
    dmm = module.DMM(input_dim=8, z_dim=4, emission_dim=32, transition_dim=32, rnn_dim=4)
    length = torch.randint(10, 21, (900,))
    length[0] = 20
    with torch.no_grad():
        for weights in dmm.emitter.parameters():
            weights.mul_(2.5)
        empty = fields(module, torch.zeros(900, 20, 8), length)
        drawn = poutine.trace(poutine.uncondition(dmm.model)).get_trace(**empty)
    return torch.stack([drawn.nodes[f"obs_x_{t}"]["value"] for t in range(1, 21)], 1), length


def digits() -> tuple[Tensor, Tensor]:
    """A row of 8 pixels, black or white, at every step."""
    data = ppl_vae.load("digits")
    x = torch.cat([data.train["x"], data.validation["x"], data.test["x"]]).reshape(-1, 8, 8)
    return (2 * x > x.max()).float(), torch.full((len(x),), 8)


def main() -> None:
    """Train each guide with a model of its own and print what came out."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("example", type=Path)
    options.add_argument("--data", choices=("simulated", "digits"), default="simulated")
    options.add_argument("--guides", default="by_hand,MeanField")
    options.add_argument("--epochs", type=int, default=60)
    options.add_argument("--batch-size", type=int, default=50)
    options.add_argument("--lr", type=float, default=3e-3)
    options.add_argument("--seed", type=int, default=0)
    o = options.parse_args()
    module = example(o.example)
    sizes = {"input_dim": 8, "z_dim": 8, "emission_dim": 32, "transition_dim": 32, "rnn_dim": 64}
    x, length = simulated(module, o.seed) if o.data == "simulated" else digits()
    count = len(x) * 2 // 3
    print(f"{o.data}: {count} + {len(x) - count} rows, {float(length.double().mean()):.1f} steps each", flush=True)
    rows = fields(module, x, length)
    train, test = {n: v[:count] for n, v in rows.items()}, {n: v[count:] for n, v in rows.items()}
    for name in o.guides.split(","):
        pyro.clear_param_store()
        torch.manual_seed(o.seed)
        dmm = module.DMM(**sizes)
        guide = ByHand(module, dmm) if name == "by_hand" else getattr(guides, name)(dmm.model, train)
        begin = time.process_time()
        settings = {"epochs": o.epochs, "batch_size": o.batch_size, "lr": o.lr, "seed": o.seed}
        ppl_vae.fit(dmm.model, guide, train, compile="off", **settings)
        seconds = time.process_time() - begin
        found = ppl_vae.evaluate(dmm.model, guide, test, particles=50, compile="off")
        steps = float(test["mini_batch_seq_lengths"].sum())
        elbo, log_evidence = (float(v.double().sum()) / steps for v in (found.elbo, found.log_evidence))
        print(
            f"{o.data}, {name}: bound {elbo:.4f}, log p with 50 particles {log_evidence:.4f} nats a step, "
            f"{seconds:.0f} s of one processor",
            flush=True,
        )


if __name__ == "__main__":
    main()
