"""SIGKILL at random moments, several to one run: in the end there is the run that nothing happened to, to the bit.

A case costs a fork: this process has imported all and compiled the steps already. A moment is a step and so many events
of Python (calls, returns) after it; a seed draws them. Checkpoints are written after every step.
"""

import os
import random
import signal
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from faults import files_of

from ppl_vae.cli import main
from ppl_vae.speed import compiler
from ppl_vae.training import _acceleration as acceleration
from ppl_vae.training import _loop as loop
from ppl_vae.training.checkpoint import has_checkpoint

pytestmark = pytest.mark.faults

ALONE = "PPL_VAE_TESTED_ALONE"

SEED, KILLS, FEW = 19, 100, 3
STEPS, EVENTS = 8, 30_000
"""A moment is after one of the next so many steps, and among so many events: those of some steps and checkpoints."""

FIT = "fit vae --epochs 6 --latent-dim 2 --hidden 4 --batch-size 14 --evaluate-particles 5 --no-report --out run"
KINDS = {
    "eager": "--data t.npy --compile off",
    "captured": "--data t.npy --compile auto",
    "compiled": "--data t.npy --compile on",
    "streamed": "--data t.npy --compile off --stream",
}


class Moment(NamedTuple):
    """When a process dies: 0 steps are the beginning."""

    steps: int
    events: int


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every step and every epoch."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 1e-9)
    monkeypatch.setattr(loop.Loop, "_is_due", lambda self: True)


@pytest.fixture
def modes_used(monkeypatch):
    """How many graphs are captured and used from here on."""
    used = Counter()

    class Counted(acceleration.StepGraph):
        def replay(self, *given):
            used["replayed"] += 1
            return super().replay(*given)

    monkeypatch.setattr(acceleration, "StepGraph", Counted)
    return used


def die_at(moment):
    """From here on this process counts, and is killed."""
    steps, events = moment
    real = loop.Loop._set_lr

    def count(*_):
        nonlocal events
        events -= 1
        if events <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def step(self, epoch):
        nonlocal steps
        steps -= 1
        if steps == 0:
            sys.setprofile(count)
        real(self, epoch)

    loop.Loop._set_lr = step
    if steps == 0:
        sys.setprofile(count)


def forked(folder, line, moment=None):
    """The status of a command in a fork of this process; None where it was killed."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.chdir(folder)
            sys.stdout = sys.stderr = open("said.txt", "a")  # noqa: SIM115 - closed with the process
            if moment is not None:
                die_at(moment)
            status = main(line.split())
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return None
    return os.waitstatus_to_exitcode(status)


def finished(place, line, moment):
    """Whether a command came to its end: it goes on where there is a state, or begins."""
    has_state = has_checkpoint(place / "run" / "checkpoint")
    status = forked(place, f"{line} --resume" if has_state else line, moment)
    assert status in (None, 0), (place / "said.txt").read_text()[-2000:]
    return status == 0


def ran_alone(request):
    """Whether this test was run in a process of its own: no fork can train where autograd has had threads before."""
    if ALONE in os.environ:
        return False
    folder = request.config.rootpath
    words = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "slow or not slow", request.node.nodeid]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *words],
        cwd=folder,
        env=os.environ | {ALONE: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return True


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        pytest.param("eager", FEW, id="few"),
        *(pytest.param(kind, KILLS, id=kind, marks=pytest.mark.slow) for kind in KINDS),
    ],
)
def test_random_kills_change_nothing(tmp_path, monkeypatch, request, often, modes_used, kind, wanted):
    if ran_alone(request):
        return
    if kind == "captured":
        request.getfixturevalue("soon_captured")
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
    line = f"{FIT} {KINDS[kind]}"

    def place(name):
        folder = tmp_path / name
        folder.mkdir()
        np.save(folder / "t.npy", rows)
        return folder

    calm = place("calm")
    monkeypatch.chdir(calm)
    assert main(line.split()) == 0
    expected = files_of(Path("run"))
    assert bool(modes_used["replayed"]) == (kind in ("captured", "compiled"))
    assert kind != "compiled" or compiler._kept
    chance, kills, runs = random.Random(f"{SEED} {kind}"), 0, 0
    while kills < wanted:
        there = place(f"run-{runs}")
        runs += 1
        for _ in range(min(chance.randint(1, 4), wanted - kills)):
            if finished(there, line, Moment(chance.randrange(STEPS), chance.randrange(EVENTS))):
                break
            kills += 1
        else:
            assert finished(there, line, None)
        assert files_of(there / "run") == expected, there.name
        assert not list(there.rglob("*.tmp"))
    assert kills == wanted
