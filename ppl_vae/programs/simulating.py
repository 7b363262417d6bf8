"""Run a model as if nothing were observed."""

from __future__ import annotations

from pyro.poutine.runtime import Message
from pyro.poutine.uncondition_messenger import UnconditionMessenger

__all__ = ["unobserved"]


class unobserved(UnconditionMessenger):
    """Draw what is observed. What the program computes and names, `pyro.deterministic`, stays what it computed.

    Pyro's own handler draws that again, from a point whose event has all dims of the value: inside of plates these are
    added once more, [8, 3] becoming [8, 3, 8, 3].

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     with pyro.plate("rows", 3):
        ...         twice = pyro.deterministic("twice", 2 * torch.ones(3))
        ...         return twice, pyro.sample("x", dist.Normal(twice, 1.0), obs=torch.zeros(3))
        >>> twice, x = unobserved()(model)()
        >>> twice.shape, bool((x == 0).any())
        (torch.Size([3]), False)
    """

    def _pyro_sample(self, msg: Message) -> None:
        if not (msg["infer"] or {}).get("_deterministic"):
            super()._pyro_sample(msg)
