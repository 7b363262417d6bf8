"""Is a training step slower than it was? This tree against an older one, in processor time.

    git worktree add ../before eecc05a
    OMP_NUM_THREADS=1 python benchmarks/step_before.py ../before [--rounds 60] [--steps 5] [--only vae,iwae,m2,iaf]
        [--columns "ours, eager;ours, captured"]

The older tree needs a `benchmarks/step_time.py` with `COLUMNS` and `CASES`; each tree runs its own, in a process of its
own. Both make a few steps in turn, first the one, then the other, and in the next round the other way round, so that a
busy machine is equally bad for both. A round gives one ratio; printed are the median over rounds and the interval that
holds the true median in 95 of 100 cases (order statistics). A step that is slower by more than 3% is marked. The older
tree may have told glibc to keep freed memory: with the variables of `step_time.MALLOC` both do.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TextIO, cast

SLOWER = 1.03

WORKER = """
import sys, time, warnings
import pyro, torch
pyro.enable_validation(False)
warnings.simplefilter("ignore")
torch.manual_seed(0)
import ppl_vae, step_time
assert ppl_vae.__file__.startswith(sys.argv[1]), ppl_vae.__file__
x = torch.bernoulli(torch.full((int(sys.argv[4]), step_time.PIXELS), 0.3))
step = step_time.COLUMNS[sys.argv[3]](step_time.CASES[sys.argv[2]](), x)
print("seconds", 0.0, flush=True)
for line in sys.stdin:
    start = time.process_time()
    for _ in range(int(line)):
        step(x)
    print("seconds", time.process_time() - start, flush=True)
"""


class Tree:
    """One column of one tree's benchmark, in a process of its own."""

    def __init__(self, place: Path, case: str, column: str, batch: int) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(place), str(place / "benchmarks")])}
        command = [sys.executable, "-c", WORKER, str(place), case, column, str(batch)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=place
        )
        self.asked, self.said = cast(TextIO, self.process.stdin), cast(TextIO, self.process.stdout)

    def answer(self) -> float:
        """Seconds of processor time, once they are said."""
        for line in self.said:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise SystemExit(f"a worker ended with {self.process.wait()}")

    def steps(self, count: int) -> float:
        """Seconds of one step of so many."""
        print(count, file=self.asked, flush=True)
        return self.answer() / count

    def end(self) -> None:
        """No more steps."""
        self.asked.close()
        self.process.wait()


def interval(values: list[float]) -> tuple[float, float]:
    """The order statistics that hold the median in 95 of 100 cases."""
    ranked, half = sorted(values), 0.98 * math.sqrt(len(values))
    low = max(0, math.floor(len(ranked) / 2 - half))
    return ranked[low], ranked[len(ranked) - 1 - low]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("before", type=Path)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", default="vae,iwae,gated,m2,iaf")
    parser.add_argument("--columns", default="ours, eager;ours, captured")
    parser.add_argument("--batch", type=int, default=128)
    ask = parser.parse_args()
    places = ask.before.resolve(), Path(__file__).resolve().parent.parent
    print(f"{'':24s}{'before':>10s}{'now':>10s}{'now / before':>16s}")
    for case in ask.only.split(","):
        for column in ask.columns.split(";"):
            before, now = (Tree(place, case, column, ask.batch) for place in places)
            for tree in (before, now):
                tree.answer()
                tree.steps(ask.steps)  # the first ones warm up
            seconds: dict[Tree, list[float]] = {before: [], now: []}
            for i in range(ask.rounds):
                for tree in (before, now) if i % 2 else (now, before):
                    seconds[tree].append(tree.steps(ask.steps))
            before.end()
            now.end()
            ratios = [b / a for a, b in zip(seconds[before], seconds[now], strict=True)]
            low, high = interval(ratios)
            ratio, (a, b) = statistics.median(ratios), (statistics.median(seconds[t]) * 1e3 for t in (before, now))
            mark = "  slower" if ratio > SLOWER else ""
            name = f"{case}, {column.removeprefix('ours, ')}"
            print(f"{name:24s}{a:7.2f} ms{b:7.2f} ms   {ratio:.3f} ({low:.3f}-{high:.3f}){mark}", flush=True)


if __name__ == "__main__":
    main()
