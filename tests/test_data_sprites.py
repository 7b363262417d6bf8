"""Sprites: every factor known and hidden from programs, drawn to the geometry of dSprites, or read from its file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ppl_vae.data import _sprites, load, rebuild
from ppl_vae.data._sprites import FACTORS, Grid, drawn
from ppl_vae.errors import UserError

SMALL = "sprites:side=16,scales=2,orientations=4,positions=4"


def one(**factors: float) -> dict[str, torch.Tensor]:
    whole = {"shape": 0, "scale": 1.0, "orientation": 0.0, "x": 0.5, "y": 0.5} | factors
    return {name: torch.tensor([value]) for name, value in whole.items()}


def test_factors_are_known_and_no_program_sees_them():
    data = load(SMALL)
    assert (len(data.train), len(data.validation), len(data.test)) == (308, 38, 38)
    assert data.schema.names == ("x",)
    assert list(data.train.batch(slice(0, 2))) == ["x"]
    assert tuple(data.train.factors) == FACTORS
    assert data.test.rows(slice(3, 5)).factors["x"].tolist() == data.test.factors["x"][3:5].tolist()
    assert torch.equal(rebuild(data.source).test.factors["scale"], data.test.factors["scale"])


def test_every_combination_is_there_once_and_the_picture_is_that_of_its_factors():
    data = load(SMALL)
    splits = [data.train, data.validation, data.test]
    table = torch.stack([torch.cat([s.factors[n].double() for s in splits]) for n in FACTORS], 1)
    assert len(table.unique(dim=0)) == len(table) == Grid.of(SMALL.partition(":")[2]).size
    again = drawn({n: data.test.factors[n].double() for n in FACTORS}, 16)
    assert torch.equal(again, data.test["x"])


def test_a_whole_grid_that_is_too_large_is_sampled_and_said():
    grid = Grid()
    assert grid.size == 3 * 6 * 40 * 32 * 32
    assert len(grid.chosen()) == 50_000
    assert len(grid.chosen().unique()) == 50_000
    assert len(Grid(rows=100).chosen()) == 100


def test_geometry_is_that_of_dsprites():
    square = drawn(one(x=0.0, y=1.0), 64)[0].nonzero()
    assert square.amin(0).tolist() == [38, 6]
    assert square.amax(0).tolist() == [57, 25]
    ellipse = drawn(one(shape=1), 64)[0]
    assert (int(ellipse.any(0).sum()), int(ellipse.any(1).sum())) == (26, 14)
    heart = drawn(one(shape=2), 64)[0]
    assert torch.equal(heart, heart.flip(1))
    assert not torch.equal(heart, heart.flip(0))
    rows = heart.sum(1)[heart.any(1)].tolist()
    assert rows[-1] == 2
    assert rows[0] > 2


def test_shapes_turn_counter_clockwise_and_the_two_ends_are_the_same_picture():
    quarter = one(shape=2, orientation=math.pi / 2)
    assert torch.equal(drawn(quarter, 64)[0], drawn(one(shape=2), 64)[0].rot90())
    turns = Grid().values()["orientation"]
    assert len(turns) == 40
    assert turns[-1] == pytest.approx(2 * math.pi)
    both = [drawn(one(shape=2, orientation=float(turn)), 64) for turn in (turns[0], turns[39])]
    assert torch.equal(*both)
    assert Grid(orientations=4).values()["orientation"].tolist() == pytest.approx([0, 1.5708, 3.1416, 4.7124], abs=1e-4)


def test_mean_pixel_is_that_of_dsprites():
    some = Grid().factors(Grid(rows=4000).chosen())
    pixels = drawn(some, 64).mean((1, 2))
    assert abs(float(pixels.mean()) - 0.0425) < 4 * float(pixels.std()) / math.sqrt(4000)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sprites:sides=32", "unknown option of sprites 'sides': did you mean 'side'"),
        ("sprites:side=4", "side must be a whole number of at least 8, got 4"),
        ("sprites:side=x", "NAME=NUMBER"),
        ("sprites:shapes=4", "at most 3"),
        ("sprites:shapes=1,scales=1,orientations=1,positions=2", "at least 10, got 4"),
        ("sprites:rows=9", "between 10 and the 737,280"),
        ("dsprites:side=32", "one option, rows=N"),
        ("sprite", "did you mean 'sprites'"),
    ],
)
def test_refusals(word, message):
    with pytest.raises(UserError, match=message) as caught:
        load(word)
    assert "\n" not in str(caught.value)


def test_options_of_labels_are_refused():
    for option in ({"labels": 10}, {"outliers": "1"}, {"binarise": "static"}, {"label": "y"}):
        with pytest.raises(UserError, match="leave it out"):
            load(SMALL, **option)


def test_the_true_file_is_read_where_it_is_and_nothing_is_unpickled(tmp_path, monkeypatch):
    grid = Grid(side=8, shapes=3, scales=2, orientations=40, positions=2)
    monkeypatch.setattr(_sprites, "_TRUE", grid)
    whole = torch.arange(grid.size)
    codes = np.stack(np.unravel_index(whole.numpy(), grid.sizes), 1)
    np.savez_compressed(
        tmp_path / _sprites._FILE,
        imgs=drawn(grid.factors(whole), 8).numpy().astype("uint8"),
        latents_classes=np.concatenate([np.zeros((grid.size, 1), int), codes], 1),
        metadata=np.array({"date": object}, dtype=object),
    )
    data = load("dsprites:rows=200", root=tmp_path)
    again = drawn({n: v.double() for n, v in data.train.factors.items()}, 8)
    assert len(data.train) == 160
    assert torch.equal(again, data.train["x"])
    with pytest.raises(UserError, match="not on this machine"):
        load("dsprites", root=tmp_path / "elsewhere")
    (tmp_path / _sprites._FILE).write_bytes(b"PK broken")
    with pytest.raises(UserError, match="cannot read"):
        load("dsprites", root=tmp_path)
