"""Pyro's own programs of series with nothing but a generated guide: weighed as Pyro weighs them, and trained."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from cases.pyro_series import CAPTURES, HIDDEN_MARKOV, captures, one_by_one, songs
from pyro.infer import TraceEnum_ELBO

import ppl_vae
from ppl_vae.checks.analysis import analyse
from ppl_vae.data import as_one_unit
from ppl_vae.errors import UserError
from ppl_vae.guides import FullRank, MeanField
from ppl_vae.programs.execution import masks_as_they_were
from ppl_vae.programs.program import Pair
from ppl_vae.weights.completion import completed
from ppl_vae.weights.log_weights import weigh

PROGRAMS = {f"hidden Markov, {n}": (p, songs()) for n, p in HIDDEN_MARKOV.items()}
PROGRAMS |= {f"captures, {n}": (p, captures()) for n, p in CAPTURES.items()}


@pytest.fixture(params=PROGRAMS)
def case(request):
    pyro.clear_param_store()
    torch.manual_seed(0)
    return PROGRAMS[request.param]


def total(weights):
    """log p / q of all rows and of what they share."""
    shared = 0.0 if weights.log_global is None else weights.log_global.sum()
    return float((weights.log_weight.sum() + shared).detach())


def pyros(model, guide, batch, dims):
    model = masks_as_they_were()(model)  # capture-recapture changes its mask afterwards, in place
    torch.manual_seed(3)
    return -TraceEnum_ELBO(max_plate_nesting=dims, strict_enumeration_warning=False).loss(model, guide, **batch)


def test_the_weight_is_that_of_pyro(case):
    model, batch = case
    guide = FullRank(model, batch, hidden=(4,))
    torch.manual_seed(3)
    found = ppl_vae.log_weights(model, guide, batch)
    assert total(found) == pytest.approx(pyros(model, guide, batch, 2 if "lengths" in batch else 1), rel=1e-5)
    assert found.log_weight.shape == (1, len(next(iter(batch.values()))))


def test_all_rows_in_one_loop_are_one_unit():
    batch = {name: values[:3] for name, values in songs().items()}
    with pytest.raises(UserError, match="rows=None"):
        MeanField(one_by_one, hidden=(4,)).setup(songs())
    unit = as_one_unit(batch)
    guide = FullRank(one_by_one, unit)
    torch.manual_seed(3)
    found = ppl_vae.log_weights(one_by_one, guide, unit)
    assert total(found) == pytest.approx(pyros(one_by_one, guide, batch, 1), rel=1e-5)


@pytest.mark.parametrize("name", HIDDEN_MARKOV)
def test_rows_among_shorter_ones_have_the_weights_that_they_have_among_longer_ones(name):
    """The loop ends with the longest row of a batch: its sites are fewer than those that were read."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    model, batch = HIDDEN_MARKOV[name], songs()
    pair = Pair(model, FullRank(model, batch, hidden=(4,)))
    structure = analyse(pair, batch)
    found = []
    for rows in (batch, {n: v[-3:] for n, v in batch.items()}):
        for discrete in ("expectation", "marginal"):
            torch.manual_seed(3)
            found.append(weigh(pair, structure, rows, discrete=discrete).log_weight[:, -3:])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    short = completed(pair, structure, {n: v[-3:] for n, v in batch.items()}, 2).latents
    states = {n for n in short if n[1] == "_"}
    assert states == {n for n in pair.guide.program.summed if int(n[2:]) < 3}
    assert {short[n].shape for n in states} == {(2, 3, 1)}


@pytest.mark.slow
def test_a_hidden_markov_model_trains_on_batches_of_any_length():
    model, batch = HIDDEN_MARKOV["vectorised"], songs(9)
    guide = FullRank(model, batch, hidden=(4,))
    result = ppl_vae.fit(model, guide, batch, epochs=8, batch_size=3, lr=0.05, seed=0, restarts=0, compile="off")
    assert result.history[-1]["train"] > result.history[0]["train"]
    found = ppl_vae.evaluate(model, guide, batch, particles=20)
    assert math.isfinite(found.log_evidence)
    draws = ppl_vae.posterior(model, guide, batch, draws=10, particles=10)
    assert draws["probs_x"].shape[-2:] == (4, 4)
