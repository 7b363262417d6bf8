"""Batches with a share of labelled rows: their weighted mean is that of all rows, and a run with them is a run."""

from __future__ import annotations

import pytest
import torch
from pyro.infer import Trace_ELBO

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.guides import MeanField
from ppl_vae.models import M2, VAE
from ppl_vae.training._stratified import StratifiedBatches


@pytest.mark.parametrize(("labelled", "size", "share"), [(12, 10, 0.5), (30, 8, 0.25), (3, 4, 0.9), (1, 60, 0.1)])
def test_every_batch_has_its_share_and_the_weighted_mean_is_that_of_all_rows(labelled, size, share):
    """Exactly so over as many epochs as both strata are gone through whole in."""
    rows, value = 60, torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    strata, generator = StratifiedBatches(torch.arange(rows) < labelled, size, share), torch.Generator().manual_seed(1)
    seen = torch.zeros(rows, dtype=torch.float64)
    first = strata.counts[0]
    for _ in range(2000):
        batches = strata.batches(generator)
        assert len(batches) == -(-rows // size)
        for index in batches:
            assert len(index) == len(strata.weights) == size
            assert bool((index[:first] < labelled).all())
            assert bool((index[first:] >= labelled).all())
            seen.index_add_(0, index, strata.weights.double())
    assert 1 <= first == min(max(round(share * size), 1), size - 1)
    assert float(strata.weights.mean()) == pytest.approx(1.0)
    seen = rows * seen / seen.sum()
    assert float((seen - 1).abs().max()) < 0.1  # every row stands for one row
    assert float((seen * value).mean()) == pytest.approx(float(value.mean()), abs=0.02)


@pytest.fixture(scope="module")
def few():
    return ppl_vae.load("digits", labels=30)


@pytest.fixture(scope="module")
def rows(few):
    """Three hundred, few of which have a label."""
    return few.train.rows(slice(0, 300))


def programs(data, **options):
    torch.manual_seed(0)
    model = M2(data, latent_dim=3, hidden=(8,))
    return model, MeanField(model, hidden=(8,))


@pytest.mark.parametrize("bound", [ELBO(), pytest.param(IWAE(3), marks=pytest.mark.slow)], ids=str)
def test_the_recorded_bound_is_that_of_all_rows(few, rows, bound):
    """Without an update that counts, the mean over some epochs is the one over batches by chance; so is the
    classifier's loss, label_weight times log q(y | x) per row, of labelled rows alone."""
    found = []
    for share in (None, 0.5):
        model, guide = programs(few)
        options = {"lr": 1e-12, "label_share": share, "seed": 1, "batch_size": 100}
        plain = ppl_vae.fit(model, guide, rows, bound, epochs=5, **options).history
        weighted = ppl_vae.fit(model, guide, rows, bound, epochs=5, label_weight=20.0, **options).history
        values = [
            (r["train"], r["rate"] or 0.0, w["objective"] - r["objective"])
            for r, w in zip(plain, weighted, strict=True)
        ]
        values = torch.tensor(values)
        found.append((values.mean(0), values.std(0) / len(values) ** 0.5))
        assert float(values[:, 2].mean()) < 0
    (mean, error), (by_share, error_by_share) = found
    assert bool(((mean - by_share).abs() < 4 * (error**2 + error_by_share**2).sqrt() + 1e-4).all())


def test_a_row_with_a_label_counts_for_more_in_what_is_maximised(few, rows):
    """Half of the rows of a batch have labels: the objective is half the bound of these, half that of the others."""
    model, guide = programs(few)
    seen = rows["y"] >= 0
    result = ppl_vae.fit(model, guide, rows, epochs=10, lr=1e-12, label_share=0.5, batch_size=100)
    halves = torch.stack(
        [ppl_vae.evaluate(model, guide, rows.rows(m.nonzero()[:, 0]), 50).elbo.mean() for m in (seen, ~seen)]
    )
    objective = torch.tensor([r["objective"] for r in result.history])
    assert abs(float(objective.mean() - halves.mean())) < 4 * float(objective.std()) / 10**0.5 + 0.05
    assert abs(float(halves[0] - halves[1])) > 1  # log p(x, y) and log p(x) differ


def test_a_seeded_run_is_repeated_and_captured_bit_for_bit(few, soon_captured):
    histories = []
    for compile in ("off", "off", "auto"):
        model, guide = programs(few)
        result = ppl_vae.fit(
            model, guide, few, epochs=2, batch_size=250, label_share=0.4, label_weight=3.0, compile=compile
        )
        histories.append([r["train"] for r in result.history])
    assert histories[0] == histories[1] == histories[2]


def test_what_has_no_strata_is_refused(few):
    model, guide = programs(few)
    plain = VAE(ppl_vae.load("digits"), latent_dim=2, hidden=(4,))
    all_labelled = ppl_vae.load("digits")
    for pair, data, bound, share, problem in (
        ((model, guide), few, None, 0.0, "label_share must be between 0 and 1, or None, got 0.0"),
        ((model, guide), few, None, 1.5, "label_share must be between 0 and 1, or None, got 1.5"),
        ((model, guide), few, Trace_ELBO(), 0.5, "Trace_ELBO is Pyro's own"),
        ((model, guide), all_labelled.train, None, 0.5, "leave it out"),
        ((plain, MeanField(plain, hidden=(4,))), few, None, 0.5, "expects complete rows, got a missing entry"),
    ):
        with pytest.raises(UserError, match=problem) as error:
            ppl_vae.fit(*pair, data, bound, epochs=1, label_share=share)
        assert "\n" not in str(error.value)
