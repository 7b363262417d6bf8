"""A whole training run: what `compile=` costs and saves, waiting included, and that it changes no number.

    python benchmarks/epoch_time.py [--epochs 100] [--rows 1000] [--clock wall|cpu] [--modes off,auto,on,bfloat16,pyro]

The main job (VAE 64-256-16 with gates, digits, batches of 64, Adam) or, with more rows than digits has, as many rows of
784 grey pixels, drawn anew at every use (784-400-20, batches of 128: Fashion-MNIST has 50,000 training rows). Seconds
of a typical epoch at the end, and of the run, from the call of `fit` to its result, captures and compilations included.
`pyro` is the loop of Pyro's VAE example over a DataLoader of tensors in memory, which is kinder than one of image
files, with torch.bernoulli for the draws. `bfloat16` is "on" with precision="bfloat16".
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from step_time import Example
from torch.utils.data import DataLoader, TensorDataset

import ppl_vae
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE


def pyro_loop(grey: torch.Tensor, epochs: int, clock: Callable[[], float]) -> list[float]:
    """When each epoch of Pyro's example began, and the last one ended."""
    pyro.enable_validation(False)
    example = Example((400,), 20, "softplus")
    svi = SVI(example.model, example.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    loader = DataLoader(TensorDataset(grey), batch_size=128, shuffle=True)
    ends = [clock()]
    for _ in range(epochs):
        loss = 0.0
        for (x,) in loader:
            loss += svi.step(torch.bernoulli(x))
        ends.append(clock())
    return ends


def report(mode: str, ends: list[float], found: str = "") -> None:
    epochs = [b - a for a, b in itertools.pairwise(ends)]
    last = statistics.median(epochs[-max(1, len(epochs) // 4) :])
    print(f"  {mode:8s} run {ends[-1] - ends[0]:7.2f} s   epoch {last:7.3f} s{found}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--modes", default="off,auto,on")
    ask = parser.parse_args()
    clock = time.perf_counter if ask.clock == "wall" else time.process_time
    if ask.rows <= 1000:
        data, options, batch = ppl_vae.load("digits"), {"latent_dim": 16}, 64
    else:
        grey = torch.rand(ask.rows, 784, generator=torch.Generator().manual_seed(0)) ** 2
        data = ppl_vae.load(grey.numpy(), validation=0, test=0, binarise="dynamic")
        options, batch = {"latent_dim": 20, "hidden": (400,), "activation": "softplus"}, 128
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ask.clock} time; {data.name}")
    for mode in ask.modes.split(","):
        torch.manual_seed(0)
        if mode == "pyro":
            report(mode, pyro_loop(grey, ask.epochs, clock))
            continue
        model = VAE(data, **options)
        guide = MeanField(model, hidden=options.get("hidden", (256,)), activation=options.get("activation", "gated"))
        ends = [clock()]
        result = ppl_vae.fit(
            model,
            guide,
            data,
            epochs=ask.epochs,
            batch_size=batch,
            patience=None,
            compile="on" if mode == "bfloat16" else mode,
            precision="bfloat16" if mode == "bfloat16" else "float32",
            on_epoch=lambda record, ends=ends: ends.append(clock()),
        )
        report(mode, ends, f"   bound {result.history[-1]['train']:.6f}")
        for finding in result.findings:
            print(f"    {finding}")


if __name__ == "__main__":
    main()
