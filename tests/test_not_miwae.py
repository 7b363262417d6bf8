"""Values that decide whether they are seen: against quadrature, and against a model that ignores why."""

from __future__ import annotations

import pyro
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ppl_vae
from ppl_vae import UserError
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE, NotMIWAE

F64 = torch.float64
ROWS = 400


@pytest.fixture(scope="module")
def whole():
    z = torch.randn(ROWS, 1, generator=torch.Generator().manual_seed(0))
    return z * torch.tensor([1.0, -1.0]) + 0.6 * torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def data(whole):
    """The second column is hidden where it is above its mean."""
    holey = whole.clone()
    holey[whole[:, 1] > whole[:, 1].mean(), 1] = torch.nan
    return ppl_vae.load(holey, missing="allow", test=0, validation=0)


def linear(data):
    """A model with a linear decoder and a known mask; the guide sees rows and mask."""
    pyro.set_rng_seed(0)
    model = NotMIWAE(data, latent_dim=1, hidden=()).double()
    with torch.no_grad():
        model.mask.slope.fill_(-2.0)
        model.mask.offset.fill_(0.3)
    return model, MeanField(model, hidden=()).double()


def by_quadrature(model, rows):
    """log p(x_observed, seen) of rows without the second entry, and E[x_2 | x_1, not seen]."""
    weight, bias = model.decoder.last.weight.double(), model.decoder.last.bias.double()
    own = model.likelihood
    loc, load = own.shift + own.unit * bias, own.unit * weight[:, 0]
    scale = own.unit * (own.least + own.log_scale.exp())
    covariance = torch.outer(load, load) + torch.diag(scale.square())
    given = loc[1] + covariance[1, 0] / covariance[0, 0] * (rows[:, :1] - loc[0])
    deviation = (covariance[1, 1] - covariance[0, 1] ** 2 / covariance[0, 0]).sqrt()
    grid = torch.linspace(-8, 8, 4001, dtype=F64)
    x = given + deviation * grid
    logits = model.mask.offset[1] + model.mask.slope[1] * (x - own.shift[1]) / own.unit[1]
    density = torch.exp(-grid.square() / 2) / (2 * torch.pi) ** 0.5 * torch.sigmoid(-logits)
    mass = torch.trapezoid(density, grid)
    first = torch.distributions.Normal(loc[0], covariance[0, 0].sqrt()).log_prob(rows[:, 0])
    return first + mass.log(), torch.trapezoid(density * x, grid) / mass


@torch.no_grad()
def test_evidence_and_means_are_those_of_quadrature(data):
    model, guide = linear(data)
    rows = data.train["x"].double()
    gone = rows[:, 1].isnan()
    rows = rows[gone][:20]
    evidence, mean = by_quadrature(model, rows)
    found = ppl_vae.impute(model, guide, rows, particles=5000, draws=200)
    assert bool(((found.log_evidence - evidence).abs() < 5 * found.log_evidence_se + 1e-4).all())
    spread = found.sd["x"][:, 1]
    assert bool(((found.mean["x"][:, 1] - mean).abs() < 5 * spread / found.ess.sqrt()).all())
    # draws are of p(x_2 | x_1, not seen), too
    assert float((found.draws["x"][:, :, 1].mean(0) - mean).mean()) == pytest.approx(0, abs=0.04)


@torch.no_grad()
def test_a_row_that_is_whole_has_the_density_of_its_mask_too(data):
    model, guide = linear(data)
    rows = data.train["x"].double()
    rows = rows[~rows[:, 1].isnan()][:20]
    own = model.likelihood
    logits = model.mask.offset[1] + model.mask.slope[1] * (rows[:, 1] - own.shift[1]) / own.unit[1]
    plain = VAE(data, latent_dim=1, hidden=()).double()
    plain.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith(("mask", "columns"))})
    alone = ppl_vae.evaluate(plain, MeanField(plain, hidden=()).double(), rows, 5000)
    found = ppl_vae.evaluate(model, guide, rows, 5000)
    gap = found.log_evidence - alone.log_evidence - F.logsigmoid(logits)
    error = (found.log_evidence_se.square() + alone.log_evidence_se.square()).sqrt()
    assert bool((gap.abs() < 5 * error + 1e-4).all())


@pytest.mark.slow
def test_it_finds_what_a_model_that_ignores_the_mask_cannot(data, whole):
    errors, rows = {}, whole.clone()
    gone = whole[:, 1] > whole[:, 1].mean()
    rows[gone, 1] = torch.nan
    for make in (lambda: NotMIWAE(data, latent_dim=1, hidden=(), hides="large"), lambda: VAE(data, latent_dim=1)):
        pyro.set_rng_seed(0)
        model = make()
        guide = MeanField(model, hidden=(8,))
        ppl_vae.fit(model, guide, data, "iwae:particles=10", epochs=150, lr=0.03, batch_size=200, compile="off")
        found = ppl_vae.impute(model, guide, rows, particles=200, draws=1).mean["x"]
        errors[type(model)] = float((found - whole)[gone, 1].square().mean().sqrt())
    # the deviation given the other column and that it is above the mean is about 0.5
    assert errors[NotMIWAE] < 0.7
    assert errors[NotMIWAE] < 0.75 * errors[VAE]


def test_simulated_rows_are_whole_and_their_mask_follows_them(data):
    model, _ = linear(data)
    model.float()
    trace = pyro.poutine.trace(model).get_trace(n=10_000)
    x, seen = trace.nodes["x"]["value"], trace.nodes["seen"]["value"]
    assert not bool(x.isnan().any())
    large = x[:, 1] > model.likelihood.shift[1] + model.likelihood.unit[1]
    small = x[:, 1] < model.likelihood.shift[1] - model.likelihood.unit[1]
    assert seen[large, 1].mean() < 0.2 < 0.8 < seen[small, 1].mean()


@pytest.mark.parametrize("mask", ["linear", "network"])
def test_a_mask_of_all_columns(data, mask):
    model = NotMIWAE(data, latent_dim=2, mask=mask, hidden=(8,))
    assert isinstance(model.mask, nn.Module)
    ppl_vae.fit(model, MeanField(model, hidden=(8,)), data, "iwae:particles=3", epochs=1)


def test_what_it_is_not_for_is_refused(data, whole):
    with pytest.raises(UserError, match="rows x of numbers with missing entries"):
        NotMIWAE(ppl_vae.load(whole))
    with pytest.raises(UserError, match="hides= is of self-masking, got mask='linear'"):
        NotMIWAE(data, mask="linear", hides="large")
    with pytest.raises(UserError, match="mask"):
        NotMIWAE(data, mask="self-masking")
