"""Alignment labels, several responses, and what linear probes of z read while a view is hidden."""

from __future__ import annotations

import math

import pyro
import pytest
import torch

import ppl_vae
from ppl_vae import diagnostics
from ppl_vae.data import UserError, load, rebuild
from ppl_vae.guides import MeanField
from ppl_vae.models import InformationBottleneck, Multimodal, Regression


def test_half_of_the_rows_have_another_rows_view_of_another_class():
    data, whole = load("digit-pairs", pairs="aligned"), load("digit-pairs")
    for name in ("train", "test"):
        split, before = getattr(data, name), getattr(whole, name)
        same = (split["b"] == before["b"]).flatten(1).all(1)
        assert torch.equal(same.float(), split["aligned"])
        assert abs(int(split["aligned"].sum()) - len(split) // 2) <= 1
        assert torch.equal(split["a"], before["a"])
        for row in (split["aligned"] == 0).nonzero()[:20, 0].tolist():
            of = (before["b"] == split["b"][row]).flatten(1).all(1)
            assert bool((before["y"][of] != split["y"][row]).any())
    assert torch.equal(rebuild(data.source).test["aligned"], data.test["aligned"])
    for wrong, said in (({"x": torch.randn(20, 3)}, "two views at least"), ("digits", "two views at least")):
        with pytest.raises(UserError, match=said):
            load(wrong, pairs="aligned")
    with pytest.raises(UserError, match="did you mean 'aligned'"):
        load("digit-pairs", pairs="alined")


@pytest.fixture(scope="module")
def related():
    """x says a number and a class, b only the class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (600,), generator=generator)
    t = torch.randn(600, generator=generator)
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    a = torch.cat([centres[y], t[:, None]], 1) + 0.2 * torch.randn(600, 3, generator=generator)
    b = centres[y] + 2.0 * torch.randn(600, 2, generator=generator)
    counts = torch.poisson((1 + y).float(), generator=generator)
    return load({"a": a, "b": b, "t": t, "k": counts, "y": y}, kinds={"k": "count"})


@pytest.mark.slow
def test_a_bottleneck_of_several_responses_predicts_each_from_what_is_left(related):
    torch.manual_seed(0)
    model = InformationBottleneck(related, response=("y", "t", "k"), latent_dim=4)
    guide = MeanField(model, hidden=(32,))
    assert guide.encoder.names == ("a", "b")
    ppl_vae.fit(model, guide, related, beta=0.01, epochs=25, lr=5e-3)
    test = related.test
    assert (ppl_vae.predict(model, guide, test, "y").labels == test["y"]).float().mean() > 0.9
    assert torch.corrcoef(torch.stack([ppl_vae.predict(model, guide, test, "t").mean, test["t"]]))[0, 1] > 0.9
    # of counts no more can be known than their class: the correlation of n with E[k | y]
    told = ppl_vae.predict(model, guide, test, "k").mean
    best = torch.corrcoef(torch.stack([1.0 + test["y"], test["k"]]))[0, 1]
    assert torch.corrcoef(torch.stack([told, test["k"]]))[0, 1] > best - 0.1
    assert set(model(n=3)) == {"y", "t", "k"}


def test_log_p_of_several_responses_is_the_sum_of_theirs(related):
    torch.manual_seed(0)
    model = InformationBottleneck(related, response=("y", "t"), latent_dim=2)
    guide = MeanField(model)
    batch = related.test.batch(slice(0, 7))
    guided = pyro.poutine.trace(guide).get_trace(**{n: batch[n] for n in ("a", "b", "k")})
    sites = pyro.poutine.trace(pyro.poutine.replay(model, trace=guided)).get_trace(**batch)
    sites.compute_log_prob()
    z = guided.nodes["z"]["value"]
    of_y = torch.log_softmax(model.response.network(z), -1)[torch.arange(7), batch["y"]]
    assert torch.allclose(sites.nodes["y"]["log_prob"], of_y, atol=1e-6)
    of_t = model.more[0](z).log_prob(batch["t"])
    assert torch.allclose(sites.nodes["t"]["log_prob"], of_t, atol=1e-6)
    assert {n for n, s in sites.nodes.items() if s["type"] == "sample" and s["is_observed"]} - {"data"} == {"y", "t"}


def test_a_regression_of_several_responses_comes_back_from_its_folder(related, tmp_path):
    torch.manual_seed(0)
    model = Regression(related, response=["y", "t"], response_likelihood={"t": "laplace"}, latent_dim=2, hidden=(8,))
    assert {"y", "t"} < set(model(n=2))
    result = ppl_vae.fit(model, MeanField(model, hidden=(8,)), related, epochs=1)
    result.save(tmp_path / "run")
    run = ppl_vae.open_run(tmp_path / "run")
    asked = {"particles": 3, "seed": 0}
    before, after = (
        ppl_vae.evaluate(m, g, related.test, **asked) for m, g in ((model, result.guide), (run.model, run.guide))
    )
    assert torch.equal(before.log_evidence, after.log_evidence)


@pytest.mark.parametrize(
    ("response", "likelihood", "said"),
    [
        (("y", "y"), None, "each once"),
        (("y", "q"), None, "unknown field 'q'"),
        (("y", "t"), "normal", "told by name"),
        (("y", "t"), {"b": "normal"}, "unknown response 'b'"),
        (("a", "b", "t", "k", "y"), None, "needs others to predict it from"),
    ],
)
def test_responses_that_are_none_are_refused(related, response, likelihood, said):
    with pytest.raises(UserError, match=said):
        InformationBottleneck(related, response=response, likelihood=likelihood)


@pytest.mark.slow
def test_probes_read_what_is_there_and_less_of_what_is_hidden(related):
    torch.manual_seed(0)
    both = load({name: torch.cat([related.train[name], related.validation[name]]) for name in ("a", "b")})
    model = Multimodal(both, private=1, latent_dim=3, hidden=(32,))
    guide = MeanField(model, experts="product", hidden=(32,))
    ppl_vae.fit(model, guide, both, epochs=40, lr=5e-3)
    found = diagnostics.probes(model, guide, related, ("y", "t"), hide="a", shares=(0.0, 1.0))
    whole, without = (found["y", share].score for share in (0.0, 1.0))
    assert whole > 0.9
    assert found["y", 0.0].baseline < 0.6
    assert without < whole
    assert found["t", 1.0].score < 0.2 < found["t", 0.0].score  # b says nothing of t
    assert "100 % of a hidden" in repr(found)
    assert list(found.frame().columns) == ["target", "share", "score", "se", "baseline", "rows"]


def test_a_probe_equals_scikit_learns_on_the_same_codes(related):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    torch.manual_seed(0)
    model = InformationBottleneck(related, response="y", latent_dim=2)
    guide = MeanField(model, hidden=(16,))
    found = diagnostics.probes(model, guide, related).each[0]
    codes = [ppl_vae.encode(model, guide, split)["z"].double().numpy() for split in (related.train, related.test)]
    scale = StandardScaler().fit(codes[0])
    fitted = LogisticRegression(max_iter=5000).fit(scale.transform(codes[0]), related.train["y"].numpy())
    assert math.isclose(found.score, fitted.score(scale.transform(codes[1]), related.test["y"].numpy()))


def test_probes_refuse_what_they_cannot_read(related):
    model = InformationBottleneck(related, response="y", latent_dim=2)
    guide = MeanField(model, hidden=(8,))
    for asked, said in (
        ({"targets": ("a",)}, "rows of shape"),
        ({"targets": ("q",)}, "unknown target 'q'"),
        ({"hide": "q"}, "unknown field 'q'"),
        ({"hide": "b", "shares": (2.0,)}, "shares from 0 to 1"),
    ):
        with pytest.raises(UserError, match=said):
            diagnostics.probes(model, guide, related, **asked)
    with pytest.raises(UserError, match="pass a data set"):
        diagnostics.probes(model, guide, related.test)
