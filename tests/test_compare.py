"""Pairs on the same rows: differences against closed forms, their errors, the order of bounds, what is refused."""

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import (
    COVARIANCE,
    F64,
    OFFSET,
    PRECISION,
    SCALES,
    SIGMA,
    W,
    gaussian_elbo,
    gaussian_evidence,
    linear_gaussian,
    linear_gaussian_exact,
    linear_gaussian_off,
    posterior_mean,
    t,
)

import ppl_vae
from ppl_vae import UserError
from ppl_vae.comparison._pairs import Compared, difference, ladder, standard_error
from ppl_vae.comparison._verdict import effects
from ppl_vae.comparison.compare import ranked
from ppl_vae.data import Field, Schema, Split
from ppl_vae.display.tables import in_digits
from ppl_vae.evaluation import Evaluation
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import Categorical, Normal
from ppl_vae.models import VAE

ROWS, PARTICLES = 300, 400
BEST = PRECISION.diagonal() ** -0.5


def noisier(x=None):
    """The linear-Gaussian model with more noise, whose evidence is another closed form."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W + OFFSET, 1.2).to_event(1), obs=x)


def mean_field(x=None):
    """The mean-field guide of the highest ELBO."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(posterior_mean(x), BEST).to_event(1))


PAIRS = {
    "exact": (linear_gaussian, linear_gaussian_exact),
    "mean field": (linear_gaussian, mean_field),
    "off": (linear_gaussian, linear_gaussian_off),
    "noisier": (noisier, linear_gaussian_off),
}


@pytest.fixture(scope="module")
def x():
    generator = torch.Generator().manual_seed(3)
    z, noise = (torch.randn(ROWS, d, dtype=F64, generator=generator) for d in (2, 4))
    return z @ W + OFFSET + SIGMA * noise


@pytest.fixture(scope="module")
def found(x):
    return ppl_vae.compare(PAIRS, x, particles=PARTICLES, seed=1)


# -- numbers -------------------------------------------------------------------------------------------------


def test_the_elbo_difference_on_these_rows_is_the_closed_form(found, x):
    expected = gaussian_elbo(x, posterior_mean(x), BEST) - gaussian_elbo(x, 0.8 * posterior_mean(x) + 0.1, SCALES)
    gap = found.difference("mean field", "off", "elbo")
    errors = [found[name].estimate("elbo").mc_se for name in ("mean field", "off")]
    assert abs(gap.value - float(expected.mean())) < 4 * math.hypot(*errors)
    assert max(errors) < 0.2 * gap.value


def test_the_elbo_difference_is_that_of_the_population_within_its_paired_error(found):
    """E_x of KL(q || posterior), from the second moments of the posterior mean."""
    moment = 0.04 * (torch.eye(2, dtype=F64) - COVARIANCE) + 0.01
    off = (PRECISION * moment).sum() + (PRECISION.diagonal() * SCALES**2).sum() - 2 - 2 * SCALES.log().sum()
    best = -2 * BEST.log().sum()
    gap = found.difference("mean field", "off", "elbo")
    assert abs(gap.value - float(off - best) / 2) < 4 * gap.se


def test_the_evidence_difference_of_two_models_is_the_closed_form(found, x):
    other = dist.MultivariateNormal(OFFSET, W.T @ W + 1.2**2 * torch.eye(4, dtype=F64)).log_prob(x)
    gap = found.difference("exact", "noisier")
    error = found["noisier"].estimate().mc_se
    assert abs(gap.value - float((gaussian_evidence(x) - other).mean())) < 4 * error
    assert gap.told_apart
    assert gap.se < 0.5 * gap.unpaired_se  # how hard a row is, is the same for both


def test_guides_of_one_model_have_one_evidence(found):
    for name in ("mean field", "off"):
        gap = found.difference("exact", name)
        assert abs(gap.value) < 4 * gap.se
        assert gap.unpaired_se > 3 * gap.se
    assert found["exact"].estimate().mc_se < 1e-8


