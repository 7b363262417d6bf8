"""Peak resident memory of training on many groups: their number counts only as the data do.

    python benchmarks/many_groups.py 10000
    python benchmarks/many_groups.py 100000

Groups of 1 to 8 rows of a long table, the two-level normal model of `groups.py` with a latent of every row, FullRank,
one epoch in batches of 1,000 groups. Each number of groups is a process of its own, since a peak never falls.
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from groups import with_visits

import ppl_vae
from ppl_vae.guides import FullRank

MIB = 2**20


def resident() -> float:
    """MiB of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MIB


def main() -> None:
    """Train and print how much memory there was at each point."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("groups", type=int)
    o = options.parse_args()
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(o.groups), random.integers(1, 9, o.groups))
    frame = pd.DataFrame({"patient": group, "y": random.normal(size=o.groups)[group] + random.normal(size=len(group))})
    before = resident()
    data = ppl_vae.load(frame, group="patient", validation=0, test=0)
    loaded = resident()
    torch.manual_seed(0)
    guide = FullRank(with_visits, data, hidden=(32,))
    ppl_vae.fit(with_visits, guide, data, epochs=1, batch_size=1000, lr=1e-3, seed=0, compile="off", restarts=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{o.groups} groups, {len(frame)} rows, {frame.memory_usage().sum() / MIB:.1f} MiB as a table: resident "
        f"{before:.0f} MiB before load, {loaded:.0f} after it, {peak:.0f} at the peak"
    )


if __name__ == "__main__":
    main()
