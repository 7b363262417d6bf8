"""What people type who know Pyro, PyTorch and scikit-learn: it works, or says what to type."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae
from ppl_vae import IWAE, VAE, MeanField, plots
from ppl_vae.errors import UserError
from ppl_vae.models import CVAE
from ppl_vae.training import Callback

ROWS = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
QUICK = {"epochs": 1, "compile": "off", "seed": 0}


@pytest.fixture(scope="module")
def trained():
    data = ppl_vae.load(ROWS)
    torch.manual_seed(0)
    model = VAE(data, latent_dim=2, hidden=8)
    return ppl_vae.fit(model, MeanField(model, hidden=8), data, **QUICK)


def test_a_model_and_data_are_enough(trained):
    result = ppl_vae.fit(trained.model, trained.data, **QUICK)
    assert type(result.guide).__name__ == "MeanField"
    assert type(ppl_vae.fit("auto_encoder", trained.data, **QUICK).guide).__name__ == "Point"
    assert ppl_vae.fit(trained.model, trained.data, bound=IWAE(2), **QUICK).bound.particles == 2


@pytest.mark.parametrize("guide", ["mean_field", MeanField])
def test_a_guide_in_the_place_of_the_data_is_no_data(trained, guide):
    with pytest.raises(UserError, match="fit needs rows"):
        ppl_vae.fit(trained.model, guide)


def test_a_result_stands_for_its_pair_and_its_data(trained):
    by_hand = ppl_vae.evaluate(trained.model, trained.guide, trained.data, particles=5)
    for found in (
        ppl_vae.evaluate(trained, particles=5),
        ppl_vae.evaluate(trained, trained.data.test, particles=5),
        ppl_vae.evaluate(trained, data=trained.data, particles=5),
        trained.evaluate(particles=5),
    ):
        assert torch.equal(found.elbo, by_hand.elbo)
    assert list(found.frame()["elbo"]) == found.elbo.tolist()
    assert trained.encode(ROWS[:4])["z"].shape == (4, 2)
    assert ppl_vae.encode(trained)["z"].shape == (len(trained.data.test), 2)
    assert ppl_vae.check(trained) == []
    assert len(trained.sample(5).rows["x"]) == 5
    assert "z | h" in ppl_vae.draw(trained).guide.lines()[2]
    assert 0 <= ppl_vae.diagnostics.two_sample(trained, tests="mmd", permutations=19).p_value <= 1


def test_a_run_that_was_opened_stands_for_its_pair(trained, tmp_path):
    run = ppl_vae.open_run(trained.save(tmp_path / "run"))
    assert torch.equal(ppl_vae.evaluate(run, trained.data, particles=5).elbo, trained.evaluate(particles=5).elbo)
    with pytest.raises(UserError, match="pass the rows"):
        ppl_vae.evaluate(run)
    np.save(tmp_path / "rows.npy", ROWS)
    from_file = ppl_vae.fit(trained.model, ppl_vae.load(tmp_path / "rows.npy"), **QUICK)
    run = ppl_vae.open_run(from_file.save(tmp_path / "other"))
    assert torch.equal(ppl_vae.evaluate(run, particles=5).elbo, from_file.evaluate(particles=5).elbo)


def test_results_in_a_list_are_compared_by_their_names(trained):
    found = ppl_vae.compare([trained, trained], particles=5)
    assert {pair.name for pair in found.pairs} == {"VAE with MeanField, ELBO()", "VAE with MeanField, ELBO() (2)"}


def test_a_result_tells_and_draws_itself(trained):
    assert trained.summary()["bound"] == trained.best.bound
    assert trained.plot().axes
    assert plots.training_curve(trained).axes


def test_a_model_draws_rows_and_says_what_it_has_not(trained):
    drawn = trained.model.sample(5, seed=1)["x"]
    assert torch.equal(drawn, trained.model.sample(5, seed=1)["x"])
    assert drawn.shape == (5, 3)
    with pytest.raises(UserError, match=r"evaluate\(model, guide, data\)"):
        trained.model.log_prob(torch.zeros(3))
    with pytest.raises(UserError, match=r"fit\(model, data\)"):
        VAE(trained.data).fit()
    with pytest.raises(UserError, match="given y"):
        CVAE(ppl_vae.load("digits"), latent_dim=2, hidden=8).sample(3)


def test_data_are_indexed_as_data_sets_are(trained):
    data = trained.data
    assert data["train"] is data.train
    assert len(data) == 60
    assert torch.equal(data.train[:5]["x"], data.train["x"][:5])
    assert torch.equal(data.train[[2, 0]]["x"], data.train["x"][[2, 0]])
    assert torch.equal(data.train[-1]["x"], data.train["x"][-1])
    assert len(list(data.test)) == len(data.test)
    loader = torch.utils.data.DataLoader(data.train, batch_size=8)
    assert next(iter(loader))["x"].shape == (8, 3)
    with pytest.raises(UserError, match=r"unknown split 'tset'.*'test'"):
        data["tset"]


def test_a_split_becomes_a_table_again():
    frame = pd.DataFrame({"age": [30.5, 41.0, 29.0, 55.0], "sex": ["F", "M", "F", "M"]})
    table = ppl_vae.load(frame, test=0, validation=0).train.to_pandas()
    assert sorted(table["sex"]) == ["F", "F", "M", "M"]
    assert sorted(table["age"]) == sorted(frame["age"])


def test_callbacks_are_told_and_may_stop():
    class Heard(Callback):
        def __init__(self):
            self.told = []

        def on_start(self, settings):
            self.told.append(settings["epochs"])

        def on_epoch(self, record):
            self.told.append(record["epoch"])
            return record["epoch"] < 2

        def on_end(self, result):
            self.told.append(result.stopped)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    heard, epochs = Heard(), []
    x = torch.randn(20)
    ppl_vae.fit(
        model, MeanField(model, x, hidden=4), x, epochs=5, compile="off", callbacks=[heard], on_epoch=epochs.append
    )
    assert heard.told == [5, 1, 2, "on_epoch"]
    assert [record["epoch"] for record in epochs] == [1, 2]
    for wrong in (heard, [print], 3):
        with pytest.raises(UserError, match="callback"):
            ppl_vae.fit(model, MeanField(model, x, hidden=4), x, callbacks=wrong, **QUICK)


def test_progress_is_lines_where_nobody_watches_a_bar(trained, capsys):
    ppl_vae.fit(trained.model, trained.guide, trained.data, **QUICK)
    assert capsys.readouterr().err == ""
    ppl_vae.fit(trained.model, trained.guide, trained.data, progress=True, **QUICK)
    said = capsys.readouterr().err
    assert "VAE with MeanField, 42 training rows" in said
    assert "epoch 1/1: bound train" in said
    with pytest.raises(UserError, match='progress must be "auto"'):
        ppl_vae.fit(trained.model, trained.guide, trained.data, progress=3, **QUICK)


@pytest.mark.parametrize(("word", "ours"), [("verbose", "progress"), ("max_epochs", "epochs"), ("learning_rate", "lr")])
def test_words_of_others_are_answered_with_ours(trained, word, ours):
    with pytest.raises(UserError, match=f"did you mean '{ours}'"):
        ppl_vae.fit(trained.model, trained.guide, trained.data, **{word: 1})


def line(a, r=None):
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(a)):
        pyro.sample("r", dist.Normal(b * a, 1.0), obs=r)


@pytest.mark.slow
def test_a_result_of_rows_in_a_dict_has_a_report(tmp_path):
    data = {"a": torch.linspace(-1, 1, 30), "r": torch.linspace(-1, 1, 30)}
    result = ppl_vae.fit(line, ppl_vae.guides.MeanField(line, data), data, epochs=2, restarts=0)
    page = ppl_vae.report(result, tmp_path / "run", particles=20).read_text()
    assert "What all rows share" in page
    assert "The posterior: " in page
