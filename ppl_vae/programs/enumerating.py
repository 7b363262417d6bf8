"""Pyro's enumeration in a model that is replayed on a guide's draws, some of which list their values.

Pyro takes up the counting of dims where the guide ended. But a guide's chain (`pyro.markov`) borrows its dims and gives
them back, so that a latent of the model alone would get one of them, and be weighed with equal values of the chain
alone; and a replayed statement shares its notes, which dim is whose, with the guide's, so that the model would change
what the guide's density means.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Self

from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.runtime import _ENUM_ALLOCATOR, Message
from pyro.poutine.trace_struct import Trace

__all__ = ["enumerated_on"]


def enumerated_on(drawn: Trace, model: Callable[..., Any]) -> Callable[..., Any]:
    """The model on the draws of a guide, its own marked latents listed to the left of the guide's values."""
    held = Trace()
    held.nodes = OrderedDict((name, _with_own_notes(site)) for name, site in drawn.nodes.items())
    dims = [dim for site in held.nodes.values() if (dim := _notes(site).get("_enumerate_dim")) is not None]
    return poutine.replay(_Enumerated(min(dims, default=0))(model), trace=held)


def _with_own_notes(site: Any) -> Any:
    notes = _notes(site)
    return site | {"infer": notes | {"_dim_to_id": dict(notes["_dim_to_id"])}} if "_dim_to_id" in notes else site


def _notes(site: Any) -> dict[str, Any]:
    return site.get("infer") or {}


class _Enumerated(EnumMessenger):
    def __init__(self, leftmost: int) -> None:
        super().__init__()
        self.leftmost = leftmost

    def __enter__(self) -> Self:
        entered = super().__enter__()
        _ENUM_ALLOCATOR.next_available_dim = min(_ENUM_ALLOCATOR.next_available_dim, self.leftmost - 1)
        return entered

    def _pyro_post_sample(self, msg: Message) -> None:
        """What a value is on a dim of, it is, whatever else a model's longer memory would have on that dim."""
        own = dict((msg["infer"] or {}).get("_dim_to_id", {}))
        super()._pyro_post_sample(msg)
        if own:
            shape = msg["value"].shape[: msg["value"].dim() - msg["fn"].event_dim]
            msg["infer"]["_dim_to_id"] |= {d: i for d, i in own.items() if len(shape) >= -d and shape[d] > 1}
