"""Graphs as one SVG picture, which needs nothing else: no fonts, no programs, no scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from ppl_vae.diagrams._graph import Graph, Node
from ppl_vae.diagrams._layout import Layout, placed

__all__ = ["picture"]

HEIGHT, GAP, LAYER, LETTER = 46.0, 26.0, 104.0, 7.6
"""Of a node, between two nodes, from layer to layer, of a letter (all in pixels)."""

PAD, STEP = 24.0, 15.0
"""From a node to the plate around it, and from that to the next plate."""

HEAD, MARGIN = 44.0, 18.0

STYLE = """
.d text { font-family: system-ui, sans-serif; fill: #1d2430; text-anchor: middle; }
.d .name { font-size: 14px; font-style: italic; }
.d .note, .d .plate-name, .d .key { font-size: 11px; fill: #5b6676; }
.d .key { text-anchor: start; }
.d .title { font-size: 14px; font-weight: 600; text-anchor: start; }
.d .paper { fill: #ffffff; }
.d .node { fill: #ffffff; stroke: #1d2430; stroke-width: 1.3; }
.d .observed { fill: #d5dbe3; }
.d .summed { stroke-dasharray: 4 3; }
.d .input { fill: #d5dbe3; stroke-dasharray: 1 2.5; }
.d .network { fill: #e2eef8; }
.d .plate { fill: none; stroke: #8b95a3; stroke-width: 1.2; }
.d .arrow { fill: none; stroke: #5b6676; stroke-width: 1.3; marker-end: url(#head); }
.d .head { fill: #5b6676; }
"""

KEYS = {
    "latent": "latent",
    "observed": "observed",
    "summed": "summed out",
    "input": "given, not modelled",
    "network": "network",
}


def picture(graphs: Mapping[str, Graph], described: str) -> str:
    """The graphs beside each other, each under its title, with a key to the kinds of nodes below.

    Args:
        graphs: by title.
        described: the same in words, for readers who do not see it.
    """
    panels = [_Panel(title, graph) for title, graph in graphs.items()]
    kinds = [k for k in KEYS if any(n.kind == k for g in graphs.values() for n in g.nodes)]
    wide = sum(p.width for p in panels) + MARGIN * (len(panels) - 1)
    key, key_width = _key(kinds)
    width = max(wide, key_width) + 2 * MARGIN
    high = max(p.height for p in panels)
    parts, x = [], MARGIN
    for panel in panels:
        parts.append(f'<g transform="translate({x:.1f} {MARGIN:.1f})">{panel.drawn()}</g>')
        x += panel.width + MARGIN
    height = high + 2 * MARGIN + 34 + (18 if any(g.unknown for g in graphs.values()) else 0)
    parts.append(f'<g transform="translate({MARGIN} {high + MARGIN + 22:.1f})">{key}</g>')
    unknown = " ".join(dict.fromkeys(g.unknown for g in graphs.values() if g.unknown))
    parts.append(
        f'<text class="key" x="{MARGIN}" y="{high + MARGIN + 44:.1f}">{escape(unknown)}</text>' if unknown else ""
    )
    width = max(width, 6.2 * len(unknown) + 2 * MARGIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="d" role="img" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}"><title>{escape(", ".join(graphs))}</title>'
        f"<desc>{escape(described)}</desc><style>{STYLE}</style>"
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path class="head" d="M0 0 10 5 0 10z"/></marker></defs>'
        f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>' + "".join(parts) + "</svg>"
    )


def _key(kinds: Sequence[str]) -> tuple[str, float]:
    """A small node of every kind with its word, and how wide that is."""
    parts, x = [], 0.0
    for kind in kinds:
        parts.append(f'<rect class="node {kind}" x="{x:.1f}" y="-9" width="18" height="13" rx="{_corner(kind, 13)}"/>')
        parts.append(f'<text class="key" x="{x + 23:.1f}" y="2">{KEYS[kind]}</text>')
        x += 23 + 6.2 * len(KEYS[kind]) + 18
    return "".join(parts), x


def _corner(kind: str, height: float) -> float:
    return 3 if kind == "network" else height / 2


class _Panel:
    """One graph, laid out in pixels."""

    def __init__(self, title: str, graph: Graph) -> None:
        self.title, self.graph, self.layout = title, graph, placed(graph)
        self.widths = {n.name: _node_width(n, self.layout) for n in graph.nodes}
        self.pitch = max(self.widths.values(), default=HEIGHT) + GAP
        self.depth = {p: _depth(p, graph, self.layout) for p in self.layout.plates}
        columns = [c for c, _ in self.layout.places.values()] or [0.0]
        rows = [r for _, r in self.layout.places.values()] or [0]
        edge = PAD + STEP * max(self.depth.values(), default=0)
        side = edge + max(self.widths.values(), default=0) / 2
        loops = 34.0 if any(n.lag for n in graph.nodes) else 0.0
        self.left = side - min(columns) * self.pitch
        self.top = HEAD + edge + HEIGHT / 2 - min(rows) * LAYER
        self.width = max((max(columns) - min(columns)) * self.pitch + 2 * side + loops, 8.4 * len(title))
        self.height = HEAD + (max(rows) - min(rows)) * LAYER + 2 * edge + HEIGHT + 8

    def at(self, name: str) -> tuple[float, float]:
        column, row = self.layout.places[name]
        return self.left + column * self.pitch, self.top + row * LAYER

    def drawn(self) -> str:
        parts = [f'<text class="title" x="0" y="14">{escape(self.title)}</text>']
        parts += [self._plate(p) for p in sorted(self.layout.plates, key=lambda p: -self.depth[p])]
        parts += [self._arrow(p, n.name) for n in self.graph.nodes for p in sorted(self.graph.parents.get(n.name, ()))]
        return "".join(parts + [self._node(n) for n in self.graph.nodes])

    def _node(self, node: Node) -> str:
        x, y = self.at(node.name)
        width = self.widths[node.name]
        lines = _notes(node, self.layout)
        below = "".join(
            f'<text class="note" x="{x:.1f}" y="{y + 14:.1f}">{escape(", ".join(lines))}</text>' if lines else ""
        )
        loop = self._loop(x + width / 2, y, node.lag) if node.lag else ""
        return (
            f'<rect class="node {node.kind}" x="{x - width / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{width:.1f}" '
            f'height="{HEIGHT}" rx="{_corner(node.kind, HEIGHT)}"/>'
            f'<text class="name" x="{x:.1f}" y="{y - 1 if lines else y + 5:.1f}">{escape(node.name)}</text>'
            f"{below}{loop}"
        )

    def _loop(self, x: float, y: float, lag: int) -> str:
        """From the step before to this one."""
        word = "from t \N{MINUS SIGN} 1" if lag == 1 else f"from the {lag} before"
        return (
            f'<path class="arrow" d="M{x - 6:.1f} {y - 12:.1f}C{x + 30:.1f} {y - 36:.1f} {x + 30:.1f} {y + 36:.1f} '
            f'{x - 5:.1f} {y + 13:.1f}"/><text class="note" x="{x + 16:.1f}" y="{y - 26:.1f}">{word}</text>'
        )

    def _plate(self, name: str) -> str:
        left, top, right, bottom = self.layout.plates[name]
        edge = PAD + STEP * self.depth[name]
        half = max(self.widths[n.name] for n in self.graph.nodes if name in n.plates) / 2
        loops = 34.0 if any(n.lag for n in self.graph.nodes if name in n.plates) else 0.0
        x0, y0 = self.left + left * self.pitch - half - edge + 8, self.top + top * LAYER - HEIGHT / 2 - edge + 10
        x1, y1 = self.left + right * self.pitch + half + edge - 8 + loops, self.top + bottom * LAYER + HEIGHT / 2 + edge
        # of two crossed plates the left one has its name on the left, where it is alone
        crossed = [p for p in self.layout.plates if _crossed(name, p, self.graph)]
        at_left = any(self.layout.plates[p][0] > left for p in crossed)
        x, anchor = (x0 + 7, "start") if at_left else (x1 - 7, "end")
        return (
            f'<rect class="plate" x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" rx="7"/>'
            f'<text class="plate-name" style="text-anchor: {anchor}" x="{x:.1f}" y="{y1 - 6:.1f}">'
            f"{escape(self.graph.plates[name])}</text>"
        )

    def _arrow(self, parent: str, child: str) -> str:
        """From the edge of one node to that of the other; an arrow along a layer goes in a bow."""
        (x0, y0), (x1, y1) = self.at(parent), self.at(child)
        if y0 == y1:
            return self._bow(x0, y0, x1)
        start, end = self._edge(parent, x1 - x0, y1 - y0), self._edge(child, x0 - x1, y0 - y1)
        return f'<path class="arrow" d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}"/>'

    def _bow(self, x0: float, y: float, x1: float) -> str:
        top = y - HEIGHT / 2
        return f'<path class="arrow" d="M{x0:.1f} {top:.1f}Q{(x0 + x1) / 2:.1f} {top - 40:.1f} {x1:.1f} {top:.1f}"/>'

    def _edge(self, name: str, dx: float, dy: float) -> tuple[float, float]:
        """Where a line from the middle of a node leaves it: a rectangle with round ends."""
        x, y = self.at(name)
        half, radius = self.widths[name] / 2 - HEIGHT / 2, HEIGHT / 2
        if abs(dx) * radius <= abs(dy) * half:  # through the flat side
            return x + dx * radius / abs(dy), y + math.copysign(radius, dy)
        side = math.copysign(half, dx)  # through the circle around (side, 0)
        long = math.hypot(dx, dy)
        ux, uy = dx / long, dy / long
        along = ux * side + math.sqrt(max(radius**2 - (uy * side) ** 2, 0.0))
        return x + along * ux, y + along * uy


def _node_width(node: Node, layout: Layout) -> float:
    return max(HEIGHT, LETTER * len(node.name) + 24, 6.3 * len(", ".join(_notes(node, layout))) + 22)


def _notes(node: Node, layout: Layout) -> list[str]:
    """What stands below the name of a node: its distribution, how many are alike, plates that are not drawn."""
    alike = [f"{node.count} alike"] if node.count > 1 else []
    return [*([node.note] if node.note else []), *alike, *(f"in {p}" for p in layout.beside[node.name])]


def _depth(plate: str, graph: Graph, layout: Layout) -> int:
    """How many plates are inside of it, one inside the other; of two crossed ones the later one is drawn around."""
    names = [*layout.plates]
    own = _members(plate, graph)
    inner = [p for p in names if p != plate and (_members(p, graph) < own or (_members(p, graph) == own and p > plate))]
    inner += [p for p in names[: names.index(plate)] if _crossed(plate, p, graph)]
    return 1 + max((_depth(p, graph, layout) for p in inner), default=-1)


def _members(plate: str, graph: Graph) -> set[str]:
    return {n.name for n in graph.nodes if plate in n.plates}


def _crossed(one: str, other: str, graph: Graph) -> bool:
    """Whether two plates have nodes in common, and each has some of its own."""
    first, second = _members(one, graph), _members(other, graph)
    return bool(first & second and first - second and second - first)
