"""A pair that begins where another one ended: what is taken, what is left alone, and that it stays."""

import json
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae
from ppl_vae.cli import main
from ppl_vae.errors import UserError
from ppl_vae.guides import IAF, FullRank, MeanField
from ppl_vae.models import GMVAE, M1M2, M2, VAE
from ppl_vae.nn.encoders import FieldEncoder
from ppl_vae.priors import Diagonal, VampPrior
from ppl_vae.programs.program import Pair

SMALL = {"hidden": (12,)}
ALL = ("model.decoder", "guide.encoder", "guide.heads.0")


@pytest.fixture(scope="module")
def data():
    return ppl_vae.load("digits", labels=100)


def pair(make, data, family=MeanField, **options):
    model = make(data, **SMALL, **options)
    return model, family(model, **SMALL)


@pytest.fixture(scope="module")
def first(data):
    torch.manual_seed(3)
    return SimpleNamespace(
        **dict(zip(("model", "guide"), pair(VAE, data, latent_dim=4, prior=Diagonal()), strict=True))
    )


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("make", "options", "family", "taken"),
    [
        (VAE, {"latent_dim": 4, "prior": Diagonal()}, MeanField, ("model.prior", *ALL)),
        (VAE, {"latent_dim": 4, "prior": VampPrior(5)}, MeanField, ALL),
        (VAE, {"latent_dim": 4}, IAF, ALL[:2]),
        (VAE, {"latent_dim": 5}, MeanField, ALL[1:2]),
        (GMVAE, {"latent_dim": 4}, MeanField, ALL[:2]),
        (M2, {"latent_dim": 4}, MeanField, ALL[1:2]),
        (M1M2, {"latent_dims": (4, 4), "prior": Diagonal()}, MeanField, ALL),
    ],
    ids=["the same", "another prior", "another guide", "another size", "clusters", "M2", "M1M2"],
)
def test_parts_that_fit_are_taken_whole_and_no_others(make, options, family, taken, data, first):
    model, guide = pair(make, data, family, **options)
    before, theirs = copied(Pair(model, guide)), copied(Pair(first.model, first.guide))
    assert ppl_vae.warm_start(model, guide, first) == taken
    now = Pair(model, guide).state_dict()
    begins = tuple(name.replace(".", ".body.", 1) + "." for name in taken)
    for name, value in now.items():
        expected = theirs if name.startswith(begins) else before
        assert torch.equal(value, expected[name]), name
    assert all(p.requires_grad for p in (*model.parameters(), *guide.parameters()))
    shared = {p.data_ptr() for p in Pair(first.model, first.guide).parameters()}
    assert not any(p.data_ptr() in shared for p in Pair(model, guide).parameters())


def test_a_pair_that_begins_with_itself_says_what_it_said(data, first):
    model, guide = pair(VAE, data, latent_dim=4, prior=Diagonal())
    ppl_vae.warm_start(model, guide, first)
    rows = data.validation.rows(slice(0, 20))
    mine, theirs = (
        ppl_vae.evaluate(m, g, rows, particles=20, seed=0) for m, g in ((model, guide), (first.model, first.guide))
    )
    assert torch.equal(mine.log_evidence, theirs.log_evidence)


@pytest.mark.parametrize("compile", ["off", "auto"])
def test_frozen_parts_stay_and_the_others_learn(compile, data, first, soon_captured):
    model, guide = pair(M1M2, data, latent_dims=(4, 3))
    taken = ppl_vae.warm_start(model, guide, first, freeze=True)
    before = copied(Pair(model, guide))
    ppl_vae.fit(model, guide, data, epochs=3, label_weight=1.0, weight_decay=1.0, compile=compile)
    begins = tuple(name.replace(".", ".body.", 1) + "." for name in taken)
    moved = {n for n, v in Pair(model, guide).named_parameters() if not torch.equal(v, before[n])}
    assert moved == {n for n, _ in Pair(model, guide).named_parameters() if not n.startswith(begins)}


def test_parameters_of_a_function_are_taken_by_name(data):
    def model(x=None):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(loc + z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    x = torch.randn(50, 2) + 5
    trained = ppl_vae.fit(model, MeanField(model, x), x, epochs=2, lr=0.1)
    again = ppl_vae.fit(model, MeanField(model, x), x, epochs=1)  # a program of its own for its parameters
    assert "model.loc" in ppl_vae.warm_start(again.model, again.guide, trained)
    assert torch.equal(*(p.model.own.get_parameter("loc") for p in (again, trained)))


def test_an_encoder_of_ones_own_is_a_part(data, first):
    model = VAE(data, **SMALL, latent_dim=4)
    guide = MeanField(model, encoder=FieldEncoder([data.schema["x"]], data.train, (12,), "tanh"))  # without gates
    assert ppl_vae.warm_start(model, guide, first) == ("model.decoder", "guide.heads.0")


def test_nothing_in_common_is_refused_in_one_line(data, first):
    model = VAE(data, latent_dim=5, hidden=(7,))
    with pytest.raises(UserError, match="no part of VAE with MeanField fits VAE with FullRank"):
        ppl_vae.warm_start(model, FullRank(model, hidden=(7,)), first)
    with pytest.raises(UserError, match="MeanField has not seen data yet"):
        ppl_vae.warm_start(model, MeanField(lambda x=None: None), first)


# from the command line ------------------------------------------------------------------------------------------------

USUAL = "--hidden 12 --epochs 1 --evaluate-particles 5"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run `ppl-vae fit` in a folder of its own: status and stderr."""
    monkeypatch.chdir(tmp_path)

    def fit(words):
        status = main(["fit", *words.split(), *USUAL.split()])
        return status, capsys.readouterr().err

    return fit


def test_a_run_begins_with_another(run, tmp_path):
    assert run("vae --latent-dim 4 --no-report --out features")[0] == 0
    status, err = run("m1m2:latent_dims=4+3 --labels 100 --start features --freeze --out stacked")
    assert status == 0, err
    assert f"from features: {', '.join(ALL)}, which stay as they are\n" in err
    info = json.loads((tmp_path / "stacked/run.json").read_text())["start"]
    assert (info["run"], info["parts"], info["frozen"]) == ("features", list(ALL), True)
    own, theirs = ppl_vae.open_run("stacked"), ppl_vae.open_run("features")
    assert torch.equal(own.model.decoder.last.weight, theirs.model.decoder.last.weight)
    assert "of the run features, which were not trained any further" in (tmp_path / "stacked/report.html").read_text()


def test_a_run_of_a_users_file_begins_another(run, tmp_path):
    (tmp_path / "own.py").write_text(
        "from ppl_vae.models import VAE\n\n\nclass Mine(VAE):\n    def __init__(self, data):\n"
        "        super().__init__(data, latent_dim=4, hidden=(12,))\n"
    )
    assert run("own.py:Mine --no-report --out a")[0] == 0
    status, err = run("own.py:Mine --no-report --bound iwae --start a")
    assert status == 0, err
    assert f"from a: {', '.join(ALL)}\n" in err
    status, err = run("vae --no-report --start a")
    assert (status, err.count("\n")) == (2, 1)
    assert "the model of this run is your own" in err
