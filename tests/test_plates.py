"""Plates are known by name: others may be beside the rows, around them or inside, at any dim and of any size."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch.distributions import constraints

import ppl_vae
from ppl_vae import diagnostics
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.checks.analysis import analyse
from ppl_vae.data import as_one_unit
from ppl_vae.errors import ProgramError, UserError
from ppl_vae.guides import FullRank, MeanField
from ppl_vae.programs.program import Pair
from ppl_vae.weights.log_weights import weigh

F64 = torch.float64
N = 6
X = torch.linspace(-2, 3, N, dtype=F64)


def normal(loc=0.0, scale=1.0):
    return dist.Normal(torch.as_tensor(loc, dtype=F64), torch.as_tensor(scale, dtype=F64))


def equal_to_pyro(model, guide, batch, enumerates=False):
    """One draw of our ELBO and of Pyro's, from one seed."""
    theirs = TraceEnum_ELBO(max_plate_nesting=2) if enumerates else Trace_ELBO()
    values = []
    for bound in (ELBO(), theirs):
        torch.manual_seed(3)
        values.append(bound.loss(model, guide, **batch))
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    return analyse(Pair(model, guide), batch)


@pytest.mark.parametrize("count", [2, N])
def test_components_beside_the_rows_at_one_dim(count):
    """As many components as rows are components all the same."""

    def model(x=None):
        with pyro.plate("components", count):
            loc = pyro.sample("loc", normal(0.0, 2.0))
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(count, dtype=F64)), infer={"enumerate": "parallel"})
            pyro.sample("x", normal(loc[k]), obs=x)

    def guide(x=None):
        with pyro.plate("components", count):
            pyro.sample("loc", normal(torch.arange(count), 0.1))

    found = equal_to_pyro(model, guide, {"x": X}, enumerates=True)
    assert (found.plate, found.global_latents, found.summed_model) == ("rows", {"loc"}, {"k"})
    w = ppl_vae.log_weights(model, guide, {"x": X}, particles=5)
    assert w.log_weight.shape == (5, N)
    assert w.log_global.shape == (5,)


@pytest.mark.parametrize("items", [3, N])
def test_crossed_plates_with_the_items_entered_first(items):
    answers = torch.randn(N, items, dtype=F64, generator=torch.Generator().manual_seed(0))

    def model(answers=None):
        each_item = pyro.plate("items", items, dim=-2)
        each_person = pyro.plate("persons", len(answers), dim=-1)
        with each_item:
            difficulty = pyro.sample("difficulty", normal())
        with each_person:
            ability = pyro.sample("ability", normal())
        with each_item, each_person:
            pyro.sample("answer", normal(ability - difficulty), obs=answers.T)

    def guide(answers=None):
        with pyro.plate("items", items, dim=-2):
            pyro.sample("difficulty", normal(torch.zeros(items, 1), 0.5))
        with pyro.plate("persons", len(answers), dim=-1):
            pyro.sample("ability", normal(answers.mean(-1), 0.5))

    found = equal_to_pyro(model, guide, {"answers": answers})
    assert (found.plate, found.global_latents) == ("persons", {"difficulty"})


def test_two_plates_of_the_same_rows_add_up_row_by_row():
    def model(x=None, y=None):
        with pyro.plate("first", len(x)):
            z = pyro.sample("z", normal())
            pyro.sample("x", normal(z), obs=x)
        with pyro.plate("second", len(y)):
            pyro.sample("y", normal(2 * z), obs=y)

    def guide(x=None, y=None):
        with pyro.plate("first", len(x)):
            pyro.sample("z", normal(x / 2, 0.5))

    batch = {"x": X, "y": X.flip(0)}
    assert equal_to_pyro(model, guide, batch).row_plates == {"first", "second"}
    torch.manual_seed(0)
    whole = ppl_vae.log_weights(model, guide, batch, particles=1).log_weight[0]
    z = pyro.poutine.trace(guide).get_trace(**batch)  # the shapes alone
    assert whole.shape == z.nodes["z"]["value"].shape


def test_an_observation_outside_of_the_rows_is_a_factor_that_all_share():
    def model(x=None):
        mu = pyro.sample("mu", normal())
        pyro.deterministic("twice", 2 * mu)
        pyro.sample("summary", normal(mu, 0.1), obs=torch.tensor(0.2, dtype=F64))
        with pyro.plate("data", len(x)):
            pyro.sample("x", normal(mu), obs=x)

    def guide(x=None):
        pyro.sample("mu", normal(0.3, 0.2))

    equal_to_pyro(model, guide, {"x": X})
    result = ppl_vae.fit(model, guide, {"x": X}, epochs=1)
    assert len(result.history) == 1


