"""Networks that Pyro's SVI would never train: looked for once, in the first step of a pair.

SVI trains what the programs name in `pyro.param`, `pyro.module` and Pyro modules while it runs them. A torch module in
a closure, or a plain `nn.Module` that is the model, gets gradients there and no optimizer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from pyro import poutine
from pyro.infer import SVI
from pyro.nn import PyroModule
from torch import Tensor

from ppl_vae.bounds.bare import LastPair
from ppl_vae.checks.ownership import NAMELESS, leaves, strangers
from ppl_vae.errors import ProgramError
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.variables import variables_of

__all__ = ["FirstSteps"]


class FirstSteps:
    """The pair that SVI ran last; another one is looked at in its first step. It is not kept alive."""

    def __init__(self) -> None:
        self._last = LastPair()
        self._named: Any = None

    @contextmanager
    def watching(self, model: Any, guide: Any) -> Iterator[None]:
        """Inside, the parameters that the programs name are noted, if this is the first step of a pair under SVI."""
        self._named = None
        if self._last.is_(model, guide) or not _under_svi():
            yield
            return
        with poutine.trace(param_only=True) as named:
            yield
        self._named = named.trace

    def refuse_untrained(self, model: Any, guide: Any, loss: Tensor, given: Any, again: Callable[[], Tensor]) -> None:
        """Raise for a tensor that has a gradient in this loss and no optimizer.

        One that no variable has may have been made in the program, anew at every run, and is then a constant: whether
        it is met `again` tells.

        Raises:
            ProgramError: naming the variable that has it.
        """
        if self._named is None:
            return
        named = [site["value"] for site in self._named.nodes.values() if site["type"] == "param"]
        known = [value.unconstrained() for value in named if hasattr(value, "unconstrained")] + [*_tensors(given)]
        known += pyro.get_param_store()._params.values()  # a statement that is blocked is a parameter that is fixed
        for program in (model, guide):
            modules = [thing for _, thing in variables_of(program) if isinstance(thing, PyroModule)]
            known += [p for module in modules for p in module.parameters()]
        found = next(strangers(model, guide, [loss], known), None)
        if found is not None and found.site == NAMELESS:
            with preserved_randomness():
                kept = {id(leaf) for leaf in leaves([loss])}  # alive, so that nothing else has their numbers
                second = again()
                fresh = [leaf for leaf in leaves([second]) if id(leaf) not in kept]
                found = next(strangers(model, guide, [second], [*known, *fresh]), None)
        if found is not None:
            raise ProgramError(found.site, found.problem, found.remedy)
        self._last.see(model, guide)

    def __deepcopy__(self, memo: dict[int, Any]) -> FirstSteps:
        return FirstSteps()

    def __reduce__(self) -> tuple[Any, ...]:
        return FirstSteps, ()


def _tensors(given: Any) -> Iterator[Tensor]:
    """The tensors in the arguments of a step: data may require a gradient without being parameters."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, dict):
        yield from (t for value in given.values() for t in _tensors(value))
    elif isinstance(given, list | tuple):
        yield from (t for value in given for t in _tensors(value))


def _under_svi() -> bool:
    frame = sys._getframe()
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), SVI):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
