"""Whatever operation on files is the last of a process, or fails: nothing is lost, and the run is the same in the end.

The seeds are fixed. `pytest -m slow tests/test_faults.py` runs every operation of the command line, and random kills.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from faults import Disk, Killed, outcome
from helpers import small_pair

import ppl_vae
from ppl_vae import UserError
from ppl_vae.cli import main
from ppl_vae.errors import UnsavedWarning
from ppl_vae.training import _loop as loop
from ppl_vae.training.checkpoint import has_checkpoint

pytestmark = pytest.mark.faults

ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")


@pytest.fixture(autouse=True)
def at_every_epoch(monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)


# -- in Python: checkpoints and run folders --------------------------------------------------------------------------


def work(folder, epochs=3):
    """A run with a checkpoint after every epoch, which is saved in the end; goes on where there is something."""
    data = ppl_vae.load(ROWS)
    checkpoint = folder / "checkpoint"
    resume = has_checkpoint(checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsavedWarning)
        result = ppl_vae.fit(
            *small_pair(data), data, epochs=epochs, batch_size=14, compile="off", checkpoint=checkpoint, resume=resume
        )
    if not (folder / "run" / "run.json").is_file():
        shutil.rmtree(folder / "run", ignore_errors=True)
        result.save(folder / "run")
    return result


def told(result):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in result.history]


def weights(folder):
    return (folder / "run" / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing happens to: its numbers, its weights, and how many operations it takes."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
        work(folder / "first")  # which imports, and writes what Python keeps of modules
        disk = Disk()
        result = outcome(disk, lambda: work(folder))
    return told(result), weights(folder), disk.count


SOME = [1, 2, 5, 9, 14, 20, 27, 33]
OPERATIONS = 60
"""More than there are; what is beyond the last one is a run without a fault."""


def all_of(fault):
    return [
        pytest.param(fault, at, marks=[] if at in SOME else [pytest.mark.slow], id=f"{fault}-{at}")
        for at in range(1, OPERATIONS)
    ]


@pytest.mark.parametrize(("fault", "at"), [*all_of("kill"), *all_of("middle")])
def test_a_run_that_was_killed_at_any_operation_is_finished_as_if_it_had_not_been(tmp_path, whole, fault, at):
    numbers, bytes_, count = whole
    assert count < OPERATIONS
    found = outcome(Disk(at, fault), lambda: work(tmp_path))
    assert isinstance(found, Killed) == (at <= count), found
    again = work(tmp_path)
    assert told(again) == numbers
    assert weights(tmp_path) == bytes_
    assert len(ppl_vae.open_run(tmp_path / "run").history) == 3
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(("fault", "at"), [*all_of("once"), *all_of("full"), *all_of("read-only")])
def test_a_disk_that_fails_at_any_operation_costs_no_number(tmp_path, whole, fault, at):
    numbers, bytes_, _ = whole
    found = outcome(Disk(at, fault), lambda: work(tmp_path))
    if isinstance(found, BaseException):
        assert isinstance(found, OSError)
        assert found.filename, found
    else:
        assert told(found) == numbers
    assert told(work(tmp_path)) == numbers
    assert weights(tmp_path) == bytes_


# -- the command line ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("t.npy", ROWS)
    return tmp_path


FIT = ("fit", "vae", "--data", "t.npy", "--epochs", "3", "--latent-dim", "2", "--hidden", "4", "--batch-size", "14")
QUICK = ("--evaluate-particles", "5", "--no-report", "--compile", "off")


def command(out, *more):
    return main([*FIT, *QUICK, "--out", str(out), *more])


def files_of(run):
    """What a run is, in the end: all but the seconds that it took, and the checkpoint before the last."""
    found = {
        str(p.relative_to(run)): p.read_bytes()
        for p in sorted(Path(run).rglob("*"))
        if p.is_file() and p.parent.name != "checkpoint" and p.name not in ("history.jsonl", "run.json")
    }
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    info = json.loads((run / "run.json").read_text())
    info["sha256"].pop("history.jsonl")
    return found, [{k: v for k, v in line.items() if k != "seconds"} for line in lines], info


def thirds(*fast):
    return [pytest.param(k, marks=[] if k in fast else [pytest.mark.slow]) for k in range(1, 64, 3)]


@pytest.mark.parametrize("at", thirds(4, 25))
def test_a_killed_command_is_continued_or_begun_anew(folder, capsys, at):
    assert command(folder / "whole") == 0
    disk = Disk(at, "middle" if at % 2 else "kill")
    outcome(disk, lambda: command(folder / "run"))
    if disk.dead:
        finish(folder / "run")
    assert files_of(folder / "run") == files_of(folder / "whole")


def finish(run):
    """One of the two ways must work, and each says what to do where it does not."""
    if command(run, "--resume") != 0:
        assert command(run) == 0


@pytest.mark.parametrize("fault", ["once", "full", "read-only"])
@pytest.mark.parametrize("at", thirds(25))
def test_a_disk_that_fails_under_a_command_is_told_in_a_line(folder, capsys, fault, at):
    assert command(folder / "whole") == 0
    wanted = capsys.readouterr().out
    with Disk(at, fault).active():
        status = command(folder / "run")
    out, err = capsys.readouterr()
    assert status in (0, 2)
    assert "Traceback" not in err
    if status == 2:
        assert err.splitlines()[-1].startswith("ppl-vae: ")
    if "now 8 test rows" in err:  # training was over: then its numbers are told
        assert out[: wanted.index("run:")] == wanted[: wanted.index("run:")]
    if status == 2:
        finish(folder / "run")
    elif not (folder / "run" / "evaluation.json").exists():
        assert "warning: the evaluation is not written" in err
        return
    assert files_of(folder / "run")[1:] == files_of(folder / "whole")[1:]


# -- processes -------------------------------------------------------------------------------------------------


ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
CHILD = (
    "import sys; from ppl_vae.training import _loop; _loop.CHECKPOINT_SECONDS = 0.0; "
    "from ppl_vae.cli import main; sys.exit(main())"
)


def started(out, *more, epochs="3"):
    words = [*FIT, *QUICK, "--out", str(out), "--epochs", epochs, *more]
    return subprocess.Popen([sys.executable, "-c", CHILD, *words], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "auto"])
def test_random_kills(folder, compile):
    """SIGKILL at random moments, several times to one run, until it is over; the numbers are those of a calm run."""
    chance = random.Random(f"kills {compile}")
    assert command(folder / "whole", "--epochs", "40", "--compile", compile) == 0
    for i in range(5):
        run, kills = folder / f"run{i}", 0
        while not (run / "run.json").exists() or not (run / "evaluation.json").exists():
            resume = ["--resume"] if has_checkpoint(run / "checkpoint") else []
            process = started(run, *resume, "--compile", compile, epochs="40")
            try:
                process.wait(timeout=chance.uniform(3, 12) if kills < 3 else None)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            _, err = process.communicate()
            assert process.returncode in (0, -9), err  # a child that cannot start would be started for ever
        assert files_of(run)[1:] == files_of(folder / "whole")[1:]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


# -- a grid ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["nothing", "drafts", "weights alone", "a damaged checkpoint", "another version"])
def test_a_cell_of_a_grid_can_always_be_finished(folder, state):
    from ppl_vae.comparison.cells import _job
    from ppl_vae.comparison.grid import Grid

    grid = Grid(guides=("mean_field",), seeds=1, training={"data": "t.npy"})
    (cell,) = grid.cells
    run = folder / "g" / cell.folder
    (run / "checkpoint").mkdir(parents=True)
    if state == "drafts":
        (run / "checkpoint" / ".state.safetensors.0123abcd.tmp").touch()
    elif state == "weights alone":
        (run / "weights.safetensors").write_bytes(b"1")
    elif state == "a damaged checkpoint":
        (run / "checkpoint" / "state.safetensors").write_bytes(b"1")
    elif state == "another version":
        from ppl_vae.saving.tensors import write_tensors

        about = {"progress": {"history": [], "best": [0, 0.0]}, "identity": {"versions": {"torch": "1.0"}}}
        write_tensors(run / "checkpoint" / "state.safetensors", {}, about)
    job = _job(grid, cell, folder / "g", {"particles": 5, "iwae": [1], "seed": 0})
    assert "--resume" not in job.commands[0]
    assert list(run.rglob("*.safetensors")) == []


def test_a_refusal_of_one_way_names_the_other_only_where_it_works(tmp_path):
    for state in (False, True):
        folder = tmp_path / str(state)
        if state:
            work(folder, epochs=1)
            with pytest.raises(UserError, match="resume=True"):
                data = ppl_vae.load(ROWS)
                ppl_vae.fit(*small_pair(data), data, epochs=1, checkpoint=folder / "checkpoint")
        work(folder, epochs=2)
