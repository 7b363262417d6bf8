"""TRAPS.md 11 to 17: parameters and state. At least one test per line, in its order."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import ppl_vae
import ppl_vae.guides
import ppl_vae.models
from ppl_vae import UserError, log_weights
from ppl_vae.bounds import CIWAE, ELBO, IWAE
from ppl_vae.data import load
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.schedules import WarmUp


def rows(count=40, columns=3, seed=0, dtype=torch.float32):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def weights_of(*modules):
    return {f"{i} {n}": v.clone() for i, m in enumerate(modules) for n, v in m.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def standing_still(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def errors(model, guide, data):
    return [f for f in ppl_vae.check(model, guide, data) if f.severity == "error"]


def small_pair(data, seed=0):
    torch.manual_seed(seed)
    model = VAE(data, latent_dim=2, hidden=(8,))
    return model, MeanField(model, hidden=(8,))


# z ~ N(0, 1), x ~ N(z, 1) and its posterior


# -- 11 ----------------------------------------------------------------------------------------------------


def named_pair(seed):
    """A pair of plain functions whose networks are all registered under the name "net"."""
    torch.manual_seed(seed)
    decoder, encoder = nn.Linear(2, 3), nn.Linear(3, 2)

    def model(x=None):
        pyro.module("net", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x=None):
        pyro.module("net", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

    return model, guide, decoder, encoder


def test_two_modules_under_one_name_both_train_and_two_pairs_share_nothing():
    """11. The second model registered under a pyro.module name never trains."""
    x = rows()
    alone = named_pair(1)
    ppl_vae.fit(*alone[:2], x, epochs=2)
    first, second = named_pair(0), named_pair(1)
    start = weights_of(*second[2:])
    ppl_vae.fit(*first[:2], x, epochs=2)
    assert_same(weights_of(*second[2:]), start)
    kept = weights_of(*first[2:])
    ppl_vae.fit(*second[:2], x, epochs=2)
    assert_same(weights_of(*first[2:]), kept)
    assert_same(weights_of(*second[2:]), weights_of(*alone[2:]))
    for name, value in weights_of(*second[2:]).items():
        assert not torch.equal(value, start[name]), name


def test_two_modules_under_one_name_in_one_program_are_refused():
    """11. Within one program Pyro would silently give both modules the first one's weights."""
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)

    def guide(x=None):
        pyro.module("net", one)
        pyro.module("net", other)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(one(x) + other(x), 1.0).to_event(1))

    model = named_pair(0)[0]
    (finding,) = errors(model, guide, rows())
    assert "net" in finding.site
    assert "under one name" in finding.problem
    assert "its own name" in finding.remedy
    with pytest.raises(UserError, match=r"net.*under one name"):
        ppl_vae.fit(model, guide, rows(), epochs=1)


# -- 12 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [ELBO(), Trace_ELBO()], ids=["ours", "Pyro's"])
def test_validation_moves_neither_weights_nor_momentum(bound):
    """12. svi.step inside no_grad still moves the weights through Adam's momentum."""
    data = load(rows(100), validation=30, test=10)
    histories, steps = [], []
    for each in (data, replace(data, validation=None)):
        model, guide = small_pair(data)

        class Counting(torch.optim.Adam):
            def step(self, closure=None):
                steps[-1] += 1
                return super().step(closure)

        steps.append(0)
        result = ppl_vae.fit(
            model, guide, each, bound, epochs=4, batch_size=20, patience=None,
            optimizer=lambda ps, kind=Counting: kind(ps, lr=0.05),
        )  # fmt: skip
        histories.append([record["train"] for record in result.history])
    assert steps == [4 * 3, 4 * 3]  # 60 training rows in batches of 20
    assert histories[0] == histories[1]
    assert len(set(histories[0])) == 4


