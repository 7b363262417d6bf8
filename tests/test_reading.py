"""What a generated guide reads from a model: which fields its encoder sees."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch

import ppl_vae
from ppl_vae.autoguide.drawing import GuideRun
from ppl_vae.guides import MeanField


def flagged(x=None, flag=None):
    """The flag depends on z: where it is known it tells about z."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.sample("flag", dist.Bernoulli(logits=3.0 * z), obs=flag)


def labelled(x=None, y=None):
    """The label comes before z, which is conditioned on it."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3), obs=y)
        z = pyro.sample("z", dist.Normal(1.0 * y, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def named_later(x=None, y=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.sample("y", dist.Categorical(logits=torch.stack([z, 0 * z, -z], -1)), obs=y)


def test_a_label_that_is_known_in_some_rows_is_seen_by_the_latents_that_are_drawn_before_it():
    x, flag = torch.zeros(6), torch.tensor([0.0, 1.0, torch.nan, 0.0, 1.0, torch.nan])
    guide = MeanField(flagged, {"x": x, "flag": flag}, hidden=(4,))
    assert guide.encoder.names == ("x", "flag")
    assert guide.blocks[0].sites == ("z",)
    loc = guide.heads[0](guide.encoder({"x": x, "flag": flag})).base_dist.loc
    assert len(loc.detach().unique()) == 3  # known to be 0, known to be 1, missing
    assert ppl_vae.check(flagged, guide, {"x": x, "flag": flag}) == []


def test_a_label_that_comes_first_is_not_told_to_its_own_classifier():
    guide = MeanField(labelled, {"x": torch.zeros(6), "y": torch.tensor([0, 1, 2, -1, -1, 0])}, hidden=(4,))
    assert guide.encoder.names == ("x",)


def test_rows_without_the_field_of_a_label_are_rows_without_a_label():
    x, y = torch.zeros(6), torch.tensor([0, 1, 2, -1, -1, 0])
    guide = MeanField(named_later, {"x": x, "y": y}, hidden=(4,))
    assert guide.encoder.names == ("x", "y")
    with_field = guide.encoder({"x": x, "y": torch.full((6,), -1)})
    torch.testing.assert_close(guide.encoder({"x": x}), with_field)


def test_what_a_label_says_may_depend_on_the_row():
    """With one linear map of features and label, the draws of two labels would differ by the same in every row."""
    y = torch.tensor([0, 1, 2, -1, -1, 0])
    guide = MeanField(labelled, {"x": torch.linspace(-3, 3, 6), "y": y}, hidden=(8,))
    x = torch.linspace(-2, 2, 5)
    row = guide.encoder({"x": x})
    means = [
        guide.heads[1](guide.mixers[1](guide._features(row, guide.blocks[1], run))).mean
        for run in (GuideRun(guide.program, guide.sites, {}, {"y": torch.full((5,), k)}) for k in (0, 1))
    ]
    assert float((means[0] - means[1]).detach().std()) > 1e-3
    plain = MeanField(labelled, {"x": torch.linspace(-3, 3, 6), "y": y}, hidden=())
    assert not [*plain.mixers.parameters()]