def test_a_likelihood_of_factors_alone():
    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal())
            pyro.factor("likelihood", normal(z).log_prob(x))

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(x / 2, 0.5**0.5))

    equal_to_pyro(model, guide, {"x": X})
    w = ppl_vae.log_weights(model, guide, {"x": X}, particles=3)
    exact = normal(0.0, 2.0**0.5).log_prob(X)
    torch.testing.assert_close(w.log_weight, exact.expand(3, -1))


def test_a_plate_without_a_size():
    def model(x=None):
        with pyro.plate("data"):
            z = pyro.sample("z", normal().expand([len(x)]))
            pyro.sample("x", normal(z), obs=x)

    def guide(x=None):
        with pyro.plate("data"):
            pyro.sample("z", normal(x / 2, 0.5**0.5))

    w = ppl_vae.log_weights(model, guide, {"x": X}, particles=3)
    torch.testing.assert_close(w.log_weight, normal(0.0, 2.0**0.5).log_prob(X).expand(3, -1))


def ragged(x=None, length=None):
    """A chain with as many steps as the longest row of the batch."""
    with pyro.plate("data", len(x)):
        z = torch.zeros(len(x), dtype=F64)
        for t in range(int(length.max())):
            with pyro.poutine.mask(mask=t < length):
                z = pyro.sample(f"z{t}", normal(0.8 * z, 0.5))
                pyro.sample(f"x{t}", normal(z, 0.3), obs=x[:, t])


def test_sites_that_follow_the_batch():
    x = torch.randn(20, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    length = torch.full((20,), 2)
    length[13] = 4

    def guide(x=None, length=None):
        scale = pyro.param("scale", torch.tensor(0.4, dtype=F64), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            for t in range(4):  # longer than the model of most batches
                with pyro.poutine.mask(mask=t < length):
                    pyro.sample(f"z{t}", normal(0.7 * x[:, t], scale))

    batch = {"x": x, "length": length}
    structure = analyse(Pair(ragged, guide), batch)
    few = {name: values[:5] for name, values in batch.items()}  # of two steps
    w = weigh(Pair(ragged, guide), structure, few, 2000)
    covariance = torch.tensor([[0.25, 0.2], [0.2, 0.41]], dtype=F64) + 0.09 * torch.eye(2, dtype=F64)
    exact = dist.MultivariateNormal(torch.zeros(2, dtype=F64), covariance).log_prob(few["x"][:, :2])
    found = w.log_weight.logsumexp(0) - torch.log(torch.tensor(2000.0))
    error = ((w.log_weight - found).exp() - 1).square().mean(0).div(2000).sqrt()
    assert ((found - exact).abs() < 5 * error).all()
    assert set(structure.latents) == {"z0", "z1", "z2", "z3"}
    result = ppl_vae.fit(ragged, guide, batch, epochs=2, batch_size=4)
    assert all(torch.isfinite(torch.tensor(record["train"])) for record in result.history)


def test_a_site_that_nobody_has_read_is_refused_by_name():
    def model(x=None, length=None):
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x), dtype=F64)
            for t in range(2 if float(x.max()) < 100 else 3):
                z = pyro.sample(f"z{t}", normal(z))
            pyro.sample("x", normal(z), obs=x)

    def guide(x=None, length=None):
        with pyro.plate("data", len(x)):
            for t in range(2 if float(x.max()) < 100 else 3):
                pyro.sample(f"z{t}", normal(torch.zeros(len(x), dtype=F64)))

    x = torch.linspace(0.1, 0.9, 20, dtype=F64)
    x[15] = 1000.5
    with pytest.raises(UserError, match="'z2' of the guide came with this batch"):
        ppl_vae.fit(model, guide, {"x": x}, epochs=1, batch_size=4)


def test_a_scale_is_of_what_is_maximised_and_no_part_of_what_is_reported():
    def model(x=None, weight=0.1):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal())
            with pyro.poutine.scale(scale=weight):
                pyro.sample("x", normal(z), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(x / 2, 0.5**0.5))

    w = ppl_vae.log_weights(model, guide, {"x": X})
    torch.testing.assert_close(w.log_weight[0], normal(0.0, 2.0**0.5).log_prob(X))
    found = ppl_vae.check(model, guide, {"x": X})
    assert [f.severity for f in found if f.site == "x"] == ["warning"]
    result = ppl_vae.fit(model, guide, {"x": X}, epochs=1)
    assert result.history[0]["train"] == pytest.approx(float(normal(0.0, 2.0**0.5).log_prob(X).mean()), abs=1e-6)
    assert result.history[0]["objective"] > result.history[0]["train"]


