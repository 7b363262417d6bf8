"""A run folder one of whose files is damaged, and every command that reads it: a result, or one line that names it."""

import contextlib
import shutil
import warnings

import numpy as np
import pytest
from damage import damage
from helpers import OWN_MODEL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd import Slow, limited

from ppl_vae.cli import app, main

pytestmark = [pytest.mark.faults, pytest.mark.slow]

COUNT = 1000
QUICK = "--epochs 2 --hidden 4 --latent-dim 2 --evaluate-particles 5 --no-report --compile off"
FIT = (
    f"fit multimodal --guide mean_field:experts=product --data t.npz --missing allow {QUICK} --snapshots 0,2 --out run"
)
GRID = (
    "compare --guides mean_field --seeds 1 --data t.npz --columns a --missing allow --epochs 2 --hidden 4 "
    "--latent-dim 2 --compile off --out grid --particles 5 --iwae 1 --jobs 1"
)

MADE = [
    FIT,
    "evaluate run --particles 5",
    "diagnose run --only collapse",
    "encode run",
    "sample run -n 3",
    "impute run --particles 5",
    "predict run",
    "report run",
    f"fit own.py:model --data x.npy {QUICK.replace('--latent-dim 2 ', '')} --out shared",
    GRID,
]
READ = {
    "evaluate": "evaluate run --particles 5",
    "diagnose": "diagnose run --only collapse",
    "compare": "compare run --particles 5",
    "sample": "sample run -n 2",
    "sample given": "sample run -n 2 --given y=1 --out given.csv",
    "encode": "encode run",
    "decode": "decode run --latents run/latents.npz",
    "traverse": "traverse run --steps 3 --field a",
    "interpolate": "interpolate run --rows 0,1 --steps 3 --field a",
    "transfer": "transfer run --content 0 --style 1 --take w_a --field a",
    "explain": "explain run --field a",
    "factors": "factors run --factors y --split train",
    "snapshots": "snapshots run --out snapshots.csv",
    "coherence": "coherence run --given a --of b",
    "posterior": "posterior shared --model own.py:model --draws 2 --particles 30",
    "impute": "impute run --particles 5",
    "predict": "predict run",
    "export": "export run --draws 1 --particles 5",
    "certify": "certify run --accuracy 1 --rows 2 --validate 0",
    "report": "report run",
    "fit": f"{FIT} --resume",
    "longer": f"{FIT} --resume --epochs 3",
    "grid": f"{GRID} --resume",
}
"""One line of every command that reads a run folder; `fit` reads the one that it goes on with, `compare` its grid."""

FILES = {
    "run": [
        *("run.json", "weights.safetensors", "history.jsonl", "evaluation.json", "evaluation-test.csv"),
        *("diagnostics.json", "checkpoint/state.safetensors", "checkpoint/previous.safetensors", "latents.npz"),
        *("snapshots.safetensors", "samples.npz", "imputed.npz", "predictions.csv", "report.html"),
    ],
    "shared": ["run.json", "weights.safetensors", "history.jsonl"],
    "grid": ["grid.json", "CELL/comparison.safetensors", "CELL/run.json", "CELL/weights.safetensors"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated")
    values = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
    np.save(folder / "x.npy", values)
    values[::7, 0] = np.nan
    np.savez(folder / "t.npz", a=values[:, :2], b=values[:, 2:], y=np.arange(60) % 2)
    (folder / "own.py").write_text(OWN_MODEL)
    with contextlib.chdir(folder):
        for line in MADE:
            assert main(line.split()) == 0, line
        shutil.copy("run/checkpoint/state.safetensors", "run/checkpoint/previous.safetensors")
    return folder


def test_every_command_that_reads_a_run_is_asked(made, tmp_path, monkeypatch, capsys):
    import typer

    writes_alone = {"list", "compare-cell"}
    assert set(typer.main.get_command(app).commands) - writes_alone == {line.split()[0] for line in READ.values()}
    for line in READ.values():
        shutil.copytree(made, tmp_path / "there", symlinks=True)
        monkeypatch.chdir(tmp_path / "there")
        assert main(line.split()) == 0, f"{line}: {capsys.readouterr().err}"
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(tmp_path / "there")


def tree(place):
    return {p: p.lstat().st_mtime_ns for p in place.rglob("*") if not p.is_dir()}


def wrong(place, line, file, capsys):
    """None, or what is wrong with what a command came to."""
    before = tree(place.parent)
    try:
        with warnings.catch_warnings(), limited(400):
            warnings.simplefilter("ignore")
            status = main(line.split())
    except Slow:
        return "it did not come back"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        err = capsys.readouterr().err
    last = err.strip().split("\n")[-1]
    if status not in (0, 2) or "Traceback" in err or any(not c.isprintable() for c in last):
        return f"status {status}, {err[-400:]!r}"
    named = file in last or (file == "run.json" and last.startswith("ppl-vae: run: "))  # of where its data came from
    if status == 2 and (not last.startswith("ppl-vae: ") or len(last) > 1250 or not named):
        return f"refused with {last[:400]!r}"
    if status == 2 and "checkpoint" not in file and tree(place.parent) != before:
        return f"refused with {last[:200]!r}, and wrote {set(tree(place.parent)) ^ set(before) or 'over a file'}"
    outside = {p for p in set(tree(place.parent)) ^ set(before) if place not in p.parents}
    return f"wrote {outside}" if outside else None


def test_a_thousand_damaged_files_are_each_told_in_a_line(made, tmp_path, monkeypatch, capsys):
    lines = st.sampled_from([*READ.values()])
    found, kinds = [], {}

    @settings(max_examples=COUNT, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
    @given(lines, st.integers(0, 2**32), st.integers(0, 2**32))
    def check(line, which, seed):
        place = tmp_path / "one" / "there"
        shutil.rmtree(tmp_path / "one", ignore_errors=True)
        shutil.copytree(made, place, symlinks=True)
        monkeypatch.chdir(place)
        folder = next(name for name in FILES if name in line.split())
        name = FILES[folder][which % len(FILES[folder])]
        (file,) = (place / folder).glob(name.replace("CELL", "*-seed0"))
        way = damage(file, seed)
        problem = wrong(place, line, file.name, capsys)
        kinds[folder, name] = kinds.get((folder, name), 0) + 1
        if problem:
            found.append(f"{name}, {way}, seed {seed}: {line}: {problem}")

    check()
    assert sum(kinds.values()) >= COUNT
    assert found == []
