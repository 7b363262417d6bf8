"""Posteriors whose answer is known: the best of three families by its bound, corrected by weights, beside the answer.

Every program in `benchmarks/posteriors/` is fitted with MeanField, FullRank and a flow (IAF), all with the defaults of
the package; the family with the best bound of all data is kept, and Pareto smoothed weights correct it where
k-hat < 0.7. Limits: |mean - answer| <= 0.3 sd, ratio of sds in [0.8, 1.25], correlations within 0.15. "warned" means a
finding of the fit or of the posterior, or k-hat above 0.7; outside the limits without a warning is the worst that can
happen. Seconds are of one processor, for all three fits and the draws. Answers are posteriordb's gold draws, or NUTS
(`posteriors/nuts.py`); data that are too large to keep here are read from `../shared/posteriordb`.

    python benchmarks/posteriors.py [NAME ...] [--families mean_field,full_rank,iaf] [--epochs 300] [--restarts 1]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import ppl_vae
from ppl_vae.data import as_one_unit
from ppl_vae.registry.resolve import resolve

HERE = Path(__file__).parent / "posteriors"
ELSEWHERE = Path(__file__).parents[2] / "shared" / "posteriordb" / "gold.json"
SHIFT, LEAST, MOST, APART, KHAT = 0.3, 0.8, 1.25, 0.15, 0.7


def program(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(module):
    return {"rows": module.ROWS} if hasattr(module, "ROWS") else {}


def fitted(module, data, family, ask):
    """A fit by one family with its posterior, and its bound of all data, in nats."""
    rows = rows_of(module)
    torch.manual_seed(ask.seed)
    guide = resolve("guide", family, {"model": module.model, "data": as_one_unit(data) if rows else data})
    result = ppl_vae.fit(module.model, guide, data, epochs=ask.epochs, seed=ask.seed, restarts=ask.restarts, **rows)
    return bound_of(module, result.guide, data), family, result


def bound_of(module, guide, data):
    """The mean of the joint log weights, each row's own latents drawn once, in nats."""
    rows = rows_of(module)
    batch = as_one_unit(data).batch() if rows else data
    parts = []
    with torch.no_grad():
        for seed in range(20):
            torch.manual_seed(seed)
            weights = ppl_vae.log_weights(module.model, guide, batch, particles=50)
            shared = 0.0 if weights.log_global is None else weights.log_global
            parts.append(shared + weights.log_weight.sum(1))
    return float(torch.cat(parts).double().mean())


def scalars(values):
    found = {}
    for name, value in values.items():
        array = np.asarray(value.detach(), float)
        for index in np.ndindex(array.shape[1:]):
            found[name + (f"[{', '.join(map(str, index))}]" if index else "")] = array[(slice(None), *index)]
    return found


def table(module, found, data, answer):
    """Draws [draw, number] in the answer's order."""
    if hasattr(module, "frame"):
        values = module.frame(found, data)
    else:
        values = {n: found[n] for n in getattr(module, "ORDER", found.draws)}
    each = scalars(values)
    names = answer["parameters"]
    known = [each[n] for n in names] if set(names) <= set(each) else [v for v in each.values() if v.std() > 1e-9]
    if len(known) != len(names):
        raise ValueError(f"{module.NAME}: {len(known)} numbers, where the answer has {len(names)}")
    return np.stack(known, 1)


def compared(module, data, answer, ask):
    started = time.process_time()
    _, family, result = max((fitted(module, data, f, ask) for f in ask.families.split(",")), key=lambda f: f[0])
    found = ppl_vae.posterior(module.model, result.guide, data, 4000, resample="psis", **rows_of(module))
    khat = found.khat
    if khat >= KHAT:  # weights would not mend it
        found = ppl_vae.posterior(module.model, result.guide, data, 4000, resample=None, **rows_of(module))
    seconds = time.process_time() - started
    draws, mean, sd = table(module, found, data, answer), np.array(answer["mean"]), np.array(answer["sd"])
    shift, ratio = np.abs((draws.mean(0) - mean) / sd), draws.std(0) / sd
    apart = np.abs(np.corrcoef(draws.T) - np.array(answer["correlation"])).max()
    inside = bool(shift.max() <= SHIFT and ratio.min() >= LEAST and ratio.max() <= MOST and apart <= APART)
    warned = bool(found.findings or result.findings) or not khat < KHAT
    verdict = ("inside" if inside else "outside") + (", warned" if warned else "")
    verdict = "OUTSIDE, NO WARNING" if not inside and not warned else verdict
    return family, khat, shift.max(), ratio.min(), ratio.max(), apart, seconds, verdict


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--families", default="mean_field,full_rank,iaf")
    parser.add_argument("--epochs", type=int, default=300, help="by default those of fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--restarts", type=int, default=1)
    ask = parser.parse_args()
    warnings.simplefilter("ignore")
    answers = json.loads((HERE / "gold.json").read_text())
    elsewhere = json.loads(ELSEWHERE.read_text()) if ELSEWHERE.exists() else {}
    print("| posterior | family | k-hat | largest shift, sd | sd ratios | correlation error | s | verdict |")
    print("|---|---|---|---|---|---|---|---|")
    for file in sorted(HERE.glob("[a-z]*.py")):
        if file.stem == "nuts" or (ask.names and file.stem not in ask.names):
            continue
        module = program(file)
        answer = answers.get(module.NAME)
        raw = answer and (answer["data"] or elsewhere.get(module.NAME, {}).get("data"))
        if not raw:
            print(f"| {module.NAME} | | | | | | | left out: no {'data' if answer else 'answer'} here |", flush=True)
            continue
        try:
            family, khat, shift, low, high, apart, seconds, verdict = compared(module, module.data(raw), answer, ask)
            numbers = f"{khat:.2f} | {shift:.2f} | {low:.2f} to {high:.2f} | {apart:.2f} | {seconds:.0f}"
            print(f"| {module.NAME} | {family} | {numbers} | {verdict} |", flush=True)
        except ppl_vae.UserError as error:
            print(f"| {module.NAME} | | | | | | | refused: {error} |", flush=True)


if __name__ == "__main__":
    main()
