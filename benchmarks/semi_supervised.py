"""Accuracy from few labels: M1, M2, M1M2 and M1+M2 (in turn) against the classifier with the same network and labels.

    python benchmarks/semi_supervised.py --data digits --labels 50,100,300 --draws 5

For every number of labels and every draw of labels (as many of each class) all are trained anew: the classifier
is the guide's own q(y | x), encoder and linear head, trained on the labelled rows alone with the same optimiser and as
many steps; M2's is the same network. Labels of other training rows, of validation and of test are hidden from all.
`--rows N` keeps only the first N training rows (labelled or not). Test accuracy, mean over draws with its standard
error, and the difference from the classifier, draw by draw.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ppl_vae
import ppl_vae.likelihoods
from ppl_vae import Result
from ppl_vae.data import Data
from ppl_vae.data._labels import hide_labels
from ppl_vae.guides import MeanField
from ppl_vae.models import M1, M1M2, M2, VAE
from ppl_vae.nn.encoders import FieldEncoder
from ppl_vae.schedules import Cosine, WarmUp

MODELS = {
    "M1": lambda data, o, x: M1(data, likelihood=x, latent_dim=o.latent_dim, hidden=(o.width,)),
    "M2": lambda data, o, x: M2(data, likelihood=x, latent_dim=o.latent_dim, hidden=(o.width,)),
    "M1M2": lambda data, o, x: M1M2(data, likelihood=x, latent_dims=(o.features, o.style_dim), hidden=(o.width,)),
}


def encoder_of(data: Data, o) -> FieldEncoder:
    field = data.schema["x"]
    return FieldEncoder([field], data.train, (o.width,), "gated", convolutions=o.convolutions, noise=o.noise)


def classifier(data: Data, o, seed: int) -> float:
    torch.manual_seed(seed)
    network = nn.Sequential(encoder_of(data, o), nn.Linear(o.width, data.schema["y"].cardinality))
    labelled = data.train.rows((data.train["y"] >= 0).nonzero()[:, 0])
    steps = o.epochs * -(-len(data.train) // o.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), o.lr, weight_decay=o.weight_decay)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = Cosine(o.lr, steps)(step)
        batch = labelled.batch(torch.randperm(len(labelled))[: o.batch_size])
        optimizer.zero_grad()
        F.cross_entropy(network(batch), batch["y"]).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        return accuracy(network(getattr(data, o.split).batch()).argmax(-1), data, o)


def likelihood_of(o):
    return None if o.likelihood is None else getattr(ppl_vae.likelihoods, o.likelihood)()


def semi_supervised(name: str, data: Data, labels: int, o, seed: int, first: Result | None = None) -> float:
    torch.manual_seed(seed)
    model = MODELS[name](data, o, likelihood_of(o))
    guide = MeanField(model, encoder=encoder_of(data, o), hidden=(o.width,))
    if first is not None:
        ppl_vae.warm_start(model, guide, first, freeze=not o.train_features)
    labelled = {"label_weight": o.alpha * len(data.train) / labels, "label_share": o.share}
    train(model, guide, data, o, seed, **({} if name == "M1" else labelled))
    return accuracy(ppl_vae.predict(model, guide, getattr(data, o.split), draws=16).labels, data, o)


def train(model, guide, data: Data, o, seed: int, epochs: int | None = None, **options) -> Result:
    epochs = epochs or o.epochs
    return ppl_vae.fit(
        model,
        guide,
        data.train,  # without validation rows there is no early stopping: no label chooses an epoch
        epochs=epochs,
        batch_size=o.batch_size,
        lr=Cosine(o.lr, epochs),
        weight_decay=o.weight_decay,
        beta=WarmUp(o.warm_up * epochs),
        seed=seed,
        device=o.device,
        **options,
    )


def accuracy(found: Tensor, data: Data, o) -> float:
    return float((found.cpu() == getattr(data, o.split).truth("y")).double().mean())


def in_turn(data: Data, labels: int, o, seed: int) -> float:
    """M1 of all rows, then M2 of its features, as in the source: M1M2 that begins with a VAE."""
    torch.manual_seed(seed)
    vae = VAE(data, likelihood=likelihood_of(o), latent_dim=o.features, hidden=(o.width,))
    guide = MeanField(vae, encoder=encoder_of(data, o), hidden=(o.width,))
    first = train(vae, guide, data, o, seed, epochs=o.first_epochs or o.epochs)
    return semi_supervised("M1M2", data, labels, o, seed, first)


def mean_and_error(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.1f} ± {100 * error:.1f}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default="digits")
    options.add_argument("--labels", default="50,100,300")
    options.add_argument("--draws", type=int, default=5)
    options.add_argument("--models", default="M1,M2,M1M2")
    options.add_argument("--rows", type=int)
    options.add_argument("--epochs", type=int, default=60)
    options.add_argument("--first-epochs", type=int, help="of M1 in M1+M2; by default as many")
    options.add_argument("--train-features", action="store_true", help="of M1+M2, when the labels come, too")
    options.add_argument("--batch-size", type=int, default=100)
    options.add_argument("--lr", type=float, default=1e-3)
    options.add_argument("--weight-decay", type=float, default=1.0)
    options.add_argument("--alpha", type=float, default=2.0, help="label_weight times labels over rows")
    options.add_argument("--share", type=float, help="label_share: of the rows of a batch, how many have a label")
    options.add_argument("--warm-up", type=float, default=1 / 6, help="share of the epochs in which beta grows")
    options.add_argument("--latent-dim", type=int, default=16)
    options.add_argument("--style-dim", type=int, default=8)
    options.add_argument("--width", type=int, default=256)
    options.add_argument("--features", type=int, default=32, help="of M1M2 and M1+M2")
    options.add_argument("--noise", type=float, default=0.0, help="of the encoder's input, for all")
    options.add_argument("--convolutions", action="store_true", help="before the encoder's hidden layer, for all")
    options.add_argument("--likelihood", help="such as Binomial; by default the one that fits")
    options.add_argument(
        "--split", default="test", choices=("validation", "test"), help="validation to choose settings"
    )
    options.add_argument("--first", type=int, default=0, help="the first draw")
    options.add_argument("--device", default="auto")
    o = options.parse_args()
    full = ppl_vae.load(o.data)
    if o.rows is not None:
        full = dataclasses.replace(full, train=full.train.rows(slice(0, o.rows)))
    start = time.perf_counter()
    for labels in map(int, o.labels.split(",")):
        found: dict[str, list[float]] = {"classifier": []} | {name: [] for name in o.models.split(",")}
        for seed in range(o.first, o.first + o.draws):
            data = hide_labels(full, labels, seed)
            found["classifier"].append(classifier(data, o, seed))
            for name in o.models.split(","):
                run = in_turn if name == "M1+M2" else functools.partial(semi_supervised, name)
                found[name].append(run(data, labels, o, seed))
            print(json.dumps({"labels": labels, "draw": seed} | {n: v[-1] for n, v in found.items()}), file=sys.stderr)
        cells = [f"classifier {mean_and_error(found['classifier'])}"]
        for name in o.models.split(","):
            gain = [a - b for a, b in zip(found[name], found["classifier"], strict=True)]
            cells.append(f"{name} {mean_and_error(found[name])} ({mean_and_error(gain)})")
        print(f"{labels:5d} labels: " + "; ".join(cells), flush=True)
    print(f"{time.perf_counter() - start:.0f} s, {json.dumps(vars(o))}")


if __name__ == "__main__":
    main()
