"""A function of a pair that is called hundreds of times: as one flat graph, where that can be had."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ppl_vae.programs.modes import kept_buffers
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.speed.capture import Graph, Uncapturable, capture
from ppl_vae.speed.proof import agree, generator_state

__all__ = ["Replayed", "Values"]

Values = list[Tensor | None]

WORTH = 250
"""Calls for which a capture pays: it costs as much as some hundred of them, and takes two thirds off each."""


class Replayed:
    """Call it with tensors of always the same shapes; it gives what the function gives, draws included.

    The graph repeats one call before it is used, with the same draws; where it says something else, or the programs
    look at values, every call is eager.

    Args:
        modules: whose tensors the function uses.
        function: from tensors to tensors, some of which may be None.
    """

    def __init__(self, modules: nn.Module, function: Callable[..., Values]) -> None:
        self.modules, self.function = modules, function
        self.tried = False
        self.graph: Graph | None = None
        self.there: list[bool] = []

    def __call__(self, *inputs: Tensor, left: int = 0) -> Values:
        """The function's values; `left` calls are still to come, as far as is known."""
        if self.graph is not None:
            return self._replayed(self.graph, inputs)
        if left < WORTH or self.tried:
            return self.function(*inputs)
        self.tried = True
        return self._captured(inputs)

    def _captured(self, inputs: tuple[Tensor, ...]) -> Values:
        """This call's values, eagerly; the next ones come from the graph, if it says the same."""
        try:
            graph = capture(self.modules, self._flat, inputs)
            with kept_buffers(self.modules), preserved_randomness():
                found = self._replayed(graph, inputs)
                state = generator_state({str(i): v for i, v in enumerate(inputs)})
        except (Uncapturable, RuntimeError):
            return self.function(*inputs)
        expected = self.function(*inputs)
        same = torch.equal(state, generator_state({str(i): v for i, v in enumerate(inputs)}))
        if same and agree(found, expected):
            self.graph = graph
        return expected

    def _flat(self, *inputs: Tensor) -> list[Tensor]:
        found = self.function(*inputs)
        self.there = [v is not None for v in found]
        return [v for v in found if v is not None]

    def _replayed(self, graph: Graph, inputs: tuple[Tensor, ...]) -> Values:
        values = iter(graph(*inputs))
        return [next(values) if there else None for there in self.there]
