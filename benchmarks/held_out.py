"""Held-out evidence of one-layer models on Fashion-MNIST and MNIST, as the table of the Exemplar VAE measures it.

    python benchmarks/held_out.py normal --epochs 300 --seed 0

Norouzi et al. 2020, arXiv 2004.04795: gated 784-300-300, 40 latents, decoder mirrored, training pixels drawn anew at
every use, validation and test binarised once, importance-sampled NLL of the test rows. What differs: batches of 250, a
learning rate that falls like a cosine over the epochs, and far fewer of them. `--iwae-epochs N` goes on with IWAE where
the ELBO ended, the rate once more from high to low. `--checkpoint DIR` can be continued with `--resume`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

import ppl_vae
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.nn.encoders import FieldEncoder
from ppl_vae.priors import Exemplar, FlowPrior, Mixture, VampPrior
from ppl_vae.schedules import Cosine, WarmUp

PRIORS = {
    "normal": lambda: None,
    "vamp": lambda: VampPrior(500),
    "exemplar": lambda: Exemplar(),
    "flow": lambda: FlowPrior(),
    "wide-flow": lambda: FlowPrior(4, hidden=(256, 256)),
    "mixture": lambda: Mixture(500),
}


def progress(record: dict) -> None:
    print(json.dumps(record), file=sys.stderr, flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("prior", choices=PRIORS)
    options.add_argument("--data", default="fashion-mnist")
    options.add_argument("--epochs", type=int, default=300, help="with the ELBO")
    options.add_argument("--lr", type=float, default=1.5e-3)
    options.add_argument("--iwae-epochs", type=int, default=0, help="with IWAE, after those with the ELBO")
    options.add_argument("--iwae-lr", type=float, default=7.5e-4)
    options.add_argument("--iwae-particles", type=int, default=5)
    options.add_argument("--iwae-estimator", choices=IWAE.estimators, default="reparameterised")
    options.add_argument("--batch-size", type=int, default=250)
    options.add_argument("--weight-decay", type=float, default=0.0)
    options.add_argument("--particles", type=int, default=5000)
    options.add_argument("--rows", type=int, help="of the test rows, only so many")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="auto")
    options.add_argument("--precision", default="float32")
    options.add_argument("--checkpoint")
    options.add_argument("--resume", action="store_true")
    given = options.parse_args()
    torch.manual_seed(given.seed)
    data = ppl_vae.load(given.data)
    model = VAE(data, prior=PRIORS[given.prior](), latent_dim=40, hidden=(300, 300))
    encoder = FieldEncoder([data.schema["x"]], data.train, (300, 300), "gated", convolutions=False)
    guide = MeanField(model, encoder=encoder)
    test = data.test if given.rows is None else data.test.rows(slice(0, given.rows))
    bounds = {
        "elbo": (ELBO(), given.epochs, given.lr, WarmUp(given.epochs / 20)),
        "iwae": (IWAE(given.iwae_particles, estimator=given.iwae_estimator), given.iwae_epochs, given.iwae_lr, 1.0),
    }
    for name, (bound, epochs, lr, beta) in bounds.items():
        if not epochs:
            continue
        start = time.perf_counter()
        folder = None if given.checkpoint is None else Path(given.checkpoint) / name
        result = ppl_vae.fit(
            model,
            guide,
            data,
            bound,
            epochs=epochs,
            batch_size=given.batch_size,
            lr=Cosine(lr, epochs),
            weight_decay=given.weight_decay,
            beta=beta,
            patience=None,
            seed=given.seed,
            device=given.device,
            precision=given.precision,
            on_epoch=progress,
            checkpoint=folder,
            resume=given.resume and folder is not None and folder.exists(),
        )
        seconds = round(time.perf_counter() - start)
        summary = ppl_vae.evaluate(model, guide, test, particles=given.particles, seed=given.seed).summary()
        found = {"bound": name, "seconds": seconds, "best": vars(result.best), **summary}
        print(json.dumps({**vars(given), **found}), flush=True)


if __name__ == "__main__":
    main()
