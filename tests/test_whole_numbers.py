"""A count is a whole number wherever one is taken: NumPy's is one, 2.5, True and "3" are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import NormalGuide, normal_model
from helpers import normals

import ppl_vae
from ppl_vae import UserError, diagnostics
from ppl_vae.bounds import ELBO, IWAE, MIWAE, PIWAE, TVO
from ppl_vae.errors import check_whole
from ppl_vae.guides import MeanField, Planar
from ppl_vae.likelihoods import Binomial, DiscretisedLogistic
from ppl_vae.models import GMVAE, VAE, Hierarchical
from ppl_vae.nn.networks import MLP
from ppl_vae.priors import FlowPrior, LabelConditional, Mixture, VampPrior


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_come_back_as_pythons(value):
    assert type(check_whole("n", value)) is int
    assert check_whole("n", value, 3) == 3


WRONG = (0, -1, 2.5, 3.0, True, "3", None, float("nan"), np.float64(3), torch.tensor(2.5), 10**30)


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_what_is_none_is_refused(value):
    with pytest.raises(UserError, match="n must be a whole number of at least 1, got "):
        check_whole("n", value)


def table():
    return ppl_vae.load(normals((20, 2), 1.0).float())


def pair_and_rows():
    return normal_model, NormalGuide(), normals(6, 1.0)


DOORS = {
    "ELBO": lambda n: ELBO(n),
    "IWAE": lambda n: IWAE(n),
    "MIWAE, groups": lambda n: MIWAE(n, 4),
    "PIWAE, particles": lambda n: PIWAE(4, n),
    "TVO": lambda n: TVO(4, n),
    "Mixture": lambda n: Mixture(n),
    "VampPrior": lambda n: VampPrior(n),
    "FlowPrior": lambda n: FlowPrior(n),
    "LabelConditional": lambda n: LabelConditional(n),
    "Binomial": lambda n: Binomial(n),
    "DiscretisedLogistic": lambda n: DiscretisedLogistic(n),
    "MLP": lambda n: MLP(3, (n,), 2),
    "an encoder": lambda n: MeanField(normal_model, normals(6, 1.0), hidden=(n,)),
    "flows": lambda n: Planar(normal_model, normals(6, 1.0), flows=n),
    "latent_dim": lambda n: VAE(table(), latent_dim=n),
    "latent_dims": lambda n: Hierarchical(table(), latent_dims=(n, 2)),
    "clusters": lambda n: GMVAE(table(), clusters=n),
    "log_weights": lambda n: ppl_vae.log_weights(*pair_and_rows(), n),
    "log_weights, chunk": lambda n: ppl_vae.log_weights(*pair_and_rows(), 4, chunk=n),
    "evaluate": lambda n: ppl_vae.evaluate(*pair_and_rows(), n),
    "evaluate, iwae": lambda n: ppl_vae.evaluate(*pair_and_rows(), 4, iwae=(n,)),
    "compare, iwae": lambda n: ppl_vae.compare({"a": pair_and_rows()[:2]}, pair_and_rows()[2], particles=9, iwae=(n,)),
    "gap": lambda n: diagnostics.gap(*pair_and_rows(), particles=n),
    "annealed_evidence": lambda n: diagnostics.annealed_evidence(*pair_and_rows(), chains=n),
    "bidirectional": lambda n: diagnostics.bidirectional(*pair_and_rows(), rows=n),
    "impute": lambda n: ppl_vae.impute(*pair_and_rows(), draws=n),
    "predict": lambda n: ppl_vae.predict(*pair_and_rows(), draws=n),
    "to_arviz": lambda n: ppl_vae.to_arviz(*pair_and_rows(), draws=n),
}


@pytest.mark.parametrize("value", [0, 2.5, True, "3"], ids=repr)
@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_what_is_no_whole_number(door, value):
    with pytest.raises(UserError, match="must be a whole number of at least 1, got "):
        DOORS[door](value)


@pytest.mark.parametrize("wrong", [True, "8", None])
def test_widths_of_hidden_layers_are_numbers(wrong):
    for make in (lambda: MLP(3, wrong, 2), lambda: FlowPrior(2, wrong), lambda: MeanField(hidden=wrong)):
        with pytest.raises(UserError, match=r"hidden expects the widths of hidden layers, such as \(256,\), got"):
            make()


@pytest.mark.parametrize(
    "door", ["IWAE", "MIWAE, groups", "TVO", "Mixture", "log_weights", "evaluate, iwae", "flows", "latent_dim"]
)
def test_every_door_takes_numpys(door):
    DOORS[door](np.int64(3))
