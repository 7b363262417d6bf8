"""Signals, fits side by side, grids and runs of several processes: nothing is lost, nothing outlives its parent."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import Disk
from helpers import small_pair

import ppl_vae
from ppl_vae.training import _loop as loop
from ppl_vae.training.checkpoint import has_checkpoint

pytestmark = [pytest.mark.faults, pytest.mark.slow]

ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
FIT = ("fit", "vae", "--data", "t.npy", "--epochs", "3", "--latent-dim", "2", "--hidden", "4", "--batch-size", "14")
QUICK = ("--evaluate-particles", "5", "--no-report", "--compile", "off")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("t.npy", ROWS)
    return tmp_path


ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
CHILD = (
    "import sys; from ppl_vae.training import _loop; _loop.CHECKPOINT_SECONDS = 0.0; "
    "from ppl_vae.cli import main; sys.exit(main())"
)


def started(out, *more, epochs="3"):
    words = [*FIT, *QUICK, "--out", str(out), "--epochs", epochs, *more]
    return subprocess.Popen([sys.executable, "-c", CHILD, *words], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


@pytest.mark.parametrize(("signal", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_saves_and_says_how_to_go_on(folder, signal, status):
    import signal as signals

    process = started(folder / "run", "--patience", "0", epochs="100000")
    until = time.monotonic() + 120
    while not has_checkpoint(folder / "run" / "checkpoint") and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(getattr(signals, signal))
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    words = "interrupted" if signal == "SIGINT" else f"ended by {signal}"
    assert last == f"ppl-vae: {words}: continue with the same options and --resume --out {folder / 'run'}"
    assert not list((folder / "run").rglob(".*"))


def test_fits_side_by_side_have_a_folder_each(folder):
    processes = []
    for seed in range(3):
        words = [*FIT, *QUICK, "--seed", str(seed), "--json"]
        processes.append(
            subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        )
    found = [json.loads(process.communicate()[0]) for process in processes]
    assert len({each["run"] for each in found}) == 3
    for seed, each in enumerate(found):
        info = json.loads(Path(each["run"], "run.json").read_text())
        assert info["settings"]["seed"] == seed
        written = json.loads(Path(each["run"], "evaluation.json").read_text())
        assert written["test"]["nll"] == each["evaluation"]["test"]["nll"]


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
def test_no_process_of_a_grid_outlives_it(folder, signal):
    import signal as signals

    words = ["compare", "--guides", "mean_field,full_rank", *FIT[2:4], "--epochs", "100000", "--patience", "0"]
    words += ["--seeds", "1", "--jobs", "2", "--particles", "20", "--iwae", "1", "--latent-dim", "2", "--out", "g"]
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *words],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    until = time.monotonic() + 200
    while len(list(folder.glob("g/*/checkpoint/state.safetensors"))) < 2 and time.monotonic() < until:
        time.sleep(0.2)
    assert len(group(process.pid)) == 3
    process.send_signal(getattr(signals, signal))
    process.communicate(timeout=60)
    assert process.returncode == (-9 if signal == "SIGKILL" else 143)
    until = time.monotonic() + 30
    while group(process.pid) and time.monotonic() < until:
        time.sleep(0.2)
    assert group(process.pid) == []
    assert not list(Path("g").rglob("*.tmp"))


def group(leader):
    """The processes of a session that run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(leader) and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


# -- several processes of one run --------------------------------------------------------------------------------------


def trained(folder, rank, port, at):
    """What one of two processes does: the first has a disk that kills it at an operation."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    loop.CHECKPOINT_SECONDS = 0.0
    data = ppl_vae.load(ROWS)
    checkpoint = folder / "checkpoint"
    options = {"epochs": 3, "batch_size": 14, "compile": "off", "checkpoint": checkpoint}
    with Disk(at, "SIGKILL").active() if rank == 0 else Disk().active() as disk:
        result = ppl_vae.fit(*small_pair(data), data, resume=has_checkpoint(checkpoint), **options)
        if rank == 0:
            result.save(folder / f"run-{at}")
    if rank == 0:
        (folder / "count").write_text(str(disk.count))


def two(folder, at=None):
    """Two processes of one run, forks of this one; the statuses of both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in (0, 1):
        pid = os.fork()
        if pid == 0:
            status = 3
            try:
                sys.stdout = sys.stderr = open(folder / f"said-{rank}", "w")  # noqa: SIM115 - closed with the process
                trained(folder, rank, port, at)
                status = 0
            except ppl_vae.UserError as error:
                sys.stderr.write(f"{error}\n")
                status = 2
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_a_run_of_two_processes_goes_on_whatever_the_first_one_did_last(tmp_path):
    """SIGKILL before each of the operations on files: the other one says so in a line, and both together go on."""
    calm = tmp_path / "calm"
    calm.mkdir()
    assert two(calm) == [0, 0], (calm / "said-0").read_text() + (calm / "said-1").read_text()
    count = int((calm / "count").read_text())
    assert count > 20
    expected = (calm / "run-None" / "weights.safetensors").read_bytes()
    for at in range(1, count + 1):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        first, second = two(folder, at)
        said = (folder / "said-1").read_text()
        assert (first, second) in ((-9, 2), (-9, 0)), f"{at}: {first}, {second}, {said}"  # it may be done already
        if second == 2:
            assert len(said.splitlines()) == 1, said
            assert "lost another one of the run" in said
        assert two(folder) == [0, 0], (folder / "said-0").read_text() + (folder / "said-1").read_text()
        assert (folder / "run-None" / "weights.safetensors").read_bytes() == expected, at
