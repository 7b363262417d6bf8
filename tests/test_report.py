"""A report shows what a run is, whole and without a network, for any model of the contract."""

import base64
import hashlib
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae
from ppl_vae.errors import UserError
from ppl_vae.evaluation import tempering
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.prediction.latents import continuous_latents, information
from ppl_vae.programs.program import Pair
from ppl_vae.reporting import _cards, _verdicts, write_report
from ppl_vae.reporting.view import look
from ppl_vae.runs.folder import Run
from ppl_vae.saving.atomic import write

SUMMARY = {
    "rows": 447,
    "particles": 1234,
    "negative_elbo": 96.324,
    "negative_elbo_se": 0.556,
    "nll": 91.976,
    "nll_se": 0.509,
    "nll_mc_se": 0.0167,
    "rate": 11.592,
    "distortion": 84.732,
    "ess": 17.8,
}
HOSTILE = "<script>alert('x')</script> $_{"
PICTURES = {"training", "reconstructions", "samples", "data", "means", "traversal", "rate", "interpolation", "map"}


def frame(rows=60):
    draw = np.random.default_rng(0)
    first = draw.normal(size=rows)
    return pd.DataFrame(
        {
            "alpha": first,
            HOSTILE: 3 * first + draw.normal(size=rows),
            "beta": draw.normal(size=rows),
            "kind": np.where(first > 0, "yes & <b>", "no"),
        }
    )


def train(model, guide, data, folder):
    result = ppl_vae.fit(model, guide, data, epochs=1)
    return ppl_vae.open_run(result.save(folder / "run"), model, guide)


def untrained(model, guide, data, folder):
    """A run as `open_run` makes them, of programs with whatever parameters they have."""
    info = {"model": {"foreign": "a.b"}, "guide": {"foreign": "a.b"}, "data": {"name": "array"}}
    history = [{"epoch": 1, "train": -3.0}]
    schema = data.schema
    pair = Pair(model, guide)
    return Run(folder / "own", pair.model, pair.guide, schema, history, info)


def figures(run):
    return {path.stem for path in (run.path / "figures").glob("*.png")}


def sections(page):
    return re.findall(r'<section id="s\d+"><h2>(.*?)</h2>(.*?)</section>', page, re.DOTALL)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    data = ppl_vae.load("digits")
    torch.manual_seed(0)
    model = VAE(data, latent_dim=4, hidden=(32,))
    run = train(model, MeanField(model, hidden=(32,)), data, tmp_path_factory.mktemp("digits"))
    page = write_report(run, data, SUMMARY).read_text(encoding="utf-8")
    return SimpleNamespace(data=data, run=run, page=page)


