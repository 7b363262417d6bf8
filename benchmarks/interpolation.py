"""Half-way between two digits: how often is what a VAE makes a digit, and how often what an autoencoder makes?

    python benchmarks/interpolation.py

Both have the same networks and rows (`mnist-5k`, 28 x 28 pixels of 0 and 1). The codes of test rows of different
classes are averaged and decoded. A judge, a support vector classifier with calibrated probabilities of grey training
rows, is sure of a picture where its largest probability is at least 0.9. Beside it stand the ends: reconstructions.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC
from torch import Tensor

import ppl_vae
from ppl_vae.guides import MeanField, Point
from ppl_vae.models import VAE, AutoEncoder


def told(share: Tensor) -> str:
    """A mean and its standard error, in per cent."""
    return f"{100 * float(share.mean()):.1f} ± {100 * float(share.std() / len(share) ** 0.5):.1f} %"


def main() -> None:
    """Print a line for each of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist-5k")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    data, grey = ppl_vae.load(asked.data), ppl_vae.load(asked.data, binarise="none")
    judge = CalibratedClassifierCV(SVC(C=10.0), cv=3, ensemble=False)
    judge.fit(grey.train["x"].flatten(1).numpy(), grey.train["y"].numpy())

    def sure(x: Tensor) -> Tensor:
        return torch.from_numpy(judge.predict_proba(x.flatten(1).numpy()).max(1) >= 0.9).double()

    print(f"real rows: sure of {100 * float(sure(grey.test['x']).mean()):.1f} %")
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))
    left, right = order, order.roll(1)
    apart = (data.test["y"][left] != data.test["y"][right]).nonzero()[: asked.pairs, 0]
    left, right = left[apart], right[apart]
    options = {"latent_dim": asked.latent_dim, "hidden": (256,)}
    found = []
    for name in ("VAE", "autoencoder"):
        torch.manual_seed(asked.seed)
        model = VAE(data, **options) if name == "VAE" else AutoEncoder(data, **options)
        guide = (MeanField if name == "VAE" else Point)(model, hidden=(256,))
        settings = {"epochs": asked.epochs, "lr": 1e-3, "batch_size": 64, "seed": asked.seed, "compile": "off"}
        ppl_vae.fit(model, guide, data, **settings)
        z = ppl_vae.encode(model, guide, data)["z"]
        made = {"ends": z[left], "midpoints": (z[left] + z[right]) / 2}
        seen = {what: sure(ppl_vae.decode(model, {"z": code})["x"]) for what, code in made.items()}
        found.append(seen["midpoints"])
        words = ", ".join(f"{what} {told(s)}" for what, s in seen.items())
        print(f"{name}: sure of {words}", flush=True)
    difference = found[0] - found[1]
    error = float(difference.std() / len(difference) ** 0.5)
    print(f"midpoints, VAE minus autoencoder: {100 * float(difference.mean()):.1f} ± {100 * error:.1f} points")


if __name__ == "__main__":
    main()
