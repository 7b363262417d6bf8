"""Every result is a screen at a prompt and a table in a notebook, however many rows it is about."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae
from ppl_vae import diagnostics
from ppl_vae.display import working as module
from ppl_vae.display.displayed import LINES, WIDTH
from ppl_vae.errors import UserError
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.programs import toy


@pytest.fixture(scope="module")
def results():
    data = ppl_vae.load("digits")
    torch.manual_seed(0)
    model = VAE(data, latent_dim=2, hidden=(16,))
    guide = MeanField(model, hidden=(16,))
    fitted = ppl_vae.fit(model, guide, data, epochs=2, restarts=0, compile="off")
    few = data.test.rows(slice(0, 30))
    pair = model, guide, few
    return {
        "fit": fitted,
        "evaluate": ppl_vae.evaluate(*pair, particles=30, compile="off"),
        "certify": ppl_vae.certify(*pair, accuracy=10.0, validate=0, draws=5, compile="off"),
        "calibration": diagnostics.calibration(*pair, simulations=20, draws=9),
        "local-calibration": diagnostics.local_calibration(*pair, simulations=50, draws=20, permutations=19),
        "collapse": diagnostics.collapse(*pair, rows=20, draws=3),
        "two_sample": diagnostics.two_sample(model, few, samples=20, permutations=20),
        "annealed_evidence": diagnostics.annealed_evidence(*pair, chains=2, temperatures=3, steps=1, compile="off"),
        "gap": diagnostics.gap(*pair, particles=30, steps=2, compile="off"),
        "encode": ppl_vae.encode(model, guide, few),
        "reconstruct": ppl_vae.reconstruct(*pair),
        "compare": ppl_vae.compare({"a": (model, guide), "b": (model, guide)}, few, particles=30),
        "data": data,
        "split": few,
    }


NAMES = [
    "fit",
    "evaluate",
    "certify",
    "calibration",
    "local-calibration",
    "collapse",
    "two_sample",
    "annealed_evidence",
    "gap",
    "encode",
    "reconstruct",
    "compare",
    "data",
    "split",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_a_screen(results, name):
    shown = repr(results[name])
    assert shown.strip()
    assert shown.count("\n") <= LINES + 10
    assert max(map(len, shown.splitlines())) <= WIDTH + 40
    assert "tensor(" not in shown
    assert "<" not in shown


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("data", "split")])
def test_a_result_is_a_table_in_a_notebook(results, name):
    page = results[name]._repr_html_()
    assert page.startswith("<table>")
    assert len(page) < 20_000
    assert page.count("<tr>") == page.count("</tr>")


def test_a_fit_says_what_came_of_it(results):
    shown = repr(results["fit"])
    assert shown.startswith("VAE with MeanField, ELBO")
    assert "2, ended by epochs; kept" in shown
    assert "nats per row" in shown


def test_a_function_is_told_of_every_pass_of_an_evaluation():
    told = []
    ppl_vae.evaluate(
        toy.model,
        toy.posterior,
        torch.zeros(40),
        particles=400,
        floats_at_once=2000,
        progress=lambda *n: told.append(n),
    )
    assert len(told) > 3
    assert told == [(i + 1, len(told)) for i in range(len(told))]
    with pytest.raises(UserError, match='progress must be "auto", True, False, or a function of two numbers'):
        ppl_vae.evaluate(toy.model, toy.posterior, torch.zeros(4), particles=4, progress="loud")


def tracked_by(progress, words):
    """Numbers of a loop of which each has a bar within it, and how many bars there are."""
    with module.showing(progress):
        for i in module.tracked(range(3), words):
            assert [*module.tracked(range(2), "inner loop")] == [0, 1]
            yield i, len(module.SHOWN)


def normal_pair():
    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 2), 0.5).to_event(1), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(4 * x.nan_to_num().sum(-1) / 9, 1 / 3))

    return model, guide


LONG = {
    "impute": lambda *pair, **told: ppl_vae.impute(*pair, floats_at_once=20_000, particles=200, **told),
    "annealed_evidence": lambda *pair, **told: diagnostics.annealed_evidence(
        *pair, temperatures=9, steps=2, chains=2, **told
    ),
    "bidirectional": lambda *pair, **told: diagnostics.bidirectional(
        *pair, rows=20, temperatures=9, steps=2, chains=2, **told
    ),
    "gap": lambda *pair, **told: diagnostics.gap(*pair, particles=100, steps=2, floats_at_once=100_000, **told),
    "calibration": lambda *pair, **told: diagnostics.calibration(*pair, simulations=300, draws=19, **told),
    "local_calibration": lambda *pair, **told: diagnostics.local_calibration(*pair, permutations=19, **told),
    "collapse": lambda *pair, **told: diagnostics.collapse(*pair, draws=300, **told),
    "predictive_check": lambda *pair, **told: diagnostics.predictive_check(*pair, draws=9, **told),
    "two_sample": lambda *pair, **told: diagnostics.two_sample(
        *pair[:1], *pair[2:], tests=("mmd", "sliced_wasserstein"), permutations=19, **told
    ),
    "loo_pit": lambda *pair, **told: diagnostics.loo_pit(*pair, particles=500, **told),
    "anomaly": lambda *pair, **told: diagnostics.anomaly(*pair, particles=500, **told),
}


FAST = ("impute", "collapse", "anomaly", "predictive_check")


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in LONG])
def test_a_function_is_told_of_every_step_of_long_work(name, monkeypatch):
    monkeypatch.setattr("ppl_vae.diagnostics._criticism.leave_one_out.FLOATS_AT_ONCE", 2**20)
    monkeypatch.setattr(
        "ppl_vae.evaluation.passes.FLOATS_AT_ONCE", 2**8 if name in ("collapse", "calibration") else 2**15
    )
    told, pair = [], normal_pair()
    rows = torch.randn(100, 2, generator=torch.manual_seed(0))
    found = LONG[name](*pair, rows, progress=lambda *steps: told.append(steps))
    starts = [i for i, (done, _) in enumerate(told) if done == 1]
    assert starts, "nothing was told"
    for start, end in zip(starts, [*starts[1:], len(told)], strict=True):
        total = told[start][1]
        assert total > 1
        assert told[start:end] == [(i + 1, total) for i in range(total)]
    again = LONG[name](*pair, rows, progress=False)
    assert repr(again) == repr(found)
    with pytest.raises(UserError, match='progress must be "auto", True, False, or a function of two numbers'):
        LONG[name](*pair, rows, progress="loud")


def test_reading_a_large_text_file_shows_a_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    begun = []
    monkeypatch.setattr(module._Bar, "_begin", lambda bar: begun.append((bar.words, bar.total)))
    file = tmp_path / "rows.csv"
    lines = "\n".join(f"{i / 7:.6f},{i % 5}" for i in range(40_000))
    file.write_text(f"a,b\n{lines}\n")
    silent = ppl_vae.load(file, progress=False)
    assert not begun
    shown = ppl_vae.load(file, progress=True)
    assert ("reading rows.csv", len(f"a,b\n{lines}\n")) in begun
    assert ("columns of rows.csv", 2) in begun
    assert all(torch.equal(shown.train[f.name], silent.train[f.name]) for f in silent.schema)
    with pytest.raises(UserError, match='progress must be "auto"'):
        ppl_vae.load(file, progress="loud")


def test_a_bar_is_shown_for_what_takes_long_and_never_within_another(monkeypatch):
    with module.working("quick work", 3, True) as step:
        step()
        assert step.bar is None
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with module.working("slow work", 3, True) as step:
        step()
        assert step.bar is not None
        with module.working("inner work", 3, True) as inner:
            inner()
            assert inner.bar is None
    assert not module.SHOWN
    assert [*tracked_by(True, "slow loop")] == [(0, 0), (1, 1), (2, 1)]
    assert [*tracked_by("auto", "unwatched loop")] == [(0, 0), (1, 0), (2, 0)]
    with module.working("unwatched", 3) as step:
        step()
    assert not hasattr(step, "bar")
