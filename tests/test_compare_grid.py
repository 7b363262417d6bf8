"""`ppl-vae compare`: runs that are there, and grids that are trained, interrupted, resumed, or broken in one cell."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ppl_vae
from ppl_vae import UserError
from ppl_vae.cli import main
from ppl_vae.cli.compare import words_of
from ppl_vae.comparison._workers import Job, work
from ppl_vae.comparison.cache import read_cache, write_cache
from ppl_vae.comparison.cells import check_grid
from ppl_vae.comparison.grid import Cell, Grid, compare_grid
from ppl_vae.evaluation import evaluate

TINY = ("--data", "t.npy", "--epochs", "2", "--latent-dim", "2", "--hidden", "8", "--particles", "40", "--iwae", "1,5")

OWN = """
import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import nn


class Guide(PyroModule):
    def __init__(self, data):
        super().__init__()
        self.net = nn.Linear(data.schema["x"].size, 4)

    def forward(self, x=None):
        if self.training:
            raise RuntimeError("it does not train")
        with pyro.plate("data", len(x)):
            loc, raw = self.net(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw)).to_event(1))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0)
    np.save("t.npy", rows.normal(size=(60, 1)) @ [[1.0, -0.5, 0.3]] + 0.3 * rows.normal(size=(60, 3)))
    Path("own.py").write_text(OWN)
    return tmp_path


