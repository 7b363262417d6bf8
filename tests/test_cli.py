"""The command line as a user meets it: whole runs, and everything that is refused in one line."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppl_vae.cli import main

QUICK = ("--epochs", "2", "--evaluate-particles", "10")

OWN = """
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn


class Net(PyroModule):
    def __init__(self, data, latent_dim=2):
        super().__init__()
        self.latent_dim = latent_dim
        self.decoder = nn.Linear(latent_dim, data.schema["x"].size)

    def forward(self, x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, data):
        super().__init__()
        self.net = nn.Linear(data.schema["x"].size, 2 * model.latent_dim)

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            loc, raw = self.net(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw)).to_event(1))


def model(x=None, n=1):
    loc = pyro.param("loc", torch.zeros(3))
    with pyro.plate("data", n if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z + loc, 0.5).to_event(1), obs=x)


def broken(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ torch.zeros(5, 3), 0.5).to_event(1), obs=x)
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run of the main job, cut short, that tests may add files to."""
    run = tmp_path_factory.mktemp("runs") / "a"
    assert main(["fit", *QUICK, "--out", str(run), "--no-report"]) == 0
    return run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with a table, an array and a program of the user."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(60, 3))
    lines = [[*map(str, row), "up" if row[0] > 0 else "down"] for row in rows]
    text = "\n".join(",".join(line) for line in [["a", "b", "c", "way"], *lines])
    Path("t.csv").write_text(text + "\n")
    Path("words.csv").write_text("a,b\n" + "".join(f"1,word {i}\n" for i in range(30)))
    np.save("t.npy", rows)
    Path("own.py").write_text(OWN)
    return tmp_path


def files(place="."):
    return sorted(str(p) for p in Path(place).rglob("*") if "__pycache__" not in str(p))


def records(file):
    """The lines of a .csv file, by column."""
    with Path(file).open(newline="") as opened:
        return list(csv.DictReader(opened))


def said(capsys, *argv):
    """Run a command that must succeed; its stdout."""
    capsys.readouterr()
    status = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def known(summary):
    """The numbers that there are: k-hat is null where particles are few."""
    return {name: value for name, value in summary.items() if value is not None}


def refused(capsys, *argv):
    """Run a command that must be refused, with one line on stderr and nothing written; the line."""
    before = files()
    capsys.readouterr()
    status = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("ppl-vae: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert files() == before
    return err


# -- as a process --------------------------------------------------------------------------------------------


def script(*argv, cwd):
    command = [sys.executable, "-m", "ppl_vae", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_answers_at_once(word, tmp_path):
    seconds = []
    for _ in range(2):
        before = os.times()
        done = script(word, cwd=tmp_path)
        seconds.append(sum(os.times()[2:4]) - sum(before[2:4]))
        assert (done.returncode, done.stderr) == (0, "")
    assert min(seconds) < 1  # of processor time, about 0.1, whatever else the machine does
    assert ("encode" if word == "--help" else "0.") in done.stdout


def test_the_command_line_imports_nothing_heavy():
    heavy = ("torch", "pyro", "numpy", "pandas", "matplotlib", "sklearn", "scipy")
    code = f"import sys, ppl_vae.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_refusal_in_a_process_is_one_line_and_status_2(tmp_path):
    done = script("fit", "--epohcs", "3", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("ppl-vae: ")
    assert "--epochs" in done.stderr
    assert not list(tmp_path.iterdir())


def test_json_is_alone_on_stdout_in_a_process(folder):
    done = script("fit", "--data", "t.npy", *QUICK, "--json", "--no-report", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["run"] == "runs/t-vae-mean_field"
    assert found["report"] is None
    assert found["evaluation"]["test"]["rows"] == 12
    assert found["best"]["epoch"] in (1, 2)
    assert "epoch 2/2" in done.stderr


@pytest.mark.slow
def test_the_main_job(tmp_path):
    done = script("fit", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "digits-vae-mean_field"
    summary = json.loads((run / "evaluation.json").read_text())["test"]
    assert summary["negative_elbo"] < 97.6  # a plain prototype reaches 97.6 and 93.7
    assert summary["nll"] < 93.7
    assert summary["particles"] == 1000
    names = {p.name for p in run.iterdir()}
    assert names >= {"run.json", "weights.safetensors", "history.jsonl", "figures", "report.html"}
    assert "negative ELBO" in done.stdout


# -- a run and what follows it -------------------------------------------------------------------------------


def test_help_without_a_command(capsys):
    assert "Commands:" in said(capsys)


def test_a_run_evaluates_as_it_did(digits, capsys):
    before = json.loads((digits / "evaluation.json").read_text())["test"]
    out = said(capsys, "evaluate", digits, "--particles", 10, "--json")
    again = json.loads(out)["evaluation"]
    assert known(again) == pytest.approx(known(before), rel=1e-4)
    said(capsys, "evaluate", digits, "--particles", 2, "--split", "validation")
    assert set(json.loads((digits / "evaluation.json").read_text())) == {"test", "validation"}


def test_the_gap_is_taken_apart(digits, capsys):
    asked = ("evaluate", digits, "--particles", 10, "--gap", "--gap-rows", 5)
    words = said(capsys, *asked)
    out = json.loads((digits / "evaluation.json").read_text())["test"]["gap"]
    assert out["which_rows"] == "5 of 447, evenly spread"
    assert out["approximation"] + out["amortization"] == pytest.approx(out["log_evidence"] - out["elbo"])
    assert "amortization gap (the encoder's)" in words
    assert out["verdict"] in words.replace("\n", " ")


def test_evaluate_on_named_data(digits, capsys):
    out = said(capsys, "evaluate", digits, "--particles", 2, "--data", "digits", "--json")
    assert json.loads(out)["rows"] == "digits"


def test_tables_are_for_people(digits, capsys):
    out = said(capsys, "evaluate", digits, "--particles", 10)
    assert "negative ELBO" in out
    assert "447 rows: test" in out


def test_sample(digits, capsys, folder):
    said(capsys, "sample", digits, "-n", 6)
    drawn = np.load(digits / "samples.npz")
    assert drawn["x"].shape == (6, 8, 8)
    assert drawn["z"].shape == (6, 16)
    assert (digits / "figures" / "samples.png").read_bytes()[1:4] == b"PNG"
    said(capsys, "sample", digits, "-n", 6, "--mean", "--out", "mean.csv")
    rows = records("mean.csv")
    assert (len(rows), list(rows[0])) == (6, [f"x_{i}" for i in range(64)])
    said(capsys, "sample", digits, "--out", "s.png")
    assert "exists already" in refused(capsys, "sample", digits, "--out", "s.png")


def test_samples_are_those_of_the_seed(digits, capsys, folder):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        said(capsys, "sample", digits, "-n", 3, "--seed", seed, "--out", f"{name}.csv")
    a, b, c = (Path(f"{n}.csv").read_text() for n in "abc")
    assert a == b != c


def test_encode_keeps_the_order_of_rows(digits, capsys, folder):
    from ppl_vae import load

    said(capsys, "encode", digits, "--split", "validation")
    found = np.load(digits / "latents.npz")
    assert found["z"].shape == (350, 16)
    assert found["y"].tolist() == load("digits").validation["y"].tolist()
    said(capsys, "encode", digits, "--split", "validation", "--out", "l.csv")
    row = records("l.csv")[0]
    assert list(row) == [*(f"z_{i}" for i in range(16)), "y"]
    assert float(row["z_0"]) == pytest.approx(float(found["z"][0, 0]), rel=1e-5)


@pytest.mark.slow
def test_report(digits, capsys):
    said(capsys, "report", digits)
    assert "<html" in (digits / "report.html").read_text()


def test_fit_with_every_part_named(folder, capsys):
    parts = ("--prior", "standard_normal", "--likelihood", "normal", "--bound", "iwae", "--particles", 3)
    table = ("--data", "t.csv", "--columns", "a,b", "--label", "way", "--latent-dim", 2, "--hidden", "8,8")
    out = said(capsys, "fit", "vae", "--guide", "mean_field", *parts, *table, *QUICK, "--no-report")
    assert "runs/t-vae-mean_field" in out
    info = json.loads(Path("runs/t-vae-mean_field/run.json").read_text())
    assert info["model"]["arguments"]["hidden"] == [8, 8]
    assert info["guide"]["arguments"]["hidden"] == [8, 8]
    assert info["bound"] == {"bounds": "IWAE", "arguments": {"particles": 3}}
    assert info["settings"]["weight_decay"] == 1  # 1000 / rows, at most 1
    said(capsys, "fit", *parts, *table, *QUICK, "--no-report", "--weight-decay", 0)
    assert json.loads(Path("runs/t-vae-mean_field-2/run.json").read_text())["settings"]["weight_decay"] == 0


@pytest.mark.parametrize("prior", ["mixture", "vamp_prior", "flow_prior", "exemplar"])
def test_a_learned_prior_is_fitted_saved_and_evaluated(prior, folder, capsys):
    out = json.loads(said(capsys, "fit", "--data", "t.npy", "--prior", prior, "--no-report", "--json", *QUICK))
    numbers = out["evaluation"]["test"]
    again = json.loads(said(capsys, "evaluate", out["run"], "--particles", 10, "--json"))["evaluation"]
    assert known(again) == pytest.approx(known(numbers), rel=1e-4)


def test_all_rows_of_a_file_are_encoded_in_its_order(folder, capsys):
    said(
        capsys,
        "fit",
        "--data",
        "t.csv",
        "--label",
        "way",
        *QUICK,
        "--latent-dim",
        2,
        "--no-report",
        "--out",
        "a",
    )
    said(capsys, "encode", "a", "--data", "t.csv", "--out", "table.csv")
    said(capsys, "encode", "a", "--data", "t.npy", "--out", "array.csv")
    table, array = records("table.csv"), records("array.csv")
    ways = [row["way"] for row in records("t.csv")]
    assert [row["y"] for row in table] == ways
    assert [row["z_0"] for row in table] == [row["z_0"] for row in array]
    Path("few.csv").write_text("a,c\n1,2\n")
    assert "unknown column of few.csv 'b'" in refused(capsys, "encode", "a", "--data", "few.csv")
    assert "leave --split out" in refused(capsys, "encode", "a", "--data", "t.csv", "--split", "test")


@pytest.mark.parametrize("bound", ["trace_elbo", "trace_mean_field_elbo"])
def test_pyros_own_bounds(bound, folder, capsys):
    capsys.readouterr()
    assert main(["fit", "--bound", bound, "--data", "t.npy", *QUICK, "--no-report", "--out", "a"]) == 0
    assert "KL weight 1 (Pyro's own bounds have no warm-up)" in capsys.readouterr().err
    for option in (("--warm-up", "5"), ("--beta", "2")):
        assert "no KL weight" in refused(capsys, "fit", "--bound", bound, *option)


def test_an_interrupted_run_is_continued(folder, capsys):
    same = ("fit", "--data", "t.npy", "--warm-up", 0, "--evaluate-particles", 10, "--no-report", "--json")
    whole = json.loads(said(capsys, *same, "--epochs", 4, "--out", "whole"))
    said(capsys, *same, "--epochs", 2, "--out", "parts")
    parts = json.loads(said(capsys, *same, "--epochs", 4, "--out", "parts", "--resume"))
    assert parts["evaluation"]["test"] == pytest.approx(whole["evaluation"]["test"])
    assert len(Path("parts/history.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        ("own.py:Net", "own.py:Guide"),
        ("own.py:Net", "mean_field"),
        ("own.py:model", "mean_field"),
        ("vae", "own.py:Guide"),
    ],
)
def test_programs_of_a_users_file(model, guide, folder, capsys):
    if model == "vae":  # Guide asks the model for its latent_dim
        Path("own.py").write_text(OWN.replace("model.latent_dim", "16"))
    fit = ("fit", model, "--guide", guide, "--data", "t.npy", *QUICK, "--no-report", "--out", "a", "--json")
    before = json.loads(said(capsys, *fit))
    assert before["settings"]["weight_decay"] == 0
    own = [w for role, word in (("--model", model), ("--guide", guide)) if ".py" in word for w in (role, word)]
    out = said(capsys, "evaluate", "a", "--particles", 10, "--json", *own)
    after = json.loads(out)["evaluation"]
    assert after["negative_elbo"] == pytest.approx(before["evaluation"]["test"]["negative_elbo"], rel=1e-4)
    said(capsys, "encode", "a", *own)
    said(capsys, "sample", "a", *own)
    assert np.load("a/samples.npz")["x"].shape == (64, 3)
    assert "pass it again" in refused(capsys, "evaluate", "a")


def test_a_trained_parameter_of_a_function_is_saved(folder, capsys):
    np.save("far.npy", np.load("t.npy") + 5)
    fit = ("fit", "own.py:model", "--data", "far.npy", "--epochs", 40, "--lr", 0.1, "--patience", 0)
    said(capsys, *fit, "--no-report", "--out", "a")
    said(capsys, "sample", "a", "--model", "own.py:model", "--mean", "--out", "s.csv", "-n", 400)
    assert np.loadtxt("s.csv", delimiter=",", skiprows=1).mean() > 1  # it starts at 0


def test_a_changed_file_is_warned_of(folder, capsys):
    said(capsys, "fit", "own.py:Net", "--data", "t.npy", *QUICK, "--no-report", "--out", "a")
    Path("own.py").write_text(OWN + "\n# changed\n")
    capsys.readouterr()
    assert main(["evaluate", "a", "--particles", "2", "--model", "own.py:Net"]) == 0
    assert capsys.readouterr().err.count("is not the file that this run was trained with") == 1


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("fitt", "Did you mean 'fit'"),
        ("fit vea", "did you mean 'vae'"),
        ("fit --guide men_field", "did you mean 'mean_field'"),
        ("fit --prior standart_normal", "did you mean 'standard_normal'"),
        ("fit --likelihood bernouli", "did you mean 'bernoulli'"),
        ("fit --bound elob", "did you mean 'elbo'"),
        ("fit --data digit", "did you mean 'digits'"),
        ("fit --epoch 3", "--epochs"),
        ("fit --epochs three", "--epochs"),
        ("fit --epochs 0", "--epochs must be a whole number of at least 1, got 0"),
        ("fit --batch-size 0", "--batch-size must be a whole number of at least 1, got 0"),
        ("fit --lr -1", "--lr must be positive and finite, got -1"),
        ("fit --compile maybe", "unknown value of --compile 'maybe'"),
        ("fit --freeze", "name the run, --start RUN"),
        ("fit --start nowhere", "nowhere is no run folder"),
        ("fit --precision half", "unknown value of --precision 'half'"),
        ("fit --precision tf32 --device cpu", "precision tf32 needs a CUDA device"),
        ("fit --lr 0", "--lr"),
        ("fit --lr nan", "--lr"),
        ("fit --lr inf", "--lr"),
        ("fit --weight-decay -1", "--weight-decay"),
        ("fit --warm-up -1", "--warm-up"),
        ("fit --beta nan", "--beta"),
        ("fit --label-share 1", "--label-share must be between 0 and 1, got 1"),
        ("fit m2 --labels 50 --label-share 0.5 --bound trace_enum_elbo", "TraceEnum_ELBO is Pyro's own"),
        ("fit --label-share 0.5", "give the data labels"),
        ("fit --patience -1", "--patience"),
        ("fit --particles 0", "--particles"),
        ("fit --latent-dim 0", "--latent-dim"),
        ("fit --hidden 0", "--hidden"),
        ("fit --hidden wide", "--hidden"),
        ("fit --seed -1", "--seed"),
        ("fit --seed 99999999999999999999", "--seed"),
        ("fit --evaluate-particles 0", "--evaluate-particles"),
        ("fit --device tpu", "unknown device 'tpu'"),
        ("fit --binarise sometimes", "--binarise"),
        ("fit --binarise static", "17-way"),
        ("fit --missing maybe", "--missing"),
        ("fit --columns a,,b", "--columns"),
        ("fit --label y", "leave it out"),
        ("fit --likelihood bernoulli", "use Categorical"),
        ("fit own.py", "write own.py:NAME"),
        ("fit own.py:Nett", "did you mean 'Net'"),
        ("fit gone.py:Net", "there is no file gone.py"),
        ("fit own.py:Net --hidden 3 --guide own.py:Guide --data t.npy", "--hidden was given"),
        ("fit own.py:model --latent-dim 3 --data t.npy", "--latent-dim was given"),
        ("fit own.py:broken --data t.npy", "own.py:"),
        ("fit --data gone.csv", "found nothing at gone.csv"),
        ("fit --data words.csv", "--label"),
        ("fit --data t.csv --label wey", "did you mean 'way'"),
        ("fit --data t.csv --columns a,d", "unknown column 'd'"),
        ("fit --resume --out nowhere", "nothing to continue"),
        ("fit --resume", "nothing to continue"),
        ("fit --out t.csv", "exists already"),
        ("fit --out t.csv/run", "t.csv"),
        ("fit --out .", "exists already"),
        ("fit --latent-dim 1000000000000", "more memory than there is"),
        ("evaluate nowhere", "is no run folder"),
        ("evaluate . --model own.py:Net", "is no run folder"),
        ("evaluate", "RUN"),
        ("sample nowhere", "is no run folder"),
        ("encode nowhere", "is no run folder"),
        ("report nowhere", "is no run folder"),
        ("list modles", "did you mean 'models'"),
    ],
)
def test_bad_words_are_refused_in_one_line(argv, message, folder, capsys):
    assert message in refused(capsys, *argv.split())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("evaluate RUN --particles 0", "--particles"),
        ("evaluate RUN --gap --gap-rows 0", "--gap-rows"),
        ("evaluate RUN --split tets", "did you mean 'test'"),
        ("evaluate RUN --model own.py:Net", "leave --model out"),
        ("evaluate RUN --label y", "is for --data"),
        ("encode RUN --data digit", "did you mean 'digits'"),
        ("encode RUN --data t.npy", "rows of shape (8, 8)"),
        ("encode RUN --out z.txt", "unknown ending"),
        ("encode RUN --out t.csv", "exists already"),
        ("sample RUN -n 0", "-n must be"),
        ("sample RUN --out z.gif", "unknown ending"),
        ("sample RUN --seed -3", "--seed"),
        ("fit --out RUN", "exists already"),
    ],
)
def test_bad_words_about_a_run_are_refused_in_one_line(argv, message, digits, folder, capsys):
    before = files(digits)
    assert message in refused(capsys, *[str(digits) if word == "RUN" else word for word in argv.split()])
    assert files(digits) == before


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([[1.0, np.nan]] * 9, "", "missing entry"),
        ([[1.0, np.inf]] * 9, "", "inf"),
        ([], "", "at least one row"),
        ([["a", "b"]] * 9, "", "numbers"),
        ([[3.0, -1.0]] * 9, "--likelihood poisson", "Poisson"),
        ([[0.5, 1.5]] * 9, "--likelihood bernoulli", "use Normal"),
        ([[0.5, 0.2]] * 9, "--binarise dynamic --likelihood normal", "use Bernoulli"),
    ],
)
def test_bad_rows_are_refused_in_one_line(rows, options, message, folder, capsys):
    np.save("rows.npy", np.array(rows))
    assert message in refused(capsys, "fit", "--data", "rows.npy", *options.split())


@pytest.mark.parametrize("name", ["empty.csv", "empty.npz", "rubbish.npz", "rubbish.npy", "rubbish.parquet", "a.txt"])
def test_unreadable_files_are_refused_in_one_line(name, digits, folder, capsys):
    Path(name).write_bytes(b"" if "empty" in name else b"\x93rubbish")
    assert name in refused(capsys, "fit", "--data", name)
    assert name in refused(capsys, "encode", digits, "--data", name)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[]"),
        ("run.json", "{}"),
        ("run.json", None),
        ("weights.safetensors", "rubbish"),
        ("weights.safetensors", None),
        ("history.jsonl", "{"),
        ("evaluation.json", "{"),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(file, content, digits, folder, capsys):
    run = folder / "run"
    run.mkdir()
    for name in ("run.json", "weights.safetensors", "history.jsonl", "evaluation.json"):
        (run / name).write_bytes((digits / name).read_bytes())
    (run / file).unlink() if content is None else (run / file).write_text(content)
    assert file in refused(capsys, "evaluate", "run", "--particles", "1")


def test_an_interruption_is_status_130(folder, capsys, monkeypatch):
    from ppl_vae.cli import train

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "build", stop)
    assert main(["fit"]) == 130
    assert capsys.readouterr().err == "ppl-vae: interrupted\n"


def test_a_fault_of_the_package_leaves_its_traceback(folder, monkeypatch):
    from ppl_vae.cli import train

    monkeypatch.setattr(train, "build", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["fit"])


# -- list ----------------------------------------------------------------------------------------------------


def test_list(capsys):
    everything = said(capsys, "list")
    for word in ("vae", "mean_field", "standard_normal", "bernoulli", "elbo", "iwae", "trace_elbo", "digits"):
        assert word in everything
    assert "vae" not in said(capsys, "list", "bounds")
    assert "mean_field" in json.loads(said(capsys, "list", "guides", "--json"))["guides"]
