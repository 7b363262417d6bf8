"""A written model with a guide that is generated from it, for the same slow reference as a hand-written pair.

The guide's continuous draws are taken once, from Pyro's trace of one run, and held: the engine and the reference then
weigh the same values. Where a style writes masks on latents, they are put around the guide's sites too.
"""

from __future__ import annotations

import copy
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from random_pairs.pair import Pair, asked
from random_pairs.writing import Site, Style

__all__ = ["generate"]


def generate(pair: Pair, family: Any, seed: int = 0) -> Pair:
    """The pair with a guide of a family, read from its model; finite latents that its own guide leaves out stay out."""
    latents = [s for s in pair.sites if not s.observed]
    collapse = tuple(s.name for s in latents if s not in pair.writer.drawn)
    torch.manual_seed(seed)
    pair = pair.written(Style(scales=False))  # a guide that is generated has no scales
    model = _with_masks(pair)
    guide = family(model, pair.fields, hidden=(3,), collapse=collapse).double().eval()
    for parameter in guide.parameters():  # at their start many are zero, and a head says the same of every row
        parameter.data += 0.3 * torch.randn_like(parameter)
    drawn = poutine.trace(guide).get_trace(**pair.fields)
    inside = {*drawn.nodes}  # finite counts are summed out in the model
    finite = {s.name for s in latents if s.discrete}
    for name in [n for n, s in drawn.nodes.items() if s["type"] == "sample" and n in finite]:
        drawn.remove_node(name)
    return _Generated(pair, guide, drawn, inside)


class _Generated(Pair):
    """In place of the written guide the generated one."""

    def __init__(self, pair: Pair, guide: Any, drawn: poutine.Trace, inside: set[str]) -> None:
        vars(self).update(vars(pair))
        self.writer = copy.copy(pair.writer)
        self.writer.drawn = [s for s in pair.writer.drawn if s.name in inside]
        self.pair, self.made, self.drawn = pair, guide, drawn
        self.model, self.guide = _with_masks(pair), _named(guide, [*self.fields])

    def written(self, style: Style, particle: int | None = None) -> Pair:
        found = copy.copy(self)
        found.model = _with_masks(self.pair.written(style))
        shown = {s.name: self.mask_of(s) for s in self.writer.drawn if s.mask and style.shows(s)}
        masks = shown if style.entries is None else style.entries
        found.guide = _named(_Masking(masks)(poutine.replay(self.made, trace=self.drawn)), [*self.fields])
        return found

    def held(self) -> Any:
        """The generated guide at the values that are held, as the engine is given it."""
        return _Held(self.made, self.drawn)

    def masked_in_guide(self, site: Site) -> bool:
        return False


class _Held(torch.nn.Module):
    """A generated guide that draws what is held, in whatever run."""

    follows_masks = True

    def __init__(self, guide: Any, drawn: poutine.Trace) -> None:
        super().__init__()
        self.guide, self.drawn = guide, drawn

    def forward(self, **fields: Tensor) -> Any:
        return poutine.replay(self.guide, trace=self.drawn)(**fields)


class _Masking(Messenger):
    def __init__(self, masks: dict[str, Tensor]) -> None:
        super().__init__()
        self.masks = masks

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.masks:
            own = msg["mask"]
            msg["mask"] = self.masks[msg["name"]] if own is None else own & self.masks[msg["name"]]


def _with_masks(pair: Pair) -> Any:
    """The model on fields as data sets have them: True and False come as 1 and 0."""

    def model(**fields: Tensor) -> Any:
        return pair.model(**asked(pair.model, {n: v.bool() if n.startswith("m_") else v for n, v in fields.items()}))

    return _named(model, [*pair.fields])


def _named(guide: Any, fields: list[str]) -> Any:
    """A program whose arguments have the names of the fields."""
    space: dict[str, Any] = {"guide": guide, "pyro": pyro}
    exec(f"def named({', '.join(fields)}): return guide(**locals())", space)
    return space["named"]
