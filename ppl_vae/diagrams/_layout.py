"""Places for the nodes of a graph: arrows lead down, and a plate is a rectangle around its nodes and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ppl_vae.diagrams._graph import Graph, Node

__all__ = ["Layout", "placed"]

Place = tuple[float, int]
"""Column and layer."""

TRIES, SWEEPS = 4000, 20
"""After so many places that were tried, plates are given up one by one; at most so often all nodes are moved."""


@dataclass(frozen=True)
class Layout:
    """Where each node is, and the rectangles (left, top, right, bottom) of the plates that could be drawn.

    Nodes in the plates that could not be drawn (crossed ones of many nodes) carry their names in `beside`.
    """

    places: dict[str, Place]
    plates: dict[str, tuple[float, int, float, int]]
    beside: dict[str, tuple[str, ...]]


def placed(graph: Graph) -> Layout:
    """The layout of a graph with columns half a place apart, every arrow from an upper to a lower layer.

    Nodes are placed by backtracking, those in most plates first, each as near as possible to those that it is tied to.
    """
    drawn = [p for p in graph.plates if any(p in n.plates for n in graph.nodes)]
    while True:
        layers = _layers(graph, drawn)
        order = sorted(graph.nodes, key=lambda n: (-len(n.plates & {*drawn}), -layers[n.name]))
        places = _search(graph, order, layers, drawn, [TRIES])
        if places is not None:
            _straighten(graph, places, drawn)
            rectangles = {p: _around(p, graph, places) for p in drawn}
            beside = {n.name: tuple(p for p in n.plates if p not in drawn) for n in graph.nodes}
            return Layout(places, rectangles, beside)
        drawn = drawn[:-1]


def _layers(graph: Graph, drawn: list[str]) -> dict[str, int]:
    """The longest way from a source to each node; what leads into a plate is above all of the plate, if it can be."""
    above = {n.name: {*graph.parents.get(n.name, ())} for n in graph.nodes}
    for node in graph.nodes:
        for child in graph.nodes:
            if node.name not in graph.parents.get(child.name, ()):
                continue
            for plate in (child.plates - node.plates) & {*drawn}:
                for inside in (n for n in graph.nodes if plate in n.plates):
                    if inside.name != node.name and not _leads(inside.name, node.name, above):
                        above[inside.name].add(node.name)
    layers: dict[str, int] = {}
    for node in graph.nodes:
        _layer(node.name, above, layers)
    for name in [n for n in layers if not above[n]]:  # a source stands just above what it leads to
        below = [layers[n] for n in layers if name in above[n]]
        layers[name] = min(below) - 1 if below else 0
    return layers


def _leads(start: str, end: str, above: Mapping[str, set[str]]) -> bool:
    seen, stack = {end}, [end]
    while stack:
        for parent in above[stack.pop()] - seen:
            seen.add(parent)
            stack.append(parent)
    return start in seen


def _layer(name: str, above: Mapping[str, set[str]], layers: dict[str, int]) -> int:
    if name not in layers:
        layers[name] = 0  # also where a program's order has a circle: then one arrow leads up
        layers[name] = max((_layer(p, above, layers) + 1 for p in above[name]), default=0)
    return layers[name]


def _search(
    graph: Graph, order: list[Node], layers: Mapping[str, int], drawn: list[str], tries: list[int]
) -> dict[str, Place] | None:
    """A place for each node in turn; None where there is none within the number of tries."""
    places: dict[str, Place] = {}

    def place(number: int) -> bool:
        if number == len(order):
            return True
        node = order[number]
        for column in _columns(node, graph, places):
            tries[0] -= 1
            if tries[0] < 0:
                return False
            places[node.name] = (column, layers[node.name])
            if _fits(node, graph, places, drawn) and place(number + 1):
                return True
            del places[node.name]
        return False

    return places if place(0) else None


def _straighten(graph: Graph, places: dict[str, Place], drawn: list[str]) -> None:
    """Move nodes along their layers while that makes arrows steeper, so that parents stand evenly above a child."""
    for _ in range(SWEEPS):
        moved = False
        for node in graph.nodes:
            here = places[node.name]
            best, least = here, _slant(node.name, graph, places)
            for column in _columns(node, graph, places):
                places[node.name] = (column, here[1])
                slant = _slant(node.name, graph, places)
                if slant < least - 1e-9 and _fits(node, graph, places, drawn):
                    best, least = places[node.name], slant
            places[node.name] = best
            moved |= best != here
        if not moved:
            return


def _slant(name: str, graph: Graph, places: Mapping[str, Place]) -> float:
    """How far the ends of a node's arrows are apart across, squared."""
    return sum((places[name][0] - places[n][0]) ** 2 for n in places if _tied(name, n, graph))


def _columns(node: Node, graph: Graph, places: Mapping[str, Place]) -> list[float]:
    """The columns to try, the nearest to the nodes that are tied to it first."""
    if not places:
        return [0.0]
    tied = [places[n][0] for n in places if _tied(node.name, n, graph)]
    middle = sum(tied) / len(tied) if tied else sum(c for c, _ in places.values()) / len(places)
    taken = [c for c, _ in places.values()]
    first, last = int(2 * min(taken)) - 4, int(2 * max(taken)) + 4
    return sorted((i / 2 for i in range(first, last + 1)), key=lambda c: (abs(c - middle), c))


def _tied(one: str, other: str, graph: Graph) -> bool:
    return one in graph.parents.get(other, ()) or other in graph.parents.get(one, ())


def _fits(node: Node, graph: Graph, places: Mapping[str, Place], drawn: list[str]) -> bool:
    """Whether nodes are apart, arrows pass by other nodes, and no node is in a rectangle that it does not belong to."""
    column, layer = places[node.name]
    if any(n != node.name and at[1] == layer and abs(at[0] - column) < 1 for n, at in places.items()):
        return False
    if any(_crosses(a, b, c, places) for a, b, c in _arrows(node.name, graph, places)):
        return False
    for plate in drawn:
        members = [n for n in graph.nodes if n.name in places and plate in n.plates]
        if not members:
            continue
        left, top, right, bottom = _around(plate, graph, places)
        for other in graph.nodes:
            if other.name in places and plate not in other.plates:
                c, r = places[other.name]
                if top <= r <= bottom and left - 1 < c < right + 1:
                    return False
    return True


def _arrows(name: str, graph: Graph, places: Mapping[str, Place]) -> Iterator[tuple[str, str, str]]:
    """Arrows between placed nodes with a node that is neither end; of them those that the new node has a part in."""
    for child in places:
        for parent in graph.parents.get(child, ()):
            if parent in places:
                for other in places:
                    if other not in (child, parent) and name in (child, parent, other):
                        yield parent, child, other


def _crosses(parent: str, child: str, other: str, places: Mapping[str, Place]) -> bool:
    """Whether a node stands in the way of an arrow between two others."""
    (x0, y0), (x1, y1), (x, y) = places[parent], places[child], places[other]
    if not min(y0, y1) < y < max(y0, y1):
        return False
    return abs(x0 + (x1 - x0) * (y - y0) / (y1 - y0) - x) < 0.5


def _around(plate: str, graph: Graph, places: Mapping[str, Place]) -> tuple[float, int, float, int]:
    inside = [places[n.name] for n in graph.nodes if plate in n.plates and n.name in places]
    columns, rows = [c for c, _ in inside], [r for _, r in inside]
    return min(columns), min(rows), max(columns), max(rows)
