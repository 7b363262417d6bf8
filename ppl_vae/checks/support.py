"""Refuse data outside the support of the likelihood that observes them, before training, by field and row."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from ppl_vae.checks.analysis import representative
from ppl_vae.data import Split
from ppl_vae.distributions import unwrapped
from ppl_vae.errors import ProgramError
from ppl_vae.programs.missing import Holes, is_missing
from ppl_vae.programs.program import Programs

__all__ = ["Watch", "check_support"]


def check_support(pair: Programs, holes: Mapping[str, str], latents: Iterable[str], *splits: Split | None) -> None:
    """Compare every observed field of every split with the support of the site that observes it.

    Raises:
        ProgramError: with the field, the row, the value, and the likelihoods that would fit.
    """
    known = [s for s in splits if s is not None]
    batch = representative(pair, known[0])
    watch = Watch()
    with torch.no_grad():
        poutine.trace(Holes(holes, latents, batch)(watch(pair.model))).get_trace(**batch)
    for name, (fn, value) in watch.seen.items():
        field = next((f for f, v in batch.items() if v.data_ptr() == value.data_ptr()), None)
        if field is not None and batch[field].shape == value.shape:
            for split in known:
                _check(field, name, fn, split)


class Watch(Messenger):
    """Note the distribution and the value of every observed site, before holes are treated."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, tuple[Any, Tensor]] = {}

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"] and isinstance(msg["value"], Tensor) and not isinstance(msg["fn"], dist.Unit):
            self.seen[str(msg["name"])] = (msg["fn"], msg["value"])


def _check(field: str, site: str, fn: Any, split: Split) -> None:
    base = unwrapped(fn)
    if base.event_dim:
        return  # a support of whole vectors: its own validation speaks of it better
    value = split[field]
    if field in split.draws:
        value = value.round()  # stored are grey levels; what a model sees are draws of 0 and 1
    missing = is_missing(fn, value)
    support = _static(base.support)
    good = torch.isfinite(value) if support is None else support.check(value)
    bad = ~good & ~missing
    if not bool(bad.any()):
        return
    where = [int(i) for i in bad.nonzero()[0]]
    found = value[tuple(where)].item()
    from ppl_vae.likelihoods import fitting  # only for the message, which most runs never need

    names = ", ".join(fitting(split.schema[field], value))
    entry = f", entry {tuple(where[1:])}" if len(where) > 1 else ""
    raise ProgramError(
        site,
        f"field {field!r}, {split.name} row {where[0]}{entry}: value {found:g} is outside the support of "
        f"{type(base).__name__} at site {site!r}",
        f"likelihoods that fit these values are {names}",
    )


def _static(support: Any) -> Any:
    """The support with bounds that are numbers, if it is the same for every row and entry; else None."""
    found = copy.copy(support)
    for name, bound in vars(support).items():
        if isinstance(bound, Tensor):
            first = bound.flatten()[0]
            if not bool((bound == first).all()):
                return None
            setattr(found, name, first)
    return found
