"""What depends on what, tried out: provenance is lost where a program leaves torch (numpy, `.tolist()`) or is compiled.

Some latents get other values, all others keep theirs. A statement whose log-probability is then another one depends on
one of them, however it computes that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import is_sample_site
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.programs.dependencies import Guessed, Parents, dependencies
from ppl_vae.programs.missing import can_enumerate
from ppl_vae.programs.randomness import preserved_randomness

__all__ = ["all_dependencies"]

TRIES = 16
"""So many runs at most; of as many latents each is tried alone."""


def all_dependencies(
    program: Callable[..., Any], batch: Mapping[str, Any], sites: Sequence[str], latents: Collection[str]
) -> Parents:
    """The latents that each site directly depends on, with those that provenance has not seen.

    Args:
        program: a model or a guide.
        batch: what it is called with.
        sites: names of its sites, in order.
        latents: those whose dependants are looked for closely.
    """
    found = dependencies(program, batch, sites)
    try:
        with preserved_randomness(), torch.no_grad(), pyro.validation_enabled(False):
            return _with_hidden(_Tried(program, batch), found, [n for n in sites if n in latents])
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, IndexError, KeyError):
        return found  # no program to be run twice


def _with_hidden(tried: _Tried, found: Parents, latents: Sequence[str]) -> Parents:
    if not tried.repeats():
        return found
    known = {n: frozenset() for n in found} if isinstance(found, Guessed) else dict(found)
    for chosen in _choices(latents):
        hidden = {n for n in tried.changed(chosen) if n in known and not known[n] & {*chosen}}
        for latent in chosen if hidden else ():  # which of them it is
            for name in hidden & tried.changed([latent]):
                known[name] |= {latent}
    return known


def _choices(latents: Sequence[str]) -> list[list[str]]:
    """Each alone, or, of many, every fourth one at random."""
    if len(latents) <= TRIES:
        return [[name] for name in latents]
    picked = torch.rand(TRIES, len(latents), generator=torch.Generator().manual_seed(0)) < 0.25
    return [[name for name, there in zip(latents, row, strict=True) if there] for row in picked.tolist()]


class _Tried:
    """A program at one set of values, and with some of them replaced."""

    def __init__(self, program: Callable[..., Any], batch: Mapping[str, Any]) -> None:
        self.program, self.batch = program, batch
        self.trace = poutine.trace(program).get_trace(**batch)
        self.logs = self._logs(self.trace)

    def repeats(self) -> bool:
        """Whether it is the same program when it is run again."""
        return not self.changed([])

    def changed(self, latents: Collection[str]) -> set[str]:
        """The sites whose log-probability is another where these latents have other values; not they themselves."""
        held = Trace()
        for name, site in self.trace.nodes.items():
            if site["type"] == "sample" and not site["is_observed"]:
                value = _another(site["fn"], site["value"]) if name in latents else site["value"]
                held.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
        logs = self._logs(poutine.trace(poutine.replay(self.program, trace=held)).get_trace(**self.batch))
        return {n for n, log in logs.items() if n not in latents and not _same(log, self.logs.get(n))}

    @staticmethod
    def _logs(trace: Trace) -> dict[str, Tensor]:
        sites = {n: s for n, s in trace.nodes.items() if is_sample_site(s)}
        return {n: s["fn"].log_prob(s["value"]) for n, s in sites.items()}


def _another(fn: Any, value: Tensor) -> Tensor:
    if not can_enumerate(fn):
        return fn.sample() if fn.batch_shape + fn.event_shape == value.shape else fn.expand(value.shape).sample()
    support = fn.enumerate_support(expand=False)
    support = support.reshape(len(support), *fn.event_shape)
    index = torch.randint(len(support), value.shape[: value.dim() - fn.event_dim])
    same = (support[index] == value).flatten(index.dim()).all(-1) if fn.event_dim else support[index] == value
    return support[(index + same.long()) % len(support)]


def _same(log: Tensor, other: Tensor | None) -> bool:
    return (
        other is not None and log.shape == other.shape and bool(((log == other) | (log.isnan() & other.isnan())).all())
    )