def test_estimates_are_those_of_evaluate(found, x):
    alone = ppl_vae.evaluate(*PAIRS["off"], x, PARTICLES, iwae=found.ladder, seed=1)
    for bound, rows, errors in (
        ("elbo", alone.elbo, alone.iwae_se[1]),
        (50, alone.iwae[50], alone.iwae_se[50]),
        ("log_evidence", alone.log_evidence, alone.log_evidence_se),
    ):
        value, se, mc_se, seed_se = found["off"].estimate(bound)
        assert value == pytest.approx(float(rows.mean()))
        assert se == pytest.approx(float(rows.std()) / ROWS**0.5)
        assert mc_se == pytest.approx(float(errors.square().sum().sqrt()) / ROWS)
        assert math.isnan(seed_se)


def test_the_best_is_first_and_the_generators_are_left_alone(found, x):
    values = [pair.estimate().value for pair in found.pairs]
    assert values == sorted(values, reverse=True)
    assert found.pairs[-1].name == "noisier"
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    again = ppl_vae.compare({"off": PAIRS["off"]}, x[:20], particles=20)
    assert torch.equal(torch.random.get_rng_state(), before)
    twice = ppl_vae.compare({"off": PAIRS["off"]}, x[:20], particles=20)
    assert torch.equal(again["off"].rows(), twice["off"].rows())


def test_seeds_are_averaged_and_their_error_is_told_apart(x):
    trained = [PAIRS["off"], PAIRS["noisier"]]
    found = ppl_vae.compare({"two": trained, "exact": PAIRS["exact"]}, x, particles=50)
    one, two = (ppl_vae.evaluate(*pair, x, 50).log_evidence for pair in trained)
    value, se, _, seed_se = found["two"].estimate()
    assert value == pytest.approx(float((one + two).mean() / 2))
    assert se == pytest.approx(float(((one + two) / 2).std()) / ROWS**0.5)
    assert seed_se == pytest.approx(float((one.mean() - two.mean()).abs()) / 2)
    assert "between seeds" in str(found)
    assert found.frame().loc["two", "seeds"] == 2


def test_the_default_ladder_has_one_and_ends_below_the_particles():
    assert ladder(1) == (1,)
    assert ladder(60) == (1, 5, 10, 50)
    assert ladder(60, (7,)) == (1, 7)


# -- the order of bounds -------------------------------------------------------------------------------------


def test_real_bounds_are_in_order(found):
    assert found.order.holds
    assert len(found.order.steps) == len(PAIRS) * len(found.ladder + ("K",))
    assert all(step.difference >= -1e-9 for step in found.order.steps if step.pair == "exact")


def test_rungs_that_are_no_multiples_are_in_order_within_their_error(x):
    found = ppl_vae.compare({"off": PAIRS["off"]}, x, particles=101, iwae=(2, 3, 7, 40, 90))
    assert found.order.holds


def test_shuffled_bounds_are_found_out(found):
    pair = found["off"]
    evaluation = pair.evaluations[0]
    swapped = dict(zip(evaluation.iwae, reversed(evaluation.iwae.values()), strict=True))
    broken = replace(pair, evaluations=(replace(evaluation, iwae=swapped),))
    order = replace(found, pairs=(broken,)).order
    assert not order.holds
    assert {(s.lower, s.upper) for s in order.violations} >= {("IWAE_1", "IWAE_5"), ("IWAE_10", "IWAE_50")}
    assert "Jensen" in order.verdict
    assert "out of order" in replace(found, pairs=(broken,)).verdict


def test_a_bound_that_is_no_number_is_found_out(found):
    pair = found["off"]
    hole = pair.evaluations[0].log_evidence.clone()
    hole[3] = torch.nan
    broken = replace(pair, evaluations=(replace(pair.evaluations[0], log_evidence=hole),))
    found = ranked([broken, found["exact"]], where="rows", particles=PARTICLES, rungs=found.ladder)
    assert [step.upper for step in found.order.violations] == [f"IWAE_{PARTICLES}"]
    assert found.best.name == "exact"
    assert found.pairs[-1].name == "off"


def test_rounding_in_float32_is_no_violation():
    """Of the exact posterior all bounds are one number."""

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    found = ppl_vae.compare({"exact": (model, guide)}, 3 * torch.randn(64), particles=1000)
    assert found.order.holds
    assert "has a log evidence of" in found.verdict


# -- words ---------------------------------------------------------------------------------------------------


