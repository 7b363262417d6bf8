"""Remember how an object was constructed, so that a run folder can rebuild it without unpickling anything."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from ppl_vae.errors import UserError, unknown_name, within_memory

__all__ = ["Recorded"]


def _bound(signature: inspect.Signature, made: Any, args: Any, kwargs: dict[str, Any]) -> inspect.BoundArguments:
    """The arguments by name; one that there is not is told with the name that was meant."""
    name = type(made).__name__
    try:
        return signature.bind(made, *args, **kwargs)
    except TypeError as error:
        known = [n for n, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD][1:]
        for unknown in kwargs.keys() - set(known):
            raise unknown_name(f"option of {name}", unknown, known) from None
        raise UserError(f"{name}: {error}") from None


class Recorded:
    """A mixin that stores the arguments of the outermost constructor call in `recorded`, by parameter name.

    Example:
        >>> class Thing(Recorded):
        ...     def __init__(self, size, *, depth=2):
        ...         self.size = size
        >>> Thing(3).recorded
        {'size': 3}
    """

    recorded: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        init = cls.__init__
        signature = inspect.signature(init)

        @functools.wraps(init)
        def recording(self: Any, *args: Any, **kwargs: Any) -> None:
            if "recorded" not in self.__dict__:
                bound = _bound(signature, self, args, kwargs)
                arguments = dict(list(bound.arguments.items())[1:])
                for parameter in signature.parameters.values():
                    if parameter.kind is parameter.VAR_KEYWORD:
                        arguments |= arguments.pop(parameter.name, {})
                # torch modules forbid attributes before their own __init__, plain dict access does not
                self.__dict__["recorded"] = arguments
            with within_memory(type(self).__name__):
                init(self, *args, **kwargs)

        cls.__init__ = recording  # type: ignore[method-assign]
