"""One run in several processes of one thread each: seconds of a step, and what limits them.

    python benchmarks/ranks.py [--processes 1,2] [--rows 8192] [--batch 2048] [--hidden 1024] [--epochs 5]
        [--compile off] [--rounds 3]

A VAE on 784 columns whose step is arithmetic, fitted by `ppl_vae.fit` in 1, 2, ... processes, as torchrun starts them,
in rounds that are interleaved. Told for each number: wall and processor seconds of a step, medians over epochs but the
first of each run (the slowest process counts), and how many times less they are than those of one process. Wall is what
a user has on a quiet machine; processor seconds are what can be said on one that others use, and leave out waiting.
Then the constants of docs/scale.md: operations and bytes of a step, the sum of a gradient of so many megabytes, a
normal drawn, a row read.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import ppl_vae
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

COLUMNS, LATENTS = 784, 32


def pair(data: Any, hidden: int) -> tuple[Any, Any]:
    """The same networks in every process."""
    torch.manual_seed(0)
    model = VAE(data, latent_dim=LATENTS, hidden=(hidden, hidden))
    return model, MeanField(model, hidden=(hidden, hidden))


def work(asked: argparse.Namespace) -> None:
    """One process of a run; each writes what it saw."""
    rank = int(os.environ.get("RANK", "0"))
    x = torch.randn(asked.rows, COLUMNS, generator=torch.Generator().manual_seed(0))
    data = ppl_vae.load(x, validation=0, test=0)
    model, guide = pair(data, asked.hidden)
    began: dict[int, tuple[float, float]] = {}

    def lr(epoch: float) -> float:  # asked before every step, and in every process, as on_epoch is not
        began.setdefault(int(epoch), (time.perf_counter(), time.process_time()))
        return 1e-4

    ppl_vae.fit(
        model, guide, data, epochs=asked.epochs, batch_size=asked.batch, lr=lr, patience=None, compile=asked.compile
    )
    steps = -(-asked.rows // asked.batch)
    clocks = [began[epoch] for epoch in range(1, asked.epochs)]  # the first epoch warms up
    each = [[(b - a) / steps for a, b in zip(one, two, strict=True)] for one, two in pairwise(clocks)]
    Path(f"{asked.found}.{rank}").write_text(json.dumps(each))


def run(asked: argparse.Namespace, processes: int, folder: Path) -> list[list[tuple[float, float]]]:
    """Seconds (wall, processor) of the steps of every epoch, by process."""
    words = [str(Path(__file__).resolve()), *sys.argv[1:], "--found", str(folder / str(processes))]
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    subprocess.run([sys.executable, *start, *words], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return [json.loads((folder / f"{processes}.{rank}").read_text()) for rank in range(processes)]


def constants(asked: argparse.Namespace) -> None:
    """What a row and a step take on one thread of this machine."""
    torch.set_num_threads(1)
    data = ppl_vae.load(torch.randn(asked.batch, COLUMNS))
    parameters = sum(p.numel() for program in pair(data, asked.hidden) for p in program.parameters())
    a = torch.randn(1024, 1024)
    product = cpu_seconds(lambda: a @ a, 5)
    print(f"parameters: {parameters:,}; a gradient is {4 * parameters / 1e6:.1f} MB")
    print(f"matrix product: {2 * 1024**3 / product / 1e9:.1f} Gflop/s of one thread")
    print(f"operations of a step: {6 * parameters:,} per row (two for each weight, forward and twice backward)")
    weights = torch.zeros(parameters, requires_grad=True)
    weights.grad = torch.ones(parameters)
    adam = torch.optim.AdamW([weights], fused=True)
    adam.step()
    update = cpu_seconds(adam.step, 5)
    print(f"an update of Adam: {1e3 * update:.1f} ms, {28 * parameters / update / 1e9:.1f} GB/s")
    normals = torch.empty(10_000_000)
    print(f"a normal drawn: {cpu_seconds(normals.normal_, 3) / len(normals) * 1e9:.1f} ns")
    table = torch.randn(200_000, COLUMNS)
    index = torch.randperm(len(table))
    gathered = cpu_seconds(lambda: table[index[:20_000]], 5) / 20_000
    print(f"a row of {COLUMNS} floats gathered: {gathered * 1e6:.2f} us, {8 * COLUMNS / gathered / 1e9:.1f} GB/s")


def cpu_seconds(function: Any, times: int) -> float:
    """Processor seconds of a call, the least of several."""
    found = []
    for _ in range(times):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def sums(asked: argparse.Namespace) -> None:
    """Seconds of the sum of a buffer over the processes of this run."""
    from ppl_vae.distributed.group import joined

    group = joined("auto")
    for megabytes in (0.01, 0.1, 1, 10, 40):
        values = torch.ones(int(megabytes * 250_000))
        found = []
        for _ in range(12):
            began = time.perf_counter(), time.process_time()
            group.total(values.mul_(0.5))
            found.append((time.perf_counter() - began[0], time.process_time() - began[1]))
        wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
        if group.leads:
            print(
                f"sum of {megabytes:g} MB over {group.size} processes: {1e3 * wall:.2f} ms wall, {1e3 * cpu:.2f} ms cpu"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2")
    for name, usual in (("rows", 8192), ("batch", 2048), ("hidden", 1024), ("epochs", 5), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--compile", default="off", choices=("off", "auto", "on"))
    parser.add_argument("--found", help=argparse.SUPPRESS)
    parser.add_argument("--sums", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.sums:
        sums(asked)
        return
    if asked.found:
        work(asked)
        return
    numbers = [int(word) for word in asked.processes.split(",")]
    seen: dict[int, list[tuple[float, float]]] = {number: [] for number in numbers}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(asked.rounds):
            for number in numbers:
                found = run(asked, number, Path(folder))
                seen[number] += [
                    (max(w for w, _ in epoch), max(c for _, c in epoch)) for epoch in zip(*found, strict=True)
                ]
    one = None
    print(
        f"| processes | wall ms | cpu ms | of one: wall | cpu |  load {os.getloadavg()[0]:.1f}\n|---|---|---|---|---|"
    )
    for number, epochs in seen.items():
        wall, cpu = (statistics.median(column) for column in zip(*epochs, strict=True))
        one = one or (wall, cpu)
        print(f"| {number} | {1e3 * wall:.0f} | {1e3 * cpu:.0f} | {one[0] / wall:.2f} | {one[1] / cpu:.2f} |")
    constants(asked)
    for number in (n for n in numbers if n > 1):
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}", __file__, "--sums"]
        subprocess.run([sys.executable, *words], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