def test_evaluation_moves_neither_weights_nor_momentum():
    """12. A peer's evaluate() trains on the test data."""
    data = load(rows(100), validation=30, test=10)
    model, guide = small_pair(data)
    made = []
    ppl_vae.fit(
        model,
        guide,
        data,
        epochs=2,
        optimizer=lambda ps: made.append(torch.optim.Adam(ps, lr=0.05)) or made[0],
    )
    weights, momentum = weights_of(model, guide), copy.deepcopy(made[0].state_dict())
    random = torch.get_rng_state()
    gradients = [None if p.grad is None else p.grad.clone() for p in guide.parameters()]
    ppl_vae.evaluate(model, guide, data, particles=20)
    ppl_vae.check(model, guide, data)
    assert torch.equal(torch.get_rng_state(), random)  # nor the stream of random numbers
    log_weights(model, guide, data, particles=3)
    assert_same(weights_of(model, guide), weights)
    for index, state in made[0].state_dict()["state"].items():
        assert_same(state, momentum["state"][index])
    for p, g in zip(guide.parameters(), gradients, strict=True):
        assert (p.grad is None) == (g is None)
        assert g is None or torch.equal(p.grad, g)
    assert model.training
    assert guide.training


# -- 13 ----------------------------------------------------------------------------------------------------


def test_the_global_parameter_store_is_neither_cleared_nor_written(tmp_path):
    """13. A constructor that calls pyro.clear_param_store() erases every other model of the process."""
    store = pyro.get_param_store()
    with store.scope():
        pyro.param("loc", torch.tensor([7.0]))

        def model(x=None):
            loc = pyro.param("loc", torch.zeros(3))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(loc + z, 1.0).to_event(1), obs=x)

        for bound in (ELBO(), Trace_ELBO()):
            result = ppl_vae.fit(model, MeanField(model), rows() + 5.0, bound, epochs=2, lr=0.1)
        ppl_vae.evaluate(result.model, result.guide, rows(), particles=5)
        ppl_vae.check(model, result.guide, rows())
        result.save(tmp_path / "run")
        ppl_vae.open_run(tmp_path / "run", model=model)
        assert list(store.keys()) == ["loc"]
        assert torch.equal(pyro.param("loc"), torch.tensor([7.0]))
    folders = {Path(m.__file__).resolve().parent for m in (ppl_vae, ppl_vae.models, ppl_vae.guides)}
    sources = [file for folder in folders for file in folder.rglob("*.py")]
    assert len(sources) > 30
    for file in sources:
        text = file.read_text(encoding="utf-8")
        for word in ("clear_param_store", "get_param_store"):
            assert word not in text, f"{file} has {word}"


# -- 14 ----------------------------------------------------------------------------------------------------


def test_beta_zero_is_zero_and_not_the_default():
    """14. `beta or self.beta`: beta = 0 becomes the default."""
    data = load(rows(60), validation=10, test=10)
    for beta in (0, 0.0, WarmUp(5, beta=0.0)):
        record = ppl_vae.fit(*small_pair(data), data, beta=beta, epochs=1, optimizer=standing_still).history[0]
        assert record["beta"] == 0
        assert record["objective"] == pytest.approx(-record["distortion"], rel=1e-6)
        assert record["rate"] > 0.01
        assert record["train"] == pytest.approx(-record["distortion"] - record["rate"], rel=1e-6)
    log_w = 3 * rows(8, 4)
    torch.testing.assert_close(CIWAE(0.0, 8).of(log_w), IWAE(8).of(log_w))
    assert CIWAE(0, 8).beta == 0
    result = ppl_vae.fit(*small_pair(data), data, beta=0.0, weight_decay=0.0, epochs=1)
    assert result.settings["beta"] == 0
    assert result.settings["weight_decay"] == 0


# -- 15 ----------------------------------------------------------------------------------------------------


def lazy_pair():
    """Plain functions whose parameters exist once they have seen a batch."""

    def model(x=None):
        loc = pyro.param("loc", lambda: torch.zeros(x.shape[-1]))
        scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(loc + z[..., None], scale).to_event(1), obs=x)

    def guide(x=None):
        slope = pyro.param("slope", torch.tensor(0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x.mean(-1), 0.5))

    return model, guide


