"""Odd surroundings: no compiler, network, home or room; another locale, a clock that jumps, a reader that goes away."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

import ppl_vae
from ppl_vae.cli import main

pytestmark = pytest.mark.faults

ROOT = Path(ppl_vae.__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
MAIN = "import sys; from ppl_vae.cli import main; sys.exit(main())"
JUMPS = (
    "import itertools, time; real, jumps = time.time, itertools.cycle([0, 1e7, -1e7, 5e8, -5e8]); "
    "time.time = lambda: real() + next(jumps); "
)
QUICK = "--epochs 3 --latent-dim 2 --hidden 4 --evaluate-particles 5"
FIT = f"fit vae --data t.csv --label sort {QUICK} --no-report --compile off --out new"


def test_no_assert_carries_meaning():
    """`python -O` leaves them out."""
    for file in ROOT.rglob("*.py"):
        found = [n.lineno for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.Assert)]
        assert not found, file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    values = np.random.default_rng(0).normal(size=(60, 3))
    sort = np.where(values[:, 0] > 0, "café", "dög")
    pandas.DataFrame(values, columns=["größe", "b", "c"]).assign(sort=sort).to_csv(folder / "t.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*FIT.split()[:-1], "run"]) == 0
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


def ran(line, code=MAIN, flags=(), before=(), stdout=subprocess.PIPE, **environment):
    """A command line in a process of its own; its status, what it said, and what it complained of."""
    given = {name: value for name, value in (ENVIRONMENT | environment).items() if value is not None}
    words = [*before, sys.executable, *flags, "-c", code, *line.split()]
    done = subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, env=given, timeout=600, check=False)
    err = done.stderr.decode("utf-8", "replace")
    assert "Traceback" not in err, err
    return done.returncode, (done.stdout or b"").decode("utf-8", "replace"), err


@pytest.fixture
def calm(place):
    """What the run of `FIT` comes to where nothing is odd."""
    return weights(place / "run")


def weights(run):
    return (run / "weights.safetensors").read_bytes()


NOBODY = {"HOME": "/proc/nobody", "XDG_CACHE_HOME": "/proc/nobody", "XDG_CONFIG_HOME": "/proc/nobody"}
ODD = {
    "python -O": {"flags": ["-O"]},
    "a home that is not there": NOBODY | {"MPLCONFIGDIR": None},
    "no TMPDIR": {"TMPDIR": "/proc/nobody"},
    "the C locale": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    "the POSIX locale": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "a clock that jumps": {"code": JUMPS + MAIN},
    "no compiler": {"CXX": "/nonexistent/c++", "CC": "/nonexistent/cc", "PATH": "/nonexistent"},
    "a dumb terminal of 10 columns": {"TERM": "dumb", "COLUMNS": "10", "NO_COLOR": "1"},
    "all warnings are errors": {"flags": ["-W", "error::UserWarning:ppl_vae"]},
}


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD)
def test_a_run_is_the_same_in_odd_surroundings(place, calm, odd):
    status, out, err = ran(FIT, **ODD[odd])
    assert (status, weights(place / "new") == calm) == (0, True), err
    status, out, err = ran("evaluate new --particles 5 --json", **ODD[odd])
    assert status == 0, err
    assert json.loads(out)["run"] == "new"


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["python -O", "a home that is not there", "no TMPDIR", "the C locale"])
def test_a_report_is_written_in_odd_surroundings(place, odd):
    status, _, err = ran("report run", **ODD[odd])
    assert status == 0, err
    assert "größe" in (place / "run" / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_without_a_compiler_auto_trains_and_on_is_refused_in_a_line(place, tmp_path):
    gone = ODD["no compiler"] | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    line = FIT.removesuffix("off --out new")
    assert ran(f"{line} auto --out auto --epochs 40", **gone)[0] == 0
    status, _, err = ran(f"{line} on --out on", **gone)
    assert status == 2
    assert "compiler" in err.splitlines()[-1]


@pytest.mark.slow
def test_a_full_disk_of_temporary_files_loses_nothing(place, calm, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", small], check=False).returncode:
        pytest.skip("only root mounts a small disk")
    try:
        with (small / "full").open("wb") as file, pytest.raises(OSError, match="No space left"):
            file.write(bytes(2**20))
            file.flush()
        status, _, err = ran(FIT, TMPDIR=str(small))
        assert (status, weights(place / "new") == calm) == (0, True), err
        status, _, err = ran(f"{FIT.removesuffix('off --out new')} on --out on", TMPDIR=str(small))
        assert status in (0, 2), err
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.slow
def test_without_a_network_what_is_here_works_and_what_is_not_is_told(place, calm, tmp_path):
    if subprocess.run(["unshare", "-n", "true"], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no way to take the network away")
    status, _, err = ran(FIT, before=["unshare", "-n"])
    assert (status, weights(place / "new") == calm) == (0, True), err
    (tmp_path / "none").mkdir()
    line = f"fit vae --data mnist {QUICK} --no-report --out pictures"
    status, _, err = ran(line, before=["unshare", "-n"], PPL_VAE_DATA=str(tmp_path / "none"))
    assert status == 2
    assert err.splitlines()[-1].startswith("ppl-vae: ")
    assert not (place / "pictures").exists()


READERS = ["closed", "gone", "full"]


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("line", ["evaluate run --particles 5", "list", "--help", FIT])
def test_a_reader_that_goes_away_costs_no_file(place, calm, line, reader):
    shell = {"closed": '"$@" >&-', "gone": '"$@" | head -c 1 >/dev/null', "full": '"$@" >/dev/full'}[reader]
    ran(line, before=["bash", "-c", shell, "bash"])
    if line == FIT:
        assert weights(place / "new") == calm
        assert (place / "new" / "evaluation.json").is_file()


SPAWNED = """
import multiprocessing
import sys

import ppl_vae

def judged(seed):
    run = ppl_vae.open_run("run")
    return ppl_vae.evaluate(run.model, run.guide, run.data().test, particles=20, seed=seed).summary()["nll"]

def trained(seed):
    from ppl_vae.guides import MeanField
    from ppl_vae.models import VAE
    import torch
    data = ppl_vae.load("t.csv", label="sort")
    torch.manual_seed(seed)
    model = VAE(data, latent_dim=2, hidden=(4,))
    result = ppl_vae.fit(model, MeanField(model, hidden=(4,)), data, epochs=2, seed=seed, compile="off")
    return result.history[-1]["train"]

if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        for work in (judged, trained):
            assert pool.map(work, [0, 1]) == [work(0), work(1)]
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["spawn", "forkserver", "fork"])
def test_processes_find_the_same_numbers(place, way):
    (place / "work.py").write_text(SPAWNED)
    done = subprocess.run(
        [sys.executable, "work.py", way], env=ENVIRONMENT, capture_output=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
