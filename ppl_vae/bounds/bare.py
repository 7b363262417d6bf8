"""A pair as Pyro's own inference hands it to a bound: called with arguments, and read when something new comes."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro.distributions as dist
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from ppl_vae.errors import UserError
from ppl_vae.programs.execution import LastSite
from ppl_vae.programs.failures import PASSING, failed
from ppl_vae.programs.missing import is_missing
from ppl_vae.programs.program import signature_of
from ppl_vae.programs.structure import Structure

__all__ = ["BarePair", "LastPair", "NewHole", "Readings"]


class NewHole(Exception):
    """A site has missing entries for the first time: the pair has to be read again."""


class BarePair:
    """A pair as Pyro's own inference calls it: with positional arguments and the global parameter store."""

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.batch = _tensors(model, args, kwargs)
        self.model = _Call("model", model, args, kwargs)
        self.guide = _Call("guide", guide, args, kwargs)

    @contextmanager
    def foreseen(self, holes: Mapping[str, str]) -> Iterator[None]:
        """Inside, a missing entry at a site that is not among these raises `NewHole`.

        Which sites have missing entries is a matter of values. Data may come as arguments, from a closure, or drawn by
        the model's plate, so the observed values are looked at where they are stated.
        """
        watch = _Unforeseen(frozenset(holes))
        self.model.around, self.guide.around = watch, watch
        try:
            yield
        finally:
            self.model.around, self.guide.around = None, None


class Readings:
    """The structures of the pair that was seen last: for arguments of the same shapes one for each set of holes.

    The pair itself is not kept alive.
    """

    def __init__(self) -> None:
        self._last = LastPair()
        self._found: dict[Any, list[Structure]] = {}

    def of(self, bare: BarePair) -> list[Structure]:
        """What was read of this pair for such arguments, to be added to; the one used last comes first."""
        programs = bare.model.program, bare.guide.program
        if not self._last.is_(*programs):
            self._last.see(*programs)
            self._found = {}
        shapes = tuple((name, tuple(value.shape)) for name, value in bare.batch.items())
        return self._found.setdefault(shapes, [])

    def __deepcopy__(self, memo: dict[int, Any]) -> Readings:
        return Readings()

    def __reduce__(self) -> tuple[Any, ...]:
        return Readings, ()


class LastPair:
    """The pair that was seen last, which is not kept alive."""

    def __init__(self) -> None:
        self._pair: tuple[Any, Any] = (lambda: None, lambda: None)

    def is_(self, model: Any, guide: Any) -> bool:
        """Whether it is this one."""
        return self._pair[0]() == model and self._pair[1]() == guide

    def see(self, model: Any, guide: Any) -> None:
        """It is this one from now on."""
        self._pair = reference_to(model), reference_to(guide)

    def __deepcopy__(self, memo: dict[int, Any]) -> LastPair:
        return LastPair()

    def __reduce__(self) -> tuple[Any, ...]:
        return LastPair, ()


def reference_to(program: Any) -> Callable[[], Any]:
    """The program if somebody else keeps it; a bound method is as alive as its object."""
    if inspect.ismethod(program):
        return weakref.WeakMethod(program)
    try:
        return weakref.ref(program)
    except TypeError:  # an object with slots
        return lambda: program


class _Unforeseen(Messenger):
    def __init__(self, known: frozenset[str]) -> None:
        super().__init__()
        self.known = known

    def _pyro_sample(self, msg: Message) -> None:
        name, fn, value = str(msg["name"]), msg["fn"], msg["value"]
        if not msg["is_observed"] or name in self.known or isinstance(fn, dist.Unit) or not isinstance(value, Tensor):
            return
        if bool(is_missing(fn, value).any()):
            raise NewHole(name)


class _Call:
    """A program with the arguments that Pyro's inference was given; whatever it raises becomes a line."""

    def __init__(self, role: str, program: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.role, self.program, self.args, self.kwargs = role, program, args, kwargs
        self.arguments = dict.fromkeys(signature_of(program).parameters, True)
        self.around: Messenger | None = None

    def __call__(self, **_: Any) -> Any:
        last = LastSite()
        try:
            with last, self.around or nullcontext():
                return self.program(*self.args, **self.kwargs)
        except (*PASSING, NewHole):
            raise
        except Exception as error:  # whatever a user's code may raise
            given = dict(enumerate(self.args)) | self.kwargs
            raise failed(self.role, last.name, {str(n): v for n, v in given.items()}, error, last.plates) from error


def _tensors(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
    try:
        bound = signature_of(model).bind(*args, **kwargs).arguments
    except TypeError as error:
        raise UserError(f"the model cannot be called with these arguments: {error}") from error
    return {k: v for k, v in bound.items() if isinstance(v, Tensor)}
