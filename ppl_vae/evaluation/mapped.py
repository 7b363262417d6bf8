"""Functions of chains for programs that have no room for many of them: captured for one chain, mapped over all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.data import WholeBatch
from ppl_vae.programs.program import Batch
from ppl_vae.speed.capture import Graph, capture

__all__ = ["MappedChains"]

FEW = 2
"""Chains by which a map is held against single runs."""


class MappedChains:
    """A function of a batch and of one chain's vector [1, row, d], as a graph that `torch.vmap` maps over chains.

    Called as `Chunks` are. What a map says is compared with single runs once for each shape.

    Args:
        modules: whose tensors the function uses.
        function: of a batch, the number 1, the vector and further tensors that all chains share; gives a list of
            tensors [1, ...].

    Raises:
        NotImplementedError: for programs that cannot be captured or mapped.
    """

    def __init__(self, modules: nn.Module, function: Callable[..., list[Tensor]]) -> None:
        self.modules, self.function = modules, function
        self.graphs: dict[Any, Graph] = {}

    def __call__(self, batch: Batch, chains: int, left: int, u: Tensor, *common: Tensor) -> list[Tensor]:
        """The function's tensors of all chains, [chain, ...]."""
        key = tuple((n, v.shape) for n, v in batch.items()), u.shape[1:], u.dtype
        if key not in self.graphs:
            self.graphs[key] = self._proved(batch, u, common)
        return self._mapped(self.graphs[key], batch, u, common)

    def _proved(self, batch: Batch, u: Tensor, common: tuple[Tensor, ...]) -> Graph:
        names = tuple(batch)

        def flat(*tensors: Tensor) -> list[Tensor]:
            fields: Batch = dict(zip(names, tensors[1:], strict=False))
            fields = WholeBatch(fields) if isinstance(batch, WholeBatch) else fields
            return self.function(fields, 1, tensors[0], *tensors[1 + len(names) :])

        try:
            graph = capture(self.modules, flat, [u[:1], *batch.values(), *common])
            mine = self._mapped(graph, batch, u[:FEW], common)
        except Exception as error:  # whatever torch.vmap cannot do
            raise NotImplementedError("programs without room for chains, which torch.vmap cannot map either") from error
        each = [self.function(batch, 1, one, *common) for one in u[:FEW].split(1)]
        for found, expected in zip(mine, map(torch.cat, zip(*each, strict=True)), strict=True):
            if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True):
                raise NotImplementedError("programs without room for chains, for which torch.vmap says something else")
        return graph

    def _mapped(self, graph: Graph, batch: Batch, u: Tensor, common: tuple[Tensor, ...]) -> list[Tensor]:
        arguments = graph.arguments([u.unsqueeze(1), *batch.values(), *common])
        dims = (0,) + (None,) * (len(arguments) - 1)
        with torch.no_grad():
            return [v.squeeze(1) for v in torch.vmap(graph.module, dims, randomness="error")(*arguments)]
