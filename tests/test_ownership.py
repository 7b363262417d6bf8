"""A network or tensor that no program owns is refused before training, by the name of the variable that has it."""

from __future__ import annotations

import copy
from functools import partial
from unittest import mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.nn import PyroModule, PyroSample
from pyro.optim import Adam
from torch import nn

import ppl_vae
from ppl_vae.bounds import ELBO
from ppl_vae.checks.ownership import leaves
from ppl_vae.errors import ProgramError
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

ROWS = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))


def latent(x):
    return pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def observe(mean, x):
    pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def closure():
    decoder = nn.Linear(2, 3)

    def model(x=None):
        with pyro.plate("data", len(x)):
            observe(decoder(latent(x)), x)

    return model, "the closure variable decoder of model"


def in_a_list():
    parts = {"nets": [nn.Linear(2, 3)]}

    def model(x=None):
        with pyro.plate("data", len(x)):
            observe(parts["nets"][0](latent(x)), x)

    return model, "the closure variable parts of model"


GLOBAL = nn.Linear(2, 3)


def with_a_global(x=None):
    with pyro.plate("data", len(x)):
        observe(GLOBAL(latent(x)), x)


def given(net, x=None):
    with pyro.plate("data", len(x)):
        observe(net(latent(x)), x)


class Callable:
    def __init__(self):
        self.net = nn.Linear(2, 3)

    def __call__(self, x=None):
        with pyro.plate("data", len(x)):
            observe(self.net(latent(x)), x)

    def method(self, x=None):
        self(x)


class Hidden(nn.Module):
    """A module that hides a part from torch in a list."""

    def __init__(self):
        super().__init__()
        self.nets = [nn.Linear(2, 3)]

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            observe(self.nets[0](latent(x)), x)


def helper():
    net = nn.Linear(2, 3)

    def decode(z):
        return net(z)

    def model(x=None):
        with pyro.plate("data", len(x)):
            observe(decode(latent(x)), x)

    return model, "the closure variable decode of model"


def a_tensor():
    scale = torch.ones((), requires_grad=True)

    def model(x=None):
        with pyro.plate("data", len(x)):
            observe(latent(x).sum(-1, keepdim=True) * scale + torch.zeros(3), x)

    return model, "the closure variable scale of model"


CASES = {
    "closure": closure,
    "list": in_a_list,
    "global": lambda: (with_a_global, "the global variable GLOBAL of with_a_global"),
    "partial": lambda: (partial(given, nn.Linear(2, 3)), "the argument number-0 of partial"),
    "attribute": lambda: (Callable(), "the attribute net of Callable"),
    "method": lambda: (Callable().method, "the object self of method"),
    "hidden part": lambda: (Hidden(), "the attribute nets of Hidden"),
    "helper": helper,
    "tensor": a_tensor,
}


@pytest.mark.parametrize("case", CASES)
def test_what_nobody_owns_is_an_error_with_its_name(case):
    model, name = CASES[case]()
    guide = MeanField(model, ROWS, hidden=(8,))
    errors = [f for f in ppl_vae.check(model, guide, ROWS) if f.severity == "error"]
    assert [f.site for f in errors] == [name]
    assert "never be trained, nor saved" in errors[0].problem
    with pytest.raises(ProgramError, match="no program owns"):
        ppl_vae.fit(model, guide, ROWS, epochs=1)


def test_a_guide_has_to_own_its_network_too():
    net = nn.Linear(3, 2)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x), 1.0).to_event(1))

    def model(x=None):
        with pyro.plate("data", len(x)):
            observe(latent(x).sum(-1, keepdim=True) + torch.zeros(3), x)

    (found,) = (f for f in ppl_vae.check(model, guide, ROWS) if f.severity == "error")
    assert found.site == "the closure variable net of guide"
    assert "pyro.module('net', net)" in found.remedy


def test_what_is_owned_or_fixed_is_no_error():
    decoder, fixed = nn.Linear(2, 3), nn.Linear(2, 3).requires_grad_(False)

    def model(x=None):
        pyro.module("decoder", decoder)
        shift = pyro.param("shift", torch.zeros(3))
        with pyro.plate("data", len(x)):
            z = latent(x)
            observe(decoder(z) + fixed(z) + shift, x)

    before = decoder.weight.detach().clone()
    guide = MeanField(model, ROWS, hidden=(8,))
    assert ppl_vae.check(model, guide, ROWS) == []
    ppl_vae.fit(model, guide, ROWS, epochs=1, compile="off")
    assert not torch.equal(decoder.weight, before)


def test_data_that_require_a_gradient_are_no_parameters():
    def model(x=None):
        with pyro.plate("data", len(x)):
            observe(latent(x).sum(-1, keepdim=True) + torch.zeros(3), x)

    rows = ROWS.clone().requires_grad_()
    assert not [f for f in ppl_vae.check(model, MeanField(model, ROWS), {"x": rows}) if f.severity == "error"]


