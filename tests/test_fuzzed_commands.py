"""Wrong command lines: a result, or one line on stderr and status 2, and then no file was written."""

import contextlib
import random
import shutil
import warnings

import numpy as np
import pandas
import pytest
import typer
from helpers import OWN_MODEL
from odd import Slow, limited

from ppl_vae.cli import app, main

pytestmark = pytest.mark.faults

SEED, COUNT, FEW = 23, 1000, 6

ODD = [
    *("", " ", "-1", "0", "1", "2.5", "1e400", "nan", "inf", "-inf", "9" * 25, "-" + "9" * 25, "1_0", "0x10", "true"),
    *("x", "x" * 3000, "\x1b]0;title\x07", "é☃", "'; rm -rf /", "$(id)", "a,b", "a,,b", ",", "a=b", "=b", "a=", ":"),
    *("mean_field:flows=x", "vae:latent_dim=-1", "mixture:components=0", "iwae:particles=nan", "normal:scale=-1"),
    *("../../etc/passwd", "~", "~nobody/x", "/", ".", "/dev/null", "/proc/self/mem", "t.csv", "run", "no/such", "a\nb"),
    *("None", "[]", "{}", "NaN", "-", "--", "--help", "--no-such", "@t.csv", "t.csv:Name", "run/run.json", "a.py:M"),
]
QUICK = ["--epochs", "1", "--hidden", "4", "--evaluate-particles", "5", "--no-report", "--compile", "off"]
RIGHT = {
    "fit": ["fit", "vae", "--data", "t.csv", "--latent-dim", "2", *QUICK],
    "evaluate": ["evaluate", "run", "--particles", "5"],
    "diagnose": ["diagnose", "run", "--only", "collapse"],
    "compare": ["compare", "run", "--particles", "5"],
    "sample": ["sample", "run", "-n", "2"],
    "certify": ["certify", "run", "--accuracy", "1", "--rows", "2", "--validate", "0"],
    "encode": ["encode", "run"],
    "decode": ["decode", "run", "--latents", "z.npz"],
    "traverse": ["traverse", "run", "--steps", "3"],
    "interpolate": ["interpolate", "run", "--rows", "0,1", "--steps", "3"],
    "transfer": ["transfer", "many", "--content", "0,1", "--style", "2", "--take", "w_a"],
    "explain": ["explain", "run", "--row", "0,1"],
    "factors": ["factors", "many", "--factors", "y"],
    "snapshots": ["snapshots", "run"],
    "coherence": ["coherence", "many", "--given", "a", "--of", "b"],
    "posterior": ["posterior", "shared", "--model", "own.py:model", "--draws", "2", "--particles", "20"],
    "impute": ["impute", "run", "--particles", "5"],
    "predict": ["predict", "many"],
    "export": ["export", "run", "--draws", "1", "--particles", "5"],
    "report": ["report", "run"],
    "list": ["list", "guides"],
}
MORE = [
    ["fit", "vae", "--data", "x.npy", "--stream", "--latent-dim", "2", *QUICK],
    ["fit", "vae", "--data", "t.csv", "--objective", "factor", "--latent-dim", "2", *QUICK],
    ["fit", "own.py:model", "--data", "x.npy", "--rows", "none", *QUICK],
    ["evaluate", "run", "--particles", "5", "--parts", "parts"],
    ["compare", "--data", "t.csv", "--betas", "1,4", "--objectives", "beta,decomposed", "--print-commands"],
    ["compare", "--data", "t.csv", "--guides", "mean_field", "--seeds", "1", "--print-commands"],
    ["encode", "run", "--draws", "2", "--out", "z.csv"],
    ["sample", "run", "-n", "2", "--given", "x=0"],
]
"""Other ways to use some of them: streams, objectives, one unit, parts, grids, which are not trained here."""


def lines(count=COUNT, seed=SEED):
    """Command lines with one odd word: of an option (given once more), or in the place of an argument."""
    chance, found = random.Random(seed), []
    commands = typer.main.get_command(app).commands
    assert set(RIGHT) == {name for name, command in commands.items() if not command.hidden}
    while len(found) < count:
        words = list(chance.choice([*RIGHT.values(), *MORE]))
        name = words[0]
        options = [p for p in commands[name].params if p.param_type_name == "option" and p.name != "help"]
        for _ in range(chance.choice((1, 1, 1, 2))):
            if not options or chance.random() < 0.15:
                place = chance.randrange(1, len(words))
                words[place] = chance.choice(ODD)
            else:
                option = chance.choice(options)
                words.append(chance.choice([*option.opts, *option.secondary_opts]))
                if not getattr(option, "is_flag", False):
                    words.append(chance.choice(ODD))
        found.append(words)
    return found


LINES = lines()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    values = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    table = pandas.DataFrame(values, columns=list("abc"))
    table.to_csv(folder / "t.csv", index=False)
    table.mask(table > 1.0).to_csv(folder / "holes.csv", index=False)
    np.savez(folder / "fields.npz", a=values[:, :2], b=values[:, 2:], y=(values[:, 0] > 0).astype(int))
    np.savez(folder / "z.npz", z=values[:, :2])
    runs = {
        "run": ["vae", "--data", "holes.csv", "--missing", "allow", "--snapshots", "0,1"],
        "many": ["multimodal", "--guide", "mean_field:experts=product", "--data", "fields.npz"],
        "shared": ["own.py:model", "--data", "x.npy"],
    }
    np.save(folder / "x.npy", values)
    (folder / "own.py").write_text(OWN_MODEL)
    with contextlib.chdir(folder):
        for name, words in runs.items():
            small = [] if name == "shared" else ["--latent-dim", "2"]
            assert main(["fit", *words, *small, *QUICK, "--out", name]) == 0
    return folder


@pytest.fixture
def place(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "here" / "there")
    monkeypatch.chdir(tmp_path / "here" / "there")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def tree(place):
    return {p: p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file()}


def outcome(words, place, capsys):
    """None, or what is wrong with what a command line came to."""
    before = tree(place)
    try:
        with warnings.catch_warnings(), limited(60):
            warnings.simplefilter("ignore")
            status = main(words)
    except Slow:
        return "it did not come back"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        err = capsys.readouterr().err
    last = err.strip().split("\n")[-1]
    if status not in (0, 2):
        return f"status {status}"
    if "Traceback" in err or any(not c.isprintable() for c in last):
        return f"said {err[-300:]!r}"
    if status == 2 and (not last.startswith("ppl-vae: ") or len(last) > 1250):
        return f"refused with {err[-300:]!r}"
    if status == 2 and tree(place) != before:
        return f"refused with {last[:200]!r}, and wrote {set(tree(place)) ^ set(before) or 'over a file'}"
    return None


def wrong(some, place, capsys):
    return [f"{words}: {found}"[:600] for words in some if (found := outcome(words, place, capsys)) is not None]


@pytest.mark.slow
def test_right_command_lines_are_right(place, capsys):
    for words in (*RIGHT.values(), *MORE):
        assert main(words) == 0, f"{words}: {capsys.readouterr().err}"


def test_some_wrong_command_lines(place, capsys):
    assert wrong(LINES[:FEW], place, capsys) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_wrong_command_lines(place, capsys, part):
    assert len(LINES) == COUNT
    assert wrong(LINES[part::10], place, capsys) == []
