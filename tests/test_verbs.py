"""What one does with a trained pair: encode, decode, traverse, interpolate, transfer, explain, coherence; exactly."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, t

import ppl_vae
from ppl_vae import UserError
from ppl_vae.cli import main
from ppl_vae.guides import MeanField
from ppl_vae.models import CVAE, M2, VAE, Hierarchical, Multimodal

W = t([[0.5, -1.0, 2.0, 0.0], [1.5, 0.3, 0.0, -0.7]])
NOISE = 0.4


def linear(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W + 1.0, NOISE).to_event(1), obs=x)


def posterior(x=None):
    """The exact one, but for its scale."""
    precision = torch.eye(2, dtype=F64) + W @ W.T / NOISE**2
    mean = (x.nan_to_num() - 1.0) @ W.T @ precision.inverse() / NOISE**2
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(mean, 0.1).to_event(1))


X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=F64)


@pytest.fixture(scope="module")
def digits():
    data = ppl_vae.load("digits")
    torch.manual_seed(0)
    model = VAE(data, latent_dim=3, hidden=(16,))
    guide = MeanField(model, hidden=(16,))
    ppl_vae.fit(model, guide, data, epochs=2, compile="off")
    return model, guide, data


# -- exact -------------------------------------------------------------------------------------------------------------


def test_a_traversal_of_a_linear_decoder_is_its_columns():
    found = ppl_vae.traverse(linear, posterior, X, row=5, latents=[0, 1], span=2.0, steps=5)
    steps = [float(step) for step in found.steps]
    assert steps == [-2.0, -1.0, 0.0, 1.0, 2.0]
    slopes = (found.values["x"][:, 4] - found.values["x"][:, 0]) / 4
    torch.testing.assert_close(slopes, W, atol=1e-6, rtol=0)
    mean = ppl_vae.encode(linear, posterior, X)["z"][5]
    other = mean.clone()
    other[0] = 0.0
    torch.testing.assert_close(found.values["x"][0, 2], other @ W + 1.0, atol=1e-6, rtol=0)


@pytest.mark.parametrize("spherical", [False, True])
def test_ends_of_a_way_are_the_reconstructions(digits, spherical):
    model, guide, data = digits
    found = ppl_vae.interpolate(model, guide, data, [(3, 8), (11, 0)], steps=4, spherical=spherical).values["x"]
    whole = ppl_vae.decode(model, ppl_vae.encode(model, guide, data))["x"]
    torch.testing.assert_close(found[:, 0], whole[[3, 11]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, -1], whole[[8, 0]], atol=1e-4, rtol=1e-4)


def test_a_straight_way_is_straight_and_an_arc_keeps_its_speed():
    z = ppl_vae.encode(linear, posterior, X)["z"]
    made = ppl_vae.interpolate(linear, posterior, X, (2, 7), steps=3).values["x"][0, 1]
    torch.testing.assert_close(made, (z[2] + z[7]) / 2 @ W + 1.0)
    arc = ppl_vae.interpolate(linear, posterior, X, (2, 7), steps=9, spherical=True).values["x"][0]
    there = (arc - 1.0) @ W.T @ (W @ W.T).inverse()
    lengths = there.norm(dim=-1)
    expected = torch.linspace(0, 1, 9, dtype=F64) * (z[7].norm() - z[2].norm()) + z[2].norm()
    torch.testing.assert_close(lengths, expected)
    units = there / lengths[:, None]
    angles = (units[1:] * units[:-1]).sum(-1).arccos()
    torch.testing.assert_close(angles, angles[:1].expand(8))


def test_an_explanation_of_a_linear_decoder_is_its_loadings():
    found = ppl_vae.explain(linear, posterior, X, rows=[1, 6])
    torch.testing.assert_close(found.gradient, W.T.expand(2, 4, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.strength, W.norm(dim=0).expand(2, 4), atol=1e-6, rtol=0)
    z = ppl_vae.encode(linear, posterior, X)["z"][[1, 6]]
    torch.testing.assert_close(found.integrated, W.T * z[:, None], atol=1e-6, rtol=0)
    log_p = ppl_vae.explain(linear, posterior, X, rows=[1, 6], of="log_prob")
    residual = X[[1, 6]] - (z @ W + 1.0)
    torch.testing.assert_close(log_p.gradient, residual[..., None] * W.T / NOISE**2, atol=1e-6, rtol=0)


@pytest.mark.parametrize("of", ["mean", "log_prob"])
def test_integrated_gradients_sum_to_the_change_from_the_prior_mean(digits, of):
    model, guide, data = digits
    found = ppl_vae.explain(model, guide, data, rows=[4, 5], of=of, steps=200)
    ends = []
    for z in (ppl_vae.encode(model, guide, data)["z"][[4, 5]], torch.zeros(2, 3)):
        fn = model.likelihood(model.decoder(z)).base_dist
        levels = torch.arange(17.0)
        ends.append((fn.probs * levels).sum(-1) if of == "mean" else fn.log_prob(data.test["x"][[4, 5]]))
    torch.testing.assert_close(found.integrated.sum(-1), (ends[0] - ends[1]).detach(), atol=2e-3, rtol=1e-2)


def test_the_entries_that_hang_most_on_a_latent_tell_more_of_it_than_others():
    """Deleting the strongest tenth costs more nats of log det(I + W W' / s^2) / 2 than deleting any tenth at random."""
    generator = torch.Generator().manual_seed(1)
    loadings = torch.randn(2, 40, generator=generator, dtype=F64) * torch.rand(40, generator=generator, dtype=F64)

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, NOISE).to_event(1), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 0.1).to_event(1))

    strength = ppl_vae.explain(model, guide, torch.zeros(6, 40, dtype=F64)).strength[0]

    def information(left):
        return float(torch.logdet(torch.eye(2, dtype=F64) + loadings[:, left] @ loadings[:, left].T / NOISE**2) / 2)

    order = strength.argsort(descending=True)
    random = [information(torch.randperm(40, generator=generator)[4:]) for _ in range(200)]
    assert information(order[4:]) < min(random)


