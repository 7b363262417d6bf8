"""One meaning of missing: a NaN entry or a label -1 is skipped by the likelihood or summed out, never imputed.

`Holes` is a wrapper around a program. It looks at the observed sites only and does one of two things there:
*entries*: entries that are missing contribute 0 to the log-probability, with finite gradients;
*held*: a site that is observed in some rows and latent in others (a label) becomes a latent site; the rows
in which it was observed are kept in `observed`, and the weights hold the site at these values. A site whose value
nothing depends on may say so, `infer={"leaf": True}`: then it is never a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.distributions import OneByOne
from ppl_vae.errors import UserError

__all__ = ["Holes", "Watch", "can_enumerate", "has_codes", "is_missing"]


def can_enumerate(fn: Any) -> bool:
    """Whether a distribution has a finite support that Pyro can list."""
    return bool(getattr(fn, "has_enumerate_support", False))


def has_codes(fn: Any) -> bool:
    """Whether the values of a distribution of entries are codes of levels, of which -1 is none."""
    return fn.levels > 0 if isinstance(fn, OneByOne) else can_enumerate(fn)


def is_missing(fn: Any, value: Tensor) -> Tensor:
    """Which entries of an observed value are missing: NaN, or the label -1 of a finite set (a count has no -1)."""
    missing = torch.isnan(value) if value.is_floating_point() else torch.zeros_like(value, dtype=torch.bool)
    base = fn
    while isinstance(base, dist.Independent):
        base = base.base_dist
    if has_codes(base):
        missing = missing | (value == -1)
    if isinstance(base, dist.OneHotCategorical):
        missing = missing.any(-1, keepdim=True).expand_as(missing)
    return missing


class Holes(Messenger):
    """Treat the missing entries of observed sites; see this module's docstring.

    `plan` maps site names to "entries" or "held"; sites that it does not name are left alone. With
    `plan=None` it looks for holes itself and writes what it found to `found` (this reads values: not for
    use in a training step). `sampled` names the sites that the guide draws; `batch` has the fields, for a
    guide that draws a site which the model observes.
    """

    def __init__(
        self,
        plan: Mapping[str, str] | None,
        sampled: Iterable[str] = (),
        batch: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.batch = batch or {}
        self.sampled = frozenset(sampled)
        self.found: dict[str, str] = {}
        self.observed: dict[str, tuple[Tensor, Tensor]] = {}  # value and which rows have it, by site

    def _pyro_sample(self, msg: Message) -> None:
        name, fn, value = str(msg["name"]), msg["fn"], msg["value"]
        if not msg["is_observed"]:
            if self.plan and self.plan.get(name) == "held" and name in self.batch:
                self._release(msg, name, fn, self.batch[name])  # a guide that draws what the model observes
            return
        if not isinstance(value, Tensor):
            return
        action = self._look(msg, name, fn, value) if self.plan is None else self.plan.get(name)
        if action == "held":
            self._release(msg, name, fn, value)
        elif action == "entries":
            msg["fn"], msg["value"] = _skip_entries(name, fn, value)

    def _look(self, msg: Message, name: str, fn: Any, value: Tensor) -> str | None:
        action = None
        if name in self.sampled:
            action = "held"
        elif not isinstance(fn, dist.Unit) and bool(is_missing(fn, value).any()):
            # On a leaf nothing depends, so summing it out would add log 1.
            label = can_enumerate(fn) and _is_label(fn) and not msg["infer"].get("leaf")
            action = "held" if label else "entries"
        if action:
            self.found[name] = action
        return action

    def _release(self, msg: Message, name: str, fn: Any, value: Tensor) -> None:
        seen = ~is_missing(fn, value)
        if fn.event_dim:
            seen = seen.flatten(-fn.event_dim).all(-1)
        self.observed[name] = (value, seen)
        msg["is_observed"], msg["value"] = False, None
        msg["infer"]["held"] = True  # observed in some rows

    def _pyro_post_sample(self, msg: Message) -> None:
        # What the program goes on with; the trace outside has already noted the draw, see `hold`.
        if msg["name"] in self.observed and msg["infer"].get("_enumerate_dim") is None:
            msg["value"] = self._held(str(msg["name"]), msg["fn"].event_dim, msg["value"])

    def hold(self, trace: Trace) -> Trace:
        """Put the observed rows into the drawn held sites of a trace (summed ones are held by their weights)."""
        for name in self.observed:
            site = trace.nodes.get(name)
            if site is not None and site["infer"].get("_enumerate_dim") is None:
                site["value"] = self._held(name, site["fn"].event_dim, site["value"])
        return trace

    def _held(self, name: str, event_dim: int, drawn: Tensor) -> Tensor:
        value, seen = self.observed[name]
        return torch.where(seen.reshape(seen.shape + (1,) * event_dim), value, drawn).to(drawn.dtype)


class Watch(Messenger):
    """Note the distribution and the value of every observed site, before holes are treated."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, tuple[Any, Tensor]] = {}

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"] and isinstance(msg["value"], Tensor) and not isinstance(msg["fn"], dist.Unit):
            self.seen[str(msg["name"])] = (msg["fn"], msg["value"])


def _is_label(fn: Any) -> bool:
    return fn.event_dim == 0 or isinstance(fn, dist.OneHotCategorical)


def _skip_entries(name: str, fn: Any, value: Tensor) -> tuple[Any, Tensor]:
    """The same distribution with the missing entries masked, and a value without NaN (0 * NaN is NaN)."""
    base, depth = fn, 0
    while isinstance(base, dist.Independent):
        base, depth = base.base_dist, depth + base.reinterpreted_batch_ndims
    if base.event_dim and not isinstance(base, OneByOne):
        raise UserError(
            f"site {name!r} has missing entries, but {type(base).__name__} cannot skip a part of its event: "
            "write it as independent entries with .to_event(), or drop these rows"
        )
    missing = is_missing(fn, value)
    support = base.entry_support if isinstance(base, OneByOne) else base.support
    inside = torch.zeros((), dtype=value.dtype, device=value.device)
    if value.is_floating_point() and not getattr(support, "is_discrete", False):
        inside = biject_to(support)(inside)
    filled = torch.where(missing, inside, value)
    if isinstance(base, OneByOne):
        known = base.given(filled, missing)
        return (known.to_event(depth) if depth else known), filled
    shape = torch.broadcast_shapes(base.batch_shape, missing.shape)
    return base.expand(shape).mask(~missing).to_event(depth), filled