def refused(capsys, *argv):
    """A command that must be refused in one line, with nothing written; the line."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    status = main(list(argv))
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert sorted(p for p in Path().rglob("*") if "__pycache__" not in str(p)) == before
    return err


def finished(out):
    """When each finished cell was written, by folder."""
    return {p.parent.name: p.stat().st_mtime_ns for p in Path(out).glob("*/run.json")}


# -- words ---------------------------------------------------------------------------------------------------


def test_commas_of_options_are_no_commas_of_the_list():
    assert words_of("--priors", "own,mixture:components=50,learn=false,diagonal") == (
        "own",
        "mixture:components=50,learn=false",
        "diagonal",
    )
    assert words_of("--models", "vae,my.py:Net") == ("vae", "my.py:Net")
    with pytest.raises(UserError, match="--guides expects names with commas between them"):
        words_of("--guides", "iaf,,maf")


def test_a_grid_is_every_combination():
    grid = Grid(priors=("own", "diagonal"), guides=("iaf", "maf"), bounds=("elbo", "iwae:particles=4"), seeds=2)
    assert len(grid.cells) == 16
    assert len({cell.folder for cell in grid.cells}) == 16
    assert {cell.seed for cell in grid.cells[:8]} == {0}
    assert grid.name(grid.cells[0]) == "own + iaf + elbo"
    assert set(grid.levels) == {"prior", "guide", "bound"}
    assert "prior" not in grid.options(grid.cells[0])
    assert grid.cells[0].folder == "vae-iaf-elbo-seed0"


def test_cells_of_other_settings_have_other_hashes(folder):
    base = Grid(guides=("iaf",), training={"data": "t.npy"})
    cell = base.cells[0]
    others = [
        Grid(guides=("iaf",), training={"data": "t.npy", "epochs": 5}),
        Grid(guides=("iaf",), training={"data": "digits"}),
    ]
    found = {base.digest(cell), base.digest(base.cells[1]), *(g.digest(cell) for g in others)}
    assert len(found) == 4
    assert base.digest(cell) == Grid(guides=("maf", "iaf"), training={"data": "t.npy"}).digest(cell)
    np.save("t.npy", np.zeros((5, 2)))
    assert base.digest(cell) not in found


def test_folders_of_different_words_are_different():
    words = ("mixture:components=5,a=1", "mixture_components_5_a_1")
    folders = {Cell({"model": "vae", "prior": w, "guide": "iaf", "bound": "elbo"}, 0).folder for w in words}
    assert len(folders) == 2
    assert all(re.fullmatch(r"[\w.+-]+", f) for f in folders)


def test_pyros_own_bound_takes_the_warm_up_from_all_cells():
    assert Grid(guides=("iaf",), bounds=("trace_elbo", "iwae")).training["warm_up"] == 0
    assert "warm_up" not in Grid(guides=("iaf",), bounds=("elbo", "iwae")).training
    assert Grid(models=("auto_encoder",)).guides == ("point",)


def test_a_bound_takes_options(folder, capsys):
    from ppl_vae.registry.resolve import resolve_bound

    assert resolve_bound("iwae:particles=4,estimator=dreg", None).estimator == "dreg"
    assert resolve_bound("trace_elbo:particles=3", None).num_particles == 3
    assert resolve_bound("iwae", 7).particles == 7
    fit = ("fit", "--data", "t.npy", "--epochs", "1")
    assert "both say how many" in refused(capsys, *fit, "--bound", "iwae:particles=4", "--particles", "2")
    assert "Pyro's own bounds take one option" in refused(capsys, *fit, "--bound", "trace_elbo:retain_graph=true")


# -- refused before anything is trained ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "expected run folders, or a grid such as"),
        (("--guides", "mean_field,iaff"), "unknown guide 'iaff': did you mean 'iaf'"),
        (("--bounds", "elbo,iwea"), "unknown bound 'iwea'"),
        (("--priors", "own,vamp"), "unknown prior 'vamp'"),
        (("--models", "vea"), "unknown model 'vea'"),
        (("--guides", ""), "--guides expects names"),
        (("--guides", "iaf,iaf"), "'iaf' is there twice"),
        (("--guides", "iaf", "--iwae", "5,50", "--particles", "20"), "--iwae 50 is more than --particles 20"),
        (("--guides", "iaf", "--seeds", "0"), "--seeds must be a whole number of at least 1"),
        (("--guides", "iaf", "--jobs", "none"), "--jobs must be auto or a whole number"),
        (("--guides", "iaf", "--data", "gone.npy"), "gone.npy"),
        (("--guides", "iaf", "--epochs", "0", "--data", "t.npy"), "--epochs must be a whole number"),
        (("--guides", "iaf:flows=2,flow=3", "--data", "t.npy"), "--flow was given, but iaf does not take it"),
        (("--bounds", "iwae:k=2", "--data", "t.npy"), "--k was given"),
        (("--guides", "point,iaf", "--data", "t.npy"), "site 'z' is a point"),
        (("--guides", "iaf", "--data", "t.npy", "--likelihood", "bernoulli"), "Bernoulli is no distribution over"),
        (("--guides", "iaf", "--resume", "--out", "nowhere"), "nothing to continue in nowhere"),
        (("--guides", "iaf", "--data", "t.npy", "--out", "."), ". exists already and is no comparison"),
        (("nowhere",), "nowhere is no run folder"),
        (("nowhere", "nowhere"), "a run folder is there twice"),
        (("nowhere", "--guides", "iaf"), "--guides is for a grid"),
        (("nowhere", "--epochs", "3"), "--epochs is for a grid"),
        (("--guides", "iaf", "--split", "train"), "--split is for run folders"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, argv, words):
    assert words in refused(capsys, "compare", *argv)


def test_models_of_different_fields_are_refused_before_training(folder):
    """p(x) of the one, p(x, y) of the other."""
    rows = np.random.default_rng(0)
    np.savez("c.npz", x=rows.normal(size=(60, 3)), y=rows.integers(0, 2, size=60))
    training = {"data": "c.npz", "label": "y", "latent_dim": 2}
    with pytest.raises(
        UserError, match=r"'vae, own, iaf' and 'm2, own, iaf' cannot be compared: p.x. of the first is a"
    ):
        check_grid(Grid(models=("vae", "m2"), guides=("iaf",), training=training))


def test_python_refuses_an_option_that_fit_does_not_have():
    with pytest.raises(UserError, match="unknown option of fit 'epoch': did you mean 'epochs'"):
        compare_grid(guides=["iaf"], out="runs/x", epoch=3)


# -- what is kept ----------------------------------------------------------------------------------------------------


ABOUT = {
    "where": "12 rows",
    "parameters": [3, 4],
    "seconds_per_epoch": None,
    "epochs": 2,
    "observed": {"sites": ["x"], "masses": 0, "densities": 3, "digest": "0", "preparation": {}},
}


def test_an_evaluation_comes_back_as_it_was_and_only_for_its_key(tmp_path):
    from cases import PROBLEMS

    problem = PROBLEMS[0]
    found = evaluate(problem.model, problem.guide, problem.batch, 30, iwae=(1, 5))
    key = {"particles": 30, "iwae": [1, 5], "seed": 0}
    assert read_cache(tmp_path, key) is None
    file = write_cache(tmp_path, found, key, ABOUT)
    again = read_cache(tmp_path, key)
    assert again.about == ABOUT
    assert again.evaluation.summary() == found.summary()
    assert read_cache(tmp_path, {**key, "seed": 1}) is None
    content = bytearray(file.read_bytes())
    for damaged in (content[:100], content[:-3] + bytes([content[-3] ^ 4]) + content[-2:]):
        file.write_bytes(damaged)
        assert read_cache(tmp_path, key) is None
    write_cache(tmp_path, found, key, ABOUT | {"epochs": "two"})
    assert read_cache(tmp_path, key) is None


class Heard(list):
    """What a job said and how it ended."""

    def begin(self, name):
        self.append(("begin", name))

    def line(self, name, text):
        self.append(("line", text))

    def end(self, name, reason):
        self.append(("end", reason))


def test_a_job_that_fails_says_why_and_the_next_command_is_not_run(tmp_path):
    heard = Heard()
    jobs = [Job("a", [["evaluate", str(tmp_path / "gone")], ["fit", "--out", str(tmp_path / "made")]])]
    failed = work(jobs, 1, heard)
    assert set(failed) == {"a"}
    assert "gone is no run folder" in failed["a"]
    assert not failed["a"].startswith("ppl-vae:")
    assert heard[0] == ("begin", "a")
    assert heard[-1] == ("end", failed["a"])
    assert not (tmp_path / "made").exists()


# -- a grid that is trained ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A grid of two by two, and what the command printed."""
    place = tmp_path_factory.mktemp("grid")
    before = Path.cwd()
    os.chdir(place)
    try:
        rows = np.random.default_rng(0)
        np.save("t.npy", rows.normal(size=(60, 1)) @ [[1.0, -0.5, 0.3]] + 0.3 * rows.normal(size=(60, 3)))
        words = ("--guides", "mean_field,full_rank", "--bounds", "trace_elbo,iwae:particles=4", "--seeds", "1")
        done = script("compare", *words, *TINY, "--out", "g", "--json", cwd=place)
    finally:
        os.chdir(before)
    return place, words, done