def test_a_guide_of_another_model_is_a_warning():
    data = ppl_vae.load(ROWS)
    model, other = VAE(data, latent_dim=2, hidden=(8,)), VAE(data, latent_dim=2, hidden=(8,))
    (found,) = ppl_vae.check(model, MeanField(other, hidden=(8,)), data)
    assert found.severity == "warning"
    assert "another model object" in found.problem
    guide = MeanField(model, hidden=(8,))
    assert ppl_vae.check(model, guide, data) == []
    assert ppl_vae.check(*copy.deepcopy((model, guide)), data) == []
    result = ppl_vae.fit(model, guide, data, epochs=1, compile="off")
    assert ppl_vae.check(result.model, result.guide, data) == []


def test_leaves_of_a_graph():
    a, b, c = (torch.ones((), requires_grad=True) for _ in range(3))
    found = leaves([a * b, b.exp(), c, torch.ones(())])
    assert {id(t) for t in found} == {id(a), id(b), id(c)}


def test_checking_and_judging_leave_every_modules_mode_as_it_was():
    data = ppl_vae.load(ROWS)
    model = VAE(data, latent_dim=2, hidden=(8,))
    guide = MeanField(model, hidden=(8,))
    model.decoder.eval()
    before = [m.training for p in (model, guide) for m in p.modules()]
    ppl_vae.check(model, guide, data)
    ppl_vae.evaluate(model, guide, data, particles=2, compile="off")
    assert [m.training for p in (model, guide) for m in p.modules()] == before


def test_a_pyro_module_in_a_closure_is_trained_as_pyro_trains_it():
    network = PyroModule[nn.Linear](1, 1)

    def model(x=None, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 0.1))
            pyro.sample("y", dist.Normal(network(x.unsqueeze(-1)).squeeze(-1) + z, 0.3), obs=y)

    def guide(x=None, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 0.1))

    x = torch.linspace(-1, 1, 60)
    before = float(network.weight.detach())
    ppl_vae.fit(model, guide, {"x": x, "y": 3 * x}, epochs=60, batch_size=10, lr=0.05, compile="off")
    assert abs(float(network.weight.detach()) - 3) < 0.3 < abs(before - 3)


def test_a_pyro_module_with_priors_in_a_closure():
    network = PyroModule[nn.Linear](1, 1)
    network.weight = PyroSample(dist.Normal(0.0, 2.0).expand([1, 1]).to_event(2))
    network.bias = PyroSample(dist.Normal(0.0, 2.0).expand([1]).to_event(1))

    def model(x=None, y=None):
        mean = network(x.unsqueeze(-1)).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.3), obs=y)

    data = {"x": torch.linspace(-1, 1, 40), "y": 2 * torch.linspace(-1, 1, 40) + 1}
    guide = MeanField(model, data)
    assert {*guide.shared.sites} == {"weight", "bias"}
    result = ppl_vae.fit(model, guide, data, epochs=2, compile="off")
    assert len(result.history) == 2


def svi_step(model, guide, *args):
    return SVI(model, guide, Adam({"lr": 0.01}), loss=ELBO()).step(*args)


def mean_field_guide(x=None):
    loc = pyro.param("svi loc", torch.zeros(2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


class Plain(nn.Module):
    def __init__(self, registered):
        super().__init__()
        self.decoder, self.registered = nn.Linear(2, 3), registered

    def forward(self, x=None):
        if self.registered:
            pyro.module("decoder of Plain", self.decoder)
        with pyro.plate("data", len(x)):
            observe(self.decoder(latent(x)), x)


@pytest.mark.parametrize("case", CASES)
def test_under_pyros_svi_too(case):
    model, name = CASES[case]()
    with pytest.raises(ProgramError, match="never be trained") as said:
        svi_step(model, mean_field_guide, ROWS)
    assert said.value.site == name


def test_a_plain_module_is_trained_by_svi_only_if_it_says_so():
    model = Plain(registered=False)
    with pytest.raises(ProgramError, match=r"decoder\.weight"):
        svi_step(model, mean_field_guide, ROWS)
    assert svi_step(Plain(registered=True), mean_field_guide, ROWS) > 0
    assert ELBO()(model, mean_field_guide)(ROWS) > 0  # whoever steps an optimizer of their own knows what it has


def test_svi_looks_once_and_lets_fixed_and_blocked_networks_be():
    decoder, fixed = nn.Linear(2, 3), nn.Linear(2, 3).requires_grad_(False)

    def model(x=None):
        pyro.module("decoder that is blocked", decoder)
        with pyro.plate("data", len(x)):
            z = latent(x)
            observe(decoder(z) + fixed(z), x)

    svi = SVI(pyro.poutine.block(model, hide_types=["param"]), mean_field_guide, Adam({"lr": 0.01}), loss=ELBO())
    before = decoder.weight.detach().clone()
    assert svi.step(ROWS) > 0
    with mock.patch("ppl_vae.bounds.untrained.strangers", side_effect=AssertionError):
        assert svi.step(ROWS) > 0
    assert torch.equal(before, decoder.weight)


def test_a_constant_that_is_made_in_the_program_is_no_parameter():
    def model(x=None):
        scale = torch.ones((), requires_grad=True)
        with pyro.plate("data", len(x)):
            observe(latent(x).sum(-1, keepdim=True) * scale + torch.zeros(3), x)

    assert svi_step(model, mean_field_guide, ROWS) > 0