def test_all_data_as_one_unit():
    y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=F64)
    sigma = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=F64)

    def model(y=None, sigma=None):
        mu = pyro.sample("mu", normal(0.0, 5.0))
        theta = pyro.sample("theta", normal(mu, 3.0).expand([8]).to_event(1))
        pyro.sample("y", normal(theta, sigma), obs=y)

    covariance = torch.diag(sigma**2 + 9) + 25
    exact = dist.MultivariateNormal(torch.zeros(8, dtype=F64), covariance).log_prob(y)
    precision = torch.diag(1 / sigma**2) + (torch.eye(8, dtype=F64) / 9 - 25 / 81 / (1 + 200 / 9))
    posterior = torch.linalg.inv(precision)

    def guide(y=None, sigma=None):
        theta = pyro.sample("theta", dist.MultivariateNormal(posterior @ (y / sigma**2), posterior))
        shrunk = 1 / (1 / 25 + 8 / 9)
        pyro.sample("mu", normal(shrunk * theta.sum(-1) / 9, shrunk**0.5))

    data = {"y": y, "sigma": sigma}
    for bound in (ELBO(), IWAE(5)):
        result = ppl_vae.fit(model, guide, data, bound, rows=None, epochs=1)
        assert result.history[0]["train"] == pytest.approx(float(exact), abs=1e-9)
    found = ppl_vae.evaluate(model, guide, data, particles=50, rows=None)
    assert found.log_evidence.tolist() == pytest.approx([float(exact)], abs=1e-9)
    with pytest.raises(ProgramError, match="rows=None"):
        ppl_vae.fit(model, guide, data, epochs=1)
    unit = as_one_unit(data)
    for found in (
        diagnostics.annealed_evidence(model, guide, unit, chains=3, temperatures=5, steps=2),
        diagnostics.gap(model, guide, unit, particles=50, steps=2),
    ):
        assert found.log_evidence.tolist() == pytest.approx([float(exact)], abs=1e-9)
    with pytest.raises(UserError, match="all data here are one unit"):
        diagnostics.bidirectional(model, guide, as_one_unit(data))


@pytest.mark.parametrize("family", [FullRank, pytest.param(MeanField, marks=pytest.mark.slow)])
def test_dims_without_a_plate_are_dims_of_one_unit(family):
    """Schools as in Pyro's examples: a vector of effects with neither plate nor `.to_event`."""
    y, sigma = torch.linspace(-3, 5, 3, dtype=F64), torch.linspace(2.0, 4.0, 3, dtype=F64)

    def model(sigma, y=None):
        eta = pyro.sample("eta", normal(torch.zeros(3, dtype=F64)))
        mu = pyro.sample("mu", normal(torch.zeros(1, dtype=F64), 2.0))
        pyro.sample("y", normal(mu[0] + 3 * eta, sigma), obs=y)

    data = {"y": y, "sigma": sigma}
    guide = family(model, as_one_unit(data))
    assert {n: tuple(v.shape) for n, v in guide.shared.sample((5,)).items()} == {"eta": (5, 3), "mu": (5, 1)}
    weights = ppl_vae.log_weights(model, guide.double(), as_one_unit(data), particles=3)
    assert weights.log_weight.shape == (3, 1)
    exact = dist.MultivariateNormal(torch.zeros(3, dtype=F64), torch.diag(sigma**2 + 9) + 4).log_prob(y)
    result = ppl_vae.fit(model, guide, data, rows=None, restarts=0, epochs=80, lr=0.1, compile="off")
    found = ppl_vae.evaluate(model, result.guide, data, particles=400, rows=None)
    assert abs(float(found.log_evidence) - float(exact)) < 5 * float(found.log_evidence_se) + 0.01
    with pytest.raises(ProgramError, match="rows=None"):
        ppl_vae.fit(model, guide, data, epochs=1)


def test_data_of_the_program_itself():
    def model():
        mu = pyro.sample("mu", normal(0.0, 2.0))
        with pyro.plate("mine", N):
            pyro.sample("x", normal(mu), obs=X)

    def guide():
        pyro.sample("mu", normal(X.sum() / (N + 0.25), (N + 0.25) ** -0.5))

    exact = dist.MultivariateNormal(torch.zeros(N, dtype=F64), torch.eye(N, dtype=F64) + 4).log_prob(X)
    assert ppl_vae.fit(model, guide, None, epochs=1).history[0]["train"] == pytest.approx(float(exact), abs=1e-9)
    assert float(ppl_vae.evaluate(model, guide, None, particles=5).log_evidence) == pytest.approx(
        float(exact), abs=1e-9
    )
