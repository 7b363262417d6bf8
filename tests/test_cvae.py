"""The conditional VAE: its evidence is log p(x | c), and c comes in by name."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64

import ppl_vae
from ppl_vae.cli import main
from ppl_vae.errors import UserError
from ppl_vae.guides import IAF, FullRank, MeanField
from ppl_vae.likelihoods import Normal
from ppl_vae.models import CVAE
from ppl_vae.priors import LabelConditional, StandardNormal


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


def rows(n=60, *, holes=False, dtype=torch.float32):
    """Three measurements that depend on a label, a number and a latent."""
    generator = torch.Generator().manual_seed(0)
    y, dose = torch.randint(3, (n,), generator=generator), torch.randn(n, generator=generator, dtype=F64)
    z = torch.randn(n, 1, generator=generator, dtype=F64)
    x = z * torch.tensor([1.0, -0.5, 0.3]) + y.unsqueeze(-1) + dose.unsqueeze(-1) * torch.tensor([0.5, 0.0, -1.0])
    if holes:
        y[::4] = -1
        dose[1::4] = torch.nan
    x = x + 0.3 * torch.randn(n, 3, generator=generator, dtype=F64)
    return {"x": x.to(dtype), "y": y, "dose": dose.to(dtype)}


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("holes", [False, True])
def test_the_evidence_of_a_linear_decoder_is_a_normal_around_what_the_conditions_say(learned, holes):
    pyro.set_rng_seed(1)
    table = rows(holes=holes, dtype=F64)
    data = ppl_vae.load(table, missing="allow" if holes else "refuse", test=0.3, validation=0)
    model = CVAE(data, given=("y", "dose"), latent_dim=2, hidden=(), learned_prior=learned, likelihood=Normal())
    model = model.double()
    guide = FullRank(model, hidden=(8,)).double()
    ppl_vae.fit(model, guide, data.train, epochs=30, lr=0.02)
    batch = data.test.batch()
    with torch.no_grad():
        conditions = {n: batch[n] for n in ("y", "dose")}
        h = model.condition(conditions)
        last, zero = model.decoder.last, torch.zeros(len(h), 2)
        prior = model.prior(conditions).base_dist if learned else dist.Normal(zero, zero + 1)
        unit = model.likelihood.unit
        load = unit.unsqueeze(-1) * last.weight[:, :2]
        mean = model.likelihood.shift + unit * (h @ last.weight[:, 2:].T + last.bias) + prior.loc.double() @ load.T
        noise = (unit * (1e-3 + model.likelihood.log_scale.exp())) ** 2
        covariance = load @ torch.diag_embed(prior.scale.double() ** 2) @ load.T + torch.diag(noise)
        exact = dist.MultivariateNormal(mean, covariance).log_prob(batch["x"])
    found = ppl_vae.evaluate(model, guide, data.test, particles=4000)
    assert ((found.log_evidence - exact).abs() < 4 * found.log_evidence_se + 1e-3).all()
    assert (found.log_evidence_se < 0.2).all()


@pytest.mark.parametrize("family", [MeanField, IAF])
def test_the_generated_guide_reads_rows_and_conditions(family, digits):
    guide = family(CVAE(digits, latent_dim=2, hidden=(8,)), hidden=(8,))
    assert guide.encoder.names == ("x", "y")


def test_rows_are_made_for_each_condition_or_for_one(digits):
    model = CVAE(digits, latent_dim=2, hidden=(8,))
    assert model(y=torch.arange(10)).shape == (10, 8, 8)
    assert model(n=4, y=3).shape == (4, 8, 8)


def test_what_the_conditions_say_comes_out():
    """Rows whose place is their label: the model draws them where it is told to."""
    data = ppl_vae.load(rows(400), test=0, validation=0)
    model = CVAE(data, given=("y", "dose"), latent_dim=1, hidden=())
    ppl_vae.fit(model, MeanField(model, hidden=(8,)), data, epochs=30, lr=0.03)
    made = model(n=2000, y=2, dose=1.0)
    exact = torch.tensor([2.5, 2.0, 1.0])
    assert ((made.mean(0) - exact).abs() < 0.25).all()  # 400 rows, of which a third has this label


def test_columns_of_a_table_may_be_conditions():
    table = rows(60)
    table = {"height": table["x"][:, 0], "visits": table["y"].float(), "age": table["dose"]}
    data = ppl_vae.load(table, test=0, validation=0)
    model = CVAE(data, given="age", latent_dim=1, hidden=(4,))
    assert sorted(model(n=3, age=0.5)) == ["height", "visits"]
    assert ppl_vae.check(model, MeanField(model, hidden=(4,)), data) == []


def test_an_unknown_condition_is_learned_from_rows_without_it_and_refused_if_there_were_none(digits):
    data = ppl_vae.load(rows(60, holes=True), missing="allow", test=0, validation=0)
    model = CVAE(data, given=("y", "dose"), latent_dim=1, hidden=(4,))
    assert model(n=2, y=-1, dose=torch.nan).isfinite().all()
    plain = CVAE(data, given=("y", "dose"), latent_dim=1, hidden=())
    assert (plain.condition({"y": torch.tensor([-1]), "dose": torch.tensor([torch.nan])}) == 0).all()
    ppl_vae.fit(model, MeanField(model, hidden=(4,)), data, epochs=1)
    with pytest.raises(UserError, match="this schema has no missing entries"):
        CVAE(digits, latent_dim=2, hidden=(8,))(n=2, y=-1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"given": "colour"}, "unknown field 'colour'"),
        ({"given": "x"}, "other than x"),
        ({"given": ("y", "y")}, "different fields"),
        ({"learned_prior": True, "prior": StandardNormal()}, "two priors"),
        ({"prior": LabelConditional(3)}, "has 10 labels"),
    ],
)
def test_what_is_no_condition_is_refused(options, words, digits):
    with pytest.raises(UserError, match=words):
        CVAE(digits, **options)


def test_conditions_are_asked_for(digits):
    model = CVAE(digits, latent_dim=2, hidden=(8,))
    guide = MeanField(model, hidden=(8,))
    with pytest.raises(UserError, match="draws rows given y and was called without"):
        model(n=3)
    with pytest.raises(UserError, match="got the value 10"):
        model(y=10)
    with pytest.raises(UserError, match="the model needs field 'y', but the data has x") as error:
        ppl_vae.evaluate(model, guide, digits.test["x"])
    assert "Trace" not in str(error.value)
    with pytest.raises(UserError, match="conditions on field 'y'"):
        ppl_vae.predict(model, guide, digits.test)


def test_the_command_line_gives_conditions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "cvae", "--epochs", "1", "--hidden", "8", "--latent-dim", "2", "--evaluate-particles", "2"]
    assert main([*fit, "--given", "y", "--out", "run"]) == 0
    assert (tmp_path / "run" / "figures" / "conditional.png").is_file()
    assert "Samples given y" in (tmp_path / "run" / "report.html").read_text()
    assert main(["sample", "run", "-n", "5", "--given", "y=3,7"]) == 0
    assert np.load("run/samples.npz")["y"].tolist() == [3, 7, 3, 7, 3]
    assert main(["sample", "run", "-n", "4", "--out", "own.csv"]) == 0
    lines = (tmp_path / "own.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["y", "0", "1", "2", "3"]  # of the first training rows
    for words, said in (
        (["y=12"], "unknown value of y '12'"),
        (["z=1"], "unknown column 'z'"),
        (["y"], "NAME=VALUE"),
    ):
        capsys.readouterr()
        assert main(["sample", "run", "--given", *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["fit", "--given", "y", "--out", "other"]) == 2
    assert "--given was given, but vae does not take it" in capsys.readouterr().err