def test_the_verdict_names_what_is_better_and_what_is_not_told_apart(found):
    words = found.verdict
    said = re.search(r"is better than .*noisier by ([\d.]+) ± ([\d.]+)", words)
    gap = found.difference(found.best.name, "noisier")
    assert said
    assert [float(number) for number in said.groups()] == pytest.approx([gap.value, gap.total_se], abs=0.005)
    assert "not significant" in words
    assert "does not include the variation between seeds" in words


def test_what_it_says_is_plain_and_complete(found):
    summary = found.summary()
    assert json.loads(json.dumps(summary))["best"] == found.best.name
    assert [p["name"] for p in summary["pairs"]] == [pair.name for pair in found.pairs]
    frame = found.frame()
    assert set(frame.index) == set(PAIRS)
    assert frame.loc["off", "iwae_50"] == found["off"].estimate(50).value
    text = str(found)
    assert "300 rows, 400 particles" in text
    for name in PAIRS:
        assert name in text
    assert all(len(line) <= 200 for line in text.splitlines()[:8])
    with pytest.raises(UserError, match="unknown pair 'of'"):
        found["of"]
    with pytest.raises(UserError, match="IWAE of 3 particles was not evaluated"):
        found["off"].rows(3)


def test_a_narrow_table_leaves_out_what_matters_least(found):
    def heads(width):
        return [column.header for column in found.table(width).columns[1:]]

    assert heads(None)[:2] == ["ELBO", "IWAE-5"]
    assert "parameters" in heads(200)
    assert "parameters" not in heads(100)
    assert [head for head in heads(80) if not head.startswith("k-hat")] == ["ELBO", "log p(x)", "to the best"]


def test_colours_are_of_guides_and_dashes_of_bounds():
    from ppl_vae.comparison._plot import _looks

    levels = {"bound": ("elbo", "iwae"), "guide": ("a", "b", "c")}
    pairs = [SimpleNamespace(name=f"{g} {b}", factors={"guide": g, "bound": b}) for b in "ei" for g in "abc"]
    looks = _looks(SimpleNamespace(levels=levels, pairs=pairs))
    assert len({look["color"] for look in looks.values()}) == 3
    assert looks["a e"]["color"] == looks["a i"]["color"]
    assert looks["a e"]["ls"] == looks["c e"]["ls"] != looks["a i"]["ls"]


def test_a_comparison_is_a_table_for_a_paper(found):
    head, _, *lines = found.to_markdown().splitlines()
    assert head.startswith("| pair | ELBO | IWAE-5 |")
    assert len(lines) == len(found.pairs)
    evidence = found.best.estimate()
    assert in_digits(evidence.value, evidence.se) in lines[0]
    assert found.to_latex().count(r"\\") == len(found.pairs) + 1
    assert "$-$" in found.to_latex()


def test_the_figure_has_a_panel_for_bounds_and_one_for_paired_differences(found):
    figure = found.figure()
    bounds, paired = figure.axes
    assert "nats per row" in bounds.get_ylabel()
    assert "nats per row" in paired.get_xlabel()
    assert bounds.get_xscale() == "log"
    lines = {line.get_label(): line for line in bounds.lines}
    assert set(lines) == set(PAIRS)
    assert lines["off"].get_ydata()[-1] == pytest.approx(found["off"].estimate().value)
    assert [text.get_text() for text in paired.get_yticklabels()] == [pair.name for pair in found.pairs]
    last = found.pairs[-1]
    gap = found.difference(last.name, found.best.name)
    ends = [line.get_xdata() for line in paired.lines if list(line.get_ydata()) == [len(found.pairs) - 1] * 2]
    assert ends[0] == pytest.approx([gap.value - 2 * gap.total_se, gap.value + 2 * gap.total_se])
    assert len(ppl_vae.compare({"off": PAIRS["off"]}, t([[0.0] * 4] * 3), particles=5).figure().axes) == 1


def evaluation_of(rows, particles=100):
    rows = t(rows)
    zero = 0 * rows
    return Evaluation(rows - 1, rows, zero, zero, zero, zero, zero, particles, {1: rows - 1}, {1: zero})


