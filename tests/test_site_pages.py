"""Pages of the site that begin and show how are executed, and say what is true of whatever numbers come out."""

from __future__ import annotations

import runpy
from pathlib import Path

import pyro
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture
def page(tmp_path):
    """Execute a page: what its pieces print, and its names at the end."""
    threads = torch.get_num_threads()
    execute = runpy.run_path(str(ROOT / "docs" / "execute.py"))["execute"]

    def run(name):
        pyro.clear_param_store()
        printed, names = execute(ROOT / "docs" / f"{name}.md", tmp_path)
        return "\n".join(printed), names

    yield run
    torch.set_num_threads(threads)


def test_a_table_is_modelled_better_than_by_independent_columns_and_opened_again(page):
    said, names = page("start/csv")
    found = names["found"].summary()
    assert found["minus_independent"] > 2 * found["minus_independent_se"]
    assert said.endswith("True")


def test_a_program_of_ones_own_is_recovered_with_its_exact_evidence(page):
    _, names = page("start/program")
    assert names["model"].bias.tolist() == pytest.approx([0.5, 0.0, -1.0], abs=0.15)
    assert names["model"].noise.item() == pytest.approx(0.5, abs=0.05)
    assert float(names["found"].log_evidence.mean()) == pytest.approx(float(names["exact"]), abs=0.01)


def test_a_paired_difference_is_surer_than_the_means(page):
    said, names = page("start/comparison")
    assert names["difference"].se < names["found"]["FullRank"].estimate().se / 2
    assert r"\begin{tabular}" in said


def test_a_likelihood_of_ones_own_fits_heavy_tails_better(page):
    _, names = page("howto/likelihood")
    gain = names["gain"]
    assert gain.mean() > 2 * gain.std() / len(gain) ** 0.5


def test_a_guide_of_ones_own_is_the_exact_posterior(page):
    said, names = page("howto/guide")
    assert "[]" in said.splitlines()
    own = names["own"]
    assert own.count.item() == pytest.approx(2.0, abs=0.4)
    assert own.days.item() == pytest.approx(0.5, abs=0.1)


def test_images_use_their_latents(page):
    _, names = page("howto/images")
    assert 2 < names["result"].history[-1]["rate"] < 20
    assert names["model"](n=2).shape == (2, 16, 16)


def test_a_condition_is_obeyed_as_the_closed_form_says(page):
    _, names = page("howto/conditioning")
    weight, (mean, deviation) = names["drawn"].rows["weight"], names["exact"]
    assert float(weight.mean()) == pytest.approx(mean, abs=0.15)
    assert float(weight.std()) == pytest.approx(deviation, abs=0.1)


def test_rows_without_labels_help(page):
    _, names = page("howto/few_labels")
    learned, alone = names["shares"].values()
    assert learned > alone + 0.01


def test_outliers_are_found_better_than_by_chance(page):
    value, error = page("howto/outliers")[1]["found"].auc
    assert value > 0.5 + 2 * error


def test_a_device_is_chosen(page):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert device in page("howto/gpu")[0]


def test_a_callback_ends_a_run_and_a_tracker_is_told(page):
    said, names = page("howto/logging")
    history = names["result"].history
    assert history[-1]["validation"] >= -105 > history[0]["validation"]
    assert f"on_epoch after {len(history)} epochs" in said
    assert "figure training" in said


def test_a_run_goes_on_where_it_was(page):
    said, _ = page("howto/checkpoints")
    assert "[1, 2, 3, 4, 5, 6]" in said
    assert "the same numbers: True" in said
    assert said.endswith("True")


def test_a_seed_decides(page):
    said, _ = page("howto/reproducibility")
    assert said.startswith("True False\nTrue\nTrue")


def test_a_service_answers_and_refuses(page):
    said, names = page("howto/serving")
    assert len(names["codes"]) == len(names["scores"]) == 2
    assert "shape" in said.splitlines()[-1]


def test_figures_are_saved_in_every_format(page, tmp_path):
    said, _ = page("howto/figures_for_papers")
    assert {"training.pdf", "training.png", "pair.svg", "map.png"} <= {file.name for file in tmp_path.iterdir()}
    assert said.count(r"\pm") == 2


def test_every_frequent_mistake_is_refused_with_its_remedy(page):
    said, names = page("errors")
    assert "nothing was said" not in said
    assert len(said.splitlines()) == 2 * len(names["mistakes"])