def test_every_figure_of_pictures_is_drawn_and_shown(digits):
    assert figures(digits.run) == PICTURES
    assert digits.page.count('src="data:image/png;base64,') == len(PICTURES)
    for path in (digits.run.path / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_programs_are_drawn(digits):
    svg = (digits.run.path / "figures" / "programs.svg").read_text(encoding="utf-8")
    assert "data: 1,000" in svg
    assert digits.page.count("data:image/svg+xml;base64,") == 1
    assert "guide: z | h ~ MeanField, in plate data" in digits.page


def test_the_page_needs_nothing_else(digits):
    assert "http://" not in digits.page
    assert "https://" not in digits.page
    assert re.findall(r"<(?:link|iframe|object|form)\b", digits.page) == []
    assert len(digits.page) < 3e6


def test_one_script_runs_which_the_page_knows_by_its_hash(digits):
    """What else is called a script is data, and what hostile names hold is none."""
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", digits.page, re.DOTALL)
    running = [text for kind, text in scripts if "application/json" not in kind]
    digest = base64.b64encode(hashlib.sha256(running[0].encode()).digest()).decode()
    assert len(running) == 1
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in digits.page
    assert not re.search(r"\beval\b|new Function|fetch\(|XMLHttpRequest|innerHTML", running[0])


def test_verdicts_stand_under_the_numbers_and_lead_to_their_reasons(digits):
    strip = re.search(r'<ul class="verdicts".*?</ul>', digits.page, re.DOTALL)[0]
    lines = re.findall(
        r'<li class="(\w+)"><a href="#(s\d+)"><strong>(.*?)</strong> <span class="words">(.*?)</span>', strip
    )
    titles = {f"s{i}": title for i, (title, _) in enumerate(sections(digits.page), 1)}
    assert ("doubtful", "Training curve") in {(level, titles[to]) for level, to, *_ in lines}  # one epoch of one
    assert any("latents" in words and titles[to] == "What each latent does" for _, to, _, words in lines)


def test_a_verdict_on_evidence_follows_the_share_of_rows_with_a_large_khat():
    def level(bad):
        found = _verdicts._evidence({"khat_limit": 0.67, "unreliable_rows": bad, "rows": 100})
        return found[0].level, found[0].section

    assert [level(0), level(5), level(6)] == [(w, _verdicts.TRUST) for w in ("believed", "doubtful", "not")]
    assert _verdicts._evidence(None) == []
    worth = {"minus_independent": 3.0, "minus_independent_se": 0.1}
    assert [v.level for v in _verdicts._worth(worth)] == ["believed"]
    assert [v.level for v in _verdicts._worth(worth | {"minus_normal": -1.0, "minus_normal_se": 0.2})] == ["doubtful"]
    assert [v.level for v in _verdicts._worth({**worth, "minus_independent": 0.1})] == ["not"]


def test_densities_without_latents_stand_beside_the_model(tmp_path):
    worth = {"nll": 3.0, "nll_se": 0.2, "independent_nll": 4.5, "minus_independent": 1.5, "minus_independent_se": 0.1}
    (section,) = _verdicts.baselines(worth)
    assert section.table[1][1] == ["independent columns, each at its best fit", "4.50", "1.50 ± 0.10"]
    assert _verdicts.baselines(None) == []


def test_the_headline_tells_the_numbers_and_their_errors(digits):
    plain = re.sub("<[^>]*>", "", digits.page)
    for words in ("96.32 ± 0.56", "91.98 ± 0.51", "11.59", "84.73", "1,234", "0.017", "447", "nats"):
        assert words in plain


def test_what_was_trained_is_told(digits):
    versions = digits.run.info["versions"]
    for words in ("VAE(latent_dim=4", "MeanField", "StandardNormal", "Categorical", "ELBO", "1,000 training"):
        assert words in digits.page
    assert f"pyro-ppl {versions['pyro-ppl']}" in digits.page
    count = sum(p.numel() for p in digits.run.pair.model.parameters())
    assert f"{count:,} in the model" in digits.page


def test_no_section_is_blank(digits):
    titles = [title for title, _ in sections(digits.page)]
    assert titles == [
        "What was trained",
        "Training curve",
        "Test rows and their reconstructions",
        "Samples from the prior",
        "What each latent does",
        "How much each latent tells",
        "From one row to another",
        "A map of the latents",
    ]
    for _, body in sections(digits.page):
        assert len(re.sub("<[^>]*>", "", body).split()) > 10


def test_a_run_that_was_not_evaluated_says_how_to(tmp_path):
    data = ppl_vae.load({"x": torch.randn(40, 2)})
    run = untrained(discrete_model, discrete_guide, data, tmp_path)
    page = write_report(run, data).read_text(encoding="utf-8")
    assert "not evaluated" in page
    assert f"ppl-vae evaluate {run.path}" in page


def test_the_same_seed_is_the_same_page_and_leaves_randomness_alone(tmp_path):
    data = ppl_vae.load({"x": torch.randn(40, 2)})
    run = untrained(positive_model, positive_guide, data, tmp_path)
    state = torch.get_rng_state()
    pages = [write_report(run, data, SUMMARY, seed=3).read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]
    assert torch.equal(state, torch.get_rng_state())


def test_without_a_test_split_other_rows_are_shown_and_it_says_so(tmp_path):
    data = ppl_vae.load({"x": torch.randn(40, 2)})
    run = untrained(discrete_model, discrete_guide, data, tmp_path)
    lacking = ppl_vae.Data(data.name, data.schema, data.train, data.validation)
    assert "the data has no test split" in write_report(run, lacking).read_text(encoding="utf-8")
    only = ppl_vae.Data(data.name, data.schema, data.train)
    assert "neither a test nor a validation split" in write_report(run, only).read_text(encoding="utf-8")


def test_one_row_is_enough(tmp_path):
    data = ppl_vae.load({"x": torch.randn(40, 4, 4), "y": torch.arange(40) % 2})
    run = untrained(own_model, own_guide, data, tmp_path)
    page = write_report(run, data.test.rows(slice(0, 1))).read_text(encoding="utf-8")
    assert "There is only one row" in page
    assert "interpolation" not in figures(run)


def test_a_table_with_hostile_names_and_holes(tmp_path):
    table = frame()
    table.loc[3:9, "beta"] = np.nan
    data = ppl_vae.load(table, label="kind", missing="allow")
    model = VAE(data, latent_dim=3, hidden=(8,))
    run = train(model, MeanField(model, hidden=(8,)), data, tmp_path)
    page = write_report(run, data, SUMMARY).read_text(encoding="utf-8")
    assert figures(run) <= PICTURES - {"data", "interpolation"} | {"traversal-table"} | {"imputed", "imputed-hidden"}
    assert {"reconstructions", "samples", "rate", "map"} <= figures(run)
    assert HOSTILE not in page
    assert page.count("<script") == 1 + page.count('<script type="application/json"')
    assert "&lt;script&gt;" in page
    assert "<b>" not in page
    assert "your data" in page


def test_numbers_without_a_shape_or_a_label(tmp_path):
    data = ppl_vae.load({"x": torch.randn(50)})
    model = VAE(data, latent_dim=1, hidden=(8,))
    run = train(model, MeanField(model, hidden=(8,)), data, tmp_path)
    page = write_report(run, data).read_text(encoding="utf-8")
    assert {"training", "reconstructions", "samples", "rate"} <= figures(run)
    assert "has one dimension, so there is no map" in page


def own_model(pixels):
    """Sites, plate and argument are named otherwise, and the pictures are flattened."""
    weight = torch.linspace(-1, 1, 32).reshape(2, 16)
    with pyro.plate("rows", len(pixels)):
        h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("obs", dist.Normal(h @ weight, 0.5).to_event(1), obs=pixels.reshape(-1, 16))


def own_guide(pixels):
    with pyro.plate("rows", len(pixels)):
        loc = torch.stack([pixels.flatten(1).mean(1), torch.zeros(len(pixels))], -1)
        pyro.sample("h", dist.Normal(loc, torch.tensor([0.5, 1.0])).to_event(1))


def test_a_plain_function_of_ones_own(tmp_path):
    data = ppl_vae.load({"x": torch.randn(40, 4, 4), "y": torch.arange(40) % 2})
    run = untrained(own_model, own_guide, data, tmp_path)
    page = write_report(run, data).read_text(encoding="utf-8")
    assert figures(run) == PICTURES
    assert "own_model (your own program)" in page
    assert "h: Normal in 2 dimensions" in page
    assert "Of the 2 dimensions of h, 1 carries information" in page


def discrete_model(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.ones(3)))
        pyro.sample("x", dist.Normal(c.float().unsqueeze(-1) - torch.ones(2), 1.0).to_event(1), obs=x)


