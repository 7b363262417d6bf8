"""Worked pages are executed, and say what they say of whatever numbers come out."""

import math
import runpy
from pathlib import Path

import pytest
import torch

import ppl_vae

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def executed(tmp_path):
    threads = torch.get_num_threads()
    execute = runpy.run_path(str(ROOT / "docs" / "execute.py"))["execute"]

    def run(name):
        (tmp_path / "data").symlink_to(ROOT / "docs" / "data")
        (tmp_path / "examples").symlink_to(ROOT / "examples")
        names = execute(ROOT / "docs" / f"{name}.md", tmp_path)[1]
        assert any(tmp_path.glob(f"{Path(name).name}.*"))
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


@pytest.mark.slow
def test_a_normal_on_one_of_two_modes_says_too_little_by_log_two(executed):
    names = executed("ideas/divergence")
    exclusive, inclusive = names["exclusive"], names["inclusive"]
    assert exclusive[0] == pytest.approx(math.log(2), abs=0.005)
    assert exclusive[1] > 10 > 1 > inclusive[1]
    one, both = names["trained"].values()
    assert one.abs().mean() > 1.5 > 0.8 > one.std()
    assert both.std() > 1.5
    assert float(names["judged"].log_evidence) == pytest.approx(names["evidence"], abs=0.05)


@pytest.mark.slow
def test_evidence_is_bound_plus_divergence_draw_by_draw(executed):
    names = executed("ideas/evidence")
    assert names["apart"] < 1e-12
    for elbo, away, error in names["bars"].values():
        assert elbo + away == pytest.approx(float(names["evidence"]), abs=4 * error + 1e-5)


@pytest.mark.slow
def test_clouds_touch_only_with_both_parts_of_the_divergence(executed):
    points, drifting, heap, vae = executed("ideas/bubbles")["found"].values()
    assert points[3].median() < 0.03
    assert heap[3].median() < 0.03 < 0.05 < vae[3].median() < drifting[3].median()
    assert drifting[2].norm(dim=-1).median() > 2 * vae[2].norm(dim=-1).median()


@pytest.mark.slow
def test_draws_average_to_the_mean_and_rows_differ_less_than_the_prior(executed):
    names = executed("ideas/rows_and_latents")
    assert names["within"] < 0.6 * names["across"]
    assert float((names["error"] < 2).float().mean()) > 0.9


@pytest.mark.slow
def test_refinement_closes_a_gap_and_never_passes_the_evidence(executed):
    names = executed("ideas/amortized")
    elbos = names["elbos"]
    assert elbos[0] + 1 < elbos[-1] < names["evidence"] + 0.2
    assert names["each"] > 0


@pytest.mark.slow
def test_causes_are_tied_and_an_independent_guide_pays_for_it(executed):
    names = executed("ideas/explaining_away")
    evidence, bounds = float(names["evidence"].log()), names["bounds"]
    assert bounds["structured"] == pytest.approx(evidence, abs=2e-3)
    assert bounds["independent"] == pytest.approx(evidence - names["apart"], abs=5e-3)


@pytest.mark.slow
def test_gradients_agree_on_average_and_differ_in_scatter(executed):
    names = executed("ideas/gradients")
    scatter = names["scatter"]
    for place in names["places"]:
        assert scatter[place, "score function"] > 50 * scatter[place, "pathwise"]
    assert scatter["at the posterior", "pathwise, sticking the landing"] < 1e-20
    score, path, _ = names["variances"].values()
    assert score[-1] > 1000 * score[0]
    assert path[-1] < 2 * path[0]


@pytest.mark.slow
def test_a_gan_has_a_distance_and_no_evidence(executed):
    names = executed("ideas/adversarial")
    assert names["table"][8.0][0] == pytest.approx(math.log(2), abs=1e-3)
    for d, (_, w1, kl) in names["table"].items():
        assert (w1, kl) == pytest.approx((d, d**2 / 2), abs=1e-3)
    for d, value in names["reached"].items():
        assert value == pytest.approx(2 * names["table"][d][0] - math.log(4), abs=0.02)
    found = names["found"]
    assert min(p for _, p in found["training rows"]) > 0.01
    assert all(p < 0.01 for _, p in found["GAN"])


@pytest.mark.slow
def test_few_labels_and_none_rank_malignant_rows_first(executed):
    found = executed("ideas/few_labels")["found"]
    assert all(area.value > 0.9 for area in found.values())
    assert found["M2, 10 labels"].value > 0.96


@pytest.mark.slow
def test_sprites_are_told_by_single_latents_under_a_larger_weight(executed):
    names = executed("ideas/sprites")
    found = names["found"]
    for name in ("mig", "factor_vae"):
        one, ten = (found[beta].scores[name] for beta in ("beta 1", "beta 10"))
        assert ten.value - one.value > 2 * math.hypot(one.se, ten.se)
        assert ten.value > ten.random + 4 * ten.se
    evidence = {n: float(ppl_vae.evaluate(*names["pairs"][n], names["data"], particles=10).elbo.mean()) for n in found}
    assert evidence["beta 10"] < evidence["beta 1"]
    assert names["own"].scores["mig"].value > 0.8 > 0.1 > names["turned"].scores["mig"].value
