"""Remember how an object was constructed, so that a run folder can rebuild it without unpickling anything."""

from __future__ import annotations

import functools
import inspect
from typing import Any

__all__ = ["Recorded"]


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
                bound = signature.bind(self, *args, **kwargs)
                arguments = dict(list(bound.arguments.items())[1:])
                for parameter in signature.parameters.values():
                    if parameter.kind is parameter.VAR_KEYWORD:
                        arguments |= arguments.pop(parameter.name, {})
                # torch modules forbid attributes before their own __init__, plain dict access does not
                self.__dict__["recorded"] = arguments
            init(self, *args, **kwargs)

        cls.__init__ = recording  # type: ignore[method-assign]