def test_the_effect_of_a_factor_is_the_mean_over_what_else_was_varied():
    values = {
        ("a", "elbo"): [1.0, 2.0],
        ("b", "elbo"): [2.0, 3.5],
        ("a", "iwae"): [1.0, 3.0],
        ("b", "iwae"): [3.0, 3.0],
    }
    pairs = [
        Compared(f"{g} + {b}", (evaluation_of(v), evaluation_of(v)), (0, 0), factors={"guide": g, "bound": b})
        for (g, b), v in values.items()
    ]
    levels = {"guide": ("a", "b"), "bound": ("elbo", "iwae")}
    found = ranked(pairs, where="rows", particles=100, rungs=(1,), levels=levels)
    guide, bound = effects(found)
    rows = t([((2 - 1) + (3 - 1)) / 2, ((3.5 - 2) + (3 - 3)) / 2])
    assert (guide.level, guide.reference, guide.contexts) == ("b", "a", 2)
    assert guide.difference.value == pytest.approx(float(rows.mean()))
    assert guide.difference.se == pytest.approx(standard_error(rows))
    assert guide.difference.seed_se == 0
    assert bound.difference.value == pytest.approx(0.375)
    assert re.search(r"Guide b instead of a gains 1\.1\d ± 0\.3\d nats over 2 pairs of cells\.", found.verdict)


def test_a_pair_is_not_apart_from_itself(found):
    gap = difference(found.best, found.best)
    assert (gap.value, gap.se, gap.seed_se, gap.told_apart) == (0, 0, 0, False)


# -- fits and runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    rows = np.random.default_rng(0).normal(size=(60, 3))
    data = ppl_vae.load(rows)
    model = VAE(data, latent_dim=2, hidden=(8,))
    result = ppl_vae.fit(model, MeanField(model, hidden=(8,)), data, epochs=2)
    return data, result, ppl_vae.open_run(result.save(tmp_path_factory.mktemp("runs") / "a"))


def test_results_of_fit_and_opened_runs_are_pairs(fitted):
    data, result, run = fitted
    found = ppl_vae.compare({"fit": result, "run": run}, data, particles=30)
    assert found.difference("fit", "run").value == 0
    assert found["fit"].seconds_per_epoch > 0
    assert found["fit"].epochs == found["run"].epochs == 2
    assert found["fit"].parameters == found["run"].parameters
    assert sum(found["fit"].parameters) == sum(p.numel() for p in run.pair.parameters())
    assert found.where == "test rows of array"


# -- what may not be compared --------------------------------------------------------------------------------


def model_of(fn, change=lambda x: x, site="x"):
    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample(site, fn(z.unsqueeze(-1)).to_event(1), obs=change(x))

    return model


def guide(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.3 * x.sum(-1), 1.0))


def bernoulli(z):
    return dist.Bernoulli(logits=z.expand(*z.shape[:-1], 4))


def normal(z):
    return dist.Normal(z.expand(*z.shape[:-1], 4), 1.0)


BITS = (torch.arange(40.0).reshape(10, 4) % 3 == 0).float()
GREY = torch.rand(10, 4, generator=torch.Generator().manual_seed(0))


def split_of(rows, kind):
    return Split(Schema((Field("x", kind, (4,)),)), "test", {"x": rows})


@pytest.mark.parametrize(
    ("rows", "kind", "one", "other", "words"),
    [
        (BITS, "binary", model_of(bernoulli), model_of(normal), "probability mass, of the second a density"),
        (GREY, "unit", model_of(normal), model_of(normal, lambda x: 255 * x), "different values in the same rows"),
        (
            GREY,
            "unit",
            model_of(bernoulli, lambda x: (x > 0.5).float()),
            model_of(bernoulli, lambda x: (x > 0.3).float()),
            "different values in the same rows",
        ),
        (
            GREY,
            "unit",
            model_of(normal),
            model_of(
                lambda z: dist.Normal(z.expand(*z.shape[:-1], 2), 1.0),
                lambda x: x[:, :2],
            ),
            "the first observes 40 numbers (x), the second 20 (x)",
        ),
    ],
)
def test_evidence_of_other_things_is_never_compared(rows, kind, one, other, words):
    with pytest.raises(UserError, match="cannot be compared") as refused:
        ppl_vae.compare({"one": (one, guide), "other": (other, guide)}, split_of(rows, kind), particles=5)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_names_and_shapes_of_sites_do_not_matter():
    """The same numbers, in one site or in four, under any name."""

    def columns(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            for i in range(4):
                pyro.sample(f"column_{i}", dist.Normal(z, 1.0), obs=x[:, i])

    pairs = {"whole": (model_of(normal), guide), "columns": (columns, guide)}
    found = ppl_vae.compare(pairs, split_of(GREY, "unit"), particles=20)
    assert found.difference("whole", "columns").value == pytest.approx(0.0, abs=1e-4)


def test_a_label_that_is_observed_in_no_row_is_not_compared_against():
    """p(x) of a model that sums labels out, beside p(x) of one that has none."""

    def labelled(x=None, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(2) / 2), obs=y)
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal((z + y).unsqueeze(-1).expand(*(z + y).shape, 4), 1.0).to_event(1), obs=x)

    schema = Schema((Field("x", "unit", (4,)), Field("y", "categorical", cardinality=2, missing=True)))
    unknown = Split(schema, "test", {"x": GREY, "y": torch.full((10,), -1)})
    known = Split(schema, "test", {"x": GREY, "y": torch.zeros(10, dtype=torch.long)})
    pairs = {"plain": (model_of(normal), guide), "labelled": (labelled, guide)}
    assert len(ppl_vae.compare(pairs, unknown, particles=5).pairs) == 2
    with pytest.raises(UserError, match="of the second a probability mass times a density"):
        ppl_vae.compare(pairs, known, particles=5)


