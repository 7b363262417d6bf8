"""Where runs go: folders are claimed, held, found empty, swept; files are named so that they can move."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ppl_vae import UserError
from ppl_vae.runs.place import claimed, emptied, found_path, is_empty, last_numbered, made, refuse_existing, told_path
from ppl_vae.saving import locks
from ppl_vae.saving.atomic import sweep, write, write_new
from ppl_vae.saving.locks import LOCK, InUse, held
from ppl_vae.saving.specs import file_hash

pytestmark = pytest.mark.faults

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
DRAFT = ".run.json.0123abcd.tmp"


def test_processes_that_claim_one_name_at_once_get_a_folder_each(tmp_path):
    code = (
        "import sys; from pathlib import Path; from ppl_vae.runs.place import claimed\n"
        "with claimed(Path('runs/a'), 'fit', numbered=True) as place:\n"
        "    (place / 'mine').write_text(sys.argv[1]); print(place, flush=True); sys.stdin.read()"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(i)],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for i in range(3)
    ]
    places = {process.stdout.readline().strip() for process in started}
    for process in started:
        process.communicate()
    assert places == {"runs/a", "runs/a-2", "runs/a-3"}
    assert {(tmp_path / place / "mine").read_text() for place in places} == {"0", "1", "2"}


def test_a_folder_has_one_holder_and_says_who_it_is(tmp_path):
    told = rf"in use by ppl-vae fit \(process {os.getpid()} on"
    with held(tmp_path, "ppl-vae fit"), pytest.raises(InUse, match=told), held(tmp_path, "x"):
        pass
    with held(tmp_path, "ppl-vae report"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_holder_may_be_waited_for(tmp_path):
    inside, go = threading.Event(), threading.Event()

    def hold():
        with held(tmp_path, "first"):
            inside.set()
            go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    threading.Timer(0.1, go.set).start()
    with held(tmp_path, "second", wait=30):
        assert go.is_set()
    thread.join()


def killed_holder(folder):
    code = (
        "import os, signal; from pathlib import Path; from ppl_vae.saving.locks import held\n"
        f"with held(Path({str(folder)!r}), 'fit'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    )
    return json.loads((folder / LOCK).read_text())


@pytest.mark.parametrize("locks_there", [True, False], ids=["flock", "no locks"])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, monkeypatch, locks_there):
    record = killed_holder(tmp_path)
    assert record["process"] != os.getpid()
    if not locks_there:
        monkeypatch.setattr(locks, "fcntl", None)
    with held(tmp_path, "again"):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({}, False),
        ({"started": "1"}, True),
        ({"boot": "another"}, True),
        ({"process": 2**22 + 1}, True),
        ({"host": "another", "process": 1}, False),
    ],
)
def test_without_locks_the_record_says_whether_the_holder_lives(tmp_path, monkeypatch, change, taken):
    monkeypatch.setattr(locks, "fcntl", None)
    (tmp_path / LOCK).write_text(json.dumps(locks._me("fit") | change))
    if taken:
        with held(tmp_path, "again"):
            pass
    else:
        with pytest.raises(InUse), held(tmp_path, "again"):
            pass


def test_what_holds_nothing_is_empty(tmp_path):
    run = tmp_path / "run"
    assert is_empty(run)
    (run / "checkpoint").mkdir(parents=True)
    (run / DRAFT).touch()
    (run / "checkpoint" / DRAFT).touch()
    (run / LOCK).touch()
    assert is_empty(run)
    with claimed(run, "fit"):
        assert not (run / DRAFT).exists()
        assert not (run / "checkpoint" / DRAFT).exists()
    (run / "mine.tmp").touch()
    assert not is_empty(run)
    with pytest.raises(UserError, match="exists already"), claimed(run, "fit"):
        pass
    assert (run / "mine.tmp").exists()


def test_a_claim_that_comes_to_nothing_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "a" / "b", "fit"):
        raise KeyboardInterrupt
    assert not (tmp_path / "a").exists()
    with made(tmp_path / "a" / "b") as place:
        (place / "file").touch()
    assert (tmp_path / "a" / "b" / "file").exists()


def test_a_place_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match="exists already"), claimed(tmp_path / "a", "fit"):
        pass
    with claimed(tmp_path / "a", "fit", numbered=True) as place:
        assert place == tmp_path / "a-2"


def test_only_a_checkpoint_can_be_continued(tmp_path):
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(UserError) as told:
        refuse_existing(tmp_path)
    assert "resume" not in str(told.value)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.safetensors").touch()
    with pytest.raises(UserError, match="resume=True"):
        refuse_existing(tmp_path)


def test_the_last_of_numbered_folders(tmp_path):
    for name in ("a", "a-2", "a-3", "a-5"):
        (tmp_path / name).mkdir()
    assert last_numbered(tmp_path / "a") == tmp_path / "a-3"


def test_a_folder_in_use_is_not_emptied(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "b").mkdir()
    with held(tmp_path, "fit"), pytest.raises(InUse):
        emptied(tmp_path)
    assert (tmp_path / "a").exists()
    emptied(tmp_path)
    assert not list(tmp_path.iterdir())


# -- files ---------------------------------------------------------------------------------------------------


def test_a_write_that_fails_names_its_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    file = write(tmp_path / "a.json", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            with pytest.raises(OSError, match="No space left on device") as told:
                write(file, "new")
        assert told.value.filename == str(file)
        assert file.read_text() == "old"
        assert list(tmp_path.iterdir()) == [file]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: order.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
    )
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("name"), replace(a, b)))
    write(tmp_path / "a", "text")
    assert order == ["file", "name", "folder"]


def test_the_file_before_keeps_another_name(tmp_path):
    for text in ("1", "2", "3"):
        write(tmp_path / "state", text, previous=tmp_path / "previous")
    assert [(tmp_path / name).read_text() for name in ("state", "previous")] == ["3", "2"]


def test_a_new_file_never_takes_the_place_of_one(tmp_path, monkeypatch):
    assert [write_new(tmp_path / "x.csv", str(i)).name for i in range(3)] == ["x.csv", "x-2.csv", "x-3.csv"]

    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert write_new(tmp_path / "x.csv", "3").name == "x-4.csv"
    assert [f.read_text() for f in sorted(tmp_path.iterdir())] == ["1", "2", "3", "0"]


def test_names_as_long_as_a_system_allows_can_be_written(tmp_path):
    assert write(tmp_path / ("a" * 255), "text").read_text() == "text"


def test_sweeping_takes_drafts_alone(tmp_path):
    kept = [tmp_path / ".mine.tmp", tmp_path / "a.tmp", tmp_path / ".x.0123abcd.tmp.json"]
    for file in [*kept, tmp_path / DRAFT]:
        file.touch()
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


# -- names of files in run folders -----------------------------------------------------------------------------


def test_a_run_and_its_data_may_move_together(tmp_path):
    run, data = tmp_path / "one" / "runs" / "a", tmp_path / "one" / "rows.csv"
    run.mkdir(parents=True)
    data.write_text("a\n1\n")
    told, content = told_path(data, run), file_hash(data)
    assert told == "../../rows.csv"
    (tmp_path / "one").rename(tmp_path / "two")
    found = found_path(told, tmp_path / "two" / "runs" / "a", content)
    assert found.resolve() == tmp_path / "two" / "rows.csv"


def test_nobodys_home_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere/ann")
    assert told_path(Path("/somewhere/ann/rows.csv"), Path("/scratch/runs/a")) == "~/rows.csv"


def test_only_a_file_whose_content_is_known_is_read(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("secret")
    with pytest.raises(UserError, match="has changed"):
        found_path(str(file), tmp_path, "0" * 64)
    with pytest.raises(UserError, match="does not say which content"):
        found_path(str(file), tmp_path, None)
    with pytest.raises(UserError, match="are not at"):
        found_path("gone.csv", tmp_path, "0" * 64)


@pytest.mark.parametrize(
    ("beta", "epochs"),
    [
        ({"schedules": "WarmUp", "arguments": {"epochs": 0.6, "beta": 1.0}}, 0.6),
        ({"objectives": "FactorTC", "arguments": {"beta": {"schedules": "WarmUp", "arguments": {"epochs": 2.0}}}}, 2.0),
        ({"objectives": "FactorTC", "arguments": {"beta": 1.0}}, 0.0),
        (1.0, 0.0),
    ],
)
def test_a_run_goes_on_with_the_warm_up_that_it_was_begun_with(beta, epochs, monkeypatch, tmp_path):
    from types import SimpleNamespace

    from ppl_vae.cli.run_place import warm_up_of
    from ppl_vae.training import checkpoint

    identity = {"settings": {"beta": beta}}
    monkeypatch.setattr(checkpoint, "read_checkpoint", lambda folder: SimpleNamespace(identity=identity))
    assert warm_up_of(tmp_path) == epochs
