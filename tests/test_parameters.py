"""Parameters belong to modules: by name, made late, one set for each pair, none in Pyro's store."""

from __future__ import annotations

from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import XH, t
from helpers import assert_same, errors, rows, weights_of
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import ppl_vae
import ppl_vae.guides
import ppl_vae.models
from ppl_vae import UserError
from ppl_vae.bounds import ELBO
from ppl_vae.data import load
from ppl_vae.guides import MeanField


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
    """The second model registered under a pyro.module name never trains."""
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
    """Within one program Pyro would silently give both modules the first one's weights."""
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


def test_a_name_is_one_parameter_within_a_pair_and_another_in_the_next():
    """As in Pyro, model and guide may share a parameter by its name; two pairs never do."""

    def model(x=None):
        scale = pyro.param("scale", t(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t(0.0), scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x=None):
        scale = pyro.param("scale", t(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, scale))

    first = ppl_vae.fit(model, guide, XH, epochs=5, lr=0.1)
    second = ppl_vae.fit(model, guide, 5 * XH, epochs=5, lr=0.1)
    scales = [[p for n, p in r.named_parameters() if n.endswith("scale")] for r in (first.model, first.guide)]
    assert scales[0][0] is scales[1][0]
    assert second.model.own._parameters["scale"] is not scales[0][0]
    assert second.model.own._parameters["scale"] != scales[0][0]


def test_the_global_parameter_store_is_neither_cleared_nor_written(tmp_path):
    """A constructor that calls pyro.clear_param_store() erases every other model of the process."""
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
    # the two places that ask for the store are where Pyro, not this package, runs the programs; they only read it
    under_svi = ("local_module.py", "untrained.py")
    sources = [f for folder in folders for f in folder.rglob("*.py") if f.name not in under_svi]
    assert len(sources) > 30
    for file in sources:
        text = file.read_text(encoding="utf-8")
        for word in ("clear_param_store", "get_param_store"):
            assert word not in text, f"{file} has {word}"


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
    """Lazily created parameters are missing from the optimizer, or not restored on load."""
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
    """The same for a layer of torch that takes its size from the first batch."""
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


def test_a_generated_guide_is_one_function_of_the_row_for_any_batch():
    """AutoNormal on a minibatch learns one parameter per slot; a short last batch raises."""
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
    """So that the mistake is found before training and not at the last batch."""
    model = named_pair(0)[0]
    found = errors(model, AutoNormal(model), rows(50))
    assert found
    with pytest.raises(UserError):
        ppl_vae.fit(model, AutoNormal(model), rows(50), batch_size=16, epochs=1)
