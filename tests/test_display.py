"""Every result is a screen at a prompt and a table in a notebook, however many rows it is about."""

from __future__ import annotations

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
    with module.working("unwatched", 3) as step:
        step()
    assert not hasattr(step, "bar")
