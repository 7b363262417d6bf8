"""The worked example is executed, and its recommendation follows from its numbers; first, since it takes longest."""

import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_worked_example_ends_in_its_recommendation(tmp_path):
    threads = torch.get_num_threads()
    execute = runpy.run_path(str(ROOT / "docs" / "execute.py"))["execute"]
    try:
        printed, names = execute(ROOT / "docs" / "which_guide.md", tmp_path)
    finally:
        torch.set_num_threads(threads)
    found, chosen = names["found"], names["chosen"]
    assert len(found.pairs) == 12
    assert found.order.holds
    assert (tmp_path / "which_guide.png").is_file()
    # what the text says, of whatever numbers come out on this machine
    assert chosen.endswith("IWAE-8")
    assert not found.difference(chosen, found.best.name).told_apart
    assert found.difference(chosen, "mean field, ELBO").told_apart
    assert found.difference(chosen, "mean field, ELBO").value > 0
    assert names["seeds"].difference("low rank, IWAE-8", "mean field, ELBO").value > 0
    assert found.difference("mean field, ELBO", "mean field, IWAE-8", "elbo").value > 0
    assert names["widths"]["mean field, ELBO"] < min(1, names["widths"]["low rank, IWAE-8"])
    assert f"recommended: {chosen}" in printed[-1]