# -- labels, conditions, several layers --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CVAE, M2])  # a condition, and a label that every row has
def test_transfer_writes_the_contents_class_in_the_styles_hand(kind):
    data = ppl_vae.load("digits")
    torch.manual_seed(0)
    model = kind(data, latent_dim=2, hidden=(8,))
    guide = MeanField(model, hidden=(8,))
    found = ppl_vae.transfer(model, guide, data, [0, 1, 2], [7, 9], keep=("y",))
    z = ppl_vae.encode(model, guide, data)["z"]
    for i, row in enumerate((0, 1, 2)):
        for j, style in enumerate((7, 9)):
            rows = {"x": data.test["x"][[row]], "y": data.test["y"][[row]]}
            made = ppl_vae.decode(model, {"z": z[[style]]}, rows)["x"][0]
            torch.testing.assert_close(found.values["x"][i, j], made, atol=1e-4, rtol=1e-4)
    again = ppl_vae.transfer(model, guide, data, [0, 1, 2], [7, 9], take=("z",))
    assert torch.equal(found.values["x"], again.values["x"])
    assert found.notes == ("y of the content, z of the style",)
    alike = [i for i, y in enumerate(data.test["y"].tolist()) if y == 3][:2]  # of one class
    assert ppl_vae.transfer(model, guide, data, alike[:1], alike[1:], keep=("y",)).notes == found.notes


def test_transfer_moves_private_latents_from_one_row_to_another():
    data = ppl_vae.load("digits")
    torch.manual_seed(0)
    model = Multimodal(data, private=2, latent_dim=3, hidden=(8,))
    guide = MeanField(model, experts="mixture", conditioning="independent", hidden=(8,))
    found = ppl_vae.transfer(model, guide, data, [0, 1], [7], take="w_x")
    codes = ppl_vae.encode(model, guide, data)
    made = ppl_vae.decode(model, {"z": codes["z"][[0, 1]], "w_x": codes["w_x"][[7, 7]]})
    torch.testing.assert_close(found.values["x"][:, 0], made["x"], atol=1e-4, rtol=1e-4)
    assert torch.equal(found.values["y"][:, 0], made["y"])


def test_a_class_goes_through_its_values():
    data = ppl_vae.load("digits", labels=100)
    torch.manual_seed(0)
    model = M2(data, latent_dim=2, hidden=(8,))
    guide = MeanField(model, hidden=(8,))
    found = ppl_vae.traverse(model, guide, data, row=4, site="y")
    assert found.values["x"].shape == (1, 10, 8, 8)
    way = ppl_vae.interpolate(model, guide, data, (4, 5), labels="held")
    assert way.notes == ("y: held at the left row's value",)


