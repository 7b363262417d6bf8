"""The pages on visits and on a time series are executed, and say what they say of whatever numbers come out."""

import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def executed(tmp_path):
    threads = torch.get_num_threads()
    execute = runpy.run_path(str(ROOT / "docs" / "execute.py"))["execute"]

    def run(name):
        (tmp_path / "data").symlink_to(ROOT / "docs" / "data")
        names = execute(ROOT / "docs" / f"{name}.md", tmp_path)[1]
        assert (tmp_path / f"{name}.png").is_file()
        return names

    yield run
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_sea_is_foretold_better_than_by_the_climate(executed):
    scores = executed("series")["scores"]
    for name in ("CRPS", "log score"):
        gain = (scores[name] - scores[f"{name} of the climate"]) * (-1 if name == "CRPS" else 1)
        assert gain[0] > 0
        assert gain[0] > gain[5]


@pytest.mark.slow
def test_hidden_visits_are_foretold_better_than_by_the_mean_of_all(executed):
    names = executed("visits")
    assert float(names["error"]) < float(names["others"])
    assert int(names["inside"]) >= len(names["true"]) * 0.6
