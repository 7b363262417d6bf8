"""Imputation of real tables: a small ensemble of VAEs against mean, k-nearest-neighbour and iterative imputation.

    python benchmarks/imputation.py
    python benchmarks/imputation.py --tables wine --fractions 0.3 --seeds 2

Entries of scikit-learn's own tables are removed completely at random. Every method sees the same holey table, columns
standardised by what is observed in them, and is judged by the root mean squared error on the removed entries.

The VAE: in each of four folds a quarter of the rows is held out, one pair is trained on the others (IWAE bound, the
MIWAE way) until the held-out bound no longer grows, and fills all rows; what is filled in is the average over the
folds. Networks with a hidden layer and four latents, or linear ones with half as many latents as columns (factor
analysis), are chosen between by the importance-sampled evidence of the rows that the first fold holds out. Neither
choice looks at a removed entry.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from sklearn import datasets
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import ppl_vae
from ppl_vae.bounds import IWAE
from ppl_vae.data import Data
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

TABLES = {
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes,
}
KINDS = ("curved", "linear")
FOLDS = 4
OURS = "VAE"


def baselines(seed):
    trees = ExtraTreesRegressor(n_estimators=10, random_state=seed)
    return {
        "mean": SimpleImputer(),
        "k nearest (5)": KNNImputer(),
        "iterative, Bayesian ridge": IterativeImputer(random_state=seed),
        "iterative, extra trees": IterativeImputer(trees, max_iter=5, random_state=seed),
    }


def holey(name: str, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The whole table, the holey one, and what was removed; both in units of the observed entries' deviation."""
    x = TABLES[name]().data.astype("float64")
    gone = np.random.default_rng(seed).random(x.shape) < fraction
    seen = np.where(gone, np.nan, x)
    mean, deviation = np.nanmean(seen, 0), np.nanstd(seen, 0)
    return (x - mean) / deviation, (seen - mean) / deviation, gone


def fold_data(seen: np.ndarray, fold: int, seed: int) -> Data:
    """All rows but a quarter to train on, and that quarter for validation."""
    whole = ppl_vae.load(seen.astype("float32"), missing="allow", test=0, validation=0)
    order = np.random.default_rng(seed).permutation(len(seen))
    held = torch.from_numpy(np.sort(order[fold::FOLDS]))
    others = torch.from_numpy(np.setdiff1d(order, held.numpy()))
    # `load` has shuffled its rows, which does not matter here: the folds of any order will do
    return Data("holey", whole.schema, whole.train.rows(others), whole.train.rows(held))


def trained(data: Data, kind: str, seed: int) -> tuple[VAE, MeanField]:
    torch.manual_seed(seed)
    hidden = (64,) if kind == "curved" else ()
    latents = 4 if kind == "curved" else data.schema["x"].size // 2
    model = VAE(data, latent_dim=latents, hidden=hidden, activation="tanh")
    guide = MeanField(model, hidden=hidden)
    ppl_vae.fit(
        model, guide, data, IWAE(10), epochs=400, lr=0.02, batch_size=512, weight_decay=1.0, patience=40, seed=seed
    )
    return model, guide


def filled_by_vae(seen: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """The average over folds of E[x_missing | x_observed], and the kind of networks that was chosen."""
    rows = torch.from_numpy(seen.astype("float32"))
    first = fold_data(seen, 0, seed)
    pairs = {kind: trained(first, kind, seed) for kind in KINDS}
    evidence = {
        kind: float(ppl_vae.evaluate(*pair, first.validation, particles=500).log_evidence.mean())
        for kind, pair in pairs.items()
    }
    best = max(KINDS, key=lambda kind: evidence[kind])
    chosen = [pairs[best], *(trained(fold_data(seen, f, seed), best, seed + 100 * f) for f in range(1, FOLDS))]
    means = [ppl_vae.impute(*pair, rows, particles=500, draws=1, seed=seed).mean["x"].numpy() for pair in chosen]
    return np.mean(means, 0), best


def cell(name: str, fraction: float, seed: int) -> dict[str, float]:
    """The error of every method on one holey table."""
    x, seen, gone = holey(name, fraction, seed)
    errors, seconds = {}, {}
    for method, imputer in baselines(seed).items():
        start = time.perf_counter()
        filled = imputer.fit_transform(seen)
        errors[method], seconds[method] = rmse(filled, x, gone), time.perf_counter() - start
    start = time.perf_counter()
    filled, kind = filled_by_vae(seen, seed)
    errors[OURS], seconds[OURS] = rmse(filled, x, gone), time.perf_counter() - start
    said = ", ".join(f"{m} {e:.3f} ({seconds[m]:.0f} s)" for m, e in errors.items())
    print(f"# {name} {fraction:g} seed {seed}: {said}; {kind}", flush=True)
    return errors


def rmse(filled: np.ndarray, x: np.ndarray, gone: np.ndarray) -> float:
    return float(np.sqrt(np.square(filled - x)[gone].mean()))


def table(results: dict[tuple[str, float], list[dict[str, float]]]) -> Iterator[str]:
    """Means over seeds ± their standard errors, and the paired difference to the best of the others."""
    methods = [*next(iter(results.values()))[0]]
    yield "| table | removed | " + " | ".join(methods) + " | VAE - best other |"
    yield "|---" * (len(methods) + 3) + "|"
    for (name, fraction), cells in results.items():
        errors = {m: np.array([c[m] for c in cells]) for m in methods}
        best = min((m for m in methods if m != OURS), key=lambda m: errors[m].mean())
        shown = [mean_and_error(errors[m]) for m in methods]
        gap = mean_and_error(errors[OURS] - errors[best], "+.3f")
        yield f"| {name} | {100 * fraction:.0f}% | " + " | ".join(shown) + f" | {gap} ({best}) |"


def mean_and_error(values: np.ndarray, form: str = ".3f") -> str:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():{form}} ± {error:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.1, 0.3, 0.5])
    parser.add_argument("--seeds", type=int, default=3)
    words = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # iterative imputation often stops at its tenth round
    torch.set_num_threads(1)
    start, results = time.perf_counter(), {}
    for name in words.tables:
        for fraction in words.fractions:
            results[name, fraction] = [cell(name, fraction, seed) for seed in range(words.seeds)]
            print("\n".join(table(results)), flush=True)
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
