"""Parameters of an estimator that has those of another and some of its own: one `__init__` made of a table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["parameters"]

C = TypeVar("C", bound=type)


def parameters(*, without: tuple[str, ...] = (), **own: Any) -> Callable[[C], C]:
    """A class decorator that writes `__init__`: the parameters of the base class, but for some, and `own` defaults.

    scikit-learn reads parameters off the signature of `__init__`, which must do nothing but keep them.

    Example:
        >>> from sklearn.base import BaseEstimator
        >>> class Base(BaseEstimator):
        ...     def __init__(self, a=1, *, b=2):
        ...         self.a, self.b = a, b
        >>> @parameters(b=3, c=4)
        ... class Further(Base):
        ...     pass
        >>> Further(5).get_params()
        {'a': 5, 'b': 3, 'c': 4}
        >>> Further(d=1)
        Traceback (most recent call last):
        TypeError: got an unexpected keyword argument 'd'
    """

    def decorate(cls: C) -> C:
        inherited = inspect.signature(getattr(cls, "__init__"))  # noqa: B009 - of the class, for mypy
        kept = [p for p in inherited.parameters.values() if p.name not in without]
        kept = [p.replace(default=own.get(p.name, p.default)) for p in kept]
        names = {p.name for p in kept}
        last = len(kept) - (kept[-1].name == "random_state")
        kept[last:last] = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in own.items()
            if name not in names
        ]
        signature = inspect.Signature(kept)

        def __init__(self: Any, *args: Any, **given: Any) -> None:
            bound = signature.bind(self, *args, **given)
            bound.apply_defaults()
            for name, value in list(bound.arguments.items())[1:]:
                setattr(self, name, value)

        __init__.__signature__ = signature  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[misc]
        return cls

    return decorate
