"""Posteriors whose answer is known: the best of three families by its bound, corrected by weights, beside gold draws.

Every program in `benchmarks/posteriors/` is fitted with MeanField, FullRank and MAF with the same settings for all;
the family with the best ELBO is kept, and Pareto smoothed weights correct it. Limits: |mean - gold| <= 0.3 sd, ratio
of sds in [0.8, 1.25], correlations within 0.15. "warned" means k-hat above its limit or a fit that was not finished; a
posterior outside the limits without a warning is the worst that can happen.

    python benchmarks/posteriors.py [NAME ...] [--epochs 1000] [--lr 0.001]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import torch

import ppl_vae
from ppl_vae.guides import MAF, FullRank, MeanField

HERE = Path(__file__).parent / "posteriors"
GOLD = json.loads((HERE / "gold.json").read_text())


def program(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fitted(module, data, epochs, lr):
    found = []
    for family in (MeanField, FullRank, MAF):
        torch.manual_seed(0)
        result = ppl_vae.fit(module.model, family(module.model, data), data, epochs=epochs, lr=lr, seed=0)
        elbo = ppl_vae.evaluate(module.model, result.guide, data, particles=200).elbo
        found.append((elbo, family.__name__, result))
    return max(found, key=lambda one: one[0])


def compared(name, file, epochs, lr):
    module, gold = program(file), GOLD[name]
    data, started = module.data(gold["data"]), time.perf_counter()
    _, family, result = fitted(module, data, epochs, lr)
    found = ppl_vae.posterior(module.model, result.guide, data, 4000, resample="psis")
    if found.khat >= 0.7:  # weights would not mend it
        found = ppl_vae.posterior(module.model, result.guide, data, 4000, resample=None)
    draws = found.frame().to_numpy().astype(float)
    seconds, mean, sd = time.perf_counter() - started, np.array(gold["mean"]), np.array(gold["sd"])
    shift = np.abs((draws.mean(0) - mean) / sd).max()
    ratio = draws.std(0) / sd
    apart = np.abs(np.corrcoef(draws.T) - np.array(gold["correlation"])).max()
    inside = bool(shift <= 0.3 and ratio.min() >= 0.8 and ratio.max() <= 1.25 and apart <= 0.15)
    warned = bool(found.findings) or any("not finished" in f.problem for f in result.findings)
    verdict = "inside" if inside else "outside, warned" if warned else "OUTSIDE, NO WARNING"
    return family, found.khat, shift, ratio.min(), ratio.max(), apart, seconds, verdict


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=1e-3, help="by default that of fit")
    ask = parser.parse_args()
    print("| posterior | family | k-hat | largest shift, sd | sd ratios | correlation error | s | verdict |")
    print("|---|---|---|---|---|---|---|---|")
    for file in sorted(HERE.glob("[a-z]*.py")):
        if ask.names and file.stem not in ask.names:
            continue
        name = program(file).NAME
        try:
            family, khat, shift, low, high, apart, seconds, verdict = compared(name, file, ask.epochs, ask.lr)
            numbers = f"{khat:.2f} | {shift:.2f} | {low:.2f} to {high:.2f} | {apart:.2f} | {seconds:.0f}"
            print(f"| {name} | {family} | {numbers} | {verdict} |", flush=True)
        except ppl_vae.UserError as error:
            print(f"| {name} | | | | | | | refused: {error} |", flush=True)


if __name__ == "__main__":
    main()
