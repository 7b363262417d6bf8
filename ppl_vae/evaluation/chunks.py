"""Log weights of many particles, chunk after chunk: what does not depend on a draw is computed once for each row.

A captured chunk is split where the first draw enters: an encoder, a VampPrior's components and whatever else is the
same for every particle are one graph, run once for some rows; the rest is another, run for every chunk of particles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ppl_vae.checks.analysis import preserved_randomness
from ppl_vae.programs.execution import run
from ppl_vae.programs.program import Batch, Pair, Programs
from ppl_vae.programs.structure import Structure
from ppl_vae.speed.capture import Graph, capture
from ppl_vae.speed.compiler import compiled
from ppl_vae.speed.lanes import WAYS, Compile, Lane, Ways
from ppl_vae.training.step_graph import agree, generator_state
from ppl_vae.weights._log_weights import LogWeights, concatenate
from ppl_vae.weights.factors import Factors

__all__ = ["Chunks", "both", "split_at_draws"]


def split_at_draws(graph: Graph, inputs: int, moving: int = 0) -> tuple[Graph, Graph]:
    """A graph in two: what no random draw enters, and the rest, which takes the results of the first after its inputs.

    Args:
        graph: a captured function.
        inputs: how many inputs it has.
        moving: how many of them, the last ones, are other values at every call, like a draw.

    Example:
        >>> layer = torch.nn.Linear(2, 3)
        >>> graph = capture(layer, lambda x: [layer(x).exp() + torch.randn(1)], [torch.zeros(4, 2)])
        >>> once, each = split_at_draws(graph, 1)
        >>> x = torch.zeros(4, 2)
        >>> each(x, *once(x))[0].shape
        torch.Size([4, 3])
    """
    nodes = list(graph.module.graph.nodes)
    places = [n for n in nodes if n.op == "placeholder"]
    random = _random(nodes, places[inputs - moving : inputs])
    output = nodes[-1]
    fixed = [n for n in nodes if n.op == "call_function" and n not in random]
    carried = [n for n in fixed if any(user in random or user is output for user in n.users)]
    once, each = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in [*places, *[n for n in nodes if n.op == "get_attr" or n in fixed]]:
        copies[node] = once.node_copy(node, copies.__getitem__)
    once.output([copies[n] for n in carried])
    copies = {}
    for node in places[:inputs]:
        copies[node] = each.node_copy(node)
    for i, node in enumerate(carried):
        copies[node] = each.placeholder(f"carried_{i}")
    moved = [n for n in nodes if n.op == "get_attr" or (n in random and n.op != "placeholder")]
    for node in [*places[inputs:], *moved, output]:
        copies[node] = each.node_copy(node, copies.__getitem__)
    parts = (fx.GraphModule(graph.module, g) for g in (once, each))
    return tuple(Graph(part, graph.state) for part in parts)  # type: ignore[return-value]


def _random(nodes: list[fx.Node], moving: list[fx.Node]) -> set[fx.Node]:
    """The operations that draw, what is made of their results or of inputs that move, and what they write into."""
    found: set[fx.Node] = {*moving}
    while True:
        size = len(found)
        for node in nodes:
            if node.op != "call_function":
                continue
            draws = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
            if draws or any(a in found for a in node.all_input_nodes):
                found.add(node)
                schema = getattr(node.target, "_schema", None)
                if schema is not None and schema.is_mutable:
                    found |= {a for a in node.all_input_nodes if a.op == "call_function"}
        if len(found) == size:
            return found


@dataclass
class _Lane(Lane):
    captured: Graph | None = None
    once: Graph | None = None
    each: Graph | None = None
    rows: Batch | None = None
    carried: tuple[Tensor, ...] = ()

    def back(self) -> None:
        super().back()
        self.each = None if self.way == "eager" else self.captured


class Chunks:
    """The weights of a chunk of particles, of which evidence and bounds are made; every shape has its own `Lane`.

    A pair that cannot be captured is run as it is, with the same numbers; `findings` say why. Instead of the weights,
    any `function` of a batch, the particles and inputs that move from call to call may be run in this way.

    Raises:
        UserError: with "on", for programs that cannot be captured, or a machine without a compiler.
    """

    def __init__(
        self,
        pair: Pair,
        structure: Structure,
        mode: Compile,
        function: Callable[..., list[Tensor]] | None = None,
    ) -> None:
        self.pair, self.structure = pair, structure
        self._eager = function or self._sums
        self.lanes: dict[Any, _Lane] = {}
        self.ways = Ways(mode, "evaluation")
        self.findings = self.ways.findings

    def __call__(self, batch: Batch, particles: int, left: int, *moving: Tensor) -> list[Tensor]:
        """Of some rows the sums of log w, of the rate and of log p(x | z), [row], then the log weights [particle, row].

        `left` is how many chunks of this shape are still to come.
        """
        key = particles, tuple((n, v.shape) for n, v in batch.items())
        lane = self.lanes.setdefault(key, _Lane())
        if lane.due or self.ways.mode == "on":
            lane.due = False
            self._choose(lane, batch, particles, left, moving)
        device = next(iter(batch.values())).device
        start, eager = lane.now(device), lane.each is None
        sums = self._eager(batch, particles, *moving) if eager else self._replay(lane, batch, particles, moving)
        lane.clock(lane.now(device) - start)
        return sums

    def _sums(self, batch: Batch, particles: int) -> list[Tensor]:
        expected, marginal = both(self.pair, self.structure, batch, particles)
        sums = [v.sum(0) for v in (expected.log_weight, expected.rate, expected.log_likelihood)]
        return [*sums, marginal.log_weight]

    def _replay(self, lane: _Lane, batch: Batch, particles: int, moving: tuple[Tensor, ...]) -> list[Tensor]:
        inputs = *batch.values(), *moving
        if lane.rows is not batch and lane.once is not None:
            lane.rows, lane.carried = batch, tuple(lane.once(*inputs))
        if not lane.is_due_for_proof():
            return lane.each(*inputs, *lane.carried)  # type: ignore[misc]
        with preserved_randomness():
            sums = lane.each(*inputs, *lane.carried)  # type: ignore[misc]
            state = generator_state(batch)
        expected = self._eager(batch, particles, *moving)
        if not (torch.equal(state, generator_state(batch)) and agree(sums, expected)):
            self.ways.close(lane.way, None, f"the {lane.way} evaluation has other numbers than the eager one")
            lane.back()
        return expected

    def _choose(self, lane: _Lane, batch: Batch, particles: int, left: int, moving: tuple[Tensor, ...]) -> None:
        if self.ways.mode == "on":
            ways = [w for w in ("captured", "compiled") if WAYS.index(w) > WAYS.index(lane.way)]
        else:
            ways = [lane.best(left, lane.captured)]
            if WAYS.index(ways[0]) < WAYS.index(lane.way):
                lane.back()
                return
        for way in ways:
            if way != lane.way and way not in self.ways.closed:
                self._change(lane, batch, particles, way, moving)

    def _change(self, lane: _Lane, batch: Batch, particles: int, way: str, moving: tuple[Tensor, ...]) -> None:
        names, inputs = tuple(batch), [*batch.values(), *moving]

        def flat(*values: Tensor) -> list[Tensor]:
            return self._eager(dict(zip(names, values, strict=False)), particles, *values[len(names) :])

        with self.ways.opening(way, lane):
            if way == "captured":
                whole = capture(self.pair, flat, inputs)
                lane.once, lane.each = split_at_draws(whole, len(inputs), len(moving))
                lane.captured = lane.each
            elif lane.captured is not None and lane.once is not None:
                lane.each = compiled(lane.captured, [*inputs, *lane.once(*inputs)])


def both(pair: Programs, structure: Structure, batch: Batch, k: int) -> tuple[LogWeights, LogWeights]:
    """The same draws seen twice: discrete latents in expectation (ELBO) and summed inside the weight (evidence)."""
    expected, marginal = [], []
    for size in [k] if structure.broadcasts else [1] * k:
        drawn = run(pair, structure, batch, size)
        if not structure.enumerates:
            expected.append(LogWeights(**Factors(drawn).plain()._asdict()))
            continue
        expected.append(LogWeights(**Factors(drawn).expectation()._asdict()))
        marginal.append(LogWeights(**Factors(drawn).marginal()._asdict()))
    joined = concatenate(expected)
    return joined, concatenate(marginal) if marginal else joined
