"""Latents that are moved: the others stay where the guide puts the row, or follow by what they depend on."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_vae
from ppl_vae.guides import MeanField
from ppl_vae.models import CVAE, M2, Hierarchical
from ppl_vae.prediction.places import find_places
from ppl_vae.programs.program import Pair
from ppl_vae.reporting import write_report
from ppl_vae.reporting._latent_space import _moved, between
from ppl_vae.reporting.view import look
from ppl_vae.runs.folder import Run


class Shared(nn.Module):
    """Two pictures, each of what they share and of a latent of its own; a label."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.y = nn.Linear(5, 9), nn.Linear(5, 16), nn.Linear(3, 3)

    def forward(self, a=None, b=None, y=None, n=1):
        rows = next((len(v) for v in (a, b, y) if v is not None), n)
        with pyro.plate("data", rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            za = pyro.sample("za", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            zb = pyro.sample("zb", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            for name, own, side, value in (("a", za, 3, a), ("b", zb, 4, b)):
                mean = getattr(self, name)(torch.cat([z, own], -1))
                pyro.sample(name, dist.Normal(mean.unflatten(-1, (side, side)), 0.3).to_event(2), obs=value)
            pyro.sample("y", dist.Categorical(logits=self.y(z)), obs=y)


def pictures():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (80,), generator=generator)
    a = torch.randn(80, 3, 3, generator=generator) + y[:, None, None]
    b = torch.randn(80, 4, 4, generator=generator) - y[:, None, None]
    a[::5], b[1::5] = torch.nan, torch.nan
    return ppl_vae.load({"a": a, "b": b, "y": y}, missing="allow")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    data = pictures()
    torch.manual_seed(0)
    model = Shared()
    guide = MeanField(model, data, hidden=(8,))
    ppl_vae.fit(model, guide, data, epochs=5, lr=0.01, compile="off")
    pair = Pair(model, guide)
    info = {"model": {"foreign": "a.b"}, "guide": {"foreign": "a.b"}, "data": {"name": "array"}}
    run = Run(tmp_path_factory.mktemp("run"), pair.model, pair.guide, data.schema, [{"epoch": 1, "train": -3.0}], info)
    page = write_report(run, data).read_text(encoding="utf-8")
    return SimpleNamespace(data=data, pair=pair, run=run, page=page, view=look(pair, data, data.schema))


def test_a_latent_at_the_rows_own_value_gives_the_rows_reconstruction(shared):
    """Whatever site is moved, the others are not drawn anew."""
    for view in shared.view.each():
        whole = view.reconstruct([7])[0]
        for latents in view.latents:
            own = {latents.site: latents.shaped(latents.mean[[7] * 3])}
            for made in view.decode(own, [7] * 3):
                torch.testing.assert_close(made, whole)


def test_moving_a_private_latent_leaves_the_other_picture_alone(shared):
    by_site = {latents.site: latents for latents in shared.view.latents}
    for view in shared.view.each():
        for site, other in (("za", "b"), ("zb", "a")):
            _, made = _moved(view, by_site[site], [0, 1], 7)
            assert (float((made - made[:, :1]).abs().max()) < 1e-6) == (view.site == other)


def test_ends_of_a_way_are_the_reconstructions(shared):
    for view in shared.view.each():
        made = between(view, [(2, 9), (4, 1)])
        torch.testing.assert_close(made[0], view.reconstruct([2, 4]))
        torch.testing.assert_close(made[-1], view.reconstruct([9, 1]))


def test_every_picture_is_drawn_and_the_page_says_which(shared):
    names = {path.stem for path in (shared.run.path / "figures").iterdir()}
    for field in ("a", "b"):
        whole = {f"{what}-{field}" for what in ("reconstructions", "samples", "data", "means", "interpolation")}
        assert whole <= names
        assert {f"traversal{site}-{field}" for site in ("", "-za", "-zb")} <= names | {f"traversal-{field}"}
        assert re.search(rf"test rows of {field} picked at random", shared.page)
    assert {"map", "map-za", "map-zb"} <= names


def test_what_depends_on_a_moved_latent_keeps_its_place_in_its_prior():
    """z1 | z2 ~ N(m(z2), s(z2)^2): z1' = m(z2') + s(z2') (z1 - m(z2)) / s(z2)."""
    data = ppl_vae.load("digits")
    torch.manual_seed(0)
    model = Hierarchical(data, latent_dims=(3, 2), hidden=(8,))
    pair = Pair(model, MeanField(model, hidden=(8,)))
    batch = data.test.batch(slice(0, 6))
    with torch.no_grad():
        places = find_places(pair, batch, data.schema)
        assert places.followers(["z2"]) == ("z1",)
        assert places.followers(["z1"]) == ()
        same = places.settled({"z2": places.values["z2"]}, range(6))
        torch.testing.assert_close(same["z1"], places.values["z1"])
        moved = places.settled({"z2": places.values["z2"] + 2.0}, range(6))
        fns = [places.sites(latents, range(6))["z1"]["fn"].base_dist for latents in (places.of(range(6)), moved)]
        before, after = ((z - fn.loc) / fn.scale for z, fn in zip((same["z1"], moved["z1"]), fns, strict=True))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-4)
    assert float((same["z1"] - moved["z1"]).abs().max()) > 1e-3


@pytest.mark.parametrize("make", [M2, CVAE], ids=["label latent", "condition"])
def test_labels_go_from_one_rows_to_the_others_on_a_way(make):
    data = ppl_vae.load("digits", labels=100) if make is M2 else ppl_vae.load("digits")
    torch.manual_seed(0)
    model = make(data, latent_dim=3, hidden=(8,))
    view = look(Pair(model, MeanField(model, hidden=(8,))), data, data.schema)
    made = between(view, [(0, 5)])
    own = {s.site: s.shaped(s.mean[[0]]) for s in view.latents}, {s.site: s.shaped(s.mean[[5]]) for s in view.latents}
    for end, z, row in ((0, own[0], 0), (-1, own[1], 5)):
        torch.testing.assert_close(made[end], view.decode(z, [row]))
    middle = {n: (own[0][n] + own[1][n]) / 2 for n in own[0]}
    torch.testing.assert_close(made[4], (view.decode(middle, [0]) + view.decode(middle, [5])) / 2)


def test_a_label_of_the_row_is_its_own_and_else_the_likeliest():
    data = ppl_vae.load("digits", labels=100)
    torch.manual_seed(0)
    model = M2(data, latent_dim=3, hidden=(8,))
    guide = MeanField(model, hidden=(8,))
    batch = data.train.batch(slice(0, 40))
    with torch.no_grad():
        places = find_places(Pair(model, guide), batch, data.schema)
    known = batch["y"] >= 0
    assert torch.equal(places.values["y"][known], batch["y"][known])
    assert torch.equal(places.values["y"], places.probability("y", range(40)).argmax(-1))
    assert places.probability("y", range(40)).sum(-1).tolist() == pytest.approx([1.0] * 40, abs=1e-5)
