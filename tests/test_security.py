"""What SECURITY.md says that a run folder, a file of data and a page may not do, where no other test tries it."""

import json
import os
import pickle
import shutil

import pandas
import pytest
from helpers import rows

import ppl_vae
from ppl_vae import UserError
from ppl_vae.cli import main

FIT = "fit vae --data t.csv --epochs 1 --hidden 4 --latent-dim 2 --evaluate-particles 5 --no-report --compile off"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("security")
    frame = pandas.DataFrame(rows().numpy(), columns=["=1+1", "b", "c"])
    frame.to_csv(folder / "t.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*FIT.split(), "--out", "run"]) == 0
    return folder


@pytest.fixture
def there(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


class Payload:
    """Makes a folder where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("was-run",)


EVIL = 'import os\nos.mkdir("was-run")\ndef model(x): ...\n'
NAMED = [
    {"file": "evil.py", "name": "model", "arguments": {}},
    {"file": "../there/evil.py:model"},
    {"foreign": "evil.model"},
    {"evil": "model", "arguments": {}},
    {"os": "mkdir", "arguments": {"path": "was-run"}},
    {"models": "__builtins__", "arguments": {}},
    {"models": "os", "arguments": {}},
    {"models": "vae.torch", "arguments": {}},
]


@pytest.mark.parametrize("role", ["model", "guide"])
@pytest.mark.parametrize("named", NAMED, ids=lambda value: next(iter(value)))
def test_a_run_folder_runs_and_imports_nothing(there, monkeypatch, role, named):
    (there / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(there)
    info = json.loads((there / "run" / "run.json").read_text())
    info[role] = named
    (there / "run" / "run.json").write_text(json.dumps(info))
    with pytest.raises(UserError):
        run = ppl_vae.open_run("run")
        ppl_vae.evaluate(run.model, run.guide, run.data().test, particles=3)
    assert not (there / "was-run").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "run.json", "history.jsonl", "checkpoint/state.safetensors"])
def test_nothing_of_a_run_folder_is_unpickled(there, name, capsys):
    (there / "run" / name).write_bytes(pickle.dumps(Payload()))
    for line in ("evaluate run --particles 3", f"{FIT} --out run --resume --epochs 2"):
        main(line.split())
    assert not (there / "was-run").exists()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.csv", "t.parquet"])
def test_no_file_of_data_is_unpickled(there, name):
    (there / name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UserError):
        ppl_vae.load(there / name)
    assert not (there / "was-run").exists()


def test_tables_hold_names_as_they_are(there):
    assert main(["sample", "run", "-n", "2", "--out", "new.csv"]) == 0
    assert (there / "new.csv").read_text().splitlines()[0].split(",")[0].strip('"') == "=1+1"


def test_a_link_in_a_run_folder_is_followed_when_figures_are_written(there):
    (there / "elsewhere").mkdir()
    shutil.rmtree(there / "run" / "figures", ignore_errors=True)
    (there / "run" / "figures").symlink_to(there / "elsewhere")
    assert main(["traverse", "run", "--steps", "2"]) == 0
    assert [p.suffix for p in (there / "elsewhere").iterdir()] == [".png"]
