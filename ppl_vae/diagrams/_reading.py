"""Read graphs: of a program by following what each site depends on, of a generated guide by its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.inspect import TrackProvenance
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.autoguide.amortized import AmortizedProgram
from ppl_vae.autoguide.inversion import Block
from ppl_vae.diagrams._graph import Graph, Kind, Node, step_name
from ppl_vae.programs.dependencies import Guessed, dependencies
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Program
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import TraceSites, frames, sample_sites, shapes_only

__all__ = ["Rows", "family_name", "graph_of_guide", "graph_of_program"]

FIELD = "field "
"""Before the name of a field whose values are followed, so that it is not taken for a site."""


@dataclass(frozen=True)
class Rows:
    """The rows that programs are run on, the plates that go over them, and how many rows there are in all."""

    batch: Mapping[str, Tensor]
    plates: frozenset[str]
    total: int


def graph_of_program(program: Program, rows: Rows, summed: frozenset[str] = frozenset()) -> Graph:
    """The sites of a program, the fields that it is given without modelling them, and what depends on what.

    Args:
        program: a model, or a guide that somebody wrote.
        rows: on which it is run.
        summed: latents that are summed out.
    """
    with _quietly():
        # a label that some rows have is a latent: the handler of missing entries says so
        holes = Holes(None, batch=rows.batch)
        sites = sample_sites(traced(holes(program), rows.batch))
        parents, inputs, unknown = _followed(program, holes, rows.batch, sites)
    nodes = [
        Node(n, _kind(n, site, summed), family_name(site["fn"]), _plates(site))
        for n, site in sites.items()
        if not site["infer"].get("is_auxiliary")
    ]
    nodes = [Node(n, "input", plates=rows.plates) for n in inputs if n not in sites] + nodes
    names = {node.name for node in nodes}
    known = {n: frozenset(parents.get(n, ())) & names - {n} for n in names}
    return Graph(tuple(nodes), known, _plate_words(sites, rows), unknown)


def graph_of_guide(guide: Program, rows: Rows) -> Graph:
    """How a guide draws: a generated one as its blocks say, any other as its program does."""
    generated = guide.public
    if not isinstance(generated, AmortizedProgram) or not generated.ready:
        return graph_of_program(guide, rows)
    with _quietly():
        sites = sample_sites(traced(guide, rows.batch))
    nodes, parents = _encoders(generated, rows)
    encoders = [node.name for node in nodes if node.kind == "network"]
    shown: dict[str, str] = {}
    for block in (*generated.shared.blocks, *generated.drawn):
        of_step = block.steps[0] if block.steps else block.sites
        name = ", ".join(step_name(n) if block.steps else n for n in of_step)
        shown |= dict.fromkeys(block.sites, name)
        plates = _plates(sites[block.sites[0]]) | ({"t"} if block.steps else set())
        nodes.append(Node(name, "latent", _family(generated, block), plates, block.lags))
        seen = [] if block not in generated.drawn or not block.row else encoders
        if tied := getattr(generated, "tied", []):  # an encoder for each field
            seen = [encoders[i] for i in tied[generated.drawn.index(block)]] if seen else []
        parents[name] = frozenset(seen) | {shown[n] for n in block.given if n in shown}
    steps = [f"t: {len(block.steps)} steps" for block in generated.drawn if block.steps]
    return Graph(tuple(nodes), parents, _plate_words(sites, rows) | dict.fromkeys(["t"] if steps else [], *steps))


@contextmanager
def _quietly() -> Iterator[None]:
    with preserved_randomness(), torch.no_grad(), shapes_only(), pyro.validation_enabled(False):
        yield


def _followed(
    program: Program, holes: Holes, batch: Mapping[str, Tensor], sites: TraceSites
) -> tuple[Mapping[str, frozenset[str]], list[str], str]:
    """What each site depends on, the fields among it that are not modelled, and what could not be followed."""
    try:
        return *_with_fields(program, batch, sites), ""
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, IndexError, KeyError):
        # some operation cannot be followed when the fields are, too
        found = dependencies(holes(program), batch, [*sites])
    if isinstance(found, Guessed):
        return found, [], "Dependencies could not be followed: every site is drawn as depending on all before it."
    return found, [], "What depends on fields that are not modelled could not be followed, and is not drawn."


def _with_fields(
    program: Callable[..., Any], batch: Mapping[str, Tensor], sites: TraceSites
) -> tuple[dict[str, frozenset[str]], list[str]]:
    followed = {n: track_provenance(v, frozenset({FIELD + n})) for n, v in batch.items()}
    values = _ValuesOfFields()
    with TrackProvenance(), values:
        trace = poutine.trace(program).get_trace(**followed)
    parents = {}
    for name in sites:
        site = trace.nodes[name]
        sources = get_provenance(site["fn"].log_prob(detach_provenance(site["value"])))
        # a field that is observed at a site is that site
        parents[name] = frozenset(values.site_of.get(s, s.removeprefix(FIELD)) for s in sources)
    used = {n for above in parents.values() for n in above}
    return parents, [n for n in batch if n in used and FIELD + n not in values.site_of]


class _ValuesOfFields(Messenger):
    """Notes at which sites the fields are observed."""

    def __init__(self) -> None:
        super().__init__()
        self.site_of: dict[str, str] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and isinstance(msg["value"], Tensor):
            for source in get_provenance(msg["value"]):
                self.site_of.setdefault(source, msg["name"])


def _encoders(guide: AmortizedProgram, rows: Rows) -> tuple[list[Node], dict[str, frozenset[str]]]:
    """The fields that a generated guide reads, and the network that reads them, or one for each."""
    if not any(block.row for block in guide.drawn):
        return [], {}
    names = [*getattr(guide.encoder, "names", rows.batch)]
    each = {f"h_{n}": frozenset({n}) for n in names} if getattr(guide, "tied", []) else {"h": frozenset(names)}
    nodes = [Node(n, "observed", plates=rows.plates) for n in names]
    return [*nodes, *(Node(h, "network", "encoder", rows.plates) for h in each)], each


def _family(guide: AmortizedProgram, block: Block) -> str:
    """What a block is drawn from."""
    site = guide.sites.get(block.sites[0])
    if site is not None and site.classified is not None:
        return site.classified.__name__
    if block.sites[0] in getattr(guide, "families", {}):
        return str(guide.families[block.sites[0]].name)
    if site is None:
        return str(getattr(guide, "for_shared").name)  # noqa: B009
    return type(guide).__name__


def family_name(fn: Any) -> str:
    """The name of a distribution, without what is around it.

    Example:
        >>> family_name(dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        'Normal'
    """
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        fn = fn.base_dist
    return type(fn).__name__.removeprefix("_")


def _kind(name: str, site: Mapping[str, Any], summed: frozenset[str]) -> Kind:
    if name in summed:
        return "summed"
    return "observed" if site["is_observed"] else "latent"


def _plates(site: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(f.name for f in frames(site))


def _plate_words(sites: TraceSites, rows: Rows) -> dict[str, str]:
    """What is written at a plate: its name and size; of the rows all that there are."""
    found: dict[str, str] = {}
    for site in sites.values():
        for f in frames(site):
            found.setdefault(f.name, f"{f.name}: {rows.total if f.name in rows.plates else f.full_size or f.size:,}")
    return found
