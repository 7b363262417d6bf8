"""Held-out rows train nothing: neither weights nor momentum nor random numbers depend on them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from helpers import assert_same, rows, small_pair, weights_of
from pyro.infer import Trace_ELBO

import ppl_vae
from ppl_vae import log_weights
from ppl_vae.bounds import ELBO
from ppl_vae.data import load


@pytest.mark.parametrize("bound", [ELBO(), Trace_ELBO()], ids=["ours", "Pyro's"])
def test_validation_moves_neither_weights_nor_momentum(bound):
    """svi.step inside no_grad still moves the weights through Adam's momentum."""
    data = load(rows(100), validation=30, test=10)
    histories, steps = [], []
    for each in (data, replace(data, validation=None)):
        model, guide = small_pair(data)

        class Counting(torch.optim.Adam):
            def step(self, closure=None):
                steps[-1] += 1
                return super().step(closure)

        steps.append(0)
        result = ppl_vae.fit(
            model, guide, each, bound, epochs=4, batch_size=20, patience=None,
            optimizer=lambda ps, kind=Counting: kind(ps, lr=0.05),
        )  # fmt: skip
        histories.append([record["train"] for record in result.history])
    assert steps == [4 * 3, 4 * 3]  # 60 training rows in batches of 20
    assert histories[0] == histories[1]
    assert len(set(histories[0])) == 4


def test_evaluation_moves_neither_weights_nor_momentum():
    """A peer's evaluate() trains on the test data."""
    data = load(rows(100), validation=30, test=10)
    model, guide = small_pair(data)
    made = []
    ppl_vae.fit(
        model,
        guide,
        data,
        epochs=2,
        optimizer=lambda ps: made.append(torch.optim.Adam(ps, lr=0.05)) or made[0],
    )
    weights, momentum = weights_of(model, guide), copy.deepcopy(made[0].state_dict())
    random = torch.get_rng_state()
    gradients = [None if p.grad is None else p.grad.clone() for p in guide.parameters()]
    modes = model.training, guide.training
    ppl_vae.evaluate(model, guide, data, particles=20)
    ppl_vae.check(model, guide, data)
    assert torch.equal(torch.get_rng_state(), random)  # nor the stream of random numbers
    log_weights(model, guide, data, particles=3)
    assert_same(weights_of(model, guide), weights)
    for index, state in made[0].state_dict()["state"].items():
        assert_same(state, momentum["state"][index])
    for p, g in zip(guide.parameters(), gradients, strict=True):
        assert (p.grad is None) == (g is None)
        assert g is None or torch.equal(p.grad, g)
    assert (model.training, guide.training) == modes


def test_held_out_rows_do_not_influence_training():
    """Test rows or labels reach training through early stopping, initialisation or normalisation."""
    x, y = rows(100) * torch.tensor([1.0, 10.0, 0.1]) + 3.0, torch.arange(100) % 4
    data = load({"x": x, "y": y}, test=20, validation=20)

    def with_other(split):
        part = getattr(data, split)
        other = {"x": 50.0 * part["x"] - 7.0, "y": 3 - part["y"]}
        return replace(data, **{split: replace(part, fields=other)})

    def train(data, patience):
        model, guide = small_pair(data)
        start = weights_of(model, guide)
        result = ppl_vae.fit(model, guide, data, epochs=4, batch_size=25, patience=patience)
        return start, weights_of(model, guide), [r["train"] for r in result.history], model, guide

    start, end, history, model, guide = train(data, 2)
    for found, expected in zip(train(with_other("test"), 2)[:2], (start, end), strict=True):
        assert_same(found, expected)
    other = train(with_other("validation"), None)  # its one lawful use is to stop and to choose the epoch
    assert_same(other[0], start)
    assert other[2][: len(history)] == history
    torch.testing.assert_close(model.likelihood.shift, data.train["x"].mean(0))
    torch.testing.assert_close(guide.encoder.input_of("x").mean, data.train["x"].mean(0))
    torch.testing.assert_close(model.likelihood.unit, data.train["x"].std(0, correction=0))
