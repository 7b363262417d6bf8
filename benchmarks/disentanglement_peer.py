"""Scores of disentanglement beside disentanglement_lib's own files, on the same codes and the same groups of rows.

    git clone https://github.com/google-research/disentanglement_lib
    python benchmarks/disentanglement_peer.py disentanglement_lib [--seed 0]

Its metrics are read where they are; gin, absl and six, which only configure and log, are stood in for, so that neither
TensorFlow nor an old Python is needed. Codes are of a full grid of four factors: one latent for each of two factors,
two turned into each other, one of small spread, one of noise. What the scores draw at random (groups of rows that share
a factor) is drawn there and replayed here, so that differences are those of the formulas.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.diagnostics._factors import scores
from ppl_vae.diagnostics._factors.information import binned, entropies, mutual_information

SIZES = (3, 5, 8, 8)
GROUP, VOTES = 64, (1000, 500)


def read(folder: Path) -> dict[str, Any]:
    """The metrics of a checkout, without what configures and logs them."""

    def configurable(*_: Any, **__: Any) -> Any:
        return lambda function: function

    for name, parts in {
        "gin": {"configurable": configurable, "REQUIRED": None},
        "gin.tf": {"configurable": configurable, "REQUIRED": None},
        "absl": {"logging": types.SimpleNamespace(info=lambda *_: None)},
        "six": {},
        "six.moves": {"range": range},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(parts)
        sys.modules[name] = module
    sys.modules["gin"].tf = sys.modules["gin.tf"]  # type: ignore[attr-defined]
    sys.path.insert(0, str(folder))
    names = ("utils", "mig", "sap_score", "dci", "modularity_explicitness", "factor_vae", "beta_vae")
    return {name: importlib.import_module(f"disentanglement_lib.evaluation.metrics.{name}") for name in names}


class Grid:
    """All combinations of factors as their data set has them: an observation is the number of its row."""

    num_factors = len(SIZES)

    def __init__(self, seed: int) -> None:
        self.codes = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), 1)
        generator = np.random.default_rng(seed)
        scaled = self.codes / (np.array(SIZES) - 1) * 2 - 1
        turned = np.stack([scaled[:, 2] + scaled[:, 3], scaled[:, 2] - scaled[:, 3]], 1) / np.sqrt(2)
        noise = generator.normal(size=(len(scaled), 6)) * np.array([0.05, 0.05, 0.1, 0.1, 0.1, 1.0])
        small, unused = 0.1 * scaled[:, :1], np.zeros((len(scaled), 1))
        self.latents = np.concatenate([scaled[:, :2], turned, small, unused], 1) + noise
        self.given: list[np.ndarray] = []

    def rows(self, factors: np.ndarray) -> np.ndarray:
        return np.ravel_multi_index(factors.T, SIZES)

    def sample_factors(self, count: int, random: np.random.RandomState) -> np.ndarray:
        return np.stack([random.randint(size, size=count) for size in SIZES], 1)

    def sample_observations_from_factors(self, factors: np.ndarray, _: Any) -> np.ndarray:
        self.given.append(self.rows(factors))
        return self.given[-1]

    def sample_observations(self, count: int, _: Any) -> np.ndarray:
        return np.resize(np.arange(len(self.codes)), count)

    def represent(self, observations: np.ndarray) -> np.ndarray:
        return self.latents[observations]


class Replayed:
    """In the place of a generator and of groups of rows: the factors and the rows that the other program drew."""

    def __init__(self, factors: list[int], groups: list[np.ndarray]) -> None:
        self.factors, self.groups = iter(factors), iter(groups)

    def __call__(self, _: Any) -> Replayed:
        return self

    def integers(self, _: int, size: int | None = None) -> Any:
        return next(self.factors) if size is None else np.array([next(self.factors) for _ in range(size)])

    def sharing(self, *_: Any) -> np.ndarray:
        return next(self.groups)

    def pairs(self, *_: Any) -> tuple[np.ndarray, np.ndarray]:
        return next(self.groups), next(self.groups)


class Heard(np.random.RandomState):
    """A generator that remembers which factors were chosen."""

    chosen: list[int]

    def randint(self, *args: Any, **options: Any) -> Any:
        found = super().randint(*args, **options)
        if not options:
            self.chosen.append(int(found))
        return found


def groups_of(grid: Grid, seed: int) -> Heard:
    grid.given.clear()
    heard = Heard(seed)
    heard.chosen = []
    return heard


def by_groups(theirs: dict[str, Any], grid: Grid, seed: int) -> dict[str, tuple[float, float]]:
    """The scores that draw groups of rows, ours from the groups of theirs."""
    found = {}
    heard = groups_of(grid, seed)
    prune = theirs["factor_vae"]._prune_dims
    theirs["factor_vae"]._prune_dims = lambda variances: prune(variances, threshold=0.05)  # as in its configurations
    told = theirs["factor_vae"].compute_factor_vae(grid, grid.represent, heard, None, GROUP, *VOTES, len(grid.codes))[
        "eval_accuracy"
    ]
    replay = Replayed(heard.chosen, grid.given)
    scores._Groups = replay  # type: ignore[misc, assignment]
    found["FactorVAE score"] = (scores.factor_vae(grid.latents, grid.codes, replay, votes=VOTES), told)  # type: ignore[arg-type]
    heard = groups_of(grid, seed)
    score = theirs["beta_vae"].compute_beta_vae_sklearn
    told = score(grid, grid.represent, heard, None, GROUP, *VOTES)["eval_accuracy"]
    replay = Replayed(heard.chosen, grid.given)
    scores._Groups = replay  # type: ignore[misc, assignment]
    found["beta-VAE score"] = (scores.beta_vae(grid.latents, grid.codes, replay, votes=VOTES), told)  # type: ignore[arg-type]
    return found


def main() -> None:
    """A line for each score: ours, theirs, the difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    theirs, grid = read(asked.folder), Grid(asked.seed)
    z, codes = grid.latents, grid.codes
    order = np.random.default_rng(asked.seed).permutation(len(z))
    train, test = order[: 2 * len(z) // 3], order[2 * len(z) // 3 :]
    split = (z[train], codes[train], z[test], codes[test])
    turned = [part.T for part in split]
    information, entropy = mutual_information(binned(z), codes), entropies(codes)
    bins = np.stack([np.digitize(column, np.histogram(column, 20)[1][:-1]) for column in z.T])
    table = theirs["utils"].discrete_mutual_info(bins, codes.T)
    best = np.sort(table, 0)[::-1]
    gaps = (best[0] - best[1]) / theirs["utils"].discrete_entropy(codes.T)
    found = {
        "MIG": (scores.mig(information, entropy), np.mean(gaps)),
        "modularity": (scores.modularity(information), theirs["modularity_explicitness"].modularity(table)),
        "SAP": (scores.sap(*split), theirs["sap_score"]._compute_sap(*turned, False)["SAP_score"]),
    }
    found |= by_groups(theirs, grid, asked.seed)
    print(f"{len(z):,} codes of {z.shape[1]} latents, {len(SIZES)} factors, seed {asked.seed}")
    for name, (ours, other) in found.items():
        print(f"{name:16} {ours:.5f} {other:.5f} {ours - other:+.5f}")


if __name__ == "__main__":
    main()