def test_layers_below_follow():
    data = ppl_vae.load("digits")
    torch.manual_seed(0)
    model = Hierarchical(data, latent_dims=(3, 2), hidden=(8,))
    found = ppl_vae.traverse(model, MeanField(model, hidden=(8,)), data, site="z2", latents=[0])
    assert found.notes == ("z1: in the same place within the prior given z2",)
    assert float((found.values["x"][0, 0] - found.values["x"][0, -1]).abs().max()) > 1e-4


# -- encode and decode -------------------------------------------------------------------------------------------------


def test_codes_are_the_guides_means_and_draws():
    codes = ppl_vae.encode(linear, posterior, X)
    precision = torch.eye(2, dtype=F64) + W @ W.T / NOISE**2
    torch.testing.assert_close(codes["z"], (X - 1.0) @ W.T @ precision.inverse() / NOISE**2)
    drawn = ppl_vae.encode(linear, posterior, X, draws=400)
    assert drawn["z"].shape == (400, 12, 2)
    assert float((drawn["z"].mean(0) - codes["z"]).abs().max()) < 5 * 0.1 / 20
    assert float(drawn["z"].std(0).mean()) == pytest.approx(0.1, rel=0.05)
    frame = drawn.frame()
    assert list(frame.columns) == ["draw", "row", "z[0]", "z[1]"]
    assert frame["z[1]"][12 * 3 + 5] == float(drawn["z"][3, 5, 1])
    torch.testing.assert_close(ppl_vae.decode(linear, codes, X)["x"], codes["z"] @ W + 1.0)


def test_what_is_drawn_depends_on_the_seed_alone(digits):
    model, guide, data = digits
    state = torch.get_rng_state()
    first, again = (ppl_vae.traverse(model, guide, data, prior=True, seed=3).values["x"] for _ in range(2))
    other = ppl_vae.traverse(model, guide, data, prior=True, seed=4).values["x"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


# -- coherence ---------------------------------------------------------------------------------------------------------


def test_coherence_is_that_of_a_judge_who_is_told_of():
    """b is the label of a with probability 0.8, whatever the judge: then that many draws have it."""

    def model(a=None, b=None, y=None):
        rows = next(len(v) for v in (a, b, y) if v is not None)
        with pyro.plate("data", rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(rows), 3.0))
            pyro.sample("a", dist.Normal(z, 0.01), obs=a)
            wrong = dist.Categorical(torch.stack([torch.where(z > 0, 0.2, 0.8), torch.where(z > 0, 0.8, 0.2)], -1))
            pyro.sample("b", wrong, obs=b, infer={"leaf": True})
            pyro.sample("y", wrong, obs=y, infer={"leaf": True})

    def guide(a=None, b=None, y=None):
        with pyro.plate("data", len(a)):
            pyro.sample("z", dist.Normal(a, 0.01))

    y = torch.arange(600) % 2
    rows = {"a": 2.0 * y - 1.0, "b": y, "y": y}
    found = ppl_vae.coherence(model, guide, rows, given="a", of="b", judge=lambda values: values)
    assert abs(found.draws.value - 0.8) < 4 * found.draws.se
    assert found.judge.value == 1.0
    assert found.chance == 0.5
    assert "a -> b" in str(found)
    assert found.summary()["rows"] == 600


def test_the_judge_of_digits_reads_digits():
    data = ppl_vae.load("digits")
    torch.manual_seed(0)
    model = Multimodal(data, private=2, latent_dim=3, hidden=(8,))
    guide = MeanField(model, experts="product", hidden=(8,))
    found = ppl_vae.coherence(model, guide, data, given="y", of="x", rows=200)
    assert found.judge.value > 0.9
    assert found.rows == 200
    with pytest.raises(UserError, match="of a field that is not given"):
        ppl_vae.coherence(model, guide, data, given="x", of="x")
    with pytest.raises(UserError, match="pass the whole data set"):
        ppl_vae.coherence(model, guide, data.test, given="y", of="x")


# -- files, refusals, commands -----------------------------------------------------------------------------------------


