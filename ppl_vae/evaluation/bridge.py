"""The two ends of an annealing path as densities of one vector a row: all of its continuous latents, unconstrained.

One end is where chains start, the guide q(z | x) or the prior p(z); the other is p(x, z). Both are densities of u, with
z = T(u) by `biject_to` of every site's support and |dz/du| in both; discrete latents are summed out of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.autoguide.sites import Site, read_site
from ppl_vae.data import units_in
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.evaluation.chunks import Chunks
from ppl_vae.evaluation.mapped import MappedChains
from ppl_vae.evaluation.vectors import joint_draws
from ppl_vae.programs.execution import PairTrace, for_particles, run, summing, traced
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure, frames, sample_sites
from ppl_vae.speed.modes import Compile
from ppl_vae.weights.completion import latent_values, replayed
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.reduction import for_each_row, reduced

__all__ = ["Bridge", "Start"]

Start = Literal["guide", "prior"]

_Sites = Mapping[str, Mapping[str, Any]]


class Bridge:
    """The densities at both ends of a path for the rows of a batch, and draws from its start.

    With f_0 the density of the start and f_1(u) = p(x, z(u)) |dz/du|, a call gives log f_0(u), log f_1(u), [chain, row]
    each in nats, and the gradient of (1 - b) log f_0 + b log f_1 in u [chain, row, d]. It is captured and compiled like
    a chunk of evaluation: what depends on the rows alone, such as an encoder, is then run once.

    Args:
        pair: whose rows have latents of their own.
        structure: of the pair.
        batch: a few rows to read the latents on.
        start: "guide" or "prior".
        compile: as for `ppl_vae.evaluate`.

    Raises:
        UserError: for a discrete latent without finite support, and with "guide" for a guide whose density at given
            values cannot be had.
    """

    def __init__(self, pair: Pair, structure: Structure, batch: Batch, start: Start, compile: Compile = "off") -> None:
        if not isinstance(start, str) or start not in get_args(Start):
            raise unknown_name("start", start, get_args(Start))
        self.pair, self.structure, self.start = pair, structure, start
        self.sites = _read(pair, structure, batch)
        self.size = sum(site.width for site in self.sites.values())
        self.joint = self._joint_draws(batch) if start == "guide" and self.sites else {}
        self.ended = self.maps = False
        self.normal: torch.distributions.MultivariateNormal | None = None
        self.compile_for(compile)

    def from_normal(self, centre: Tensor, factor: Tensor) -> Bridge:
        """The bridge that starts at a normal over u, with this centre [d] and Cholesky factor [d, d].

        A guide that runs an encoder for every row and chain costs a hundred times what the model does.
        """
        found = copy(self)
        found.normal = torch.distributions.MultivariateNormal(centre, scale_tril=factor, validate_args=False)
        found.compile_for(self.mode)
        return found

    def end(self) -> Bridge:
        """The other end alone: log f_0 is 0, and is not computed."""
        found = copy(self)
        found.ended = True
        found.compile_for(self.mode)
        return found

    def compile_for(self, mode: Compile) -> None:
        """Capture and compile what is run in this mode."""
        self.mode = mode
        self._run = self._chunks(self._values)
        self._look = self._chunks(self._densities)
        self._latents = self._chunks(self._all_latents)
        self._exchanges: dict[int, Any] = {}

    def mapped(self) -> Bridge:
        """The bridge of programs without room for chains, mapped over them; else itself."""
        if self.structure.broadcasts:
            return self
        found = copy(self)
        found.maps = True
        found.compile_for(self.mode)
        return found

    def _chunks(self, function: Callable[..., list[Tensor]]) -> Chunks | MappedChains:
        if self.maps:
            return MappedChains(self.pair, function)
        return Chunks(self.pair, self.structure, self.mode, function)

    def __call__(self, batch: Batch, u: Tensor, b: Tensor, left: int) -> tuple[Tensor, Tensor, Tensor]:
        """Both log densities and the gradient; `left` is how many calls with these shapes are still to come."""
        try:
            start, target, gradient = self._run(batch, len(u), left, u, b)
        except (NotImplementedError, KeyError) as error:  # torch's and Pyro's way of having no inverse
            raise _no_density("has a transform that has no inverse") from error
        return start, target, gradient

    def densities(self, batch: Batch, u: Tensor, left: int) -> tuple[Tensor, Tensor]:
        """Both log densities alone, [chain, row] in nats each."""
        try:
            start, target = self._look(batch, len(u), left, u)
        except (NotImplementedError, KeyError) as error:
            raise _no_density("has a transform that has no inverse") from error
        return start, target

    def drawn(self, batch: Batch, chains: int, start: Start | None = None) -> Tensor:
        """u drawn from the start, or from the other one, [chain, row, d]."""
        if self.normal is not None and start is None:
            return self.normal.sample((chains, units_in(batch)))
        plain = replace(self.structure, summed_guide=frozenset(), summed_model=frozenset())
        parts = []
        for k in self._runs(chains):
            if (start or self.start) == "guide":
                trace = run(self.pair, plain, batch, k).model
            else:
                holes = Holes(plain.holes, plain.latents)
                model: Any = summing(frozenset())(for_particles(holes(self.pair.model), plain, k))
                trace = holes.hold(traced(model, batch))
            parts.append(self._packed(sample_sites(trace), k, batch))
        return torch.cat(parts)

    def placed(self, batch: Batch, latents: Mapping[str, Tensor], chains: int) -> Tensor:
        """u at given values [row's plates, *event] by site, the same for every chain, [chain, row, d]."""
        values = {}
        for name, site in self.sites.items():
            value = latents[name]
            depth = self.structure.nesting + len(site.event_shape)
            values[name] = value.reshape((1,) * (1 + depth - value.dim()) + tuple(value.shape))
        sites = replayed(self.pair, self.structure, batch, values, 1)[0]
        return self._packed(sites, 1, batch).expand(chains, -1, -1).clone()

    def latents(self, batch: Batch, u: Tensor) -> dict[str, Tensor]:
        """Every latent of the model by site at u, [chain, row, *other plates, *event]; of one unit without the row.

        Discrete latents are drawn given all others and the data.
        """
        return self._completed(batch, u, self._by_row)

    def values(self, batch: Batch, u: Tensor) -> dict[str, Tensor]:
        """The same, [chain, plates, *event]."""
        if not self.maps or self.structure.summed_guide or self.structure.summed_model:
            return self._completed(batch, u, lambda value, site: value)
        each = self._latents(batch, len(u), 1, u)
        return dict(zip(self.sites, each, strict=True))

    def _all_latents(self, batch: Batch, chains: int, u: Tensor) -> list[Tensor]:
        return [*self._completed(batch, u, lambda value, site: value).values()]

    def _completed(self, batch: Batch, u: Tensor, shaped: Any) -> dict[str, Tensor]:
        parts = []
        for piece in u.split(self._runs(len(u))):
            joint = Factors(self._placed_run(batch, piece)[0])
            names = [*self.sites, *sorted(joint.structure.summed_model)]
            parts.append({n: shaped(v, joint.model_sites[n]) for n, v in latent_values(joint, names).items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def exchanged(self, batch: Batch, u: Tensor, other: Bridge) -> Tensor:
        """u of this bridge as that of another one over the same latents, whose coordinates are others."""
        if self.maps:
            key = id(other)
            if key not in self._exchanges:
                self._exchanges[key] = self._chunks(lambda *some: [self._exchanged(some[0], some[2], other)])
            return cast(Tensor, self._exchanges[key](batch, len(u), 1, u)[0])
        return self._exchanged(batch, u, other)

    def _exchanged(self, batch: Batch, u: Tensor, other: Bridge) -> Tensor:
        sites = sample_sites(self.placed_run(batch, u).model)
        return other._packed(sites, len(u), batch)

    def _by_row(self, value: Tensor, site: Mapping[str, Any]) -> Tensor:
        event = site["fn"].event_dim
        plates = [1 + i for i in range(self.structure.nesting)]
        if not self.structure.is_one_unit:
            value = value.movedim(self.structure.dim - event, 1)
            plates = plates[1:]
        empty = [i for i in plates if value.shape[i] == 1]
        return value.squeeze(empty) if empty else value

    # -- densities -------------------------------------------------------------------------------------------

    def _densities(self, batch: Batch, chains: int, u: Tensor) -> list[Tensor]:
        ends = [self._ends(batch, piece) for piece in u.split(self._runs(chains))]
        start, target = (torch.cat(column) for column in zip(*ends, strict=True))
        return [start, target]

    def _values(self, batch: Batch, chains: int, u: Tensor, b: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            ends = [self._ends(batch, piece) for piece in u.split(self._runs(chains))]
            start, target = (torch.cat(column) for column in zip(*ends, strict=True))
            if not self.size:
                return [start.detach(), target.detach(), torch.zeros_like(u)]
            (gradient,) = torch.autograd.grad(((1 - b) * start + b * target).sum(), u)
        return [start.detach(), target.detach(), gradient]

    def placed_run(self, batch: Batch, u: Tensor) -> PairTrace:
        """The model run at u."""
        return self._placed_run(batch, u)[0]

    def _placed_run(self, batch: Batch, u: Tensor) -> tuple[PairTrace, Holes, _Placing]:
        """The model run at u, discrete latents with all of their values."""
        holes, placing = Holes(self.structure.holes, self.structure.latents), _Placing(self, u)
        discrete = self.structure.summed_guide | self.structure.summed_model
        model = self._summed(holes(self.pair.model), len(u), discrete)
        trace = holes.hold(traced(placing(model), batch))
        return self._alone(trace, holes, discrete, len(u)), holes, placing

    def _ends(self, batch: Batch, u: Tensor) -> tuple[Tensor, Tensor]:
        drawn, holes, placing = self._placed_run(batch, u)
        trace, joint = drawn.model, Factors(drawn)
        logs = placing.stretch | self._known(placing, holes)
        stretch = sum(for_each_row(joint, name, log) for name, log in logs.items())
        target = _total(joint) + stretch
        if not self.sites or self.ended:
            return torch.zeros_like(target), target
        if self.normal is not None:
            return self._at_start(joint, u) + stretch, target
        if self.start == "prior":
            return _total(Factors(drawn).priors()) + stretch, target
        return self._guide(batch, sample_sites(trace), len(u)) + stretch, target

    def _at_start(self, joint: Factors, u: Tensor) -> Tensor:
        """log density of the latents' values under the normal over their unconstrained numbers, [chain, row]."""
        logs: Any = 0.0
        parts, shape = [], self._shape(u.shape[0], u.shape[1])
        for name in self.sites:
            site, value = Bridge._site(self, name, joint.model_sites), joint.model_sites[name]["value"]
            vector, stretch = site.vector(value)
            if isinstance(stretch, Tensor):
                logs = logs + for_each_row(joint, name, stretch)
            parts.append(vector.expand(*shape, vector.shape[-1]).reshape(*u.shape[:2], -1))
        normal: Any = self.normal
        return normal.log_prob(torch.cat(parts, -1)) - logs

    def _known(self, placing: _Placing, holes: Holes) -> dict[str, Tensor]:
        """Where a site was observed its vector does not matter: a normal at both ends keeps it from drifting away.

        It integrates to 1, so that the integral of either end over u does not know of it.
        """
        found = {}
        for name in holes.observed.keys() & placing.stretch.keys():
            free, seen = self.sites[name].spread(placing.pieces[name]), holes.observed[name][1]
            normal = -(free.square() + math.log(2 * math.pi)).sum(-1) / 2
            found[name] = torch.where(seen, normal, placing.stretch[name])
        return found

    def _guide(self, batch: Batch, sites: _Sites, chains: int) -> Tensor:
        """log q of the continuous latents, [chain, row]: the guide run at their values."""
        values, holes = Trace(), Holes(self.structure.holes, (), batch)
        inside = {name for names in self.joint.values() for name in names}
        for joint, names in self.joint.items():
            vector = torch.cat([self._site(n, sites).vector(sites[n]["value"])[0] for n in names], dim=-1)
            values.add_node(joint, name=joint, type="sample", value=vector, is_observed=False, infer={})
        for name in self.sites:
            if name not in inside:
                value = sites[name]["value"]
                values.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
        guide = self._summed(holes(self.pair.guide), chains, self.structure.summed_guide)
        trace = holes.hold(traced(poutine.replay(guide, trace=values), batch))
        return _total(Factors(self._alone(trace, holes, self.structure.summed_guide, chains)).priors())

    def _summed(self, program: Any, chains: int, names: frozenset[str]) -> Any:
        """A program for all chains at once, with the values of its discrete latents on dims of their own."""
        program = summing(names)(for_particles(program, self.structure, chains))
        first = -1 - self.structure.nesting - (chains > 1)
        return EnumMessenger(first_available_dim=first)(program) if names else program

    def _alone(self, trace: Trace, holes: Holes, summed: frozenset[str], chains: int) -> PairTrace:
        """One program alone, as the model of a run whose guide draws nothing."""
        alone = replace(
            self.structure,
            latents=(),
            summed_guide=frozenset(),
            summed_model=summed,
            scored=frozenset(),
            auxiliary=frozenset(),
        )
        return PairTrace(alone, chains, Trace(), trace, holes.observed)

    # -- vectors ---------------------------------------------------------------------------------------------

    def _runs(self, chains: int) -> list[int]:
        return [chains] if self.structure.broadcasts else [1] * chains

    def pieces(self, u: Tensor) -> dict[str, Tensor]:
        """The vector of every site [chain, plates, width], the rows at the data plate's dim."""
        shape = self._shape(u.shape[0], u.shape[1])
        parts = u.split([s.width for s in self.sites.values()], dim=-1)
        placed = [v.reshape(*(shape if len(u) > 1 else shape[1:]), v.shape[-1]) for v in parts]
        return dict(zip(self.sites, placed, strict=True))

    def _shape(self, chains: int, rows: int) -> list[int]:
        """The dims of plates that vectors have: chains, and rows where there are some."""
        shape = [1] * (self.structure.nesting + 1)
        if not self.structure.is_one_unit:
            shape[self.structure.dim] = rows
        shape[0] = chains
        return shape

    def _packed(self, sites: _Sites, chains: int, batch: Batch) -> Tensor:
        """The values of sites in a run as u [chain, row, d]."""
        rows = units_in(batch)
        like = next(s["value"] for s in sites.values() if s["value"].is_floating_point()) if not self.sites else None
        parts = [] if like is None else [like.new_zeros(chains, rows, 0)]
        shape = self._shape(chains, rows)
        for name in self.sites:
            vector = self.coordinates(name, sites).vector(sites[name]["value"])[0]
            parts.append(vector.expand(*shape, vector.shape[-1]).reshape(chains, rows, -1))
        return torch.cat(parts, dim=-1)

    def _site(self, name: str, sites: _Sites) -> Site:
        """The site with the support that it has in this run, which may depend on the row or on other latents."""
        return self.sites[name].at(sites[name]["fn"])

    def coordinates(self, name: str, sites: _Sites) -> Site:
        """The site by which a vector becomes a value."""
        return self._site(name, sites)

    def _joint_draws(self, batch: Batch) -> dict[str, list[str]]:
        plain = replace(self.structure, summed_guide=frozenset(), summed_model=frozenset())
        found = joint_draws(sample_sites(run(self.pair, plain, batch).guide))
        if isinstance(found, str):
            raise _no_density(f"has an auxiliary site {found!r}")
        return found


def _no_density(why: str) -> UserError:
    return UserError(
        f"the guide {why}, so that log q of values that it did not just draw cannot be had: use start='prior', or "
        "another guide"
    )


def _read(pair: Pair, structure: Structure, batch: Batch) -> dict[str, Site]:
    """The continuous latents of the rows, in the model's order."""
    plain = replace(structure, summed_guide=frozenset(), summed_model=frozenset())
    found, discrete = {}, structure.summed_guide | structure.summed_model
    for name, site in sample_sites(run(pair, plain, batch).model).items():
        if name not in structure.latents or name in discrete:
            continue
        if getattr(site["fn"].support, "is_discrete", False):
            raise UserError(
                f"latent site {name!r} is {type(site['fn']).__name__}: annealing moves continuous latents and sums out "
                "discrete ones of finite support; see ppl_vae.evaluate for importance sampling"
            )
        _refuse_loose(name, site, structure)
        found[name] = read_site(name, site, structure.row_plates)
    return found


def _refuse_loose(name: str, site: Mapping[str, Any], structure: Structure) -> None:
    """Refuse a latent of one unit with dims that are neither of a plate nor of its event: their size is not known."""
    shape, held = site["fn"].batch_shape, {f.dim for f in frames(site)}
    loose = [d for d in range(-len(shape), 0) if d not in held and shape[d] > 1 and -d <= structure.nesting]
    if loose and structure.is_one_unit:
        raise UserError(
            f"latent site {name!r} has a batch shape {tuple(shape)} without plates: declare it by "
            f".to_event({len(shape)}) or put it into a plate, so that its numbers move together"
        )


class _Placing(Messenger):
    """Give latents their values from unconstrained vectors, each through the support that it has at that moment."""

    def __init__(self, bridge: Bridge, u: Tensor) -> None:
        super().__init__()
        self.bridge, self.pieces = bridge, bridge.pieces(u) if bridge.sites else {}
        self.stretch: dict[str, Tensor] = {}  # log |dz/du|, with the site's plates

    def _pyro_sample(self, msg: Message) -> None:
        name = str(msg["name"])
        if name not in self.pieces:
            return
        site = self.bridge.coordinates(name, {name: msg})
        placed = site.unpacked(self.pieces[name])
        structure, value = self.bridge.structure, placed.value
        msg["value"], msg["done"] = value if structure.broadcasts else structure.alone(name, value), True
        self.stretch[name] = -placed.log_density


def _total(factors: Factors) -> Tensor:
    """The log density of everything in one program, [chain, row], in nats, discrete latents summed out."""
    parts = reduced(factors, "marginal")
    return parts.log_likelihood + parts.log_prior
