"""Pairs that break the contract of model and guide are refused by site, with what came and the remedy."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, normal_evidence, normal_posterior, t
from helpers import errors, rows
from pyro import poutine
from torch import nn

import ppl_vae
from ppl_vae import UserError, log_weights
from ppl_vae.guides import MeanField


def linear_model(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ torch.ones(2, 3), 1.0).to_event(1), obs=x)


def two_normals(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1).expand([len(x)]))


@pytest.mark.parametrize("columns", [3, 8, 1])  # another number than the rows looked at, the same, one
def test_a_forgotten_to_event_is_named_with_its_dims_and_the_line_to_change(columns):
    """The user sees "shape mismatch inside plate", or nothing when the sizes agree by accident."""

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(x.shape), 1.0), obs=x)

    x = rows(40, columns)
    found = errors(model, two_normals, x)
    assert [f.site for f in found] == ["x"]
    assert "site x" in found[0].problem or "site 'x'" in found[0].problem
    assert "8 vs 3" in found[0].problem or "(8, 8)" in found[0].problem  # dims that were got
    assert ".to_event(" in found[0].remedy
    with pytest.raises(UserError, match=r"x.*to_event\("):
        ppl_vae.fit(model, two_normals, x, epochs=1)


def test_a_forgotten_to_event_of_a_latent_is_named():
    """The same for a latent whose size agrees with the rows by accident, in the model alone."""

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 8), 1.0))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 8), 1.0).to_event(1))

    found = errors(model, guide, rows(40, 1)[:, 0])
    assert {f.site for f in found} == {"z"}
    assert any("event dims 1 in the guide and 0 in the model" in f.problem for f in found)
    assert any(".to_event(1) in the model" in f.remedy for f in found)


def test_sites_whose_shapes_do_not_fit_are_findings_and_no_crash():
    """Two mistakes at one site: event dims and sizes. A linter that crashes names nothing."""

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 8), 1.0))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    found = errors(model, two_normals, rows(40, 1)[:, 0])
    assert {f.site for f in found} == {"z"}


@pytest.mark.parametrize("wrong", ["model", "guide"])
def test_a_plate_at_the_wrong_dim_is_named_with_both_dims(wrong):
    """Which site, which dims were expected and got."""

    def at(program, dim):
        def other(x=None):
            with pyro.plate("data", len(x), dim=dim):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), *(1,) * (-1 - dim)), 1.0))
                if program == "model":
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x.reshape(-1, *(1,) * (-1 - dim)))

        return other

    x = rows(40, 1)[:, 0]
    assert not errors(at("model", -1), at("guide", -1), x)
    dims = {"model": -1, "guide": -1} | {wrong: -2}
    found = errors(at("model", dims["model"]), at("guide", dims["guide"]), x)
    assert found
    assert found[0].site in ("z", "data")
    assert "-1" in str(found[0])
    assert "-2" in str(found[0])


def test_a_program_with_a_fixed_batch_size_is_refused():
    """An encoder that flattens with a fixed batch dim, a plate whose size is the batch."""
    encoder = nn.Linear(3, 2)

    def flattens(x=None):
        pyro.module("encoder", encoder)
        features = encoder(x.reshape(16, -1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(features, 1.0).to_event(1))

    def fixed_plate(x=None):
        with pyro.plate("data", 8):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(8, 3), 1.0).to_event(1), obs=x)

    (finding,) = errors(linear_model, flattens, rows())
    assert "the guide fails before its first site" in finding.problem
    assert "16" in finding.problem
    assert "x (8, 3)" in finding.problem
    assert "never the rows" in finding.remedy
    found = errors(fixed_plate, two_normals, rows())
    assert any("data" in f.problem and "8" in f.problem for f in found)
    for programs in ((linear_model, flattens), (fixed_plate, two_normals)):
        with pytest.raises(UserError):
            ppl_vae.fit(*programs, rows(), batch_size=16, epochs=1)


@pytest.mark.parametrize("flatten", [lambda z, x: z.reshape(-1), lambda z, x: z.reshape(len(x), -1).sum(-1)])
def test_a_program_that_flattens_particles_still_gets_the_right_weights_or_a_refusal(flatten):
    """The second form fails nowhere: with particles on the left it mixes the rows in silence."""

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(flatten(z, x), 1.0), obs=x)

    x = rows(12, 1, dtype=F64)[:, 0]
    found = ppl_vae.check(model, normal_posterior, x)
    assert any("broadcast over particles" in f.problem and "..." in f.remedy for f in found)
    if any(f.severity == "error" for f in found):
        return
    weights = log_weights(model, normal_posterior, x, particles=3)  # the exact posterior: all are log p(x)
    torch.testing.assert_close(weights.log_weight, normal_evidence(x).expand(3, -1), atol=1e-9, rtol=0)


@pytest.mark.parametrize("hide", [False, True])
def test_numbers_that_a_program_draws_beside_its_sites_are_told(hide):
    """The mean of the weights is the evidence all the same: what is not drawn by the guide is drawn from its prior."""

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            with poutine.block(hide=["noise"]):
                noise = pyro.sample("noise", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
            mean = z + (noise if hide else torch.randn(len(x), dtype=F64))
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    x = torch.tensor([0.5, -1.0], dtype=F64)
    (finding,) = ppl_vae.check(model, normal_posterior, x)
    assert "outside of pyro.sample" in finding.problem
    assert "poutine.block" in finding.remedy
    torch.manual_seed(0)
    w = log_weights(model, normal_posterior, x, particles=2000).log_weight.detach().exp()
    exact = dist.Normal(t(0.0), 3**0.5).log_prob(x).exp()
    assert ((w.mean(0) - exact).abs() < 4 * w.std(0) / len(w) ** 0.5).all()


def test_observations_that_a_handler_takes_away_are_named():
    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x, bare = torch.zeros(4, dtype=F64), poutine.uncondition(model)
    for ask in (lambda: MeanField(bare, {"x": x}), lambda: log_weights(bare, normal_posterior, x)):
        with pytest.raises(UserError, match=r"poutine\.uncondition makes a latent of site 'x'"):
            ask()


def test_rows_that_a_program_picks_by_hand_are_left_to_fit():
    def model(x=None):
        with pyro.plate("data", 12, subsample=torch.arange(3, 9)) as chosen:
            z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[chosen])

    x = torch.zeros(12, dtype=F64)
    with pytest.raises(UserError, match="plate 'data' has 12 elements, and 4 rows came: fit chooses rows"):
        log_weights(model, normal_posterior, x[:4])


def test_a_program_that_breaks_under_enumeration_is_refused_by_site():
    """torch.cat of a latent and a one-hot label: right for drawn labels, not for enumerated ones."""
    decoder = nn.Linear(6, 3)

    def model(x=None):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.Categorical(torch.ones(4) / 4))
            features = torch.cat([z, nn.functional.one_hot(y, 4).to(z.dtype)], -1)
            pyro.sample("x", dist.Normal(decoder(features), 1.0).to_event(1), obs=x)

    (finding,) = errors(model, two_normals, rows())
    assert finding.site == "y"
    assert "summed out" in finding.problem
    assert "..." in finding.remedy


def site_guide(*sites):
    def guide(x=None):
        with pyro.plate("data", len(x)):
            for name, fn in sites:
                pyro.sample(name, fn.expand([len(x)]))

    return guide


NORMAL = dist.Normal(torch.zeros(2), 1.0).to_event(1)


GAMMA = dist.Gamma(torch.ones(()), 1.0)


MISMATCHES = {
    "missing in the guide": (
        site_guide(("s", GAMMA)),
        "z",
        "in the model but not in the guide",
        r"add pyro.sample\('z'",
    ),
    "extra in the guide": (
        site_guide(("z", NORMAL), ("s", GAMMA), ("w", NORMAL)),
        "w",
        "in the guide but not in the model",
        "remove it from the guide",
    ),
    "event dims": (
        site_guide(("z", dist.Normal(torch.zeros(()), 1.0)), ("s", GAMMA)),
        "z",
        "event dims 0 in the guide and 1 in the model",
        r"\.to_event\(1\) in the guide",
    ),
    "event shape": (
        site_guide(("z", dist.Normal(torch.zeros(5), 1.0).to_event(1)), ("s", GAMMA)),
        "z",
        r"event shape \(5,\) in the guide and \(2,\) in the model",
        "make them equal",
    ),
    "support": (
        site_guide(("z", NORMAL), ("s", dist.Normal(torch.zeros(()), 1.0))),
        "s",
        "support real in the guide and positive in the model",
        "positive values in the guide",
    ),
}  # fmt: skip


def two_latents(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", NORMAL)
        s = pyro.sample("s", GAMMA)
        pyro.sample("x", dist.Normal(z.sum(-1), 0.1 + s.abs()), obs=x)


@pytest.mark.parametrize("name", MISMATCHES)
def test_sites_that_differ_between_the_programs_are_reported_by_name(name):
    """Guide site missing from the model or the reverse, different event dims or support."""
    guide, site, problem, remedy = MISMATCHES[name]
    x = rows(40, 1)[:, 0]
    assert not errors(two_latents, site_guide(("z", NORMAL), ("s", GAMMA)), x)
    with pytest.raises(UserError, match=f"site '{site}'.*{problem}.*{remedy}"):
        ppl_vae.fit(two_latents, guide, x, epochs=1)
    assert site in {f.site for f in errors(two_latents, guide, x)}
