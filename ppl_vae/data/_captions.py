"""Sprites with a caption: a picture and a sentence of tokens, whose length is not always the same."""

from __future__ import annotations

from typing import Any

import torch

from ppl_vae.data._shipped import divided, numbers, taken
from ppl_vae.data._sprites import SHAPES, Grid, drawn
from ppl_vae.data.dataset import Data, assemble
from ppl_vae.data.schema import Field, Schema

__all__ = ["captioned"]

WORDS = ("a", "an", "small", "large", *SHAPES, "at", "the", "top", "bottom", "left", "right", "in", "middle")

LENGTH = 7


def captioned(words: str, source: dict[str, Any]) -> Data:
    """A sprite x, its caption [7] ("a small heart at the top left", "a square in the middle"), and its shape y.

    A scale that is neither small nor large, and a place that is in the middle of a side, are not told, so that captions
    have 5 to 7 words; what is missing is -1.
    """
    asked = numbers("captions", words, {"side": 16, "rows": 3000}, {"side": 8, "rows": 100})
    grid = Grid(side=asked["side"], scales=3, orientations=8, positions=9)
    index = grid.chosen()[: asked["rows"]]
    factors = grid.factors(index)
    text = torch.full((len(index), LENGTH), -1)
    for row in range(len(index)):
        said = _said(*(float(factors[name][row]) for name in ("shape", "scale", "x", "y")))
        text[row, : len(said)] = torch.tensor([WORDS.index(word) for word in said])
    rows = {"x": drawn(factors, grid.side), "caption": text, "y": factors["shape"].long()}
    schema = Schema(
        (
            Field("x", "binary", (grid.side, grid.side)),
            Field("caption", "categorical", (LENGTH,), len(WORDS), missing=True, names=WORDS),
            Field("y", "categorical", cardinality=len(SHAPES), names=SHAPES),
        )
    )
    return assemble("captions", schema, taken(rows, divided(len(index))), frozenset(), source)


def _said(shape: float, scale: float, x: float, y: float) -> list[str]:
    """The words for one sprite."""
    noun = [*(["small"] if scale < 0.7 else ["large"] if scale > 0.8 else []), SHAPES[int(shape)]]
    said = ["an" if noun[0] == "ellipse" else "a", *noun]
    place = [*(["top"] if y < 0.4 else ["bottom"] if y > 0.6 else [])]
    place += ["left"] if x < 0.4 else ["right"] if x > 0.6 else []
    return said + (["at", "the", *place] if place else ["in", "the", "middle"])