def test_parameters_made_by_the_first_batch_are_trained_saved_and_restored(tmp_path):
    """15. Lazily created parameters are missing from the optimizer, or not restored on load."""
    x = 0.1 * rows(64) + 5.0
    model, guide = lazy_pair()
    untrained = ppl_vae.evaluate(*lazy_pair(), x, particles=50).log_evidence.mean()
    sizes = []

    def optimizer(parameters):
        sizes.extend(p.numel() for p in parameters)
        return torch.optim.Adam(parameters, lr=0.1)

    result = ppl_vae.fit(model, guide, x, epochs=100, optimizer=optimizer)
    assert sorted(sizes) == [1, 1, 3]
    assert result.history[-1]["train"] > result.history[0]["train"] + 5
    trained = ppl_vae.evaluate(result.model, result.guide, x, particles=50)
    assert trained.log_evidence.mean() > untrained + 5
    run = ppl_vae.open_run(result.save(tmp_path / "run"), *lazy_pair())
    restored = ppl_vae.evaluate(run.model, run.guide, x, particles=50)
    torch.testing.assert_close(restored.log_evidence, trained.log_evidence)


def test_a_lazy_layer_is_trained():
    """15. The same for a layer of torch that takes its size from the first batch."""
    layer = nn.LazyLinear(2)

    def guide(x=None):
        pyro.module("layer", layer)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(layer(x), 1.0).to_event(1))

    model = named_pair(0)[0]
    snapshots = []
    ppl_vae.fit(model, guide, rows(), epochs=2, on_epoch=lambda _: snapshots.append(weights_of(layer)))
    for name, value in snapshots[0].items():
        assert not torch.equal(value, snapshots[1][name]), name


# -- 16 ----------------------------------------------------------------------------------------------------


def test_a_generated_guide_is_one_function_of_the_row_for_any_batch():
    """16. AutoNormal on a minibatch learns one parameter per slot; a short last batch raises."""
    x = rows(50)
    model = named_pair(0)[0]
    guide = MeanField(model, x_data := load(x, test=0, validation=0), hidden=(8,))
    parameters = sum(p.numel() for p in guide.parameters())
    result = ppl_vae.fit(model, guide, x_data, batch_size=16, epochs=3)  # 16, 16, 16 and 2 rows
    assert len(result.history) == 3
    assert sum(p.numel() for p in guide.parameters()) == parameters
    larger = MeanField(model, load(rows(500), test=0, validation=0), hidden=(8,))
    assert sum(p.numel() for p in larger.parameters()) == parameters

    def location(batch):
        return pyro.poutine.trace(guide).get_trace(x=batch).nodes["z"]["fn"].base_dist.loc

    order = torch.randperm(50)
    torch.testing.assert_close(location(x[order]), location(x)[order])
    torch.testing.assert_close(location(x[7:8]), location(x)[7:8])


def test_a_guide_with_one_parameter_per_slot_of_the_batch_is_refused():
    """16. So that the mistake is found before training and not at the last batch."""
    model = named_pair(0)[0]
    found = errors(model, AutoNormal(model), rows(50))
    assert found
    with pytest.raises(UserError):
        ppl_vae.fit(model, AutoNormal(model), rows(50), batch_size=16, epochs=1)


# -- 17 ----------------------------------------------------------------------------------------------------


def test_held_out_rows_do_not_influence_training():
    """17. Test rows or labels reach training through early stopping, initialisation or normalisation."""
    x, y = rows(100) * torch.tensor([1.0, 10.0, 0.1]) + 3.0, torch.arange(100) % 4
    data = load({"x": x, "y": y}, test=20, validation=20)

    def with_other(split):
        part = getattr(data, split)
        other = {"x": 50.0 * part["x"] - 7.0, "y": 3 - part["y"]}
        return replace(data, **{split: replace(part, fields=other)})

    def train(data, patience):
        model, guide = small_pair(data)
        start = weights_of(model, guide)
        result = ppl_vae.fit(model, guide, data, epochs=4, batch_size=25, patience=patience)
        return start, weights_of(model, guide), [r["train"] for r in result.history], model, guide

    start, end, history, model, guide = train(data, 2)
    for found, expected in zip(train(with_other("test"), 2)[:2], (start, end), strict=True):
        assert_same(found, expected)
    other = train(with_other("validation"), None)  # its one lawful use is to stop and to choose the epoch
    assert_same(other[0], start)
    assert other[2][: len(history)] == history
    torch.testing.assert_close(model.likelihood.shift, data.train["x"].mean(0))
    torch.testing.assert_close(guide.encoder.input_of("x").mean, data.train["x"].mean(0))
    torch.testing.assert_close(model.likelihood.unit, data.train["x"].std(0, correction=0))
