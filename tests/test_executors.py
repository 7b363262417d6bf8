"""Grids whose cells others train: executors of any library, and commands for a cluster. The numbers are the same."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from ppl_vae import UserError
from ppl_vae.cli import main
from ppl_vae.comparison import cells
from ppl_vae.comparison._executors import elsewhere_done
from ppl_vae.comparison._workers import Job
from ppl_vae.comparison.grid import Grid, compare_grid

TINY = {"data": "t.npy", "epochs": 2, "latent_dim": 2, "hidden": "8", "compile": "off"}
SHAPE = {"guides": ["mean_field", "full_rank"], "seeds": 1, "particles": 40, "iwae": (1, 5)}


def write_rows():
    rows = np.random.default_rng(0)
    np.save("t.npy", rows.normal(size=(60, 1)) @ [[1.0, -0.5, 0.3]] + 0.3 * rows.normal(size=(60, 3)))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows()
    return tmp_path


class Watched:
    def __init__(self):
        self.begun, self.ended = [], {}

    def begin(self, name):
        self.begun.append(name)

    def line(self, name, text):
        raise AssertionError("nothing is heard of others")

    def end(self, name, reason):
        self.ended[name] = reason


def outcome(what):
    if what == "raises":
        raise RuntimeError("no\nmemory")
    return what or None


def test_reasons_are_told_by_name():
    watched = Watched()
    calls = {"a": ("",), "b": ("it failed",), "c": ("raises",)}
    with ThreadPoolExecutor(2) as executor:
        found = elsewhere_done(executor, outcome, calls, watched)
    assert found == {"b": "it failed", "c": "RuntimeError: no memory"}
    assert watched.begun == ["a", "b", "c"]
    assert watched.ended == {"a": None, **found}


def test_an_executor_is_one_and_has_its_own_workers(tmp_path):
    for executor, jobs, words in (("dask", None, "concurrent.futures.Executor"), (ThreadPoolExecutor(1), 2, "jobs")):
        with pytest.raises(UserError, match=words):
            compare_grid(guides=["mean_field"], out=tmp_path / "g", executor=executor, jobs=jobs)
    assert not (tmp_path / "g").exists()


def test_a_cell_is_trained_by_its_words_alone(folder, monkeypatch, capsys):
    """Every command of --print-commands, in any order, is the job of one cell."""
    words = [
        "compare",
        "--guides",
        "mean_field,spline:flows=2,bins=4",
        "--seeds",
        "2",
        "--data",
        "t.npy",
        "--hidden",
        "8",
        "--out",
        "g",
    ]
    assert main([*words, "--print-commands"]) == 0
    said = capsys.readouterr()
    commands = [shlex.split(line) for line in said.out.splitlines()]
    assert len(commands) == 4
    assert "--resume" in said.err
    done = []

    def noted(jobs: list[Job], at_once, watcher):
        done.extend(job.commands[0] for job in jobs)
        return {}

    monkeypatch.setattr(cells, "work", noted)
    for command in reversed(commands):
        assert command[0] == "ppl-vae"
        assert main(command[1:]) == 0
    found = [dict(pairwise(words)) for words in done]
    assert [(f["--guide"], f["--seed"]) for f in found] == [
        ("spline:flows=2,bins=4", "1"),
        ("mean_field", "1"),
        ("spline:flows=2,bins=4", "0"),
        ("mean_field", "0"),
    ]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--guides mean_field --print-commands", "--out"),
        ("--guides mean_field --out g --cell x", "grid.json"),
        ("run --print-commands", "--print-commands is for a grid"),
    ],
)
def test_commands_are_refused_in_one_line(folder, capsys, argv, words):
    assert main(["compare", *argv.split()]) == 2
    line = capsys.readouterr().err
    assert words in line
    assert line.count("\n") == 1


def test_a_cell_of_another_grid_is_refused(folder, capsys):
    words = ["compare", "--guides", "mean_field", "--seeds", "1", "--data", "t.npy", "--out", "g"]
    assert main([*words, "--print-commands"]) == 0
    capsys.readouterr()
    assert main([*words, "--cell", "nothing"]) == 2
    assert "unknown cell 'nothing'" in capsys.readouterr().err
    np.save("t.npy", np.zeros((60, 3)))
    assert main([*words, "--cell", "vae-mean_field-elbo-seed0"]) == 2
    assert "have changed" in capsys.readouterr().err


# -- real ones ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """What the grid has as it is trained without anybody's help."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("usual"))
    write_rows()
    try:
        return compare_grid(out="usual", jobs=2, **SHAPE, **TINY).summary()
    finally:
        os.chdir(before)


