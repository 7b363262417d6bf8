"""A grid of objectives and betas: what each cell is trained with, what is refused, the plane of rate and distortion."""

from __future__ import annotations

import json

import pytest
import torch

from ppl_vae.cli import main
from ppl_vae.comparison._pairs import Compared, LatentUse
from ppl_vae.comparison.compare import Comparison, ranked
from ppl_vae.comparison.grid import Grid
from ppl_vae.errors import UserError
from ppl_vae.evaluation import Evaluation


def test_a_beta_is_the_kl_weight_or_the_number_that_an_objective_is_named_after():
    grid = Grid(objectives=("beta", "decomposed:mi=0", "factor"), betas=(0.25, 4), seeds=2)
    told = {grid.name(c): {k: v for k, v in grid.options(c).items() if k in ("beta", "objective")} for c in grid.cells}
    assert told == {
        "beta + 0.25": {"beta": 0.25},
        "beta + 4": {"beta": 4.0},
        "decomposed:mi=0 + 0.25": {"objective": "decomposed:mi=0,tc=0.25"},
        "decomposed:mi=0 + 4": {"objective": "decomposed:mi=0,tc=4"},
        "factor + 0.25": {"objective": "factor:gamma=0.25"},
        "factor + 4": {"objective": "factor:gamma=4"},
    }
    assert len({cell.folder for cell in grid.cells}) == len(grid.cells) == 12


def test_a_grid_that_varies_neither_is_what_it_was():
    (cell,) = Grid(seeds=1, training={"beta": 4.0}).cells
    assert cell.folder == "vae-mean_field-elbo-seed0"
    assert Grid(seeds=1, training={"beta": 4.0}).options(cell)["beta"] == 4.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"betas": ("much",)}, "betas expect numbers, such as"),
        ({"betas": (-1,)}, "betas must be at least 0"),
        ({"betas": (1, 1.0)}, "'1' is there twice"),
        ({"objectives": ("decompose",)}, "unknown objective 'decompose': did you mean 'decomposed'"),
        ({"betas": (1, 4), "training": {"beta": 2}}, "is what the grid varies"),
        ({"objectives": ("dip",), "training": {"objective": "mmd"}}, "is what the grid varies"),
    ],
)
def test_refusals(words, message):
    with pytest.raises(UserError, match=message) as caught:
        Grid(**words)
    assert "\n" not in str(caught.value)


def test_a_strength_is_said_once():
    grid = Grid(objectives=("decomposed:tc=3",), betas=(1, 4))
    with pytest.raises(UserError, match="both say tc"):
        grid.options(grid.cells[0])


def judged(rate: float, distortion: float) -> Evaluation:
    rows = torch.ones(5)
    elbo = -(rate + distortion) * rows
    return Evaluation(
        elbo=elbo,
        log_evidence=elbo,
        log_evidence_se=0 * rows,
        ess=rows,
        khat=0 * rows,
        rate=rate * rows,
        distortion=distortion * rows,
        particles=1,
        iwae={1: elbo},
        iwae_se={1: 0 * rows},
    )


def plane(*, told: bool = False) -> Comparison:
    pairs = []
    for objective in ("beta", "factor"):
        for beta in (1, 4):
            runs = (judged(8 / beta, 90 + beta), judged(8 / beta, 92 + beta))
            factors = {"objective": objective, "beta": str(beta)}
            use = (LatentUse(6 - beta, 6, 1 / beta, 0.1 * beta), LatentUse(8 - beta, 6, 3 / beta, 0.3 * beta))
            name = f"{objective} + {beta}"
            pairs.append(Compared(name, runs, (1, 1), factors=factors, latents=use if told else ()))
    levels = {"objective": ("beta", "factor"), "beta": ("1", "4")}
    return ranked(pairs, where="rows", particles=1, rungs=(1,), levels=levels)


def test_the_plane_has_a_curve_for_each_objective_and_a_word_for_each_beta():
    (ax,) = plane().rate_distortion().axes
    assert [text.get_text() for text in ax.texts] == ["4", "1", "4", "1"]
    assert [line.get_label() for line in ax.lines if not line.get_label().startswith("_")] == ["beta", "factor"]


def test_rate_and_distortion_are_in_the_summary_with_their_error_over_seeds():
    first = next(p for p in plane().summary()["pairs"] if p["name"] == "beta + 4")
    assert (first["rate"], first["distortion"]) == (2.0, 95.0)
    assert first["distortion_seed_se"] == pytest.approx(1.0)


def test_the_plane_and_the_table_tell_what_latents_are_used_for():
    found = plane(told=True)
    ax, *rest = [axes for axes in found.rate_distortion().axes if axes.get_label() != "<colorbar>"]
    assert [axes.get_title(loc="left") for axes in rest] == ["MIG", "total correlation (nats)", "active latents"]
    assert {round(float(v), 1) for dots in ax.collections for v in dots.get_array()} == {0.1, 0.3, 0.4, 1.2}
    first = next(p for p in found.summary()["pairs"] if p["name"] == "beta + 4")
    assert first["total_correlation"] == pytest.approx(0.5)
    assert first["mig_seed_se"] == pytest.approx(0.4)
    line = next(line for line in str(found).splitlines() if line.strip().startswith("beta + 4  "))
    assert "2.00 ± 0.00" in line  # the rate
    assert "3 of 6" in line
    assert "0.50 ± 0.25" in line  # TC, over two seeds
    assert "0.80 ± 0.40" in line
    assert "label read" not in str(found)
    assert "MIG" not in str(plane())


@pytest.mark.slow
def test_a_grid_of_betas_is_judged_by_its_latents_and_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "compare --betas 1,8 --seeds 1 --epochs 2 --hidden 8 --latent-dim 3 --particles 5 --jobs 1 --out g"
    assert main([*words.split(), "--data", "sprites:side=16,orientations=1,positions=4"]) == 0
    told = json.loads((tmp_path / "g" / "compare.json").read_text())["pairs"]
    assert all(0 <= pair["mig"] <= 1 and pair["units"] == 3 and pair["total_correlation"] > -0.1 for pair in told)
    judged = {file: file.stat().st_mtime_ns for file in tmp_path.glob("g/*/comparison.safetensors")}
    assert len(judged) == 2
    assert main([*words.split(), "--data", "sprites:side=16,orientations=1,positions=4", "--resume"]) == 0
    assert judged == {file: file.stat().st_mtime_ns for file in tmp_path.glob("g/*/comparison.safetensors")}
    runs = sorted(str(file.parent) for file in judged)
    assert main(["compare", *runs, "--particles", "5", "--latents", "--out", "h"]) == 0
    again = json.loads((tmp_path / "h" / "compare.json").read_text())["pairs"]
    assert sorted(pair["mig"] for pair in again) == pytest.approx(sorted(pair["mig"] for pair in told))
