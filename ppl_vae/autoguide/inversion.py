"""In which order a guide draws the latents of a model, and on which of them it conditions each.

The posterior of a model does not have the model's own conditional independences: two causes of one observation
become dependent once it is seen (explaining away). A guide that draws the latents in some order loses nothing if
it conditions each on all earlier latents that it can still reach through later ones in the moral graph; on others
it need not look (Webb et al. 2018, arXiv 1712.00287).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ppl_vae.programs.dependencies import Parents

__all__ = ["Block", "ancestors", "faithful_blocks", "fields_of", "moral_graph"]


@dataclass(frozen=True)
class Block:
    """Sites that are drawn together, and the earlier sites that their parameters depend on.

    They depend on the row too (`row`), unless earlier sites say all that it could tell. What is `summed` out in the
    model is not drawn at all. The sites of a chain are drawn in `steps`, each given the `lags` steps before it. Those
    of the members of a row are drawn for `each` of them, by one network.
    """

    sites: tuple[str, ...]
    given: tuple[str, ...] = ()
    row: bool = True
    summed: bool = False
    steps: tuple[tuple[str, ...], ...] = ()
    lags: int = 0
    each: bool = False

    @property
    def name(self) -> str:
        """The name of the auxiliary site of a joint draw, which is none of the sites' own."""
        return ",".join(self.sites) if len(self.sites) > 1 else f"{self.sites[0]}[:]"


def faithful_blocks(
    continuous: Sequence[str],
    discrete: Sequence[str],
    late: Sequence[str],
    parents: Parents,
    *,
    joint: Callable[[str], bool],
    known: Iterable[str] = (),
    summed: Iterable[str] = (),
    order: Sequence[str] = (),
    touching: Iterable[str] | None = None,
) -> tuple[Block, ...]:
    """The blocks of a guide, in the order in which they are drawn.

    Labels come first, as soon as the continuous latents that they depend on are there, so that what follows is
    conditioned on them: the posterior of a mixture is a mixture. Then all continuous latents that are ready, in
    one block as far as `joint` says so. `late` sites (discrete ones inside inner plates, summed out there) come
    last, since nothing outside their plate can look at them. `known` are latents drawn before (shared by all rows),
    `summed` those that are never drawn, through which others stay tied.
    A model may ask for another `order`. Latents that reach none of those `touching` the data need not see the row.
    """
    placed: list[str] = [*known]
    blocks: list[Block] = []
    latents = {*continuous, *discrete, *late}
    tied = moral_graph(parents, latents | {*placed} | {*summed})
    waiting = {"label": list(discrete), "free": list(continuous), "late": list(late)}
    asked = list(order)
    while any(waiting.values()):
        kind, ready = _next(waiting, asked) if asked else _ready(waiting, parents, latents, placed)
        waiting[kind] = [n for n in waiting[kind] if n not in ready]
        asked = [n for n in asked if n not in ready]
        together = [n for n in ready if kind == "free" and joint(n)]
        groups = [together] if together else []
        groups += [[n] for n in ready if n not in together]
        for group in sorted(groups, key=lambda g: ready.index(g[0])):
            reached = _reached(group, tied, {*placed})
            row = touching is None or bool({*touching} & (reached - {*placed}))
            blocks.append(Block(tuple(group), tuple(n for n in placed if n in reached and n not in late), row))
            placed += group
    return tuple(blocks)


def _next(waiting: Mapping[str, list[str]], asked: list[str]) -> tuple[str, list[str]]:
    """The next sites of the order that was asked for, as many as are of one kind."""
    kind = next(kind for kind, names in waiting.items() if asked[0] in names)
    end = next((i for i, n in enumerate(asked) if n not in waiting[kind]), len(asked))
    return kind, asked[:end]


def _ready(
    waiting: Mapping[str, list[str]], parents: Parents, latents: set[str], placed: list[str]
) -> tuple[str, list[str]]:
    """The first kind of which some site has all its ancestors of other kinds placed, with these sites."""
    for kind, names in waiting.items():
        missing = latents - {*placed} - {*names}
        ready = [n for n in names if not ancestors(n, parents) & missing]
        if ready:
            return kind, ready
    raise AssertionError("a directed graph without cycles always has a site that is ready")


def ancestors(name: str, parents: Parents) -> set[str]:
    """The sites that a site depends on, directly or through others."""
    found: set[str] = set()
    stack = list(parents.get(name, ()))
    while stack:
        parent = stack.pop()
        if parent not in found:
            found.add(parent)
            stack += parents.get(parent, ())
    return found


def moral_graph(parents: Parents, latents: set[str]) -> dict[str, set[str]]:
    """Which latents are tied once everything observed is seen: parents and children, and the parents of one child."""
    tied: dict[str, set[str]] = {}
    for child, above in parents.items():
        family = {child, *above} & latents
        for member in family:
            tied.setdefault(member, set()).update(family - {member})
    return tied


def fields_of(
    blocks: Sequence[Block], parents: Parents, latents: Iterable[str], fields: Sequence[str], known: Iterable[str] = ()
) -> list[tuple[str, ...]]:
    """The observed sites that each block's posterior depends on, given the latents drawn before it.

    These are the children of the block and of what it reaches through latents that are not yet drawn.

    Example:
        >>> parents = {"a": frozenset({"z", "wa"}), "b": frozenset({"z", "wb"})}
        >>> fields_of([Block(("z",)), Block(("wa",)), Block(("wb",))], parents, ["z", "wa", "wb"], ["a", "b"])
        [('a', 'b'), ('a',), ('b',)]
    """
    tied, placed = moral_graph(parents, {*latents}), {*known}
    found = []
    for block in blocks:
        reached = _reached(list(block.sites), tied, placed) - placed
        found.append(tuple(n for n in fields if parents.get(n, frozenset()) & reached))
        placed |= {*block.sites}
    return found


def _reached(group: list[str], tied: Mapping[str, set[str]], placed: set[str]) -> set[str]:
    """A group with all sites that can be reached from it through sites that are not yet placed."""
    seen, stack = {*group}, [*group]
    while stack:
        for other in tied.get(stack.pop(), ()):
            if other not in seen:
                seen.add(other)
                stack += [] if other in placed else [other]
    return seen
