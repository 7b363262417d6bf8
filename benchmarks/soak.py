"""Many fits, evaluations, compilations and saved runs in one process: memory, descriptors and caches have to stay flat.

    python benchmarks/soak.py [--minutes 120] [--out soak.csv] [--new-graphs]

A round trains and judges every pair of a short list (eager, captured, compiled; labels, flows, a discrete latent),
fills holes, draws posteriors, saves the run and opens it again. It then counts what a leak would show in: resident
memory, open descriptors, threads, live Python objects and tensors, modules, and the entries of the caches that we and
torch keep. One line a round goes to the table. The last line says what grew from the third quarter of the rounds to the
fourth, by medians, so that the first rounds warm up. Status 1 if anything did.

The shapes are the same in every round. With --new-graphs each round compiles another one, which torch keeps for the
life of the process: then the table shows what a new graph costs.
"""

from __future__ import annotations

import argparse
import csv
import gc
import os
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pyro
import torch

import ppl_vae
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.guides import IAF, FullRank, MeanField
from ppl_vae.models import GMVAE, M2, VAE
from ppl_vae.priors import VampPrior

ALLOWED = {"rss_mb": 1.0, "objects": 20.0, "tensors": 0.5}
"""How much a round may add and count as flat: a megabyte is what an allocator's luck makes; all else must not grow."""


def rows(columns: int) -> np.ndarray:
    """Correlated normals, some entries missing."""
    random = np.random.default_rng(0)
    values = random.normal(size=(240, columns)) @ random.normal(size=(columns, columns))
    values[random.random(values.shape) < 0.05] = np.nan
    return values.astype("float32")


def pairs(data: ppl_vae.Data, labelled: ppl_vae.Data):
    """What is trained in a round: a name, the pair, its rows, the bound and how steps are run."""
    vae = VAE(data, latent_dim=2, hidden=(16,))
    yield "eager", vae, MeanField(vae, hidden=(16,)), data, ELBO(), "off"
    flow = VAE(data, latent_dim=2, hidden=(16,), prior=VampPrior(5))
    yield "captured", flow, IAF(flow, hidden=(16,)), data, IWAE(4), "auto"
    vae = VAE(data, latent_dim=3, hidden=(16,))
    yield "compiled", vae, FullRank(vae, hidden=(16,)), data, ELBO(), "on"
    half = M2(labelled, latent_dim=2, hidden=(16,))
    yield "labels", half, MeanField(half, hidden=(16,)), labelled, ELBO(), "off"
    mixture = GMVAE(data, latent_dim=2, clusters=3, hidden=(16,))
    yield "discrete", mixture, MeanField(mixture, hidden=(16,)), data, ELBO(), "off"


def one_round(folder: Path, number: int, columns: int) -> float:
    """Everything once; the sum of the numbers found, which is the same in every round."""
    values = rows(columns)
    data = ppl_vae.load(values, missing="allow")
    kinds = np.where(np.arange(len(values)) % 3 == 0, np.arange(len(values)) % 2, -1)
    labelled = ppl_vae.load({"x": np.nan_to_num(values), "y": kinds}, missing="allow")
    total = 0.0
    torch.manual_seed(0)
    for name, model, guide, some, bound, compile in pairs(data, labelled):
        place = folder / f"{number}-{name}"
        checkpoint = place / "checkpoint"
        ppl_vae.fit(model, guide, some, bound, epochs=4, compile=compile, checkpoint=checkpoint)
        result = ppl_vae.fit(model, guide, some, bound, epochs=8, compile=compile, checkpoint=checkpoint, resume=True)
        total += result.history[-1]["train"]
        opened = ppl_vae.open_run(result.save(place / "run"))
        total += ppl_vae.evaluate(opened.model, opened.guide, some.test, particles=50, compile=compile).summary()["nll"]
        if name in ("eager", "captured"):
            ppl_vae.impute(opened.model, opened.guide, some.test, particles=20)
            ppl_vae.posterior(opened.model, opened.guide, some.test, draws=20)
        for path in sorted(place.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        place.rmdir()
    return total


def resident() -> float:
    """Megabytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def counted() -> dict[str, float]:
    """What a leak shows in."""
    from torch._inductor.codecache import PyCodeCache

    from ppl_vae.programs import local_module

    gc.collect()
    objects = gc.get_objects()
    return {
        "rss_mb": round(resident(), 1),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "objects": len(objects),
        "tensors": sum(issubclass(type(thing), torch.Tensor) for thing in objects),
        "modules": len(sys.modules),
        "inductor_modules": len(PyCodeCache.modules),
        "named_modules": len(local_module._NAMES),
        "param_store": len(pyro.get_param_store()),
        "pyro_stack": len(pyro.poutine.runtime._PYRO_STACK),
        "warning_filters": len(warnings.filters),
    }


def slope(values: list[float]) -> float:
    """By how much a column grows in a round, by the medians of the two halves, so that no single round decides."""
    middle = len(values) // 2
    if middle == 0:
        return 0.0
    return float(np.median(values[middle:]) - np.median(values[:middle])) / (len(values) / 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--out", type=Path, default=Path("soak.csv"))
    parser.add_argument("--new-graphs", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    begun, lines, first = time.monotonic(), [], None
    with tempfile.TemporaryDirectory() as folder, options.out.open("w", newline="") as file:
        while time.monotonic() - begun < 60 * options.minutes:
            number = len(lines)
            total = one_round(Path(folder), number, 4 + (number if options.new_graphs else 0))
            first = total if first is None else first
            line = {"round": number, "minutes": round((time.monotonic() - begun) / 60, 2)} | counted()
            line["same"] = options.new_graphs or total == first
            if not lines:
                table = csv.DictWriter(file, list(line))
                table.writeheader()
            lines.append(line)
            table.writerow(line)
            file.flush()
            print(" ".join(f"{k} {v}" for k, v in line.items()), flush=True)
    late = lines[len(lines) // 2 :]
    grown = {name: slope([line[name] for line in late]) for name in counted()}
    grown = {name: round(by, 3) for name, by in grown.items() if by > ALLOWED.get(name, 0.0)}
    print(f"{len(lines)} rounds in {lines[-1]['minutes']} minutes; grows by round: {grown or 'nothing'}")
    other = [line["round"] for line in lines if not line["same"]]
    print(f"rounds with other numbers than the first: {other or 'none'}")
    return 1 if grown or other else 0


if __name__ == "__main__":
    sys.exit(main())
