"""The model of a series run on after the ends of its rows: states carried on, what is observed drawn and scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from ppl_vae.distributions import expected_value, probabilities, unwrapped
from ppl_vae.programs.missing import can_enumerate

__all__ = ["Coming", "GoOn", "Layout"]


class Coming(NamedTuple):
    """What a run says of one step that observes the field, [particle, row, *S]; log p of its truth [particle, row]."""

    draws: Tensor
    mean: Tensor | None
    variance: Tensor | None
    probs: Tensor | None
    log_prob: Tensor | None


@dataclass(frozen=True)
class Layout:
    """How values of a run are laid out: the rows at `dim`, particles left of `nesting` dims; S is of one entry."""

    dim: int
    nesting: int
    particles: int
    entry: tuple[int, ...]

    def by_row(self, value: Tensor, event: int) -> Tensor:
        """[..., plates, *event] as [particle, row, ...]."""
        depth = self.nesting + 1 + event
        value = value.reshape((1,) * (depth - value.dim()) + tuple(value.shape)).movedim(self.dim - event, 1)
        return value.expand(self.particles, *value.shape[1:])

    def entries(self, value: Tensor, event: int) -> Tensor:
        """[..., plates, *event] as [particle, row, *S]."""
        value = self.by_row(value, event)
        return value.reshape(*value.shape[:2], *self.entry)

    def as_drawn(self, entries: Tensor, drawn: Tensor, event: int) -> Tensor:
        """Entries [row, *S] as a site has its draws, [plates, *event]."""
        return entries.reshape(self.by_row(drawn, event).shape[1:]).movedim(0, self.dim - event)


class GoOn(Messenger):
    """Give a model's latents their values up to the end of each row; what comes after it is drawn by the model.

    What the program goes on with at an observed site is the draw, too, where the row has ended.

    Args:
        values: of latents, as a run of these particles has them.
        step: of every site of the steps.
        ends: of the rows.
        layout: of a run.
        asked: the sites that observe the field that is forecast.
        true: the field after the ends, [row, lead, *S], where it is known.
        nominal: whether the field holds categories.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        step: Mapping[str, int],
        ends: Tensor,
        layout: Layout,
        asked: frozenset[str],
        true: Tensor | None,
        nominal: bool,
    ) -> None:
        super().__init__()
        self.values, self.step, self.ends, self.layout = values, step, ends, layout
        self.asked, self.true, self.nominal = asked, true, nominal
        self.found: dict[str, Coming] = {}

    def _pyro_sample(self, msg: Message) -> None:
        name, fn = str(msg["name"]), msg["fn"]
        known = msg["value"] if msg["is_observed"] else self.values.get(name)
        if known is None:
            return  # of a step that no row has reached: drawn as the program says
        if name not in self.step:
            msg["value"], msg["done"] = known, True
            return
        drawn = fn.sample()
        after = self.step[name] >= self.ends
        after = after.reshape(len(after), *(1,) * (-1 - self.layout.dim + fn.event_dim))
        msg["value"], msg["done"] = torch.where(after, drawn, known).to(drawn.dtype), True
        if name in self.asked:
            self.found[name] = self._coming(name, fn, drawn)

    def _coming(self, name: str, fn: Any, drawn: Tensor) -> Coming:
        event, layout = fn.event_dim, self.layout
        log_prob = None if self.true is None else self._log_prob(unwrapped(fn), drawn, self._true(name), event)
        draws = layout.entries(drawn, event)
        if self.nominal and can_enumerate(unwrapped(fn)):
            each = probabilities(fn)
            levels = [layout.entries(p.expand(drawn.shape), event) for p in each.unbind(-1)]
            return Coming(draws, None, None, torch.stack(levels, -1), log_prob)
        try:
            moments = (expected_value(fn), unwrapped(fn).variance)
        except (NotImplementedError, AttributeError):
            return Coming(draws, None, None, None, log_prob)
        mean, variance = (layout.entries(v.expand(drawn.shape), event) for v in moments)
        return Coming(draws, mean, variance, None, log_prob)

    def _true(self, name: str) -> Tensor:
        """The field at this step in the rows for which it is one to come, [row, *S]; in others any."""
        true: Any = self.true
        lead = (self.step[name] - self.ends).clamp(0, true.shape[1] - 1)
        return true[torch.arange(len(true), device=true.device), lead]

    def _log_prob(self, base: Any, drawn: Tensor, truth: Tensor, event: int) -> Tensor:
        """log p of the entries that are there, [particle, row]; NaN in rows without any."""
        gone = torch.isnan(truth) if truth.is_floating_point() else truth < 0
        shaped = self.layout.as_drawn(truth, drawn, event)
        absent = self.layout.as_drawn(gone, drawn, event)
        log_p = base.log_prob(torch.where(absent, drawn, shaped.to(drawn.dtype)))
        whole = absent.flatten(-base.event_dim).any(-1) if base.event_dim else absent
        log_p = torch.where(whole, torch.zeros_like(log_p), log_p)
        each = self.layout.by_row(log_p, event - base.event_dim)
        return each.reshape(*each.shape[:2], -1).sum(2).where(~gone.reshape(len(gone), -1).all(1), torch.nan)
