"""Pyro's mixed hidden Markov model with a generated guide: its evidence is that of the forward algorithm."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.mixed_hmm import STATES, evidence, forward, mixed, seals
from pyro import poutine
from pyro.infer import TraceEnum_ELBO

import ppl_vae
from ppl_vae.data import as_one_unit
from ppl_vae.errors import UserError
from ppl_vae.guides import FullRank


def total(model, guide, rows):
    torch.manual_seed(3)
    found = ppl_vae.log_weights(model, guide, rows)
    shared = 0.0 if found.log_global is None else found.log_global.sum()
    return float((found.log_weight.sum() + shared).detach())


@pytest.mark.parametrize(
    ("sexes", "animals"),
    [
        (None, "discrete"),
        pytest.param("discrete", "discrete", marks=pytest.mark.slow),
        pytest.param(None, None, marks=pytest.mark.slow),
        pytest.param("discrete", None, marks=pytest.mark.slow),
    ],
)
def test_the_evidence_is_that_of_the_forward_algorithm(sexes, animals):
    model, batch = mixed(sexes, animals), seals()
    exact = float(evidence(sexes is not None, animals is not None, batch))
    unit = as_one_unit(batch)
    assert total(model, FullRank(model, unit, hidden=(4,)).double(), unit) == pytest.approx(exact, rel=1e-10)
    if sexes is None:  # the animals are then independent, and rows
        assert total(model, FullRank(model, batch, hidden=(4,)).double(), batch) == pytest.approx(exact, rel=1e-10)
    else:
        with pytest.raises(UserError, match="'e_sex' is Categorical shared by all rows"):
            FullRank(model, batch, hidden=(4,))


def test_the_weight_with_normal_levels_is_that_of_its_draws():
    """By the forward algorithm at the levels that the guide of the example drew; Pyro's is, too."""
    model, batch, drawn = mixed("continuous", "continuous"), seals(), {}
    loc = torch.linspace(-0.5, 0.5, STATES**2, dtype=torch.float64)
    on = batch["there"].bool().any(-1)

    def by_hand(step, angle, dive, there):
        with pyro.plate("sexes", step.shape[1], dim=-1):
            drawn["sexes"] = pyro.sample("eps_sex", dist.Normal(loc, 0.5).to_event(1))
            with pyro.plate("animals", len(step), dim=-2), poutine.mask(mask=there.bool().any(-1)):
                drawn["animals"] = pyro.sample("eps_animal", dist.Normal(-loc, 0.5).to_event(1))

    def exact():
        sexes, animals = drawn["sexes"].reshape(2, -1), drawn["animals"].reshape(3, 2, -1)
        of_sexes, of_animals = (
            (dist.Normal(0.0, 1.0).log_prob(v) - dist.Normal(m, 0.5).log_prob(v)).sum(-1)
            for v, m in ((sexes, loc), (animals, -loc))
        )
        return float(of_sexes.sum() + (of_animals * on).sum() + forward(sexes + animals, batch).sum())

    assert total(model, by_hand, batch) == pytest.approx(exact(), rel=1e-10)
    bound = TraceEnum_ELBO(max_plate_nesting=2, strict_enumeration_warning=False)
    assert -bound.loss(model, by_hand, **batch) == pytest.approx(exact(), rel=1e-10)
    guide = FullRank(model, batch, hidden=(4,)).double()
    assert ppl_vae.check(model, guide, batch) == []
