"""Wherever an object is taken its name with options will do, or its class; anything else is refused in our words."""

from __future__ import annotations

import pytest
import torch

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import IWAE
from ppl_vae.guides import IAF, MeanField
from ppl_vae.likelihoods import Binomial, Columns, Normal
from ppl_vae.models import M2, VAE
from ppl_vae.priors import Mixture
from ppl_vae.registry.resolve import resolve
from ppl_vae.runs import open_run

DATA = ppl_vae.load("digits")

SAME = [
    ("prior", "mixture:components=4", Mixture(4), "components"),
    ("prior", Mixture, Mixture(), "components"),
    ("bound", "iwae:particles=3", IWAE(3), "particles"),
    ("bound", IWAE, IWAE(), "particles"),
]


@pytest.mark.parametrize(("kind", "word", "thing", "number"), SAME, ids=lambda v: str(v)[:30])
def test_a_word_a_class_and_an_object_are_the_same(kind, word, thing, number):
    for given in (word, thing):
        assert type(resolve(kind, given)) is type(thing)
        assert getattr(resolve(kind, given), number) == getattr(thing, number)


@pytest.mark.parametrize("prior", ["mixture:components=4", Mixture(4)], ids=["word", "object"])
@pytest.mark.parametrize("likelihood", ["binomial", Binomial, Binomial()], ids=["word", "class", "object"])
def test_models_take_words(prior, likelihood, tmp_path):
    model = VAE(DATA, prior=prior, likelihood=likelihood, latent_dim=2, hidden=(8,))
    assert (type(model.prior), type(model.likelihood)) == (Mixture, Binomial)
    result = ppl_vae.fit(model, MeanField(model, hidden=(8,)), DATA, epochs=1, compile="off")
    again = open_run(result.save(tmp_path / "run")).model
    assert (type(again.prior), again.prior.components, type(again.likelihood)) == (Mixture, 4, Binomial)


def test_columns_take_words():
    assert isinstance(Columns(age="normal").named["age"], Normal)


def test_fit_takes_words_and_classes():
    torch.manual_seed(1)
    random = torch.get_rng_state()
    first = ppl_vae.fit("vae:latent_dim=2", "iaf:flows=2", "digits", "iwae:particles=2", epochs=1, compile="off")
    assert torch.equal(torch.get_rng_state(), random)
    assert isinstance(first.model, VAE)
    assert isinstance(first.guide, IAF)
    assert (first.bound.particles, first.guide.flows) == (2, 2)
    again = ppl_vae.fit("vae:latent_dim=2", "iaf:flows=2", "digits", IWAE(2), epochs=1, compile="off")
    assert first.history[0]["train"] == again.history[0]["train"]
    assert isinstance(ppl_vae.fit(VAE, MeanField, DATA, IWAE, epochs=1, compile="off").guide, MeanField)


REFUSED = [
    (lambda: VAE(DATA, prior="mixure"), "unknown prior 'mixure': did you mean 'mixture'"),
    (lambda: VAE(DATA, prior=3), "prior must be a prior of ppl_vae.priors, its name or its class, got int"),
    (lambda: VAE(DATA, prior=Normal), "prior must be a prior of ppl_vae.priors, its name or its class, got Normal"),
    (lambda: M2(DATA, likelihood="normla"), "unknown likelihood 'normla': did you mean"),
    (lambda: VAE(DATA, likelihood=Mixture(3)), "likelihood must be a likelihood of ppl_vae.likelihoods"),
    (lambda: ppl_vae.fit("vea", "mean_field", "digits"), "unknown model 'vea': did you mean 'vae'"),
    (lambda: ppl_vae.fit("vae", "iaff", "digits"), "unknown guide 'iaff': did you mean 'iaf'"),
    (lambda: ppl_vae.fit("vae", "iaf", "digts"), "unknown data set 'digts': did you mean 'digits'"),
    (lambda: ppl_vae.fit("vae", "iaf", "digits", bound="iwea"), "unknown bound 'iwea': did you mean"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=[words[:40] for _, words in REFUSED])
def test_what_is_no_word_is_refused_in_ours(call, words):
    with pytest.raises(UserError) as refused:
        call()
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("given", [DATA.train, "digits", 3], ids=["split", "word", "number"])
def test_a_model_says_what_data_it_reads(given):
    with pytest.raises(UserError, match=r"VAE expects data of ppl_vae.load\(...\) or their schema, got"):
        VAE(given)
