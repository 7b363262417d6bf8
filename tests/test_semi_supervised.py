"""Few labels: what is hidden stays hidden, the label is summed out exactly, and it is learned."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import CENTRES, WEIGHTS, XM, YM, styled, styled_guide

import ppl_vae
from ppl_vae import log_weights
from ppl_vae.bounds import IWAE
from ppl_vae.data import rebuild
from ppl_vae.errors import UserError
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import Normal
from ppl_vae.models import M1M2, M2
from ppl_vae.priors import LabelConditional

F64 = torch.float64

# hiding labels --------------------------------------------------------------------------------------------------------


def test_as_many_labels_of_each_category_are_kept_and_no_others():
    full, few = ppl_vae.load("digits"), ppl_vae.load("digits", labels=103, seed=4)
    kept = few.train["y"] >= 0
    counts = few.train["y"][kept].bincount(minlength=10)
    assert int(counts.sum()) == 103
    assert sorted(counts.tolist()) == [10] * 7 + [11] * 3
    assert torch.equal(few.train["y"][kept], full.train["y"][kept])
    for name in ("validation", "test"):
        assert (getattr(few, name).batch()["y"] == -1).all()
        assert torch.equal(getattr(few, name).truth("y"), getattr(full, name)["y"])
    assert few.schema["y"].missing
    assert not torch.equal(kept, ppl_vae.load("digits", labels=103, seed=5).train["y"] >= 0)
    assert torch.equal(few.train["y"], rebuild(few.source).train["y"])


def test_hidden_labels_follow_their_rows():
    test = ppl_vae.load("digits", labels=20).test
    index = torch.tensor([5, 1, 400])
    assert torch.equal(test.rows(index).truth("y"), test.truth("y")[index])
    assert torch.equal(test.to("cpu").truth("y"), test.truth("y"))
    assert "y" not in test.select("x").hidden


def test_labels_that_cannot_be_kept_are_refused():
    for options, words in (
        ({"labels": 0}, "labels, the number of training rows that keep theirs, must be"),
        ({"labels": 1100}, "asks for 110 training rows of category"),
        ({"source": torch.zeros(9, 2), "labels": 3}, "name the label column"),
        ({"source": ppl_vae.load("digits"), "labels": 3}, "loaded already"),
    ):
        with pytest.raises(UserError, match=words):
            ppl_vae.load(**options)


def test_labels_of_a_file_are_hidden_and_the_run_knows_it(tmp_path):
    rows = torch.randn(90, 2, generator=torch.manual_seed(0))
    text = "a,b,kind\n" + "".join(f"{a:.3f},{b:.3f},{'uvw'[i % 3]}\n" for i, (a, b) in enumerate(rows.tolist()))
    (tmp_path / "table.csv").write_text(text)
    data = ppl_vae.load(tmp_path / "table.csv", label="kind", labels=9)
    assert int((data.train["y"] >= 0).sum()) == 9
    assert torch.equal(rebuild(data.source).train["y"], data.train["y"])


@pytest.mark.parametrize("make", [M2, M1M2])
def test_labels_that_were_hidden_never_reach_training(make):
    def weights(data):
        torch.manual_seed(0)
        model = make(data, hidden=(8,))
        guide = MeanField(model, hidden=(8,))
        result = ppl_vae.fit(model, guide, data, epochs=1, label_weight=2.0)
        return [p.detach() for p in (*model.parameters(), *guide.parameters())], result.history[-1]["validation"]

    data, other = ppl_vae.load("digits", labels=40), ppl_vae.load("digits", labels=40)
    for split in (other.train, other.validation, other.test):
        split.hidden["y"].copy_(split.hidden["y"].flip(0))
    (first, bound), (second, again) = weights(data), weights(other)
    assert bound == again
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# the exact evidence ---------------------------------------------------------------------------------------------------


@functools.cache
def linear(make, options=()):
    """A model without hidden layers over three numbers and three labels, in float64, with random weights."""
    y = torch.tensor([0, 1, 2, -1, -1, -1] * 4)
    x = torch.randn(24, 3, generator=torch.manual_seed(1), dtype=F64)
    data = ppl_vae.load({"x": x, "y": y}, missing="allow", test=0, validation=0)
    torch.manual_seed(2)
    model = make(data, likelihood=Normal(scale=1.2), hidden=(), **dict(options)).double()
    model.begun = {}  # its weights become others, so that no guide may begin with it
    guide = MeanField(model, hidden=(16,)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.requires_grad_(False)
    ppl_vae.fit(model, guide, data, IWAE(5), epochs=60, lr=3e-2)  # a guide from which importance sampling is sharp
    return model, guide, data.train


def labelled(log_joint, y):
    return torch.where(y >= 0, log_joint.gather(1, y.clamp(min=0)[:, None])[:, 0], log_joint.logsumexp(1))


def decoded(model, mean, covariance):
    """The normal of x whose features are linear in a normal: log p(x) as a distribution over the columns."""
    weight, bias = model.decoder.last.weight.detach(), model.decoder.last.bias.detach()
    unit, shift = model.likelihood.unit, model.likelihood.shift
    loc = shift + unit * (mean @ weight.T + bias)
    scale = unit[:, None] * weight
    noise = (1.2 * torch.eye(3, dtype=F64)) ** 2
    return dist.MultivariateNormal(loc, scale @ covariance @ scale.T + noise)


def one_hot_and(y, mean):
    return torch.cat([2**0.5 * torch.eye(3, dtype=F64)[y], mean])


def m2_evidence(model, x):
    columns = []
    for y in range(3):
        prior = model.prior(torch.tensor(y)).base_dist
        covariance = torch.zeros(5, 5, dtype=F64)
        covariance[3:, 3:] = prior.variance.diag().detach()
        columns.append(decoded(model, one_hot_and(y, prior.mean.detach()), covariance).log_prob(x))
    return torch.stack(columns, 1) + model.logits.detach().log_softmax(0)


def m1m2_evidence(model, x):
    """z1 given y and z2 has a scale that depends on z2: summed over a fine grid of the one style."""
    grid = torch.linspace(-7, 7, 1401, dtype=F64)
    log_step = dist.Normal(0.0, 1.0).log_prob(grid) + math.log(14 / 1400)
    columns = []
    for y in range(3):
        inputs = torch.cat([torch.eye(3, dtype=F64)[y].expand(len(grid), 3), grid[:, None]], 1)
        loc, raw = model.features(inputs).detach().chunk(2, dim=-1)
        variance = torch.nn.functional.softplus(raw + math.log(math.e - 1)).square()
        terms = [decoded(model, m, v.diag()).log_prob(x) for m, v in zip(loc, variance, strict=True)]
        columns.append((torch.stack(terms, 1) + log_step).logsumexp(1))
    return torch.stack(columns, 1) + model.logits.detach().log_softmax(0)


@pytest.mark.parametrize(
    ("make", "options", "evidence"),
    [
        (M2, {"latent_dim": 2}, m2_evidence),
        (M2, {"latent_dim": 2, "prior": LabelConditional(3)}, m2_evidence),
        (M1M2, {"latent_dims": (2, 1)}, m1m2_evidence),
    ],
    ids=["M2", "M2, p(z | y)", "M1M2"],
)
def test_the_evidence_is_that_of_the_row_with_the_label_it_has(make, options, evidence):
    model, guide, rows = linear(make, tuple(options.items()))
    exact = labelled(evidence(model, rows["x"]), rows["y"])
    found = ppl_vae.evaluate(model, guide, rows, particles=4000)
    assert (found.log_evidence_se < 0.1).all()
    assert ((found.log_evidence - exact).abs() < 4.5 * found.log_evidence_se).all()  # 24 rows
    assert (found.elbo < exact + 1e-9).all()


@pytest.mark.parametrize(
    ("make", "options"), [(M2, {"latent_dim": 2}), (M1M2, {"latent_dims": (2, 1)})], ids=["M2", "M1M2"]
)
def test_labelled_and_other_rows_stand_in_one_batch(make, options):
    model, guide, rows = linear(make, tuple(options.items()))
    both = ppl_vae.evaluate(model, guide, rows, particles=1000, seed=0)
    for seen in (rows["y"] >= 0, rows["y"] < 0):
        alone = ppl_vae.evaluate(model, guide, rows.rows(seen.nonzero()[:, 0]), particles=1000, seed=1)
        error = (alone.log_evidence_se.square() + both.log_evidence_se[seen].square()).sqrt()
        assert ((alone.log_evidence - both.log_evidence[seen]).abs() < 4.5 * error).all()


@pytest.mark.parametrize("make", [M2, M1M2])
def test_rows_are_made_for_the_labels_that_were_asked_for(make):
    model = make(ppl_vae.load("digits", labels=20), hidden=(8,))
    assert model(y=torch.tensor([1, 1, 2])).shape == (3, 8, 8)
    assert model(n=5).shape == (5, 8, 8)


def test_a_model_with_a_label_needs_one():
    for make in (M2, M1M2):
        with pytest.raises(UserError, match=f"{make.__name__} needs a label y"):
            make(ppl_vae.load(torch.randn(9, 2)))
    for dims in ((8,), (8, 4, 2), (8, 0)):
        with pytest.raises(UserError, match=r"latent_dims must be (two numbers|a whole number)"):
            M1M2(ppl_vae.load("digits", labels=20), latent_dims=dims)


# learning from few labels ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rows_without_labels_help_the_classifier():
    """Two moons of labels: with 6 labels the classifier alone cannot know where the gap is."""
    from sklearn.datasets import make_moons

    x, y = make_moons(800, noise=0.08, random_state=0)
    data = ppl_vae.load({"x": x, "y": y}, labels=6, seed=1)
    torch.manual_seed(0)
    model = M2(data, prior=LabelConditional(2), likelihood=Normal(), latent_dim=2, hidden=(64,))
    guide = MeanField(model, hidden=(64,))
    ppl_vae.fit(model, guide, data, epochs=150, label_weight=20.0, lr=3e-3, seed=0)
    found = ppl_vae.predict(model, guide, data.test)
    accuracy = (found.labels == data.test.truth("y")).double().mean()
    from sklearn.linear_model import LogisticRegression

    kept = data.train["y"] >= 0
    alone = LogisticRegression().fit(data.train["x"][kept], data.train["y"][kept])
    assert accuracy > alone.score(data.test["x"], data.test.truth("y"))


def weights_with(y):
    pyro.set_rng_seed(5)
    return log_weights(styled, styled_guide, {"x": XM, "y": y}, particles=4).log_weight


def test_labelled_and_unlabelled_rows_share_one_bound_and_no_label_leaks():
    """Two loaders and two losses drift apart; a label must touch its own row and no other."""
    other = YM.clone()
    other[1] = (other[1] + 1) % 3
    first, second = weights_with(YM), weights_with(other)
    same = torch.arange(len(YM)) != 1
    torch.testing.assert_close(first[:, same], second[:, same])
    assert not torch.isclose(first[:, 1], second[:, 1]).any()


def test_the_bound_of_a_labelled_row_includes_its_label():
    """The label-conditional bound left out for labelled rows: log p(x, y), not log p(x | y)."""
    pyro.set_rng_seed(0)
    x, y = XM[1:2].repeat(50_000), YM[1:2].repeat(50_000)
    ratio = log_weights(styled, styled_guide, {"x": x, "y": y}, particles=1).log_weight.exp().flatten()
    exact = WEIGHTS[YM[1]] * dist.Normal(CENTRES[YM[1]], 1.36**0.5).log_prob(XM[1]).exp()
    assert abs(ratio.mean() - exact) <= 4 * ratio.std() / len(ratio) ** 0.5