def test_other_preparations_of_the_training_rows_are_refused():
    grey = torch.rand(40, 4, generator=torch.Generator().manual_seed(1)).numpy()
    pairs = {}
    for mode in ("static", "dynamic"):
        data = ppl_vae.load({"x": grey}, binarise=mode)
        source = {"name": "garments", "binarise": mode}
        data = replace(data, source=source)
        model = VAE(data, latent_dim=1, hidden=(4,))
        pairs[mode] = (model, MeanField(model, hidden=(4,)))
    with pytest.raises(UserError, match="trained on garments with binarise='static', the second with 'dynamic'"):
        ppl_vae.compare(pairs, data.test, particles=5)


def test_rows_that_are_drawn_at_every_use_are_drawn_once_for_all():
    data = ppl_vae.load(
        {"x": torch.rand(200, 4, generator=torch.Generator().manual_seed(1)).numpy()}, binarise="dynamic"
    )
    assert data.train.draws
    model = model_of(bernoulli)
    found = ppl_vae.compare({"a": (model, guide), "b": (model, guide)}, data.train, particles=5)
    assert found.difference("a", "b").value == 0


@pytest.mark.parametrize(
    ("pairs", "options", "words"),
    [
        ({}, {}, "expected a dict of .model, guide. by name"),
        ([PAIRS["off"]], {}, "got list"),
        ({"a": "runs/a"}, {}, "pair 'a': expected .model, guide., the result of fit"),
        ({"a": []}, {}, "at least one training in the list"),
        ({"a": PAIRS["off"]}, {"iwae": (5, 50)}, "from 1 to 20, got 50"),
        ({"a": PAIRS["off"]}, {"iwae": (0,)}, "got 0"),
        ({"a": PAIRS["off"]}, {"particles": 0}, "particles must be a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(pairs, options, words, x):
    with pytest.raises(UserError, match=words) as refused:
        ppl_vae.compare(pairs, x, **{"particles": 20, **options})
    assert "\n" not in str(refused.value)


def test_what_evaluate_refuses_is_refused_with_the_name_of_the_pair():
    def points(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(0.3 * x.sum(-1)))

    with pytest.raises(ppl_vae.errors.NoDensity, match="pair 'points': no evidence: site 'z' is a point"):
        ppl_vae.compare({"points": (model_of(normal), points)}, split_of(GREY, "unit"))


def test_a_mass_of_the_package_and_a_density_of_it_are_refused():
    data = ppl_vae.load({"x": np.arange(120).reshape(40, 3) % 4}, kinds={"x": "categorical"})
    real = ppl_vae.load({"x": (np.arange(120).reshape(40, 3) % 4).astype("float32")})
    pairs = {}
    for name, rows, likelihood in (("mass", data, Categorical()), ("density", real, Normal())):
        model = VAE(rows, latent_dim=1, hidden=(4,), likelihood=likelihood)
        pairs[name] = (model, MeanField(model, hidden=(4,)))
    with pytest.raises(UserError) as refused:
        ppl_vae.compare(pairs, data.test, particles=5)
    assert "density" in str(refused.value)
