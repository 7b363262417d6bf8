"""Graphs of programs: what depends on what, and that the picture keeps apart what does not belong together."""

import xml.etree.ElementTree as ET

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.models import MODELS, own_guide

import ppl_vae
from ppl_vae.diagrams._graph import Graph, Node, condensed
from ppl_vae.diagrams._layout import placed
from ppl_vae.errors import UserError
from ppl_vae.guides import FullRank, MeanField
from ppl_vae.models import Multimodal


def lines(graph):
    return set(graph.lines())


def eight_schools(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def sprinkler(grass):
    with pyro.plate("days", len(grass)):
        rain = pyro.sample("rain", dist.Bernoulli(0.2))
        sprinkler = pyro.sample("sprinkler", dist.Bernoulli(0.4 - 0.39 * rain))
        pyro.sample("grass", dist.Bernoulli(0.01 + 0.94 * torch.max(rain, sprinkler)), obs=grass)


def walk(x):
    with pyro.plate("series", len(x)):
        z = pyro.sample("z_0", dist.Normal(0.0, 1.0))
        for t in pyro.markov(range(x.shape[1])):
            z = z if t == 0 else pyro.sample(f"z_{t}", dist.Normal(0.9 * z, 1.0))
            pyro.sample(f"x_{t}", dist.Normal(z, 1.0), obs=x[:, t])


def item_response(y):
    people, items = pyro.plate("people", y.shape[0], dim=-2), pyro.plate("items", y.shape[1], dim=-1)
    with items:
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
    with people:
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
        with items:
            pyro.sample("y", dist.Bernoulli(logits=ability - difficulty), obs=y)


SCHOOLS = {"y": torch.linspace(-3, 28, 8), "sigma": torch.linspace(9, 18, 8)}


def test_a_hierarchy_with_a_given_field_and_its_guide():
    found = ppl_vae.draw(eight_schools, FullRank(eight_schools, SCHOOLS), SCHOOLS)
    assert lines(found.model) == {
        "mu ~ Normal",
        "tau ~ HalfCauchy",
        "theta | mu, tau ~ Normal, in plate school",
        "y | sigma, theta ~ Normal, observed, in plate school",
    }
    assert "mu, tau ~ FullRank" in lines(found.guide)
    assert "theta | h, mu, tau ~ FullRank, in plate school" in lines(found.guide)


def test_causes_that_explain_each_other_away_are_tied_in_the_guide():
    data = {"grass": torch.ones(10)}
    found = ppl_vae.draw(sprinkler, MeanField(sprinkler, data), data)
    assert "sprinkler | rain ~ Bernoulli, in plate days" in lines(found.model)
    assert "sprinkler | h, rain ~ Bernoulli, in plate days" in lines(found.guide)


def test_latents_that_the_model_sums_out_are_no_part_of_the_guide():
    data = {"grass": torch.ones(10)}
    found = ppl_vae.draw(sprinkler, MeanField(sprinkler, data, collapse="sprinkler"), data)
    assert found.model["sprinkler"].kind == "summed"
    assert all(node.name != "sprinkler" for node in found.guide.nodes)


def test_a_guide_by_hand_is_read_as_a_program():
    def guide(y, sigma):
        mu = pyro.sample("mu", dist.Normal(pyro.param("a", torch.tensor(0.0)), 1.0))
        pyro.sample("tau", dist.LogNormal(0.0, 1.0))
        with pyro.plate("school", len(y)):
            pyro.sample("theta", dist.Normal(0.5 * (y + mu), 1.0))

    found = ppl_vae.draw(eight_schools, guide, SCHOOLS)
    assert "theta | y, mu ~ Normal, in plate school" in lines(found.guide)


def test_steps_of_a_series_are_one():
    data = {"x": torch.randn(6, 9)}
    found = ppl_vae.draw(walk, MeanField(walk, data, hidden=(4,)), data)
    assert lines(found.model) == {
        "z_t | z_t of the step before ~ Normal, in plates series, t",
        "x_t | z_t ~ Normal, observed, in plates series, t",
    }
    assert "z_t | h, z_t of the step before ~ MeanField, in plates series, t" in lines(found.guide)
    assert "t: 9 steps" in found.svg


def test_columns_are_one_node_and_never_a_series():
    names = [f"col_{i}" for i in range(9)]
    columns = Graph((Node("z", "latent"), *(Node(n, "observed") for n in names)), {n: frozenset({"z"}) for n in names})
    assert lines(condensed(columns)) == {"z", "col_0, ..., col_8 | z, 9 alike, observed"}


def test_every_field_has_its_encoder_where_the_guide_is_made_of_experts():
    data = ppl_vae.load("digit-pairs")
    model = Multimodal(data, private=2, latent_dim=2, hidden=(4,))
    found = ppl_vae.draw(model, MeanField(model, experts="product", hidden=(4,)))
    assert "w_a | h_a, z ~ MeanField, in plate data" in lines(found.guide)
    assert "z | h_a, h_b, h_y ~ MeanField, in plate data" in lines(found.guide)


def test_no_node_stands_in_a_plate_of_others():
    data = {"y": torch.bernoulli(torch.full((12, 5), 0.5))}
    for model, fields in ((item_response, data), (eight_schools, SCHOOLS), (walk, {"x": torch.randn(4, 6)})):
        graph = condensed(ppl_vae.draw(model, data=fields).model)
        layout = placed(graph)
        assert layout.plates.keys() == graph.plates.keys()
        for plate, (left, top, right, bottom) in layout.plates.items():
            for node in graph.nodes:
                column, row = layout.places[node.name]
                inside = left <= column <= right and top <= row <= bottom
                assert inside == (plate in node.plates), (plate, node.name)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_package_is_drawn_with_its_plates(name):
    data = ppl_vae.load("digits")
    model = MODELS[name](data)
    found = ppl_vae.draw(model, own_guide(model))
    texts = [t.text for t in ET.fromstring(found.svg).iter() if t.text]
    assert texts.count("data: 1,000") == 2
    assert {n.name for n in found.model.nodes} <= {*texts}


def test_names_are_text_in_the_picture_and_nothing_else(tmp_path):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("<b>&", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    found = ppl_vae.draw(model, data=torch.randn(20))
    path = found.save(tmp_path / "pair.svg")
    assert "<b>&" in [t.text for t in ET.fromstring(path.read_text(encoding="utf-8")).iter() if t.text]
    assert found._repr_html_() == found.svg
    with pytest.raises(UserError, match=r"ends in \.svg"):
        found.save(tmp_path / "pair.png")


def test_without_rows_there_is_nothing_to_run():
    with pytest.raises(UserError, match="draw needs rows"):
        ppl_vae.draw(sprinkler)


def test_what_cannot_be_followed_is_said(monkeypatch):
    def fails(*arguments):
        raise RuntimeError("an operation that cannot be followed")

    monkeypatch.setattr("ppl_vae.programs.dependencies._followed", fails)
    monkeypatch.setattr("ppl_vae.diagrams._reading._with_fields", fails)
    found = ppl_vae.draw(eight_schools, data=SCHOOLS)
    assert "every site is drawn as depending on all before it" in repr(found)
    assert "every site is drawn as depending on all before it" in found.svg
