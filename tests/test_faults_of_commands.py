"""A full disk, a read-only one or a kill while a command writes: the run stays whole, the command can be repeated."""

import contextlib
import shutil
import warnings

import numpy as np
import pandas
import pytest
from faults import Disk, Killed, outcome

import ppl_vae
from ppl_vae.cli import files, main

pytestmark = pytest.mark.faults

QUICK = "--epochs 2 --hidden 4 --evaluate-particles 30 --no-report --compile off"
FIT = (
    "fit multimodal --guide mean_field:experts=product --data t.csv --label kind --missing allow --latent-dim 2 "
    f"{QUICK} --out run"
)
GRID = (
    "compare --guides mean_field --seeds 1 --data x.npy --epochs 2 --hidden 4 --latent-dim 2 --compile off "
    "--out grid --particles 5 --iwae 1 --jobs 1"
)
OWN = """
import pyro
import pyro.distributions as dist
from torch import zeros

def model(x):
    mean = pyro.sample("mean", dist.Normal(zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)
"""
COMMANDS = {
    "evaluate": "evaluate run --particles 30",
    "impute": "impute run --particles 30 --draws 2",
    "posterior": "posterior shared --model own.py:model --draws 5 --particles 30 --out shared/draws.csv",
    "export": "export run --draws 2 --particles 30",
    "encode": "encode run",
    "decode": "decode run --latents z.npz",
    "traverse": "traverse run --steps 2",
    "interpolate": "interpolate run --rows 0,1 --steps 2",
    "transfer": "transfer run --content 0 --style 1 --take w_x",
    "explain": "explain run --field x --out run/explained.npz",
    "predict": "predict run",
    "sample": "sample run -n 3",
    "sample-given": "sample run -n 3 --given a=1",
    "compare": "compare run --particles 30 --out run/compared",
    "certify": "certify run --accuracy 1 --rows 2 --validate 0",
    "report": "report run",
    "diagnose": "diagnose run --only collapse",
    "grid": f"{GRID} --resume",
}
"""Every command that writes beside or into a run; `fit` is in test_faults.py."""

FAULTS = ("kill", "middle", "once", "full", "read-only")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of which every command can be asked: on a table with holes and a label, on one vector, a finished grid."""
    folder = tmp_path_factory.mktemp("commands")
    values = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
    np.save(folder / "x.npy", values)
    np.savez(folder / "z.npz", z=values[:, :2])
    values[::7, 1] = np.nan
    table = pandas.DataFrame(values, columns=list("abc")).assign(kind=np.where(values[:, 0] > 0, "cat", "dog"))
    table.to_csv(folder / "t.csv", index=False)
    (folder / "own.py").write_text(OWN)
    with contextlib.chdir(folder):
        for line in (FIT, f"fit own.py:model --data x.npy {QUICK} --out shared"):
            assert main(line.split()) == 0, line
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DRAFT_SECONDS", 0.0)
    shutil.copytree(made, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture
def grid(made):
    """The grid is finished once, when it is needed: its cells are trained in processes of their own."""
    if not (made / "grid").exists():
        with contextlib.chdir(made):
            assert main(GRID.split()) == 0


def asked(line, place):
    """The status of a command in a folder, and what a traceback would have been."""
    try:
        with warnings.catch_warnings(), contextlib.chdir(place):
            warnings.simplefilter("ignore")
            return main(line.split())
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
def test_a_fault_at_any_operation_of_a_command_costs_its_file_at_most(request, tmp_path, capsys, name, fault):
    if name == "grid":
        request.getfixturevalue("grid")
    place, line = request.getfixturevalue("place"), COMMANDS[name]
    copy = tmp_path / "calm"
    shutil.copytree(place, copy)
    disk = Disk()
    with disk.active():
        assert asked(line, copy) == 0, capsys.readouterr().err
    wanted, tried = names(copy), 0
    for at in range(1, disk.count + 1):
        other = tmp_path / f"{fault}-{at}"
        shutil.copytree(place, other)
        found = outcome(Disk(at, fault), lambda other=other: asked(line, other))
        error = capsys.readouterr().err
        case = f"{name}, {fault} at operation {at} of {disk.count}: {found!r}, {error}"
        assert found in (0, 2, "killed") or isinstance(found, Killed), case
        assert "Traceback" not in error, case
        if found == 2:
            assert error.splitlines()[-1].startswith("ppl-vae: "), case
        ppl_vae.open_run(other / "run").data()  # the run is as it was
        there = [word for word in line.split() if "/" in word and (other / word).exists()]
        for word in there:  # a file that was named is never written over
            (other / word).unlink() if (other / word).is_file() else shutil.rmtree(other / word)
        assert asked(line, other) == 0, f"{case}; again: {capsys.readouterr().err}"
        left = [n for n in names(other) if n not in wanted and not n.endswith(("-2.csv", "-2.npz", "-2.nc", "-2.png"))]
        assert left == [], f"{case}; left: {left}"
        assert set(wanted) <= set(names(other)), case
        shutil.rmtree(other)
        tried += 1
    assert tried == disk.count > 0