def comparable(found):
    """All but seconds, as text: nan is nan."""
    pairs = [{k: v for k, v in pair.items() if "seconds" not in k} for pair in found["pairs"]]
    return json.dumps(found | {"pairs": pairs}, sort_keys=True)


@pytest.mark.slow
def test_commands_in_any_order_have_the_numbers_of_the_grid(folder, usual, capsys):
    words = shlex.split("compare --guides mean_field,full_rank --seeds 1 --particles 40 --iwae 1,5 --out g")
    words += [w for name, value in TINY.items() for w in (f"--{name.replace('_', '-')}", str(value))]
    assert main([*words, "--print-commands"]) == 0
    commands = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()]
    for command in reversed(commands):
        assert main(command) == 0
    before = {f: f.stat().st_mtime_ns for f in Path("g").glob("*/weights.safetensors")}
    found = compare_grid(out="g", resume=True, **SHAPE, **TINY).summary()
    assert len(before) == 2
    assert {f: f.stat().st_mtime_ns for f in before} == before  # nothing was trained again
    assert comparable(found) == comparable(usual)


@pytest.mark.slow
def test_a_pool_of_processes_has_the_numbers_of_the_grid(folder, usual):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        found = compare_grid(out="g", executor=executor, **SHAPE, **TINY).summary()
    assert comparable(found) == comparable(usual)


@pytest.mark.slow
def test_a_pool_whose_worker_is_killed_keeps_what_is_done_and_goes_on(folder, usual):
    """A broken pool runs nothing further, and what it did is there."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor, ThreadPoolExecutor(1) as helper:
        helper.submit(kill_after, executor, Path("g"))
        found = compare_grid(out="g", executor=executor, **SHAPE, **TINY)
    assert found.failed
    assert all("process" in reason for reason in found.failed.values())
    again = compare_grid(out="g", resume=True, **SHAPE, **TINY)
    assert not again.failed
    assert comparable(again.summary()) == comparable(usual)


def kill_after(executor: ProcessPoolExecutor, out: Path) -> None:
    """Kill a worker when the first cell is judged and another has begun."""
    deadline = time.monotonic() + 200
    while not any(out.glob("*/comparison.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    for pid in list(executor._processes):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_dask_has_the_numbers_of_the_grid_with_a_worker_killed(folder, usual):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        ThreadPoolExecutor(1) as helper,
    ):
        helper.submit(kill_one, Path("g"), [w.pid for w in cluster.workers.values()])
        found = compare_grid(out="g", executor=client.get_executor(), **SHAPE, **TINY)
    assert not found.failed
    assert comparable(found.summary()) == comparable(usual)


def kill_one(out: Path, workers: list[int]) -> None:
    deadline = time.monotonic() + 200
    while not any(out.glob("*/checkpoint")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(workers[0], signal.SIGKILL)


class Ray(Executor):
    """Ray's tasks as an executor."""

    def __init__(self, ray):
        self.ray = ray

    def submit(self, function, /, *args, **kwargs):
        return self.ray.remote(max_retries=3)(function).remote(*args, **kwargs).future()


@pytest.mark.slow
def test_ray_has_the_numbers_of_the_grid_with_a_worker_killed(folder, usual):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with ThreadPoolExecutor(1) as helper:
            helper.submit(kill_a_child, Path("g"))
            found = compare_grid(out="g", executor=Ray(ray), **SHAPE, **TINY)
    finally:
        ray.shutdown()
    assert not found.failed
    assert comparable(found.summary()) == comparable(usual)


def kill_a_child(out: Path) -> None:
    """Kill the process of a worker that trains: the parent of a cell's own."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for status in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if b"ray::train_cell" in status.read_bytes() and any(out.glob("*/checkpoint")):
                    os.kill(int(status.parent.name), signal.SIGKILL)
                    return
            except OSError:
                continue
        time.sleep(0.1)


def test_a_grid_can_be_sent_to_workers():
    import pickle

    grid = Grid(guides=("mean_field",), training={"epochs": 2})
    assert pickle.loads(pickle.dumps(grid)) == grid  # noqa: S301