def script(*argv, cwd):
    command = [sys.executable, "-m", "ppl_vae", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.mark.slow
def test_a_grid_prints_writes_and_can_be_opened(trained):
    place, _, done = trained
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)  # nothing else is on stdout
    assert "4/4 " in done.stderr
    written = json.loads((place / "g" / "compare.json").read_text())
    assert written == {k: v for k, v in printed.items() if k != "out"}
    assert (place / "g" / "compare.png").read_bytes()[1:4] == b"PNG"
    assert len(printed["pairs"]) == 4
    assert printed["failed"] == {}
    assert printed["order"]["holds"]
    runs = {}
    for record in printed["pairs"]:
        (run,) = (ppl_vae.open_run(place / path) for path in printed["runs"][record["name"]])
        found = ppl_vae.evaluate(run.model, run.guide, ppl_vae.load(place / "t.npy").test, 40)
        assert record["elbo"] == pytest.approx(float(found.elbo.mean()), rel=1e-5)
        assert record["parameters_model"] + record["parameters_guide"] == sum(p.numel() for p in run.pair.parameters())
        assert record["seconds_per_epoch"] > 0
        runs[record["name"]] = run
    assert {run.info["bound"].get("foreign", "ours").rpartition(".")[2] for run in runs.values()} == {
        "Trace_ELBO",
        "ours",
    }
    found = ppl_vae.compare(runs, ppl_vae.load(place / "t.npy"), particles=40, iwae=(5,))
    assert found.best.name == printed["best"]
    assert found.best.estimate().value == pytest.approx(printed["pairs"][0]["log_evidence"], rel=1e-5)