def discrete_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Categorical(logits=x.sum(-1, keepdim=True) * torch.arange(3.0)))


def test_without_a_continuous_latent_the_page_says_what_is_left_out(tmp_path):
    data = ppl_vae.load({"x": torch.randn(40, 2)})
    run = untrained(discrete_model, discrete_guide, data, tmp_path)
    page = write_report(run, data).read_text(encoding="utf-8")
    assert figures(run) == {"training", "reconstructions", "samples", "c-means"}
    assert "no continuous latent" in page
    assert "averaged over 16 draws" in page


def labelled_model(x, y=None):
    """A label that some rows have, two continuous latents, one below the other, and a mean that all share."""
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(2)), obs=y)
        top = pyro.sample("top", dist.Gamma(2.0, 2.0))
        z = pyro.sample("z", dist.Normal(top.unsqueeze(-1) * torch.ones(3), 1.0).to_event(1))
        loc = mean + z.sum(-1) + torch.nn.functional.one_hot(y, 2)[..., 0]
        pyro.sample("x", dist.Normal(loc.unsqueeze(-1) * torch.ones(2), 1.0).to_event(1), obs=x)


def labelled_guide(x, y=None):
    pyro.sample("mean", dist.Normal(0.5, 0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Categorical(torch.ones(2)))
        top = pyro.sample("top", dist.Gamma(x.square().sum(-1) + 1, 2.0))
        pyro.sample("z", dist.Normal(top.unsqueeze(-1) * torch.ones(3) + x[..., :1], 1.0).to_event(1))


def test_several_latents_a_label_of_some_rows_and_a_global(tmp_path, monkeypatch):
    monkeypatch.setattr(tempering, "TEMPERATURES", 1)  # where draws are moved to is test_tempering's
    labels = torch.arange(40) % 3 - 1
    data = ppl_vae.load({"x": torch.randn(40, 2), "y": labels}, missing="allow")
    run = untrained(labelled_model, labelled_guide, data, tmp_path)
    page = write_report(run, data).read_text(encoding="utf-8")
    assert {"rate", "rate-2", "traversal", "map"} <= figures(run)
    assert "dimensions of z" in page
    view = look(run.pair, data, data.schema)
    assert [found.site for found in view.latents] == ["top", "z"]
    assert view.shared == {"mean"}
    torch.testing.assert_close(view.held["mean"], torch.tensor(0.5))
    assert torch.isfinite(view.reconstruct([0, 1, 2])).all()


def positive_model(x):
    with pyro.plate("data", len(x)):
        r = pyro.sample("r", dist.Gamma(torch.full((2,), 2.0), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(r, 1.0).to_event(1), obs=x)


def positive_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("r", dist.Gamma(x.square() + 1, 1.0).to_event(1))


def test_a_latent_that_is_positive_is_mapped_but_not_moved(tmp_path):
    data = ppl_vae.load({"x": torch.randn(40, 2)})
    run = untrained(positive_model, positive_guide, data, tmp_path)
    assert "r cannot take every value" in write_report(run, data).read_text(encoding="utf-8")
    assert figures(run) == {"training", "reconstructions", "samples", "rate", "map"}


def test_pixels_that_are_missing_do_not_stop_a_report(tmp_path):
    x = torch.randint(0, 5, (40, 4, 4))
    x[:, 0, 0] = -1
    data = ppl_vae.load({"x": x}, kinds={"x": "categorical"}, missing="allow")
    model = VAE(data, latent_dim=2, hidden=(8,))
    run = untrained(model, MeanField(model, hidden=(8,)), data, tmp_path)
    assert "Sand-coloured pixels" in write_report(run, data).read_text(encoding="utf-8")


def test_a_collapsed_posterior_is_called_that(tmp_path):
    def guide(pixels):
        with pyro.plate("rows", len(pixels)):
            pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    data = ppl_vae.load({"x": torch.randn(40, 4, 4)})
    run = untrained(own_model, guide, data, tmp_path)
    page = write_report(run, data).read_text(encoding="utf-8")
    assert "posterior collapse" in page
    assert "traversal" not in figures(run)


def test_information_is_the_kl_where_there_is_one_and_else_the_activity():
    def exact(x):
        with pyro.plate("data", len(x)):
            pyro.sample("h", dist.Normal(x[:, :2], 0.5).to_event(1))

    def other(x):
        with pyro.plate("data", len(x)):
            normal = dist.Normal(x[:, :2], 0.5).to_event(1)
            same = dist.transforms.AffineTransform(0.0, 1.0)
            pyro.sample("h", dist.TransformedDistribution(normal, [same]))

    def model(x):
        with pyro.plate("data", len(x)):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 2.0).to_event(1))
            pyro.sample("x", dist.Normal(h, 1.0).to_event(1), obs=x)

    x = torch.randn(500, 2, generator=torch.manual_seed(0)) * torch.tensor([1.0, 0.0])
    kl = torch.log(torch.tensor(4.0)) + (0.25 + x.square().mean(0)) / 8 - 0.5
    torch.testing.assert_close(information(Pair(model, exact), {"x": x}), kl)
    found = continuous_latents(Pair(model, other), {"x": x})[0]
    assert not found.exact
    torch.testing.assert_close(found.information, x.var(0, correction=0) / 4, atol=0.02, rtol=0)
    assert found.ranked == [0]
    with pytest.raises(UserError, match="a continuous latent site 'q' in the data plate"):
        information(Pair(model, exact), {"x": x}, site="q")


def test_what_is_not_finite_is_not_a_number():
    cards = _cards.headline(
        SimpleNamespace(path="r", info={}, history=[]), SUMMARY | {"nll": float("nan"), "nll_se": None}
    )
    assert [value for _, value, _ in cards][1] == "not finite"
    assert _cards.number(float("inf")) is None


def test_a_figure_is_not_left_half_written(tmp_path):
    target = tmp_path / "figures"
    write(target, "a file where a folder is needed")
    data = ppl_vae.load({"x": torch.randn(20, 2)})
    run = untrained(discrete_model, discrete_guide, data, tmp_path)
    blocked = Run(tmp_path, run.model, run.guide, run.schema, run.history, run.info)
    with pytest.raises(OSError):
        write_report(blocked, data)
    assert not (tmp_path / "report.html").exists()
