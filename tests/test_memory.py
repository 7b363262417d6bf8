"""How much memory a pass takes is told from a few rows, and kept to."""

from __future__ import annotations

import pytest
import torch

import ppl_vae
from ppl_vae.evaluation.chunks import both
from ppl_vae.evaluation.passes import passes
from ppl_vae.guides import MAF, FullRank, MeanField
from ppl_vae.models import M2, VAE
from ppl_vae.programs.program import Pair
from ppl_vae.speed.memory import footprint, live_bytes

LIMIT = 2**18  # numbers, so 1 MiB


def test_tensors_that_are_gone_are_not_counted():
    def one_after_another():
        for _ in range(5):
            torch.zeros(100).add_(1)

    assert max(live_bytes(one_after_another)) == 400


@pytest.mark.parametrize(("rows", "particles"), [(1, 1), (1, 50), (3, 1), (50, 50)])
def test_the_peak_of_a_large_run_is_that_of_the_operation_that_is_largest_then(rows, particles):
    def function(rows, particles):
        wide = torch.zeros(rows, 1000).sum(1)  # the peak of few particles
        return (wide + torch.zeros(particles, rows)).exp()  # of many

    found = footprint(function, rows, particles)
    assert found.peak(5000, 4000) == max(live_bytes(lambda: function(5000, 4000))) or (rows, particles) != (50, 50)
    assert found.peak(rows, particles) == max(live_bytes(lambda: function(rows, particles)))


def test_what_is_small_in_any_case_is_told_from_one_run():
    runs = []

    def function(rows, particles):
        runs.append((rows, particles))
        return torch.zeros(3).sum() + torch.zeros(particles, rows)

    assert footprint(function, 50, 100, enough=1e6).peak(50, 100) >= max(live_bytes(lambda: function(50, 100)))
    assert runs == [(4, 4), (50, 100)]
    found = footprint(function, 50, 100, enough=1e4)
    assert found.peak(50, 100) == max(live_bytes(lambda: function(50, 100)))


@pytest.mark.parametrize("hidden", [8, 512])
@pytest.mark.parametrize(("family", "latent_dim"), [(MeanField, 2), (FullRank, 2), (FullRank, 40), (MAF, 6)])
def test_a_pass_takes_what_it_may_and_no_more(family, latent_dim, hidden):
    data = ppl_vae.load(torch.randn(1000, 5))
    model = VAE(data, latent_dim=latent_dim, hidden=(hidden,))
    _holds(model, family(model, hidden=(hidden,)), data.train)


def test_labels_that_are_summed_out_are_counted():
    data = ppl_vae.load("digits", labels=10)
    model = M2(data, latent_dim=2, hidden=(16,))
    _holds(model, MeanField(model, hidden=(16,)), data.test)


def _holds(model, guide, split):
    pair = Pair(model, guide)
    with passes(pair, split, 1000, floats_at_once=LIMIT) as plan:
        batch = next(plan.batches())
        taken = max(live_bytes(lambda: both(pair, plan.structure, batch, plan.at_once)))
    assert 0.4 * 4 * LIMIT < taken < 1.05 * 4 * LIMIT
