"""Which latent means what: perfect codes score 1, turned ones near 0, noise is inside the null."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import ppl_vae
from ppl_vae.cli import main
from ppl_vae.diagnostics import factors, factors_of_codes
from ppl_vae.diagnostics._factors import scores
from ppl_vae.diagnostics._factors.information import binned, codes_of, entropies, mutual_information
from ppl_vae.errors import UserError
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

GENERATOR = np.random.default_rng(0)
CODES = GENERATOR.integers(6, size=(600, 2))
ALL = ("mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness", "factor_vae", "beta_vae")


def told(latents, names="ab"):
    return factors_of_codes(latents, {name: CODES[:, i] for i, name in enumerate(names)})


@pytest.fixture(scope="module")
def perfect():
    return told(CODES + 0.01 * GENERATOR.normal(size=CODES.shape))


@pytest.fixture(scope="module")
def noise():
    return told(GENERATOR.normal(size=CODES.shape))


def test_perfect_codes_score_one(perfect):
    for name in ALL:
        if name != "sap":  # a linear cut of one latent tells two of six levels apart at most
            assert perfect.scores[name].value == pytest.approx(1, abs=0.02), name
    assert perfect.scores["sap"].value > 3 * perfect.scores["sap"].random
    assert perfect.scores["modularity"].value > 0.99
    assert perfect.information.argmax(0).tolist() == [0, 1]
    assert "z[0] is a (100 % of it); z[1] is b (100 % of it)" in perfect.verdict


def test_turned_codes_score_near_zero():
    turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)
    found = told((CODES - 2.5) @ turn)
    assert found.scores["mig"].value < 0.06
    assert found.scores["dci_disentanglement"].value < 0.1
    assert "a is spread over" in found.verdict


def test_noise_is_inside_the_null_and_scores_as_random_latents_do(noise):
    assert bool((noise.information <= noise.null).all())
    assert "no latent tells of a; no latent tells of b" in noise.verdict
    for name in ALL:
        value, se, random = noise.scores[name]
        assert abs(value - random) < 6 * se + 0.08, name


def test_formulas_on_tables_that_are_known():
    table = np.array([[0.5, 0.0], [0.1, 0.2], [0.0, 0.6]])
    assert scores.mig(table, np.array([1.0, 0.8])) == pytest.approx(((0.5 - 0.1) / 1.0 + (0.6 - 0.2) / 0.8) / 2)
    assert scores.modularity(table) == pytest.approx((1 + (1 - 0.25) + 1) / 3)
    use = np.array([[3.0, 1.0], [0.0, 4.0]])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(2)
    assert scores.disentanglement(use) == pytest.approx(0.5 * (1 - entropy) + 0.5, abs=1e-8)
    second = -(0.2 * np.log(0.2) + 0.8 * np.log(0.8)) / np.log(2)
    assert scores.completeness(use) == pytest.approx(3 / 8 + 5 / 8 * (1 - second), abs=1e-8)


def test_the_factor_vae_score_asks_latents_of_a_deviation_from_0_05_on():
    generator = np.random.default_rng(0)
    small, unused = CODES[:, :1] * 0.1 / CODES[:, 0].std(), 0.04 * generator.normal(size=(600, 1))

    def score(latents):
        return scores.factor_vae(latents, CODES, np.random.default_rng(1), votes=(200, 100))

    assert score(np.concatenate([small, CODES[:, 1:]], 1)) == 1.0  # a latent of little spread that is a factor
    assert score(unused) == 0.0
    other = np.concatenate([small * 0.4, CODES[:, 1:]], 1)
    assert score(other) < 0.7  # one latent alone is asked, and votes for every factor


def test_votes_are_those_of_groups_that_share_a_factor(monkeypatch):
    """By hand, for the same groups: which latent varies least, of its variance over all rows, is its vote."""
    latents = CODES @ np.array([[1.0, 0.5], [0.0, 1.0]]) + 0.3 * np.random.default_rng(2).normal(size=CODES.shape)
    drawn, mine = [], scores._Groups

    class Heard(mine):
        def sharing(self, factor, size, generator):
            drawn.append((factor, super().sharing(factor, size, generator)))
            return drawn[-1][1]

    monkeypatch.setattr(scores, "_Groups", Heard)
    found = scores.factor_vae(latents, CODES, np.random.default_rng(3), votes=(60, 40))
    assert len(drawn) == 100
    assert all(len(np.unique(CODES[rows, factor])) == 1 and len(rows) == 64 for factor, rows in drawn)
    votes = [(factor, int(np.argmin(latents[rows].var(0, ddof=1) / latents.var(0, ddof=1)))) for factor, rows in drawn]
    stands = {i: np.bincount([f for f, latent in votes[:60] if latent == i], minlength=2).argmax() for i in (0, 1)}
    assert found == np.mean([stands[latent] == factor for factor, latent in votes[60:]])


def test_scores_can_be_chosen():
    found = factors_of_codes(CODES + 0.0, {"a": CODES[:, 0], "b": CODES[:, 1]}, scores=["beta_vae"])
    assert list(found.scores) == ["mig", "beta_vae"]
    for wrong, message in ((["migs"], "unknown score 'migs': did you mean 'mig'"), ("mig", "scores expects names")):
        with pytest.raises(UserError, match=message):
            factors_of_codes(CODES, {"a": CODES[:, 0]}, scores=wrong)


def test_information_is_that_of_the_joint_table():
    joint = np.array([[30, 10], [20, 40]])
    x, y = (np.repeat(place.ravel(), joint.ravel()) for place in np.indices(joint.shape))
    share = joint / 100
    truth = (share * np.log(share / share.sum(1, keepdims=True) / share.sum(0))).sum()
    assert mutual_information(x[:, None], y[:, None])[0, 0] == pytest.approx(truth)
    assert entropies(y[:, None])[0] == pytest.approx(np.log(2))


def test_bins_are_those_of_a_histogram():
    values = np.random.default_rng(3).normal(size=(5000, 3))
    theirs = np.stack([np.digitize(c, np.histogram(c, 20)[1][:-1]) - 1 for c in values.T], 1)
    assert float((binned(values) != theirs).mean()) < 1e-3
    assert len(np.unique(codes_of(values[:, 0]))) == 20
    assert np.bincount(codes_of(values[:, 0])).std() <= 1


def test_sprites_know_their_factors():
    data = ppl_vae.load("sprites:side=16,orientations=1,positions=8,scales=2")
    torch.manual_seed(0)
    model = VAE(data, latent_dim=3, hidden=(8,))
    guide = MeanField(model, hidden=(8,))
    found = factors(model, guide, data.train, ["shape", "x"])
    assert found.names == ("shape", "x")
    assert found.latents == ("z[0]", "z[1]", "z[2]")
    assert factors(model, guide, data.train.rows(slice(0, 60))).names == ("shape", "scale", "x", "y")
    assert len(found.figure().axes) == 2
    named = factors(model, guide, data.train, {"left": data.train.factors["x"] < 0.5})
    assert named.names == ("left",)
    assert list(named.scores) == ["mig", "sap"]
    with pytest.raises(UserError, match="unknown factor 'shap': did you mean 'shape'"):
        factors(model, guide, data.train, ["shap"])
    with pytest.raises(UserError, match="'orientation' is the same in all rows"):
        factors(model, guide, data.train, ["orientation"])


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"a": CODES[:9, 0]}, "one value for each of 600 rows"),
        ({"a": np.full(600, np.nan)}, "at least 20 rows in which all are known, got 0"),
        ({"a": np.ones(600)}, "the same in all rows"),
        ({"a": np.array([f"row {i}" for i in range(600)])}, "600 different words in 600 rows, which name rows"),
        ({"a": CODES[:, 0] + 1j}, "numbers, words or times, got values of type complex128"),
    ],
)
def test_refusals(known, message):
    with pytest.raises(UserError, match=message) as caught:
        factors_of_codes(CODES, known)
    assert "\n" not in str(caught.value)


def test_words_are_categories_and_rows_without_them_are_left_out():
    words = np.array(["b", "a", None], dtype=object)[CODES[:, 0] % 3]
    found = factors_of_codes(CODES, {"word": words})
    assert found.rows == int((CODES[:, 0] % 3 != 2).sum())
    assert found.entropy[0] == pytest.approx(np.log(2), abs=0.01)


def test_times_are_numbers_and_a_rare_value_leaves_an_error_out():
    days = np.datetime64("2020-01-01") + CODES[:, 0].astype("timedelta64[D]")
    days[:9] = np.datetime64("NaT")
    found = factors_of_codes(CODES, {"day": days}, scores=["mig"])
    assert found.rows == 591
    assert found.scores["mig"].value > 0.95
    rare = factors_of_codes(CODES + GENERATOR.normal(size=CODES.shape), {"a": np.arange(600) == 0}, scores=["mig"])
    assert np.isnan(rare.scores["mig"].se)
    assert "nan" not in rare.verdict
    assert "too few rows of a value for an error" in rare.verdict


@pytest.mark.slow
def test_a_column_that_the_model_does_not_see_is_told_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    scanner, age = generator.integers(2, size=400), generator.uniform(20, 80, 400)
    measured = np.stack([3 * scanner, age / 20, generator.normal(size=400)], 1) @ generator.normal(size=(3, 4))
    lines = ["a,b,c,d,scanner,age"]
    lines += [
        ",".join([*(f"{v:.6f}" for v in row), "AB"[s], f"{y:.3f}"])
        for row, s, y in zip(measured, scanner, age, strict=True)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    fit = ["fit", "vae", "--data", "rows.csv", "--columns", "a,b,c,d", "--latent-dim", "3", "--epochs", "40"]
    assert main([*fit, "--out", "run", "--no-report", "--evaluate-particles", "5"]) == 0
    capsys.readouterr()
    assert main(["factors", "run", "--factors", "scanner,age", "--split", "train", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scanner_nats"] > 3 * found["scanner_null"]
    assert main(["factors", "run", "--factors", "scaner"]) == 2
    assert "did you mean 'scanner'" in capsys.readouterr().err
    assert main(["factors", "run", "--factors", "scanner", "--data", "rows.csv", "--out", "nats.csv"]) == 0
    assert (tmp_path / "nats.csv").read_text().startswith(",scanner\nz[0],")
