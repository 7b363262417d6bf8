"""HyperImpute with its defaults over the holey tables that `published_masks.py --write DIR` wrote.

    python -m venv peers && peers/bin/pip install hyperimpute
    peers/bin/python benchmarks/hyperimpute_peer.py DIR [NAME ...]

It has an environment of its own: it wants versions of its own of pandas and scikit-learn. Nothing of this package is
imported here. Source: Jarrett et al. 2022, arXiv 2206.07769.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import pandas as pd


def main() -> None:
    """Fill every table of a folder that has not been filled yet."""
    from hyperimpute.plugins.imputers import Imputers

    warnings.simplefilter("ignore")
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    for file in sorted(folder.glob("*.csv")):
        done = file.with_suffix(".hyperimpute.csv")
        if file.name.endswith(".hyperimpute.csv") or done.exists() or (names and file.stem not in names):
            continue
        holey, start = pd.read_csv(file), time.perf_counter()
        filled = Imputers().get("hyperimpute", random_state=0).fit_transform(holey.copy())
        pd.DataFrame(filled).set_axis(holey.columns, axis=1).to_csv(done, index=False)
        print(f"{file.stem}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