@pytest.mark.slow
def test_only_what_is_missing_is_trained_again(trained, monkeypatch, capsys):
    place, words, _ = trained
    monkeypatch.chdir(place)
    before = finished("g")
    assert len(before) == 4
    shutil.rmtree("g/vae-mean_field-trace_elbo-seed0")
    assert main(["compare", *words, *TINY, "--out", "g", "--resume"]) == 0
    out, err = capsys.readouterr()
    after = finished("g")
    assert {name for name, when in after.items() if before[name] != when} == {"vae-mean_field-trace_elbo-seed0"}
    assert "4/4 mean_field + trace_elbo, seed 0" in err
    assert "log p(x)" in out
    assert "written: g/compare.json" in out
    other = [*words, *TINY, "--out", "g"]
    assert "g exists already: continue it with --resume" in refused(capsys, "compare", *other)
    other[other.index("--epochs") + 1] = "3"
    line = refused(capsys, "compare", *other, "--resume")
    assert "g belongs to another comparison, its epochs is 2, not 3" in line
    assert main(["compare", "g/vae-mean_field-trace_elbo-seed0", "g/vae-full_rank-trace_elbo-seed0", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["pairs"]) == 2
    np.save("u.npy", np.load("t.npy"))
    shutil.move("t.npy", "s.npy")
    np.save("t.npy", np.load("u.npy") + 1)
    assert "trained with another file of data or programs" in refused(
        capsys, "compare", *words, *TINY, "--out", "g", "--resume"
    )
    shutil.move("s.npy", "t.npy")


@pytest.mark.slow
def test_an_interrupted_grid_keeps_what_is_finished_and_goes_on(folder):
    words = ("compare", "--bounds", "elbo,iwae", "--seeds", "1", "--jobs", "1", *TINY, "--out", "g")
    command = [sys.executable, "-m", "ppl_vae", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        for line in process.stderr:
            if line.startswith("1/2 "):
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)  # to the parent alone, as no terminal would
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted: go on with the same options and --resume --out g" in rest
    before = finished("g")
    assert list(before) == ["vae-mean_field-elbo-seed0"]
    done = script(*words, "--resume", cwd=folder)
    assert done.returncode == 0, done.stderr
    after = finished("g")
    assert len(after) == 2
    assert after["vae-mean_field-elbo-seed0"] == before["vae-mean_field-elbo-seed0"]


@pytest.mark.slow
def test_a_cell_that_fails_is_told_and_the_others_go_on(folder, capsys):
    words = ("compare", "--guides", "own.py:Guide,mean_field", "--seeds", "1", *TINY, "--out", "g")
    assert main([*words, "--json"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [record["name"] for record in found["pairs"]] == ["mean_field"]
    assert "it does not train" in found["failed"]["own.py:Guide, seed 0"]
    assert "ppl-vae: own.py:Guide, seed 0 failed:" in err
    assert "Traceback" not in err
    assert json.loads(Path("g/compare.json").read_text())["failed"] == found["failed"]
    text = Path("own.py").read_text().replace("if self.training:", "if False:")
    Path("own.py").write_text(text)
    assert main([*words, "--resume"]) == 2
    assert "another file of data or programs" in capsys.readouterr().err


@pytest.mark.slow
def test_a_grid_is_certified_and_goes_on_certified(trained, capsys):
    """Cells that are trained are judged again, to the accuracy; log p(x) of one model is one number, certified."""
    place, words, _ = trained
    before = finished(place / "g")
    done = script("compare", *words, *TINY, "--out", "g", "--resume", "--certified", "0.05", "--json", cwd=place)
    found = json.loads(done.stdout)
    assert found["certified_accuracy"] == 0.05
    assert finished(place / "g") == before  # nothing was trained again
    key = {"particles": 40, "iwae": [1, 5], "seed": 0, "certified": 0.05}
    for run in (place / "g").glob("*-seed0"):
        kept = read_cache(run, key)
        assert bool(kept.evaluation.certified.certified.all())
        opened = ppl_vae.open_run(run)
        own = ppl_vae.evaluate(opened.model, opened.guide, opened.data().test, particles=20000)
        sure, error = kept.evaluation.certain()
        assert bool(((sure - own.log_evidence).abs() < 5 * (error + own.log_evidence_se) + 0.01).all())
        assert read_cache(run, key | {"certified": 0.1}) is None
    line = script("compare", *words, *TINY, "--out", "g", "--print-commands", "--certified", "0.05", cwd=place).stdout
    assert all("--certified 0.05" in each for each in line.strip().splitlines())
