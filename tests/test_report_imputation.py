"""The section of a report on missing entries."""

import re
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from test_report import untrained

import ppl_vae
from ppl_vae.errors import UserError
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import Normal
from ppl_vae.models import VAE
from ppl_vae.plots import missing
from ppl_vae.reporting import write_report
from ppl_vae.reporting._imputation import _check, _filled, _hide, _impute, _split
from ppl_vae.reporting.view import look


def words_of(page):
    found = re.search(r"<h2>Missing entries, imputed</h2>(.*?)</section>", page, re.DOTALL)
    return None if found is None else re.sub(r"\s+", " ", re.sub("<[^>]+>", "", found[1]))


def reported(data, folder, **options):
    torch.manual_seed(0)
    model = VAE(data, latent_dim=2, hidden=(8,), **options)
    result = ppl_vae.fit(model, MeanField(model, hidden=(8,)), data, epochs=2)
    run = ppl_vae.open_run(result.save(folder / "run"))
    return words_of(write_report(run, data).read_text()), {p.stem for p in (run.path / "figures").iterdir()}


def frame(rows=80):
    draw = np.random.default_rng(0)
    first = draw.normal(size=rows)
    return pandas.DataFrame(
        {"a$_{": first, "b": first + draw.normal(size=rows), "kind": np.where(first > 0, "up", "down")}
    )


def test_rows_of_a_table_with_numbers_and_categories(tmp_path):
    holey = frame().mask(np.random.default_rng(1).random((80, 3)) < 0.3)
    words, figures = reported(ppl_vae.load(holey, missing="allow"), tmp_path)
    assert {"imputed", "imputed-hidden"} <= figures
    assert re.search(r"As a check, 20 % of the observed entries of 16 rows were hidden too", words)
    numbers, categories = re.search(r"% of (\d+) numbers lie .* and \d+ of (\d+) categories", words).groups()
    assert 0 < int(numbers) <= 32
    assert 0 < int(categories) <= 16


def test_categories_alone_have_no_picture(tmp_path):
    draw = np.random.default_rng(0)
    holey = pandas.DataFrame({n: draw.choice(["u", "v"], 60) for n in "ab"}).mask(draw.random((60, 2)) < 0.3)
    words, figures = reported(ppl_vae.load(holey, missing="allow"), tmp_path)
    assert "categories were imputed right" in words
    assert not {"imputed", "imputed-hidden"} & figures


def test_pictures_with_missing_pixels(tmp_path):
    x = ppl_vae.load("digits").train["x"][:60].float().clone()
    x[::2, :3] = torch.nan
    words, figures = reported(ppl_vae.load(x, missing="allow"), tmp_path)
    assert "imputed" in figures
    assert "Sand-coloured pixels" in words


@pytest.mark.slow
def test_complete_rows_have_no_such_section(tmp_path):
    words, figures = reported(ppl_vae.load(frame()), tmp_path)
    assert words is None
    assert not {"imputed", "imputed-hidden"} & figures


def test_the_check_counts_what_it_says():
    """Of normal rows under their true model nine in ten hidden numbers lie within the interval."""
    torch.manual_seed(0)
    z = torch.randn(200, 1)
    x = torch.cat([z, z, z], dim=1) + 0.5 * torch.randn(200, 3)
    x[0, 0] = torch.nan
    data = ppl_vae.load(x, missing="allow", test=0, validation=0)
    model = VAE(data, latent_dim=1, hidden=(), likelihood=Normal(scale=0.5))
    with torch.no_grad():  # the true model, in the decoder's units
        model.decoder.last.weight.copy_(1 / model.likelihood.unit.unsqueeze(-1))
        model.decoder.last.bias.copy_(-model.likelihood.shift / model.likelihood.unit)
    model.begun = {}  # of the model that this one was, whose latent may have the other sign
    run = untrained(model, MeanField(model, hidden=(8,)), data, Path("unused"))
    view = look(run.pair, data, data.schema, seed=0)
    hidden, truth = _hide(view, _split(view, list(range(200))))
    again = _impute(view, hidden)
    taken = truth.isfinite()
    assert torch.equal(taken, hidden["x"].isnan() & view.values.isfinite())
    assert torch.equal(truth[taken], view.values[taken])
    count = int(taken.sum())
    _, low, high = _filled(view, again)
    share = float(((truth >= low) & (truth <= high)).sum()) / count
    assert abs(share - 0.9) < 4 * (0.9 * 0.1 / count) ** 0.5 + 0.02  # 60 draws do not know the ends exactly
    assert f"{100 * share:.0f} % of {count} numbers" in _check(view, again, truth, [0, 1, 2])


def test_pictures_refuse_what_does_not_fit():
    x = np.zeros((2, 3))
    with pytest.raises(UserError, match="one for each column"):
        missing.imputed_rows(x, x, x, x, ["a"], ["r", "s"], np.ones((2, 3)))
    with pytest.raises(UserError, match="one for each row"):
        missing.imputed_images(np.zeros((2, 4, 4)), np.zeros((2, 4, 4)), np.zeros((1, 2, 4, 4)), ["a"])
    with pytest.raises(UserError, match="shape of x"):
        missing.hidden_entries(x, x[:1], x, x, ["a", "b", "c"])
