"""Streamed rows: memory that does not grow with them, and what an epoch costs beside rows in memory.

    python benchmarks/streams.py memory --rows 5000000 50000000 --steps 500
    python benchmarks/streams.py epoch --rows 400000

`memory` makes Parquet files of 20 float columns (a linear model of 4 factors, seed 0), and for each number of rows a
process of its own that makes the pass over all rows, trains so many steps of a VAE, validates on nothing, and evaluates
so many rows; it tells the peak memory of each process. `epoch` trains the same VAE on the same rows streamed and in
memory, in alternating processes, and tells the seconds of processor time and of the clock for an epoch after the first.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median

COLUMNS, GROUP = 20, 131_072


def made(folder: Path, rows: int) -> Path:
    """Parquet files of so many rows, made once."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = folder / f"rows-{rows}"
    if (place / "_done").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    loadings = np.random.default_rng(0).normal(size=(4, COLUMNS)).astype("f4")
    schema = pa.schema([(f"c{i}", pa.float32()) for i in range(COLUMNS)])
    each = 40 * GROUP
    for start in range(0, rows, each):
        options = {"compression": "none", "use_dictionary": False}
        with pq.ParquetWriter(place / f"part-{start:012d}.parquet", schema, **options) as writer:
            for low in range(start, min(start + each, rows), GROUP):
                g, n = np.random.default_rng((1, low)), min(GROUP, rows - low)
                x = g.standard_normal((n, 4), dtype="f4") @ loadings + 0.5 * g.standard_normal((n, COLUMNS), dtype="f4")
                writer.write_table(pa.table([x[:, i] for i in range(COLUMNS)], schema=schema), row_group_size=GROUP)
    (place / "_done").touch()
    return place


def peak() -> float:
    """The most memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pair_of(data):
    """A VAE of 256 hidden units for a table, with its guide."""
    import torch

    from ppl_vae.guides import MeanField
    from ppl_vae.models import VAE

    torch.manual_seed(0)
    model = VAE(data, latent_dim=4, hidden=(256,))
    return model, MeanField(model, hidden=(256,))


class Enough(Exception):
    """So many steps are done."""


def memory(place: Path, steps: int, batch: int) -> dict[str, float]:
    """Load, train so many steps (0: a whole epoch), evaluate some rows by parts; what each took."""
    import tempfile

    import ppl_vae

    began, told = peak(), dict[str, float]()
    start = time.perf_counter()
    data = ppl_vae.load(place, stream=True, validation=0, test=0.001)
    told |= {"rows": len(data.train), "pass s": time.perf_counter() - start, "pass MiB": peak() - began}
    model, guide = pair_of(data)
    serve, count = type(data.train).served, [0]

    def served(self, *given):
        for each in serve(self, *given):
            if steps and count[0] >= steps:
                raise Enough
            count[0] += 1
            yield each

    type(data.train).served = served
    start = time.perf_counter()
    with suppress(Enough):
        ppl_vae.fit(model, guide, data, epochs=1, batch_size=batch, compile="off")
    told |= {"steps": count[0], "steps s": time.perf_counter() - start, "and steps MiB": peak() - began}
    with tempfile.TemporaryDirectory() as folder:
        some = data.test.rows(slice(0, 4096))
        ppl_vae.in_parts(ppl_vae.evaluate, model, guide, some, out=folder, particles=10, compile="off")
    return told | {"and evaluation MiB": peak() - began, "peak MiB": peak()}


def epoch(place: Path, how: str, epochs: int, batch: int) -> dict[str, float]:
    """The seconds of an epoch after the first, streamed or in memory."""
    import ppl_vae

    data = ppl_vae.load(place, stream=True, validation=0.1, test=0)
    data = data if how == "streamed" else data.in_memory()
    model, guide = pair_of(data)
    times = [(time.perf_counter(), time.process_time())]
    told = lambda record: times.append((time.perf_counter(), time.process_time()))  # noqa: E731
    result = ppl_vae.fit(model, guide, data, epochs=epochs, batch_size=batch, compile="off", on_epoch=told)
    clock, cpu = ([b[i] - a[i] for a, b in pairwise(times[1:])] for i in (0, 1))
    return {"clock s": min(clock), "processor s": min(cpu), "bound": result.history[-1]["train"]}


def _alone(*words: object) -> dict[str, float]:
    ended = subprocess.run(
        [sys.executable, __file__, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "epoch", "_memory", "_epoch"))
    parser.add_argument("--rows", type=int, nargs="+", default=[200_000])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--how", default="streamed")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/.rows"))
    asked = parser.parse_args()
    same = ["--batch", asked.batch, "--steps", asked.steps, "--epochs", asked.epochs, "--folder", asked.folder]
    if asked.what == "_memory":
        print(json.dumps(memory(made(asked.folder, asked.rows[0]), asked.steps, asked.batch)))
        return
    if asked.what == "_epoch":
        print(json.dumps(epoch(made(asked.folder, asked.rows[0]), asked.how, asked.epochs, asked.batch)))
        return
    for rows in asked.rows:
        made(asked.folder, rows)
        if asked.what == "memory":
            print(json.dumps(_alone("_memory", "--rows", rows, *same)), flush=True)
            continue
        seen: dict[str, list[dict[str, float]]] = {"streamed": [], "in memory": []}
        for _ in range(asked.rounds):
            for how, found in seen.items():
                found.append(_alone("_epoch", "--rows", rows, "--how", how, *same))
                print(how, json.dumps(found[-1]), flush=True)
        for unit in ("clock s", "processor s"):
            ours, theirs = (median(one[unit] for one in seen[how]) for how in ("streamed", "in memory"))
            print(f"{unit}: {ours:.2f} streamed, {theirs:.2f} in memory, ratio {ours / theirs:.3f}")


if __name__ == "__main__":
    main()
