"""Whatever operation on files is the last of a process, or fails: nothing is lost, and the run is the same in the end.

The seeds are fixed. `pytest -m faults tests/test_faults.py` runs every operation; random moments: test_random_kills.py.
"""

import shutil
import warnings

import numpy as np
import pytest
from faults import Disk, Killed, files_of, outcome
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


def work(folder, epochs=3, data=None):
    """A run with a checkpoint after every epoch, which is saved in the end; goes on where there is something."""
    data = ppl_vae.load(ROWS) if data is None else data
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


# -- within epochs, and rows that stay in a file -----------------------------------------------------------------------


@pytest.fixture
def every_step(monkeypatch):
    """A checkpoint after every step."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 1e-9)
    monkeypatch.setattr(loop.Loop, "_is_due", lambda self: True)


FAULTS = {"kill": 1, "middle": 1, "once": 3, "full": 3, "read-only": 3}
"""Which of the operations: all, or every third."""


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        pytest.param(kind, fault, marks=[pytest.mark.slow] * ((kind, fault) != ("streamed", "few")))
        for kind in ("memory", "streamed")
        for fault in ("few", *FAULTS)
    ],
)
def test_a_fault_within_an_epoch_changes_nothing(tmp_path, every_step, kind, fault):
    np.save(tmp_path / "t.npy", ROWS)
    data = ppl_vae.load(tmp_path / "t.npy", stream=kind == "streamed")
    work(tmp_path / "first", 2, data)
    disk = Disk()
    numbers = told(outcome(disk, lambda: work(tmp_path / "calm", 2, data)))
    assert disk.count > 40
    tried = range(7, disk.count + 1, 20) if fault == "few" else range(1, disk.count + 1, FAULTS[fault])
    for at in tried:
        folder = tmp_path / f"{at}"
        found = outcome(Disk(at, "middle" if fault == "few" else fault), lambda folder=folder: work(folder, 2, data))
        if not isinstance(found, Killed | OSError):
            assert told(found) == numbers, at
        assert told(work(folder, 2, data)) == numbers, at
        assert weights(folder) == weights(tmp_path / "calm"), at
        assert not list(folder.rglob("*.tmp"))
        shutil.rmtree(folder)


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
