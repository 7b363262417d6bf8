"""Posteriors whose answer is known: the best of three families by its bound, then `posterior`, beside the answer.

Every program in `benchmarks/posteriors/` is fitted with MeanField, FullRank and a flow (IAF), all with the defaults of
the package; the family with the best bound of all data is kept, and `ppl_vae.posterior` takes it from there: weights,
and where they are not enough draws that are moved on ("moved" has its temperatures). Limits: |mean - answer| <= 0.3 sd,
ratio of sds in [0.8, 1.25], correlations within 0.15. "warned" means a finding of the posterior, but that draws were
moved and their chains agree; outside the limits without a warning is the worst that can happen. Seconds are of one
processor, for all fits and the draws. Answers are posteriordb's gold draws, or NUTS (`posteriors/nuts.py`); data that
are too large to keep here are read from `../shared/posteriordb`.

    python benchmarks/posteriors.py [NAME ...] [--more] [--families mean_field,iaf] [--epochs 300] [--restarts 1]
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import torch
from posteriors._answers import compared, posteriors, program, table

import ppl_vae
from ppl_vae.data import as_one_unit
from ppl_vae.registry.resolve import resolve


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


def judged(module, data, answer, ask):
    started = time.process_time()
    _, family, result = max((fitted(module, data, f, ask) for f in ask.families.split(",")), key=lambda f: f[0])
    found = ppl_vae.posterior(module.model, result.guide, data, 4000, **rows_of(module))
    seconds = time.process_time() - started
    if hasattr(module, "frame"):
        values = module.frame(found, data)
    else:
        values = {n: found[n] for n in getattr(module, "ORDER", found.draws)}
    apart = compared(table({n: v.detach() for n, v in values.items()}, answer), answer)
    warned = bool(found.findings) and not (found.moves is not None and found.moves.believed)
    verdict = ("inside" if apart.inside else "outside") + (", warned" if warned else "")
    verdict = "OUTSIDE, NO WARNING" if not apart.inside and not warned else verdict
    moved = "" if found.moves is None else f"{found.moves.temperatures}"
    unfinished = ", fit not finished" if any("not finished" in f.problem for f in result.findings) else ""
    told = f"{family} | {found.khat:.2f} | {moved} | {found.ess:,.0f} | {apart.words} | {seconds:.0f}"
    return f"{told} | {verdict}{unfinished}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--families", default="mean_field,full_rank,iaf")
    parser.add_argument("--epochs", type=lambda n: n if n == "auto" else int(n), default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--gold", type=Path, help="posteriordb's file, for data too large to keep here")
    parser.add_argument("--more", action="store_true", help="the further posteriors, of posteriors/more/")
    ask = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        "| posterior | family | k-hat | moved | ess | largest shift, sd | sd ratios | correlation error | s | verdict |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for file, name, answer, raw in posteriors(ask.names, ask.gold, ask.more):
        if not raw:
            print(f"| {name} | left out: no {'data' if answer else 'answer'} here |", flush=True)
            continue
        module = program(file)
        try:
            print(f"| {name} | {judged(module, module.data(raw), answer, ask)} |", flush=True)
        except ppl_vae.UserError as error:
            print(f"| {name} | refused: {error} |", flush=True)


if __name__ == "__main__":
    main()
