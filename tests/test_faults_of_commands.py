"""A full disk, a read-only one or a kill while a command writes: the run stays whole, and the command can be repeated.

Also random kills of training whose steps are captured or compiled.
"""

import os
import random
import shutil
import signal
import time
import warnings

import numpy as np
import pandas
import pytest
from faults import Disk, Killed, outcome
from helpers import small_pair

import ppl_vae
from ppl_vae.cli import files, main
from ppl_vae.speed import modes
from ppl_vae.training import _loop as loop
from ppl_vae.training.checkpoint import has_checkpoint

pytestmark = pytest.mark.faults

COMMANDS = {
    "evaluate": ["evaluate", "RUN", "--particles", "30"],
    "impute": ["impute", "RUN", "--particles", "30", "--draws", "2"],
    "posterior": ["posterior", "RUN", "--draws", "5", "--particles", "30"],
    "export": ["export", "RUN", "--draws", "2", "--particles", "30"],
    "encode": ["encode", "RUN"],
    "sample": ["sample", "RUN", "-n", "3"],
    "report": ["report", "RUN"],
    "diagnose": ["diagnose", "RUN", "--only", "collapse"],
}
FAULTS = ("kill", "middle", "once", "full", "read-only")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a table with holes, of which every command can be asked."""
    folder = tmp_path_factory.mktemp("commands")
    values = np.random.default_rng(0).normal(size=(60, 3))
    values[::7, 1] = np.nan
    pandas.DataFrame(values, columns=list("abc")).to_csv(folder / "t.csv", index=False)
    words = ["fit", "vae", "--data", str(folder / "t.csv"), "--missing", "allow", "--epochs", "2", "--hidden", "4"]
    words += ["--latent-dim", "2", "--evaluate-particles", "30", "--no-report", "--compile", "off"]
    assert main([*words, "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def place(run, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DRAFT_SECONDS", 0.0)
    shutil.copytree(run, tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "there" / "run"


def asked(name, place):
    """The status of a command, and what a traceback would have been."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return main([str(place) if word == "RUN" else word for word in COMMANDS[name]])
    except Killed:
        return "killed"


def names(place):
    return sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file())


FAST = ("sample", "middle")
CASES = [
    pytest.param(n, f, marks=[] if (n, f) == FAST else [pytest.mark.slow], id=f"{n}-{f}")
    for n in COMMANDS
    for f in FAULTS
]


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_a_fault_at_any_operation_of_a_command_costs_its_file_at_most(place, capsys, name, fault):
    copy = place.parent / "calm"
    shutil.copytree(place, copy)
    disk = Disk()
    with disk.active():
        assert asked(name, copy) == 0, capsys.readouterr().err
    wanted, tried = names(copy), 0
    for at in range(1, disk.count + 1):
        other = place.parent / f"{fault}-{at}"
        shutil.copytree(place, other)
        found = outcome(Disk(at, fault), lambda other=other: asked(name, other))
        error = capsys.readouterr().err
        case = f"{name}, {fault} at operation {at} of {disk.count}: {found!r}, {error}"
        assert found in (0, 2, "killed") or isinstance(found, Killed), case
        assert "Traceback" not in error, case
        if found == 2:
            assert error.splitlines()[-1].startswith("ppl-vae: "), case
        ppl_vae.open_run(other).data()  # the run is as it was
        assert asked(name, other) == 0, f"{case}; again: {capsys.readouterr().err}"
        left = [n for n in names(other) if n not in wanted and not n.endswith(("-2.csv", "-2.npz", "-2.nc"))]
        assert left == [], f"{case}; left: {left}"
        assert set(wanted) <= set(names(other)), case
        shutil.rmtree(other)
        tried += 1
    assert tried == disk.count > 0


# -- random kills ----------------------------------------------------------------------------------------------------

KILLS = 100


def train(folder, compile):
    """A run that goes on where it was, and is saved."""
    data = ppl_vae.load(np.random.default_rng(0).normal(size=(60, 3)).astype("float32"))
    checkpoint = folder / "checkpoint"
    resume = has_checkpoint(checkpoint)
    result = ppl_vae.fit(
        *small_pair(data), data, epochs=40, batch_size=20, compile=compile, checkpoint=checkpoint, resume=resume
    )
    shutil.rmtree(folder / "run", ignore_errors=True)
    result.save(folder / "run")
    return result


def numbers(history):
    return [(line["train"], line["validation"]) for line in history]


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "auto", "on"])
def test_a_hundred_kills_at_random_moments(tmp_path, monkeypatch, compile):
    """Eager, captured and compiled steps; of a compiled run the code is the same again, so its numbers are, too."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    if compile == "auto":  # captured, and never compiled
        monkeypatch.setattr(modes, "MARGIN", 0.0)
        monkeypatch.setattr(modes, "TRIAL", 1)
        monkeypatch.setattr(modes, "NOISE", float("inf"))
        monkeypatch.setattr(modes, "seconds_to_compile", lambda graph: float("nan"))
    train(tmp_path / "first", compile)  # which imports and compiles
    begun = time.monotonic()
    whole = train(tmp_path / "whole", compile)
    seconds = time.monotonic() - begun
    chance, kills, finished = random.Random(f"kills {compile}"), 0, 0
    while kills < KILLS or finished == 0:
        folder = tmp_path / f"run-{finished}"
        child = os.fork()
        if child == 0:
            try:
                train(folder, compile)
            finally:
                os._exit(0)
        until = time.monotonic() + chance.uniform(0, seconds if kills < KILLS else 60)
        status = None
        while status is None and time.monotonic() < until:
            time.sleep(0.002)
            status = os.waitpid(child, os.WNOHANG)[1] if os.waitid(os.P_PID, child, _LOOK) else None
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
            continue
        found = ppl_vae.open_run(folder / "run")
        assert numbers(found.history) == numbers(whole.history)
        assert (folder / "run" / "weights.safetensors").read_bytes() == (
            tmp_path / "whole" / "run" / "weights.safetensors"
        ).read_bytes()
        finished += 1
    assert kills == KILLS


_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT
