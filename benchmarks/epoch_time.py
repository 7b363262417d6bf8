"""A whole training run: what `compile=` costs and saves, waiting included, and that it changes no number.

    python benchmarks/epoch_time.py [--epochs 100] [--rows 1000] [--clock wall|cpu] [--modes off,auto,on]

The main job (VAE 64-256-16 with gates, digits, batches of 64, Adam) or, with more rows than digits has, as many rows of
784 random pixels (784-400-20, batches of 128). Seconds of a typical epoch at the end, and of the run, from the call
of `fit` to its result, captures and compilations included.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch

import ppl_vae
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE


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
        x = torch.bernoulli(torch.full((ask.rows, 784), 0.3), generator=torch.Generator().manual_seed(0))
        data = ppl_vae.load(x.numpy(), validation=0, test=0, kinds={"x": "binary"})
        options, batch = {"latent_dim": 20, "hidden": (400,), "activation": "softplus"}, 128
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ask.clock} time; {data.name}")
    for mode in ask.modes.split(","):
        torch.manual_seed(0)
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
            compile=mode,
            on_epoch=lambda record, ends=ends: ends.append(clock()),
        )
        epochs = [b - a for a, b in itertools.pairwise(ends)]
        last = statistics.median(epochs[-max(1, ask.epochs // 4) :])
        train = result.history[-1]["train"]
        print(f"  {mode:5s} run {ends[-1] - ends[0]:7.2f} s   epoch {last:7.3f} s   bound {train:.6f}", flush=True)
        for finding in result.findings:
            print(f"    {finding}")


if __name__ == "__main__":
    main()
