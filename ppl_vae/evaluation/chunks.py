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

from ppl_vae.data import device_of
from ppl_vae.programs.execution import run
from ppl_vae.programs.program import Batch, Pair, Programs
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import Structure
from ppl_vae.speed.capture import Graph, capture, unlisted
from ppl_vae.speed.compiler import compiled
from ppl_vae.speed.modes import MODES, Compile, Modes, ShapeRuns
from ppl_vae.speed.proof import agree, generator_state
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.log_weights import LogWeights, concatenate
from ppl_vae.weights.reduction import reduced

__all__ = ["Chunks", "both", "split_at_draws"]


@unlisted()
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
class _ShapeRuns(ShapeRuns):
    captured: Graph | None = None
    once: Graph | None = None
    each: Graph | None = None
    rows: Batch | None = None
    carried: tuple[Tensor, ...] = ()

    def back(self) -> None:
        super().back()
        self.each = None if self.mode == "eager" else self.captured


class Chunks:
    """The weights of a chunk of particles, of which evidence and bounds are made; every shape has its own `ShapeRuns`.

    A pair that cannot be captured is run as it is, with the same numbers; `findings` say why. Instead of the weights,
    any `function` of a batch, the particles and inputs that move from call to call may be run in this mode.

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
        self.by_shape: dict[Any, _ShapeRuns] = {}
        self.modes = Modes(mode, "evaluation")
        self.findings = self.modes.findings

    def __call__(self, batch: Batch, particles: int, left: int, *moving: Tensor) -> list[Tensor]:
        """Of some rows the sums of log w, of the rate and of log p(x | z), [row], then the log weights [particle, row].

        `left` is how many chunks of this shape are still to come.
        """
        key = particles, tuple((n, v.shape) for n, v in batch.items())
        runs = self.by_shape.setdefault(key, _ShapeRuns())
        if runs.due or self.modes.compile == "on":
            runs.due = False
            self._choose(runs, batch, particles, left, moving)
        device = device_of(batch)
        start, eager = runs.now(device), runs.each is None
        sums = self._eager(batch, particles, *moving) if eager else self._replay(runs, batch, particles, moving)
        runs.clock(runs.now(device) - start)
        return sums

    def _sums(self, batch: Batch, particles: int) -> list[Tensor]:
        expected, marginal = both(self.pair, self.structure, batch, particles)
        sums = [v.sum(0) for v in (expected.log_weight, expected.rate, expected.log_likelihood)]
        return [*sums, marginal.log_weight]

    def _replay(self, runs: _ShapeRuns, batch: Batch, particles: int, moving: tuple[Tensor, ...]) -> list[Tensor]:
        inputs = *batch.values(), *moving
        if runs.rows is not batch and runs.once is not None:
            runs.rows, runs.carried = batch, tuple(runs.once(*inputs))
        if not runs.is_due_for_proof():
            return runs.each(*inputs, *runs.carried)  # type: ignore[misc]
        with preserved_randomness():
            sums = runs.each(*inputs, *runs.carried)  # type: ignore[misc]
            state = generator_state(batch)
        expected = self._eager(batch, particles, *moving)
        if not (torch.equal(state, generator_state(batch)) and agree(sums, expected)):
            self.modes.close(runs.mode, None, f"the {runs.mode} evaluation has other numbers than the eager one")
            runs.back()
        return expected

    def _choose(self, runs: _ShapeRuns, batch: Batch, particles: int, left: int, moving: tuple[Tensor, ...]) -> None:
        if self.modes.compile == "on":
            modes = [w for w in ("captured", "compiled") if MODES.index(w) > MODES.index(runs.mode)]
        else:
            modes = [runs.best(left, runs.captured)]
            if MODES.index(modes[0]) < MODES.index(runs.mode):
                runs.back()
                return
        for mode in modes:
            if mode != runs.mode and mode not in self.modes.closed:
                self._change(runs, batch, particles, mode, moving)

    def _change(self, runs: _ShapeRuns, batch: Batch, particles: int, mode: str, moving: tuple[Tensor, ...]) -> None:
        names, inputs = tuple(batch), [*batch.values(), *moving]

        def flat(*values: Tensor) -> list[Tensor]:
            return self._eager(dict(zip(names, values, strict=False)), particles, *values[len(names) :])

        with self.modes.opening(mode, runs):
            if mode == "captured":
                whole = capture(self.pair, flat, inputs)
                runs.once, runs.each = split_at_draws(whole, len(inputs), len(moving))
                runs.captured = runs.each
            elif runs.captured is not None and runs.once is not None:
                runs.each = compiled(runs.captured, [*inputs, *runs.once(*inputs)])


def both(pair: Programs, structure: Structure, batch: Batch, k: int) -> tuple[LogWeights, LogWeights]:
    """The same draws seen twice: discrete latents in expectation (ELBO) and summed inside the weight (evidence)."""
    expected, marginal = [], []
    for size in [k] if structure.broadcasts else [1] * k:
        drawn = run(pair, structure, batch, size)
        expected.append(LogWeights(**reduced(Factors(drawn))._asdict()))
        if structure.enumerates:
            marginal.append(LogWeights(**reduced(Factors(drawn), "marginal")._asdict()))
    joined = concatenate(expected)
    return joined, concatenate(marginal) if marginal else joined
