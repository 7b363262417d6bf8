"""Held-out evidence of one-layer models on Fashion-MNIST and MNIST, as the table of the Exemplar VAE measures it.

    python benchmarks/held_out.py normal --epochs 300 --seed 0

Norouzi et al. 2020, arXiv 2004.04795: gated 784-300-300, 40 latents, decoder mirrored, training pixels drawn anew at
every use, validation and test binarised once, importance-sampled NLL of the test rows. What differs: batches of 250, a
learning rate that falls like a cosine over the epochs, and far fewer of them. `--checkpoint DIR` can be continued.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch

import ppl_vae
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.encoders import FieldEncoder
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.priors import Exemplar, FlowPrior, Mixture, VampPrior
from ppl_vae.schedules import Cosine, WarmUp

RUNS = {
    "normal": lambda: (None, ELBO()),
    "vamp": lambda: (VampPrior(500), ELBO()),
    "exemplar": lambda: (Exemplar(), ELBO()),
    "flow": lambda: (FlowPrior(), ELBO()),
    "mixture": lambda: (Mixture(500), ELBO()),
    "mixture-iwae": lambda: (Mixture(500), IWAE(5)),
    "vamp-iwae": lambda: (VampPrior(500), IWAE(5)),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("run", choices=RUNS)
    options.add_argument("--data", default="fashion-mnist")
    options.add_argument("--epochs", type=int, default=300)
    options.add_argument("--batch-size", type=int, default=250)
    options.add_argument("--lr", type=float, default=1.5e-3)
    options.add_argument("--weight-decay", type=float, default=0.0)
    options.add_argument("--particles", type=int, default=5000)
    options.add_argument("--rows", type=int, help="of the test rows, only so many")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="auto")
    options.add_argument("--checkpoint")
    options.add_argument("--resume", action="store_true")
    given = options.parse_args()
    torch.manual_seed(given.seed)
    data = ppl_vae.load(given.data)
    prior, bound = RUNS[given.run]()
    model = VAE(data, prior=prior, latent_dim=40, hidden=(300, 300))
    encoder = FieldEncoder([data.schema["x"]], data.train, (300, 300), "gated", convolutions=False)
    guide = MeanField(model, encoder=encoder)
    start = time.perf_counter()
    result = ppl_vae.fit(
        model,
        guide,
        data,
        bound,
        epochs=given.epochs,
        batch_size=given.batch_size,
        lr=Cosine(given.lr, given.epochs),
        weight_decay=given.weight_decay,
        beta=WarmUp(given.epochs / 20),
        patience=None,
        seed=given.seed,
        device=given.device,
        on_epoch=lambda record: print(json.dumps(record), file=sys.stderr, flush=True),
        checkpoint=given.checkpoint,
        resume=given.resume,
    )
    seconds = time.perf_counter() - start
    test = data.test if given.rows is None else data.test.rows(slice(0, given.rows))
    summary = ppl_vae.evaluate(model, guide, test, particles=given.particles, seed=given.seed).summary()
    print(json.dumps({**vars(given), "seconds": round(seconds), "best": vars(result.best), **summary}))


if __name__ == "__main__":
    main()
