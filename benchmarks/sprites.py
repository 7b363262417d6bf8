"""Sprites by five objectives: which latent means what, over seeds.

`python benchmarks/sprites.py` trains a VAE, a beta-VAE, a beta-TCVAE, a FactorVAE and a DIP-VAE with convolutional
networks and 10 latents on a grid of sprites, and prints a line for each run: evidence, MIG, DCI, FactorVAE score. The
table over seeds comes last. `--decoder dense` takes multilayer perceptrons, which train in seconds.
`--figures FOLDER` draws the lecture's picture of the first seed of each: latents by their KL, moved from -3 to 3. The
grid is small, for a machine without a GPU: published numbers are of 64 x 64 pixels, all 40 orientations and 300,000
steps, and are not to be compared with these.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import ppl_vae
from ppl_vae.data import Data
from ppl_vae.diagnostics import factors
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.nn.encoders import FieldEncoder
from ppl_vae.plots import save
from ppl_vae.schedules import DIP, Decomposed, FactorTC, WarmUp

GRID = "sprites:side=16,orientations=1,scales=4,positions=16"
SCORES = ("mig", "dci_disentanglement", "factor_vae", "beta_vae")


def objectives(epochs: int) -> dict[str, Any]:
    """By name; the weight of the KL warms up in the first fifth."""
    rise = epochs / 5
    return {
        "VAE": WarmUp(rise),
        "beta-VAE 4": WarmUp(rise, 4.0),
        "beta-TCVAE 6": Decomposed(6.0, beta=WarmUp(rise)),
        "FactorVAE 10": FactorTC(10.0, beta=WarmUp(rise)),
        "DIP-VAE-II 10": DIP(10.0, kind=2, beta=WarmUp(rise)),
        "beta-VAE 10": WarmUp(rise, 10.0),
        "beta-TCVAE 15": Decomposed(15.0, beta=WarmUp(rise)),
        "FactorVAE 30": FactorTC(30.0, beta=WarmUp(rise)),
    }


def networks(data: Data, decoder: str) -> tuple[VAE, MeanField]:
    """Convolutions, or for "dense" one hidden layer of 128 on either side."""
    if decoder != "dense":
        model = VAE(data, latent_dim=10, decoder=decoder)
        return model, MeanField(model)
    model = VAE(data, latent_dim=10, hidden=(128,))
    encoder = FieldEncoder([data.schema["x"]], data.train.head, (128,), convolutions=False)
    return model, MeanField(model, encoder=encoder)


def measure(data: Data, beta: Any, asked: argparse.Namespace, seed: int, figure: Path | None) -> dict[str, float]:
    """One training, judged on all rows of the grid: they are what is asked about, not a sample of it."""
    torch.manual_seed(seed)
    model, guide = networks(data, asked.decoder)
    start = time.perf_counter()
    ppl_vae.fit(model, guide, data, beta=beta, epochs=asked.epochs, lr=asked.lr, seed=seed, patience=None)
    found = {"seconds": time.perf_counter() - start}
    judged = ppl_vae.evaluate(model, guide, data.test, particles=50)
    found |= {"evidence": float(judged.log_evidence.mean()), "rate": float(judged.rate.mean())}
    found["distortion"] = float(judged.distortion.mean())
    told = factors(model, guide, data.train, scores=SCORES)
    found |= {name: told.scores[name].value for name in SCORES}
    print(f"  {told.verdict}")
    if figure is not None:
        moved = ppl_vae.traverse(model, guide, data.test, 0, span=3.0, steps=9)
        save(moved.figure(), figure / "traversal.png")
        save(told.figure(), figure / "factors.png")
    return found


def main() -> None:
    """Print a line for each objective and seed, then means over seeds with their standard errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=GRID)
    parser.add_argument("--decoder", default="conv:width=8,most=32")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", help="objectives, with commas between them")
    parser.add_argument("--figures", type=Path)
    asked = parser.parse_args()
    data = ppl_vae.load(asked.data)
    print(f"{asked.data}: {len(data.train):,} training rows; {asked.epochs} epochs, batches of 64, lr {asked.lr:g}")
    chosen = {n: b for n, b in objectives(asked.epochs).items() if asked.only is None or n in asked.only.split(",")}
    lines: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
        for name, beta in chosen.items():
            figure = None
            if asked.figures is not None and seed == 0:
                figure = asked.figures / name.replace(" ", "-").lower()
                figure.mkdir(parents=True, exist_ok=True)
            found = measure(data, beta, asked, seed, figure)
            lines[name].append(found)
            print(f"{name:14} seed {seed}  " + "  ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)
    print()
    for name, runs in lines.items():
        cells = []
        for key in ("evidence", "rate", *SCORES):
            values = [run[key] for run in runs]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            cells.append(f"{key} {statistics.mean(values):.3f} ± {error:.3f}")
        print(f"{name:14} {len(runs)} seeds  " + "  ".join(cells))


if __name__ == "__main__":
    main()
