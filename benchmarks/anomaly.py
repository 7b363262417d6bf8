"""Anomaly scores: one class held out in turn, log evidence against simpler scores.

    python benchmarks/anomaly.py --data digits --epochs 40

For every class a VAE with a mean-field guide, as `ppl-vae fit` has them, is trained without its rows and scores the
test rows. AUC of -log evidence, of the pair's own reconstruction, of the distance to principal components (90 % of the
variance) and of independent entries; DeLong's standard errors over test rows. The last line is the mean over classes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

import ppl_vae
from ppl_vae.diagnostics import anomaly
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.schedules import WarmUp

SCORES = ("reconstruction", "pca", "independent")


def held_out(name: str, o) -> dict[str, float]:
    data = ppl_vae.load(o.data, outliers=name)
    torch.manual_seed(o.seed)
    model = VAE(data, latent_dim=o.latent_dim)
    guide = MeanField(model)
    ppl_vae.fit(
        model,
        guide,
        data,
        epochs=o.epochs,
        batch_size=64,
        weight_decay=min(1.0, 1000 / len(data.train)),
        beta=WarmUp(min(10.0, o.epochs / 5)),
        patience=40,
        seed=o.seed,
        device=o.device,
    )
    return anomaly(model, guide, data, particles=o.particles, seed=o.seed).summary()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default="digits")
    options.add_argument("--classes", help="names, by commas; all if left out")
    options.add_argument("--epochs", type=int, default=40)
    options.add_argument("--latent-dim", type=int, default=16)
    options.add_argument("--particles", type=int, default=500)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="auto")
    o = options.parse_args()
    field = ppl_vae.load(o.data).schema["y"]
    names = o.classes.split(",") if o.classes else list(field.names or map(str, range(field.cardinality)))
    start, found = time.perf_counter(), []
    print("| held out | outliers | NLL of inliers | log evidence | " + " | ".join(SCORES) + " |")
    print("|---" * (4 + len(SCORES)) + "|")
    for name in names:
        s = held_out(name, o)
        found.append(s)
        cells = [f"{s[key]:.3f} ± {s[f'{key}_se']:.3f}" for key in ("auc", *(f"auc_{score}" for score in SCORES))]
        print(f"| {name} | {s['outliers']} | {s['score_inliers']:.1f} | {' | '.join(cells)} |", flush=True)
    means = [statistics.mean(s[key] for s in found) for key in ("auc", *(f"auc_{score}" for score in SCORES))]
    print(f"| mean | | | {' | '.join(f'{m:.3f}' for m in means)} |")
    print(f"{time.perf_counter() - start:.0f} s, {json.dumps(vars(o))}")


if __name__ == "__main__":
    main()