def test_files_hold_what_was_found(digits, tmp_path):
    model, guide, data = digits
    found = ppl_vae.traverse(model, guide, data, row=2, steps=3)
    for ending in ("png", "gif", "npz", "csv"):
        assert found.save(tmp_path / f"a.{ending}").stat().st_size > 100
    arrays = np.load(tmp_path / "a.npz")
    assert np.array_equal(arrays["x"], found.values["x"].numpy())
    table = pandas.read_csv(tmp_path / "a.csv")
    assert table["line"].nunique() == len(found.lines)
    with pytest.raises(UserError, match="with the ending"):
        found.save(tmp_path / "a.txt")
    explained = ppl_vae.explain(model, guide, data, rows=[2, 3])
    for ending in ("png", "npz", "csv"):
        assert explained.save(tmp_path / f"b.{ending}").stat().st_size > 100
    assert np.load(tmp_path / "b.npz")["gradient"].shape == (1, 2, 8, 8, 3)
    curves = ppl_vae.traverse(linear, posterior, X)
    assert curves.save(tmp_path / "c.png").stat().st_size > 100
    with pytest.raises(UserError, match="a gif shows pictures"):
        curves.save(tmp_path / "c.gif")


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda p: ppl_vae.traverse(*p, row=999), "row 999 was asked for, and there are 447 rows"),
        (lambda p: ppl_vae.traverse(*p, site="w"), "unknown latent site of rows 'w'"),
        (lambda p: ppl_vae.traverse(*p, latents=[7]), "latent 7 of z was asked for, and there are 3"),
        (lambda p: ppl_vae.traverse(*p, latents=[]), "at least one number"),
        (lambda p: ppl_vae.traverse(*p, steps=1), "steps must be a whole number of at least 2"),
        (lambda p: ppl_vae.traverse(*p, span=0), "span must be positive"),
        (lambda p: ppl_vae.interpolate(*p, [(1, 2, 3)]), "pairs of row numbers"),
        (lambda p: ppl_vae.interpolate(*p, (1, 2), labels="none"), "unknown value of labels"),
        (lambda p: ppl_vae.transfer(*p, [0], [1], keep=("z",)), "nothing to take"),
        (lambda p: ppl_vae.transfer(*p, [0], [1]), "give one of the two"),
        (lambda p: ppl_vae.transfer(*p, [], [1], keep=("z",)), "expects rows for contents"),
        (lambda p: ppl_vae.explain(*p, site="w"), "unknown continuous latent site 'w'"),
        (lambda p: ppl_vae.explain(*p, field="w"), "unknown observed field 'w'"),
        (lambda p: ppl_vae.explain(*p, of="w"), "unknown value of of"),
        (lambda p: ppl_vae.decode(p[0], {"z": torch.zeros(3, 3), "w": torch.zeros(3)}), "unknown latent site 'w'"),
        (lambda p: ppl_vae.decode(p[0], {}), "equally many rows"),
        (lambda p: ppl_vae.decode(linear, {"z": torch.zeros(3, 2)}), "give data="),
        (lambda p: ppl_vae.encode(*p, draws=-1), "draws must be a whole number of at least 0"),
    ],
)
def test_what_has_no_answer_is_refused(digits, ask, words):
    with pytest.raises(UserError, match=words):
        ask(digits)


def test_the_commands(digits, tmp_path, capsys):
    model, guide, data = digits
    result = ppl_vae.fit(model, guide, data, epochs=1, compile="off")
    run = str(result.save(tmp_path / "run"))
    for words, file in (
        (["traverse", run, "--row", "3", "--latents", "0,2"], "figures/traverse.png"),
        (["interpolate", run, "--rows", "3,8", "--rows", "1,2", "--spherical"], "figures/interpolate.png"),
        (["explain", run, "--row", "5,6", "--out", f"{run}/e.csv"], "e.csv"),
        (["encode", run, "--draws", "2", "--out", f"{run}/draws.csv"], "draws.csv"),
        (["encode", run], "latents.npz"),
        (["decode", run, "--latents", f"{run}/latents.npz"], "decoded.npz"),
    ):
        assert main(words) == 0, capsys.readouterr().err
        assert (tmp_path / "run" / file).stat().st_size > 100
    assert np.load(tmp_path / "run" / "decoded.npz")["x"].shape == (447, 8, 8)
    assert main(["traverse", run, "--row", "500"]) == 2
    assert "row 500 was asked for" in capsys.readouterr().err
    assert main(["coherence", run, "--given", "y", "--of", "x"]) == 2
    assert main(["transfer", run, "--content", "0", "--style", "1", "--keep", "z"]) == 2
    assert math.isfinite(pandas.read_csv(tmp_path / "run" / "e.csv")["strength"].sum())
