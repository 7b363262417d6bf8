"""Certified evidence and posterior draws against closed forms and quadrature; what certification refuses."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.gaussian import NormalGuide

import ppl_vae
from ppl_vae.diagnostics import certify
from ppl_vae.errors import UserError
from ppl_vae.programs.toy import model as toy

X = torch.linspace(-3, 3, 6)


def narrow(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x * 0, 0.05))


def on_grid(log_joint, low=-8.0, high=8.0, points=801):
    """log of the integral of exp(log_joint(u, v)) over a square."""
    axis = torch.linspace(low, high, points, dtype=torch.float64)
    u, v = torch.meshgrid(axis, axis, indexing="ij")
    return torch.logsumexp(log_joint(u, v).flatten(), 0) + 2 * math.log((high - low) / (points - 1))


def banana(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(2 * z[..., 1] - z[..., 0] ** 2, 0.2), obs=x)


def two_moons(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0].abs() + z[..., 1] ** 2, 0.1), obs=x)


def flat_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 0.3).to_event(1))


CURVED = {
    "banana": (banana, lambda x: lambda u, v: dist.Normal(2 * v - u**2, 0.2).log_prob(x)),
    "two moons": (two_moons, lambda x: lambda u, v: dist.Normal(u.abs() + v**2, 0.1).log_prob(x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVED)
def test_curved_and_separate_posteriors_equal_quadrature(name):
    model, likelihood = CURVED[name]
    x = torch.tensor([0.5, 1.5])
    normal = dist.Normal(0.0, 1.0)
    exact = torch.stack(
        [
            on_grid(lambda u, v, at=at: normal.log_prob(u) + normal.log_prob(v) + likelihood(at)(u, v), points=2001)
            for at in x.double()
        ]
    )
    found = certify(model, flat_guide, {"x": x}, draws=2000, validate=0)
    assert found.certified.all(), found.reasons
    assert ((found.log_evidence - exact).abs() < 4 * found.log_evidence_se).all()
    left = (found.draws["z"][..., 0] < 0).double().mean(0)  # both halves of a symmetric posterior
    assert ((left - 0.5).abs() < 4 * 0.5 / math.sqrt(500)).all()


def test_a_guide_that_is_right_costs_nothing():
    from ppl_vae.programs.toy import posterior

    found = certify(toy, posterior, X, validate=0)
    assert set(found.method) == {"guide"}
    assert bool(found.certified.all())
    exact = dist.Normal(0.0, 2**0.5).log_prob(X)
    assert ((found.log_evidence - exact).abs() < 4 * found.log_evidence_se).all()
    assert float(found.log_evidence_se.max()) < 0.02


def test_a_guide_that_is_far_too_narrow_is_repaired_and_draws_are_of_the_posterior():
    found = certify(toy, narrow, X, draws=2000, validate=0)
    exact = dist.Normal(0.0, 2**0.5).log_prob(X)
    assert bool(found.certified.all())
    assert "guide" not in found.method
    assert ((found.log_evidence - exact).abs() < 4 * found.log_evidence_se).all()
    draws = found.draws["z"]
    assert draws.shape == (2000, 6)
    assert ((draws.mean(0) - X / 2).abs() < 5 * math.sqrt(0.5 / 1000)).all()
    assert ((draws.var(0) / 0.5 - 1).abs() < 0.2).all()


@pytest.mark.slow
def test_a_method_is_tried_on_simulated_rows():
    found = certify(toy, narrow, X, validate=60)
    trial = found.validations[found.method[0]]
    assert trial.sure >= 55
    assert trial.covered >= 0.85 * trial.sure
    assert trial.gap < 0.05


def test_a_method_whose_errors_do_not_cover_is_not_used(monkeypatch):
    from ppl_vae.diagnostics._certification import methods
    from ppl_vae.diagnostics._certification.rows import Estimate

    def wrong(rows):
        count = len(rows.batch["x"])
        value = torch.zeros(count, dtype=torch.float64)
        return Estimate(value - 3, value + 0.001, value, 0.7, torch.zeros(rows.draws, count, 1))

    planted = methods.Method("planted", "a number that is wrong", wrong)
    monkeypatch.setattr("ppl_vae.diagnostics._certification.validation.DRAWS", 1000)
    monkeypatch.setattr("ppl_vae.diagnostics._certification.methods.PARTS", 2)
    monkeypatch.setattr("ppl_vae.diagnostics._certification.climb.METHODS", (planted, *methods.METHODS[2:3]))
    found = certify(toy, narrow, X, validate=20)
    assert "planted" not in found.method
    assert "it is not used" in found.reasons["planted"]
    assert bool(found.certified.all())


def labelled(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.8])), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + 4.0 * y, 0.5), obs=x)


def labelled_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


def test_a_label_is_summed_out_of_the_evidence_and_drawn_with_the_rest():
    x = torch.tensor([0.0, 2.0, 4.0])
    each = [dist.Normal(4.0 * y, 1.25**0.5).log_prob(x) + math.log(p) for y, p in enumerate((0.2, 0.8))]
    exact = torch.logaddexp(*each)
    found = certify(labelled, labelled_guide, {"x": x}, draws=2000, validate=0)
    assert found.certified.all()
    assert ((found.log_evidence - exact).abs() < 4 * found.log_evidence_se).all()
    ones = found.draws["y"].double().mean(0)
    assert torch.allclose(ones, (each[1] - exact).exp().double(), atol=0.06)


def shared(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def shared_guide(y):
    pyro.sample("mean", dist.Normal(-1.0, 0.1))


def test_all_data_are_one_unit_where_rows_share_latents():
    y = torch.linspace(0, 2, 8)
    exact = dist.MultivariateNormal(torch.zeros(8), torch.eye(8) + 4.0).log_prob(y)
    found = certify(shared, shared_guide, {"y": y}, validate=0)
    assert found.of == "all data"
    assert bool(found.certified.all())
    assert abs(float(found.log_evidence[0] - exact)) < 4 * float(found.log_evidence_se[0])
    assert found.draws["mean"].shape == (100,)
    assert "not tried on simulated rows" in found.verdict


def test_networks_in_double_precision_and_a_planar_guide():
    """A guide without a density at given values is a beginning all the same; types are those of the pair."""
    from ppl_vae.guides import Planar

    torch.manual_seed(0)
    x = X.double().unsqueeze(-1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    guide = Planar(model, {"x": x}, hidden=(4,)).double()
    found = certify(model, guide, {"x": x}, validate=0)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x[:, 0])
    assert bool(found.certified.all())
    assert found.draws["z"].dtype == torch.float64
    assert ((found.log_evidence - exact).abs() < 4 * found.log_evidence_se).all()
    assert "no inverse" in found.reasons["guide"]


def test_rows_out_of_reach_are_said():
    found = certify(toy, narrow, X, seconds=1e-6, validate=0)
    assert not bool(found.certified.any())
    assert found.uncertified
    assert "no time left" in found.verdict


def test_a_missing_entry_changes_nothing_but_its_row():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample(
                "x",
                dist.Normal(z.unsqueeze(-1).expand(*z.shape, 2), 1.0).mask(~x.isnan()).to_event(1),
                obs=x.nan_to_num(),
            )

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 0.2))

    x = torch.tensor([[1.0, 1.0], [1.0, torch.nan]])
    found = certify(model, guide, {"x": x}, validate=0)
    both = dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 1.0).log_prob(torch.ones(2))
    one = dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0))
    assert ((found.log_evidence - torch.stack([both, one])).abs() < 4 * found.log_evidence_se).all()


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("accuracy", {"accuracy": 0}),
        ("accuracy", {"accuracy": "small"}),
        ("seconds", {"seconds": -1}),
        ("draws", {"draws": 0}),
        ("validate", {"validate": -1}),
        ("compile", {"compile": "maybe"}),
    ],
)
def test_arguments_are_checked_at_the_door(words, options):
    with pytest.raises(UserError, match=words):
        ppl_vae.certify(toy, narrow, X, **options)


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    first, after = certify(toy, narrow, X, validate=0, seed=3), torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    again = certify(toy, narrow, X, validate=0, seed=3)
    assert torch.equal(first.log_evidence, again.log_evidence)


@pytest.mark.slow
def test_methods_are_tried_on_whole_data_sets_where_all_data_are_one_unit():
    y = torch.linspace(0, 2, 8)
    found = certify(shared, shared_guide, {"y": y})
    trial = found.validations[found.method[0]]
    assert trial.of == "data sets"
    assert trial.rows == 20
    assert trial.covered >= 15
    assert abs(trial.gap) < 0.02
    assert "not tried" not in found.verdict
    exact = dist.MultivariateNormal(torch.zeros(8), torch.eye(8) + 4.0).log_prob(y)
    assert abs(float(found.log_evidence[0] - exact)) < 4 * float(found.log_evidence_se[0])


# -- parts ---------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def stop(words):
    raise Killed


@pytest.fixture
def cheap(monkeypatch):
    """Two methods, the second a right one, and small parts."""
    from ppl_vae.diagnostics._certification import methods

    two = (methods.METHODS[0], methods.Method("many", "20,000 draws of the guide", methods._of_guide(20_000)))
    monkeypatch.setattr("ppl_vae.diagnostics._certification.climb.METHODS", two)
    monkeypatch.setattr("ppl_vae.diagnostics._certification.spread.METHODS", two)
    monkeypatch.setattr("ppl_vae.diagnostics._certification.validation.DRAWS", 500)
    monkeypatch.setattr("ppl_vae.diagnostics._certification.methods.PARTS", 2)
    monkeypatch.setattr("ppl_vae.diagnostics._certification.spread.ROWS", 4)
    return {"validate": 10, "draws": 7, "compile": "off", "accuracy": 0.1}


def shifted(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2 + 0.4, 0.7))


def test_a_stopped_certification_goes_on_to_the_same_numbers(tmp_path, cheap):
    x = torch.linspace(-3, 3, 10)
    whole = certify(toy, shifted, x, out=tmp_path / "whole", **cheap)
    told = []
    with pytest.raises(Killed):
        certify(toy, shifted, x, out=tmp_path / "part", progress=stop, **cheap)
    assert len([*(tmp_path / "part").glob("part-*")]) == 1
    again = certify(toy, shifted, x, out=tmp_path / "part", progress=told.append, **cheap)
    assert told[-1] == "10 of 10 rows are done, none left"
    assert "8 of 10 rows are done, 2 left, about" in told[0]
    for name, column in whole.columns().items():
        other = again.columns()[name]
        assert name == "cost" or (column == other if isinstance(column, list) else torch.equal(column, other))
    assert torch.equal(whole.draws["z"], again.draws["z"])
    assert again.draws["z"].shape == (7, 10)
    assert again.validations == whole.validations
    assert bool((again.cost > 0).all())
    assert again.seconds.keys() == whole.seconds.keys()


def test_the_time_may_be_up_and_the_next_call_goes_on(tmp_path, cheap):
    x = torch.linspace(-3, 3, 10)
    some = certify(toy, shifted, x, out=tmp_path, seconds=1e-6, **cheap)
    assert not bool(some.certified.any())
    assert "no time left" in some.verdict
    found = certify(toy, shifted, x, out=tmp_path, **cheap)
    assert bool(found.log_evidence.isfinite().all())
    assert "no time left" not in found.verdict


def test_a_folder_of_another_call_is_refused(tmp_path, cheap):
    certify(toy, shifted, X, out=tmp_path, **cheap)
    with pytest.raises(UserError, match="of another call, with other options"):
        certify(toy, shifted, X, out=tmp_path, **cheap | {"accuracy": 0.2})
    with pytest.raises(UserError, match="give out="):
        certify(toy, shifted, X, executor=object(), **cheap)
    with pytest.raises(UserError, match="all data are one unit: leave it out"):
        certify(shared, shared_guide, {"y": X}, out=tmp_path / "unit")
    (tmp_path / "part-000000000000-000000000004.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match="is damaged"):
        certify(toy, shifted, X, out=tmp_path, **cheap)


@pytest.mark.slow
def test_workers_share_the_rows_and_the_numbers_are_those_of_one_process(tmp_path, monkeypatch):
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    monkeypatch.setattr("ppl_vae.diagnostics._certification.spread.ROWS", 4)
    options = {"validate": 10, "draws": 7, "compile": "off"}
    guide = NormalGuide(slope=0.4, width=0.4)  # which a new process can import
    alone = certify(toy, guide, X, out=tmp_path / "alone", **options)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        shared_out = certify(toy, guide, X, out=tmp_path / "shared", executor=workers, **options)
    assert torch.equal(alone.log_evidence, shared_out.log_evidence)
    assert torch.equal(alone.draws["z"], shared_out.draws["z"])
    assert alone.validations == shared_out.validations


# -- what takes it up ----------------------------------------------------------------------------------------------


def test_evaluate_and_compare_take_certified_evidence():
    from ppl_vae.programs.toy import posterior

    exact = dist.Normal(0.0, 2**0.5).log_prob(X)
    sure = certify(toy, posterior, X, validate=0)
    plain = ppl_vae.evaluate(toy, narrow, X, particles=100)
    found = ppl_vae.evaluate(toy, narrow, X, particles=100, certified=sure)
    assert torch.equal(found.log_evidence, plain.log_evidence)
    assert torch.allclose(found.certain()[0].float(), exact, atol=0.1)
    assert found.summary()["certified_nll"] == pytest.approx(-float(exact.mean()), abs=0.05)
    assert {"certified_log_evidence", "certified_log_evidence_se"} <= set(found.frame().columns)
    assert "NLL, 6 of 6 rows certified to 0.05 nats" in str(found)
    with pytest.raises(UserError, match="others or have other values"):
        ppl_vae.evaluate(toy, narrow, X + 1, certified=sure)
    with pytest.raises(UserError, match=r"what ppl_vae\.certify returns"):
        ppl_vae.evaluate(toy, narrow, X, certified=0.05)


@pytest.mark.slow
def test_pairs_of_one_model_have_one_certified_evidence_whatever_their_guides():
    from ppl_vae.programs.toy import posterior

    pairs = {"narrow": (toy, narrow), "exact": (toy, posterior)}
    sampled = ppl_vae.compare(pairs, X, particles=100)
    assert sampled.difference("exact", "narrow").value > 0.1
    found = ppl_vae.compare(pairs, X, particles=100, certified=0.05)
    gap = found.difference("exact", "narrow")
    errors = [found[name].estimate().mc_se for name in pairs]
    assert abs(gap.value) < 4 * math.hypot(*errors)
    assert found.order.holds
    assert "log p(x) certified to 0.05 nats" in str(found)
    assert "Certified log evidence is above the ELBO by" in found.verdict
    assert "k-hat" not in found.verdict
    assert found.summary()["certified_accuracy"] == 0.05
    found.figure()


def test_arviz_is_handed_the_repaired_draws():
    sure = certify(labelled, labelled_guide, {"x": torch.tensor([0.0, 2.0])}, draws=200, validate=0)
    found = ppl_vae.to_arviz(
        labelled, labelled_guide, {"x": torch.tensor([0.0, 2.0])}, draws=50, chains=4, certified=sure
    )
    z, y = found["posterior"]["z"].values, found["posterior"]["y"].values
    assert z.shape == (4, 50, 2)
    assert (z.reshape(200, 2) == sure.draws["z"].numpy()).all()
    assert (y.reshape(200, 2) == sure.draws["y"].numpy()).all()
    stats = found["sample_stats"]
    assert (stats["log_evidence"].values == sure.log_evidence.numpy()).all()
    assert stats["y_probability"].values[1].sum() == pytest.approx(1)
    rows = found["log_likelihood"]["log_evidence"].values.reshape(200, 2)
    assert (abs(rows.mean(0) - sure.log_evidence.numpy()) < 4 * sure.log_evidence_se.numpy() / 200**0.5).all()
    x = found["posterior_predictive"]["x"].values - z - 4.0 * y
    assert abs(x.std() / 0.5 - 1) < 4 / (2 * x.size) ** 0.5
    with pytest.raises(UserError, match="has 200 draws"):
        ppl_vae.to_arviz(labelled, labelled_guide, {"x": torch.tensor([0.0, 2.0])}, draws=100, certified=sure)
    with pytest.raises(UserError, match="leave resample out"):
        ppl_vae.to_arviz(labelled, labelled_guide, {"x": X}, certified=sure, resample=True)


def test_draws_within_plates_are_placed_as_programs_have_them():
    from ppl_vae.arviz._layouts import Layout

    layout = Layout("z", -2, (("a", -3, 3), ("b", -1, 1)), (2,))
    whole = torch.randn(5, 3, 4, 1, 2)
    arranged = layout.arranged(whole)
    assert arranged.shape == (5, 4, 3, 1, 2)
    assert torch.equal(layout.placed(arranged, 3), whole)
    assert torch.equal(layout.placed(arranged.squeeze(3), 4), whole.unsqueeze(1))
