"""A bound under Pyro's own inference reads a pair again when a site has its first missing entry, and keeps no pair."""

from __future__ import annotations

import copy
import gc
import math
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.nn import PyroModule

import ppl_vae
from ppl_vae.bounds import ELBO, IWAE, base

WHOLE = torch.randn(4, 10, 3, generator=torch.Generator().manual_seed(0))


def batches(*holes):
    """Batches of one shape with a missing entry at (batch, row, column)."""
    rows = WHOLE.clone()
    for place in holes:
        rows[place] = torch.nan
    return list(rows)


def model(x):
    loc = pyro.param("loc", torch.zeros(3))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + loc, 1.0).to_event(1), obs=x)


def guide(x):
    """The posterior itself: every weight is log p of the entries that are there."""
    loc, seen = pyro.param("loc", torch.zeros(3)).detach(), ~x.isnan()
    precision = 1.0 + seen
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x - loc).nan_to_num() / precision, precision**-0.5).to_event(1))


def evidence(x):
    log_p = dist.Normal(pyro.param("loc").detach(), 2**0.5).log_prob(x.nan_to_num())
    return float(log_p[~x.isnan()].sum())


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()


@pytest.fixture
def readings(monkeypatch):
    """How often a pair was read."""
    count = []
    analyse = base.analyse
    monkeypatch.setattr(base, "analyse", lambda *arguments: count.append(1) or analyse(*arguments))
    return count


@pytest.mark.parametrize("validates", [True, False])
@pytest.mark.parametrize("bound", [IWAE(8), ELBO()], ids=["iwae", "elbo"])
def test_the_first_hole_in_a_later_batch(bound, validates):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss=copy.deepcopy(bound))
    with pyro.validation_enabled(validates):
        for batch in batches((2, 5, 0)):
            pyro.param("loc", torch.zeros(3))
            assert -svi.evaluate_loss(batch) == pytest.approx(evidence(batch), abs=1e-3)
            svi.step(batch)
            assert torch.isfinite(pyro.param("loc")).all()


def test_known_patterns_are_not_read_again(readings):
    bound = IWAE(4)
    for batch in batches((1, 0, 0)) * 3:
        bound.loss(model, guide, batch)
    assert len(readings) == 2


def two_fields(x, t):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
        pyro.sample("t", dist.Normal(z, 2.0).to_event(1), obs=t)


def two_guide(x, t):
    weights = [(~x.isnan()).float(), (~t.isnan()).float() / 4]
    precision = 1 + sum(weights)
    mean = (weights[0] * x.nan_to_num() + weights[1] * t.nan_to_num()) / precision
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(mean, precision**-0.5).to_event(1))


def log_evidence(x, t):
    """x and t are normal with covariance [[2, 1], [1, 5]], entry by entry."""
    both = torch.stack([x, t], -1).double()
    covariance, total = torch.tensor([[2.0, 1.0], [1.0, 5.0]], dtype=torch.float64), 0.0
    for entry in both.reshape(-1, 2):
        there = (~entry.isnan()).nonzero()[:, 0]
        if len(there):
            part = covariance[there][:, there]
            total += float(dist.MultivariateNormal(torch.zeros(len(there)).double(), part).log_prob(entry[there]))
    return total


def test_holes_in_one_field_then_in_the_other(readings):
    whole, first, second = batches()[0], batches((0, 1, 1))[0], batches((0, 2, 2))[0]
    bound = ELBO()
    for pair in [(whole, whole), (first, whole), (whole, second), (first, second)] * 2:
        assert -bound.loss(two_fields, two_guide, *pair) == pytest.approx(log_evidence(*pair), abs=1e-3)
    assert len(readings) <= 4


def labelled(x, y):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(x.new_tensor([0.2, 0.8])), obs=y)
        z = pyro.sample("z", dist.Normal(x.new_zeros(3) + y.unsqueeze(-1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def label_guide(x, y):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))


def test_labels_that_are_missing_in_a_later_batch():
    """log p(x, y) of labelled rows, log p(x) of the others."""
    x, bound = WHOLE[0].double(), IWAE(2000)
    prior = torch.tensor([0.2, 0.8], dtype=torch.float64).log()
    by_label = torch.stack([dist.Normal(float(k), 2**0.5).log_prob(x).sum(-1) for k in (0, 1)], -1) + prior
    for y in ([1] * 10, [1, -1] * 5, [-1] * 10, [0] * 10):
        labels = torch.tensor(y)
        exact = torch.where(labels < 0, by_label.logsumexp(-1), by_label.gather(-1, labels.clamp(min=0)[:, None])[:, 0])
        assert -bound.loss(labelled, label_guide, x, labels) == pytest.approx(float(exact.sum()), abs=0.6)


def test_rows_that_the_model_draws_from_a_closure():
    rows = WHOLE.reshape(40, 3).clone()
    rows[25, 0] = torch.nan

    def drawn():
        with pyro.plate("data", 40, subsample_size=10) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=rows[index])

    def drawing():
        with pyro.plate("data", 40, subsample_size=10):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    bound = ELBO()
    assert all(torch.isfinite(torch.tensor(bound.loss(drawn, drawing))) for _ in range(8))


class Holder(PyroModule):
    def forward(self, x):
        model(x)


def test_the_last_pair_is_not_kept_alive():
    bound, program = ELBO(), Holder()
    bound.loss(program, guide, WHOLE[0])
    gone = weakref.ref(program)
    del program
    gc.collect()
    assert gone() is None
    assert bound.loss(model, guide, WHOLE[0]) > 0


def test_bound_methods_and_copies(readings):
    class Programs:
        def model(self, x):
            model(x)

        def guide(self, x):
            guide(x)

    programs, bound = Programs(), ELBO()
    for _ in range(3):  # a bound method is another object at every look
        bound.loss(programs.model, programs.guide, WHOLE[0])
    assert len(readings) == 1
    assert copy.deepcopy(bound).loss(programs.model, programs.guide, WHOLE[0]) > 0


def test_a_site_may_ask_for_draws_of_its_own():
    """The KL from N(1, 1) to N(0, 1) is 1/2; of single draws it would have a deviation of 1."""

    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        pyro.sample("z", dist.Normal(1.0, 1.0), infer={"enumerate": "parallel", "num_samples": 10_000})

    torch.manual_seed(0)
    assert abs(ELBO().loss(model, guide) - 0.5) < 4e-2


def test_a_plate_of_the_rows_with_latents_alone_is_one_of_the_rows():
    def model(x):
        with pyro.plate("others", len(x)):
            pyro.sample("u", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("others", len(x)):
            pyro.sample("u", dist.Normal(0.5, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.tensor([0.5, -1.0, 2.0])
    w = ppl_vae.log_weights(model, guide, {"x": x}, particles=20_000)
    assert w.log_global is None
    evidence = dist.Normal(0.0, 2**0.5).log_prob(x)
    assert ((w.log_weight.logsumexp(0) - math.log(20_000)) - evidence).abs().max() < 0.05
    assert (w.log_weight.mean(0) - (evidence - 0.125)).abs().max() < 4 * 0.5 / 20_000**0.5
