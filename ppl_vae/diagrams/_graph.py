"""A program as a graph: what it draws, what that depends on, and the plates around it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

__all__ = ["Graph", "Kind", "Node", "condensed", "step_name"]

Kind = Literal["latent", "observed", "summed", "input", "network"]

STEPS, ALIKE = 4, 4
"""So many steps of a series are drawn as one, and more nodes than so many that are alike."""


@dataclass(frozen=True)
class Node:
    """One or several sites that are drawn alike; `plates` are around it, `note` is its distribution.

    `lag` says how many steps back a site of a series looks, 0 for all others; `count` for how many sites a node stands.
    """

    name: str
    kind: Kind
    note: str = ""
    plates: frozenset[str] = frozenset()
    lag: int = 0
    count: int = 1


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of the program, the nodes that each depends on, and what is written at each plate.

    `unknown` says what of the dependencies could not be followed.
    """

    nodes: tuple[Node, ...]
    parents: Mapping[str, frozenset[str]]
    plates: Mapping[str, str] = field(default_factory=dict)
    unknown: str = ""

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def lines(self) -> list[str]:
        """Each node in words, with what it depends on and its plates.

        Example:
            >>> Graph((Node("z", "latent", "Normal"), Node("x", "observed")), {"x": frozenset({"z"})}).lines()
            ['z ~ Normal', 'x | z, observed']
        """
        return [self._line(node) for node in self.nodes if node.kind != "input"]

    def _line(self, node: Node) -> str:
        above = [n.name for n in self.nodes if n.name in self.parents.get(node.name, ())]
        above += [f"{node.name} of {_back(node.lag)}"] if node.lag else []
        said = node.name + (f" | {', '.join(above)}" if above else "") + (f" ~ {node.note}" if node.note else "")
        kind = {"observed": ["observed"], "summed": ["summed out"], "network": ["a network"]}.get(node.kind, [])
        alike = [f"{node.count} alike"] if node.count > 1 else []
        plates = [p for p in self.plates if p in node.plates]
        around = [f"in plate{'s' if len(plates) > 1 else ''} {', '.join(plates)}"] if plates else []
        return ", ".join([said, *alike, *kind, *around])


def _back(lag: int) -> str:
    return "the step before" if lag == 1 else f"the {lag} steps before"


def condensed(graph: Graph) -> Graph:
    """The steps of a series as one step, and many nodes that are alike as one."""
    return _alike(_stepwise(graph))


def step_name(name: str) -> str:
    """A site of one step, as of any.

    Example:
        >>> step_name("z_12")
        'z_t'
    """
    return name.rstrip("0123456789").rstrip("_") + "_t"


def _stepwise(graph: Graph) -> Graph:
    """Sites z_0, z_1, ... become z_t in a plate of steps, where they are many and one leads to the next."""
    number: dict[str, int] = {}
    by_name: dict[str, list[str]] = {}
    for node in graph.nodes:
        if found := re.search(r"(\d+)$", node.name):
            number[node.name] = int(found[1])
            by_name.setdefault(step_name(node.name), []).append(node.name)
    series = {shown: names for shown, names in by_name.items() if len(names) >= STEPS}
    new = {name: shown for shown, names in series.items() for name in names}
    back = {
        n: [number[n] - number[p] for p in graph.parents.get(n, ()) if new.get(p) == shown] for n, shown in new.items()
    }
    if not any(back.values()):
        return graph  # columns of a table may have numbers, too
    merged = _merged(graph, new)
    lags = {shown: max((lag for n in names for lag in back[n]), default=0) for shown, names in series.items()}
    nodes = tuple(
        replace(n, plates=n.plates | {"t"}, lag=lags[n.name]) if n.name in series else n for n in merged.nodes
    )
    return replace(merged, nodes=nodes, plates={**merged.plates, "t": f"t: {max(map(len, series.values()))} steps"})


def _alike(graph: Graph) -> Graph:
    """Nodes with the same parents, children and plates become one, where they are many: the columns of a table."""
    alike: dict[object, list[str]] = {}
    for node in graph.nodes:
        children = frozenset(child for child, above in graph.parents.items() if node.name in above)
        key = node.kind, node.plates, node.lag, graph.parents.get(node.name, frozenset()), children
        alike.setdefault(key, []).append(node.name)
    groups = {f"{names[0]}, ..., {names[-1]}": names for names in alike.values() if len(names) > ALIKE}
    merged = _merged(graph, {name: shown for shown, names in groups.items() for name in names})
    nodes = tuple(replace(n, count=len(groups[n.name])) if n.name in groups else n for n in merged.nodes)
    return replace(merged, nodes=nodes)


def _merged(graph: Graph, new: Mapping[str, str]) -> Graph:
    """The graph with nodes of one new name as one: the last one's, without an edge to itself."""
    name = {node.name: new.get(node.name, node.name) for node in graph.nodes}
    nodes = {name[node.name]: replace(node, name=name[node.name]) for node in graph.nodes}
    parents: dict[str, frozenset[str]] = {}
    for child, above in graph.parents.items():
        shown = name[child]
        parents[shown] = (parents.get(shown, frozenset()) | {name[p] for p in above}) - {shown}
    return replace(graph, nodes=tuple(nodes.values()), parents=parents)
