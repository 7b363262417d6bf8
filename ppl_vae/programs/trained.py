"""Functions of a model and a guide take what holds both: a result of `fit`, or a run that was opened."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from ppl_vae.errors import UserError

__all__ = ["Trained", "takes_results"]

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class Trained(Protocol):
    """A model and a guide that were trained together."""

    @property
    def model(self) -> Any:
        """p(z) p(x | z)."""

    @property
    def guide(self) -> Any:
        """q(z | x)."""


class OfPairs(Protocol, Generic[P, R]):
    """A function of (model, guide, ...), or of (result, ...)."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    @overload
    def __call__(self, result: Trained, /, *args: Any, **kwargs: Any) -> R: ...


def takes_results(function: Callable[P, R]) -> OfPairs[P, R]:
    """A function of (model, guide, data, ...) that takes one trained pair in the place of both.

    A result of `fit` knows the data that it was trained on, and a run where they came from: they are taken where none
    are given. A function of a model alone takes the model.

    Example:
        >>> from types import SimpleNamespace
        >>> from ppl_vae.programs.toy import model, posterior
        >>> @takes_results
        ... def names(model, guide, data, more=0):
        ...     return model.__name__, guide.__name__, data, more
        >>> names(SimpleNamespace(model=model, guide=posterior, data="rows", history=[]), more=1)
        ('model', 'posterior', 'rows', 1)
    """
    names = [*inspect.signature(function).parameters]
    pair = 2 if names[1:2] == ["guide"] else 1

    @functools.wraps(function)
    def taken(*args: Any, **kwargs: Any) -> Any:
        if not args or not _is_trained(args[0]):
            return function(*args, **kwargs)
        result, *rest = args
        whole = [result.model, result.guide][:pair] + rest
        if "data" in names and len(whole) <= names.index("data") and "data" not in kwargs:
            known = getattr(result, "data", None)
            known = known() if callable(known) else known  # a run loads them again
            if known is None:
                raise UserError(f"{function.__name__} needs rows: {function.__name__}({_word(result)}, data)")
            kwargs["data"] = known
        return function(*whole, **kwargs)

    return cast("OfPairs[P, R]", taken)


def _is_trained(thing: Any) -> bool:
    return not callable(thing) and hasattr(thing, "model") and hasattr(thing, "guide") and hasattr(thing, "history")


def _word(result: Any) -> str:
    return type(result).__name__.lower()
