"""Several views of one row: label accuracy and coherence with half of the rows incomplete, by kind of guide.

Pairs of digits of one class (a in grey levels, b in black and white) and their label. `python benchmarks/multimodal.py`
prints a table; half of the training rows lack a, b or the label in the column "holes".
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch

import ppl_vae
from ppl_vae.data import Data, Field, Schema
from ppl_vae.guides import MeanField
from ppl_vae.models import Multimodal


def with_holes(data: Data, share: float, seed: int = 0) -> Data:
    """Training and validation rows of which a share lacks one field each, chosen at random; test rows are whole."""
    schema = Schema(tuple(Field(**{**vars(f), "missing": True}) for f in data.schema))
    generator = torch.Generator().manual_seed(seed)
    splits = {}
    for name in ("train", "validation", "test"):
        split = getattr(data, name)
        fields = {n: v.clone() for n, v in split.fields.items()}
        if name != "test":
            gone = torch.rand(len(split), generator=generator) < share
            which = torch.randint(0, len(fields), (len(split),), generator=generator)
            for i, (field, values) in enumerate(fields.items()):
                values[gone & (which == i)] = -1 if schema[field].kind == "categorical" else torch.nan
        splits[name] = replace(split, schema=schema, fields=fields)
    return replace(data, schema=schema, **splits)


def measure(data: Data, experts: str | None, epochs: int, seed: int) -> dict[str, float]:
    """Evidence of whole rows, accuracy of labels from a, b, and both, and coherence in both directions."""
    torch.manual_seed(seed)
    model = Multimodal(data, private=4, latent_dim=12, hidden=(128,))
    guide = MeanField(model, experts=experts, hidden=(128,))
    start = time.perf_counter()
    ppl_vae.fit(model, guide, data, epochs=epochs, batch_size=100, lr=2e-3, seed=seed, patience=None, compile="off")
    found = {"seconds": time.perf_counter() - start}
    test = data.test
    found["log p(a, b, y)"] = float(ppl_vae.evaluate(model, guide, test, particles=200).log_evidence.mean())
    for names in (("a",), ("b",), ("a", "b")):
        rows = {n: test[n] for n in names}
        try:
            right = ppl_vae.predict(model, guide, rows, "y", draws=32).labels == test["y"]
            found[f"y from {' and '.join(names)}"] = float(right.double().mean())
        except ppl_vae.UserError:
            found[f"y from {' and '.join(names)}"] = float("nan")  # a joint encoder that saw whole rows alone
    for given, of in (("a", "b"), ("b", "a")):
        try:
            told = ppl_vae.coherence(model, guide, data, given=given, of=of)
            found |= {f"{given} to {of}": told.draws.value, f"means {given} to {of}": told.means.value}
            found[f"judge of {of}"] = told.judge.value
        except ppl_vae.UserError:
            found |= {f"{given} to {of}": float("nan")}
    return found


def main() -> None:
    """Print a line for each kind of guide and for whole and incomplete training rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--experts", default="joint,product,mixture,mopoe")
    parser.add_argument("--share", default="0,0.5")
    asked = parser.parse_args()
    whole = ppl_vae.load("digit-pairs")
    for share in map(float, asked.share.split(",")):
        data = with_holes(whole, share) if share else whole
        for word in asked.experts.split(","):
            found = measure(data, None if word == "joint" else word, asked.epochs, asked.seed)
            numbers = "  ".join(f"{name} {value:.3f}" for name, value in found.items())
            print(f"holes {share:.1f}  {word:8} {numbers}", flush=True)


if __name__ == "__main__":
    main()
