"""Importance-sampled evidence of held-out rows: ours eager, captured and compiled against pythae's `get_nll`.

    python benchmarks/evidence_time.py [--rows 200] [--particles 5000] [--clock wall|cpu]

VAE 784-400-20, Bernoulli, networks of the same sizes, untrained. Time for each row; pythae (where it can be imported,
`pip install -e ".[bench]"`) is given a twentieth of the rows, in batches of 100 draws as by default, under no_grad. The
floor is the decoder's arithmetic alone, at the speed of a large matrix product. A compiled evaluation is timed
with its code in the cache, as a second run finds it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from peers import pythae_vae

import ppl_vae
from ppl_vae.data import Field, Schema
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

PIXELS, HIDDEN, LATENT = 784, 400, 20


def ours(x: torch.Tensor, particles: int, clock: Callable[[], float]) -> None:
    schema = Schema((Field("x", "binary", (PIXELS,)),))
    model = VAE(schema, latent_dim=LATENT, hidden=(HIDDEN,), activation="relu")
    guide = MeanField(model, hidden=(HIDDEN,), activation="relu")
    ppl_vae.evaluate(model, guide, x[:2], particles, compile="on")
    for rows in (len(x) // 2, len(x)):
        for mode in ("off", "auto", "on"):
            ppl_vae.evaluate(model, guide, x[:rows], 2 * particles // rows, compile=mode)  # code into the cache
            start = clock()
            ppl_vae.evaluate(model, guide, x[:rows], particles, compile=mode)
            print(f"  ours, {mode:4s} {rows:5d} rows  {(clock() - start) / rows * 1e3:8.2f} ms a row", flush=True)


def theirs(x: torch.Tensor, particles: int, clock: Callable[[], float]) -> None:
    try:
        model = pythae_vae(HIDDEN, LATENT, torch.nn.ReLU).eval()
    except ImportError:
        print("  pythae cannot be imported")
        return
    few = x[: max(1, len(x) // 20)]
    with torch.no_grad():
        model.get_nll(few[:1], particles)
        start = clock()
        model.get_nll(few, particles)
    print(f"  pythae     {len(few):5d} rows  {(clock() - start) / len(few) * 1e3:8.2f} ms a row")


def floor(particles: int, clock: Callable[[], float]) -> float:
    a, times = torch.randn(2048, 2048), []
    for _ in range(6):
        start = clock()
        a @ a
        times.append(clock() - start)
    return 2 * particles * (LATENT * HIDDEN + HIDDEN * PIXELS) / (2 * 2048**3 / min(times))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    ask = parser.parse_args()
    clock = time.perf_counter if ask.clock == "wall" else time.process_time
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((ask.rows, PIXELS), 0.3))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ask.clock} time, K = {ask.particles}")
    theirs(x, ask.particles, clock)
    ours(x, ask.particles, clock)
    print(f"  floor (arithmetic)     {floor(ask.particles, clock) * 1e3:8.2f} ms a row")


if __name__ == "__main__":
    main()
