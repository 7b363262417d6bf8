"""Wrong command lines: a result, or one line on stderr and status 2, and then no file was written."""

import random
import shutil
import warnings

import numpy as np
import pandas
import pytest
import typer
from calls import Slow, limited

from ppl_vae.cli import app, main

pytestmark = pytest.mark.faults

SEED, COUNT, FEW = 19, 1000, 6

ODD = [
    *("", " ", "-1", "0", "1", "2.5", "1e400", "nan", "inf", "-inf", "9" * 25, "-" + "9" * 25, "1_0", "0x10", "true"),
    *("x", "x" * 3000, "\x1b]0;title\x07", "é☃", "'; rm -rf /", "$(id)", "a,b", "a,,b", ",", "a=b", "=b", "a=", ":"),
    *("mean_field:flows=x", "vae:latent_dim=-1", "mixture:components=0", "iwae:particles=nan", "normal:scale=-1"),
    *("../../etc/passwd", "~", "~nobody/x", "/", ".", "/dev/null", "/proc/self/mem", "t.csv", "run", "no/such", "a\nb"),
    *("None", "[]", "{}", "NaN", "-", "--", "--help", "--no-such", "@t.csv", "t.csv:Name", "run/run.json", "a.py:M"),
]
RIGHT = {
    "fit": [
        *("fit", "vae", "--data", "t.csv", "--epochs", "1", "--hidden", "4", "--latent-dim", "2"),
        *("--evaluate-particles", "5", "--no-report", "--compile", "off"),
    ],
    "evaluate": ["evaluate", "run", "--particles", "5"],
    "diagnose": ["diagnose", "run", "--only", "collapse"],
    "compare": ["compare", "run", "--particles", "5"],
    "sample": ["sample", "run", "-n", "2"],
    "encode": ["encode", "run"],
    "posterior": ["posterior", "run", "--draws", "2"],
    "impute": ["impute", "run", "--particles", "5"],
    "predict": ["predict", "run"],
    "export": ["export", "run", "--draws", "1", "--particles", "5"],
    "report": ["report", "run"],
    "list": ["list", "guides"],
}


def lines():
    """Command lines with one odd word: of an option (given once more), or in the place of an argument."""
    chance, found = random.Random(SEED), []
    commands = typer.main.get_command(app).commands
    assert set(RIGHT) == {name for name, command in commands.items() if not command.hidden}
    while len(found) < COUNT:
        name = chance.choice(sorted(RIGHT))
        words = list(RIGHT[name])
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
    values = np.random.default_rng(0).normal(size=(40, 3))
    pandas.DataFrame(values, columns=list("abc")).to_csv(folder / "t.csv", index=False)
    words = [str(folder / "t.csv") if word == "t.csv" else word for word in RIGHT["fit"]]
    assert main([*words, "--out", str(folder / "run")]) == 0
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


def test_some_wrong_command_lines(place, capsys):
    assert wrong(LINES[:FEW], place, capsys) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_wrong_command_lines(place, capsys, part):
    assert len(LINES) == COUNT
    assert wrong(LINES[part::10], place, capsys) == []
