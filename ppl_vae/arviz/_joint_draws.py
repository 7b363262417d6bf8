"""Draws of everything that a pair has latent: what all rows share jointly, and given it what is each row's own.

Particles of the shared latents are drawn and weighed with all rows (`ppl_vae.evaluation.joint_weights`), some are
chosen by their Pareto smoothed weights, and for every chosen one each row's own latents are chosen among a few of the
guide's.
Where all data are one unit, all latents are of that unit; where nothing is shared, each row chooses for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.arviz._layouts import Layout, read_layouts
from ppl_vae.arviz._rows import Rows, cat, gathered, latents_of, picked_rows
from ppl_vae.checks.analysis import analyse
from ppl_vae.data import Split, as_one_unit, units_in
from ppl_vae.distributions import elementwise
from ppl_vae.errors import UserError
from ppl_vae.evaluation.bridge import Start
from ppl_vae.evaluation.elsewhere import Elsewhere, elsewhere
from ppl_vae.evaluation.faults import Fault, Missed, Unseen, faults_of, missed_by
from ppl_vae.evaluation.joint_weights import (
    JointWeights,
    again,
    joint_passes,
    joint_weights,
    not_enough,
    parts_of,
    shares_latents,
    weighed_particles,
)
from ppl_vae.evaluation.passes import Passes, passes, refuse_blind, some_rows
from ppl_vae.evaluation.shared_draws import AT_ONCE, SharedDraws
from ppl_vae.evaluation.tempering import Moves, moved_draws, why_not
from ppl_vae.evaluation.vectors import placed_values
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure
from ppl_vae.weights.completion import completed, replayed
from ppl_vae.weights.psis import smooth

__all__ = ["JointDraws", "draw_posterior"]

NUMBERS = 2**27
"""How many numbers the draws of one latent of the rows may be: 512 MB."""


@dataclass(frozen=True)
class Seen:
    """Data by site, arranged: as observed and other fields (one draw), drawn given the latents, and by the prior."""

    observed: Mapping[str, Tensor] = field(default_factory=dict)
    constant: Mapping[str, Tensor] = field(default_factory=dict)
    predictive: Mapping[str, Tensor] = field(default_factory=dict)
    prior_predictive: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class JointDraws:
    """What was drawn: `particles` [particle, plates, *event] by site, and their `log_weight` [particle] in nats.

    `chosen` [draw] are the numbers of the particles that are draws, `local` [draw, row, plates, *event] the latents of
    rows for these, `log_likelihood` [draw, row] log p(x_n | shared), `prior` draws of what the particles hold from the
    model alone (nothing where it does not run without data), all values arranged by their `layouts`. `held` are the
    chosen draws of what rows share, on which programs can be run. `faults` say what makes the weights uneven,
    `seen` has the data as observed and as drawn, `missed` says what the guide leaves out. Where weights were not enough
    the particles are draws that were moved from the guide to the posterior, `moves` says how and `why`, and
    `log_weight` are those of the guide's particles. `elsewhere` is a part of the posterior that none of them reached.
    """

    structure: Structure
    layouts: Mapping[str, Layout]
    particles: dict[str, Tensor]
    log_weight: Float[Tensor, " particle"]
    chosen: Tensor
    local: dict[str, Tensor]
    log_likelihood: dict[str, Tensor]
    prior: dict[str, Tensor]
    held: SharedDraws | None = None
    faults: tuple[Fault, ...] = ()
    seen: Seen = field(default_factory=Seen)
    missed: Missed | Unseen | None = None
    moves: Moves | None = None
    why: str = ""
    elsewhere: Elsewhere | None = None


class _Moved(NamedTuple):
    """Draws of every latent [draw, plates, *event] that were moved, how, and why."""

    values: dict[str, Tensor]
    moves: Moves
    why: str


class _Weighed(NamedTuple):
    """Particles of what is not of single rows: values [particle, plates, *event]; `shared` and `rows` if rows share."""

    values: dict[str, Tensor]
    log_weight: Tensor
    shared: SharedDraws | None = None
    rows: JointWeights | None = None
    missed: Missed | Unseen | None = None


def draw_posterior(
    pair: Pair,
    split: Split,
    draws: int,
    particles: int,
    *,
    resample: bool,
    move: bool = False,
    wanted: int = 0,
    predictive: bool = False,
    inner: int | None = None,
    seed: int,
    floats_at_once: int | None,
) -> JointDraws:
    """Draws of the posterior by importance sampling, or of the guide where nothing is resampled.

    Of latents that rows share, and of one unit, there are more particles where fewer than `wanted` count; with `move`
    draws are moved on from the guide where even then the weights are not enough.

    Raises:
        UserError: as `joint_passes` does, or for draws of rows that would not fit into memory.
    """
    if not split.is_one_unit and not shares_latents(pair, split):
        with passes(pair, split, particles, seed=seed, floats_at_once=floats_at_once) as plan:
            layouts = _layouts(pair, plan)
            _refuse_large(latents_of(plan.structure), layouts, plan, draws)
            local = _of_rows(pair, plan, layouts, draws, resample)
            nothing = torch.zeros(particles, dtype=torch.float64)
            return JointDraws(plan.structure, layouts, {}, nothing, torch.arange(draws), local, {}, {})
    if split.is_one_unit:
        with passes(pair, split, particles, seed=seed, floats_at_once=floats_at_once) as plan:
            joint = _Joint(pair, plan, _layouts(pair, plan), 1, draws, predictive)
            return joint.of(_one_unit(pair, plan, resample, wanted), resample, wanted if move else None)
    with joint_passes(pair, split, particles, inner, seed=seed, floats_at_once=floats_at_once) as (plan, inner):
        shared, found = weighed_particles(pair, plan, inner, beyond=resample, wanted=wanted)
        values = shared.of_model(plan.structure)
        weighed = _Weighed(values, found.log_weight, shared, found, missed_by(shared, sorted(values), found.log_weight))
        joint = _Joint(pair, plan, _layouts(pair, plan), inner, draws, predictive)
        return joint.of(weighed, resample, wanted if move else None)


def _layouts(pair: Pair, plan: Passes) -> dict[str, Layout]:
    return read_layouts(pair, plan.structure, plan.split.schema, plan.split.batch(slice(0, 100)))


@dataclass(frozen=True)
class _Joint:
    """Draws of everything where latents are shared, or all data are one unit; `inner` draws weigh a row's own."""

    pair: Pair
    plan: Passes
    layouts: Mapping[str, Layout]
    inner: int
    draws: int
    predictive: bool

    @property
    def rows(self) -> Rows:
        return Rows(self.pair, self.plan.structure, self.layouts, self.plan.at_once)

    def of(self, weighed: _Weighed, resample: bool, wanted: int | None = None) -> JointDraws:
        """Choose particles by their weights, or take the first, and draw what belongs to them.

        Or move them on from the guide, where `wanted` is given and the weights are not enough.
        """
        _refuse_large([*self.own, *(self.rows.shown if self.predictive else [])], self.layouts, self.plan, self.draws)
        why = "" if wanted is None else not_enough(weighed.log_weight, wanted)
        moved = self._moved(why) if why else None
        other = None if wanted is None else self._elsewhere(weighed, moved)
        if other is not None and (anew := self._moved(other.words, "prior")) is not None:
            moved, other = anew, None
        if moved is not None:
            return replace(self._told_moved(weighed, moved), elsewhere=other)
        if resample:
            chances = smooth(weighed.log_weight[:, None]).softmax(0)[:, 0]
            chosen = torch.multinomial(chances, self.draws, replacement=True)
        else:
            chosen = torch.arange(self.draws)
        likelihood = None if weighed.rows is None else weighed.rows.log_likelihood[chosen]
        held = None if weighed.shared is None else weighed.shared.at(chosen)

        def own(batch: Batch, number: int) -> dict[str, Tensor]:
            return self._given(weighed, chosen, batch, number, resample)

        return replace(self._told(weighed, weighed.values, chosen, own, likelihood, held), elsewhere=other)

    def _whole(self) -> tuple[Structure, Batch, int]:
        """All data as one unit: the pair's structure then, the batch, and how many rows it counts for.

        Raises:
            UserError: for a pair that cannot be read so.
        """
        plan = self.plan
        batch = as_one_unit(plan.split).batch()
        if plan.split.is_one_unit:
            return plan.structure, batch, max((v.numel() for v in batch.values()), default=1)
        return analyse(self.pair, batch), batch, len(plan.split)

    def _moved(self, why: str, start: Start = "guide") -> _Moved | None:
        """Draws that were moved from the guide, or the prior, to the posterior; None where nothing can be moved."""
        plan = self.plan
        if why_not(plan.structure, len(plan.split)):
            return None
        try:
            structure, batch, rows = self._whole()
            if why_not(structure, rows):
                return None
            count = max(plan.particles, self.draws)
            return _Moved(*moved_draws(self.pair, structure, batch, count, rows, start=start), why)
        except (UserError, NotImplementedError):  # a guide without a density of given values, for example
            return None

    def _elsewhere(self, weighed: _Weighed, moved: _Moved | None) -> Elsewhere | None:
        """What chains from the prior find that none of these draws has reached."""
        logs, log_mass = weighed.log_weight, float(weighed.log_weight.logsumexp(0)) - math.log(len(weighed.log_weight))
        draws = weighed.values
        if moved is not None:
            draws, logs = moved.values, torch.zeros(math.prod(moved.moves.shape), dtype=torch.float64)
            log_mass = moved.moves.log_evidence
        try:
            return elsewhere(self.pair, *self._whole(), draws, logs, log_mass)
        except UserError:
            return None

    def _told_moved(self, weighed: _Weighed, moved: _Moved) -> JointDraws:
        plan, (values, moves, why) = self.plan, moved
        chosen = torch.randperm(math.prod(moves.shape))[: self.draws]
        common = {n: values[n] for n in weighed.values if n in values}
        held = likelihood = None
        if weighed.shared is not None:
            held = placed_values(self.pair, plan.structure, next(plan.batches()), weighed.shared, common, chosen)
            likelihood = joint_weights(self.pair, plan, held, self.inner).log_likelihood

        def own(batch: Batch, number: int) -> dict[str, Tensor]:
            start, size = number * plan.rows, units_in(batch)
            picked = {n: values[n][chosen] for n in self.own}
            dims = {n: v.dim() + plan.structure.dim - len(self.layouts[n].event_shape) for n, v in picked.items()}
            return {n: v.narrow(dims[n], start, size) for n, v in picked.items()}

        return replace(self._told(weighed, common, chosen, own, likelihood, held), moves=moves, why=why)

    def _told(
        self,
        weighed: _Weighed,
        particles: Mapping[str, Tensor],
        chosen: Tensor,
        own: Callable[[Batch, int], dict[str, Tensor]],
        likelihood: Tensor | None,
        held: SharedDraws | None,
    ) -> JointDraws:
        """What was drawn, arranged; `own` are the latents of the rows of a batch, by its number."""
        prior = self._prior(sorted(particles), 1000)
        values = {n: v[chosen.to(v.device)] for n, v in particles.items()}
        local, seen = self._rows(values, own, prior)
        return JointDraws(
            self.plan.structure,
            self.layouts,
            {n: self.layouts[n].arranged(v).cpu() for n, v in particles.items() if n in self.layouts},
            weighed.log_weight,
            chosen,
            local,
            self._log_likelihood(values) if likelihood is None else self._of_rows(likelihood),
            {n: self.layouts[n].arranged(v).cpu() for n, v in prior.items()},
            held,
            self._faults(weighed),
            seen,
            weighed.missed,
        )

    def _faults(self, weighed: _Weighed) -> tuple[Fault, ...]:
        if weighed.shared is None or weighed.rows is None:
            return ()
        return faults_of(weighed.shared, sorted(weighed.values), weighed.rows)

    @property
    def own(self) -> list[str]:
        """The latents that single rows have."""
        structure = self.plan.structure
        own = set() if structure.is_one_unit else latents_of(structure) - structure.global_latents
        return sorted(own & self.layouts.keys())

    def _rows(
        self, drawn: Mapping[str, Tensor], own: Callable[[Batch, int], dict[str, Tensor]], prior: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Seen]:
        """What single rows have, for every draw, and their data."""
        parts: list[tuple[dict[str, Tensor], ...]] = []
        before = min(len(next(iter(prior.values()), ())), self.draws) if self.predictive else 0
        for i, batch in enumerate(self.plan.batches()):
            if not self.plan.split.is_one_unit:
                batch = {n: v.contiguous() for n, v in batch.items()}
            local = own(batch, i) if self.own else {}
            predicted = self.rows.predicted(batch, {**drawn, **local}, self.draws if self.predictive else 0)
            simulated = self.rows.simulated(batch, self.rows.shown, before, prior)
            data = self.rows.data(batch)
            parts.append(
                (gathered([local], self.layouts), *data, *(gathered(p, self.layouts) for p in (predicted, simulated)))
            )
        rows = 0 if self.plan.split.is_one_unit else 1  # a unit is one batch
        local, *seen = (cat({n: [p[n] for p in each] for n in each[0]}, rows) for each in zip(*parts, strict=True))
        return local, Seen(*seen)

    def _given(self, weighed: _Weighed, chosen: Tensor, batch: Batch, number: int, resample: bool) -> dict[str, Tensor]:
        """The rows' own latents for the chosen particles [draw, plates, *event]: one of the draws that weighed each.

        By its weight, or the first where nothing is resampled.
        """
        shared, rows = weighed.shared, weighed.rows
        if shared is None or rows is None:
            return {}
        found: dict[str, list[Tensor]] = {}
        order = []
        for some, seed in zip(parts_of(shared, self.plan), rows.seeds[number], strict=True):
            wanted = torch.isin(chosen, some).nonzero()[:, 0]
            if not len(wanted):
                continue
            order.append(wanted)
            if shared.mapped is not None:  # one run for each, and nothing that follows the seed
                some = chosen[wanted].unique()
            drawn = again(self.pair, self.plan, shared, self.inner, batch, some, seed)
            place = torch.searchsorted(some, chosen[wanted])
            log_w = drawn.log_weight.cpu().unflatten(0, (len(some), self.inner))[place]
            picked = torch.distributions.Categorical(logits=log_w.movedim(1, -1).clamp(min=-1e30)).sample()
            index = (picked if resample else torch.zeros_like(picked)) + self.inner * place[:, None]
            for name in self.own:
                row = self.plan.structure.dim - len(self.layouts[name].event_shape)
                found.setdefault(name, []).append(picked_rows(drawn.latents[name], index, row))
        back = torch.cat(order).argsort()
        return {n: torch.cat(v)[back.to(v[0].device)] for n, v in found.items()}

    def _of_rows(self, likelihood: Tensor) -> dict[str, Tensor]:
        observed = [n for n in self.layouts if n in self.plan.structure.observed]
        return {observed[0] if len(observed) == 1 else "log_likelihood": likelihood}

    def _log_likelihood(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """log p of every element of one unit that is observed by itself, given all latents."""
        observed = [n for n in self.layouts if n in self.plan.structure.observed]
        structure, batch = self.plan.structure, next(self.plan.batches())
        alone = [n for n in observed if n not in structure.holes] if not structure.enumerates else []
        parts: list[dict[str, Tensor]] = []
        for some in torch.arange(self.draws).split(self.plan.at_once):
            latents = {n: v[some.to(v.device)] for n, v in values.items()}
            for sites in replayed(self.pair, structure, batch, latents, len(some)):
                found = {n: elementwise(sites[n]["fn"], sites[n]["value"]) for n in alone}
                parts.append({n: self.rows.whole(v, n) for n, v in found.items() if v is not None})
        return gathered(parts, self.layouts)

    def _prior(self, names: list[str], draws: int) -> dict[str, Tensor]:
        """Draws of latents from the model alone, [draw, plates, *event]; where it cannot be drawn from, none."""
        batch, wanted = some_rows(self.plan.split), [n for n in names if n in self.layouts]
        rows = replace(self.rows, at_once=draws)
        try:
            parts = list(rows.simulated(batch, wanted, draws))
        except (NotImplementedError, RuntimeError, ValueError, KeyError):  # improper, or made data that do not fit
            return {}
        size = draws if self.plan.structure.broadcasts else 1
        return cat({n: [p[n].expand(size, *p[n].shape[1:]) for p in parts] for n in wanted})


def _refuse_large(names: Iterable[str], layouts: Mapping[str, Layout], plan: Passes, draws: int) -> None:
    for name in sorted(set(names) & layouts.keys()):
        if draws * len(plan.split) * layouts[name].size > NUMBERS:
            raise UserError(
                f"{draws:,} draws of {name!r} for {len(plan.split):,} rows are more than {NUMBERS:,} numbers: take "
                "fewer draws or rows, or leave out the predictive draws"
            )


def _one_unit(pair: Pair, plan: Passes, resample: bool, wanted: int) -> _Weighed:
    """Particles of all latents of the unit; continuous ones from beyond the guide, too, as if rows shared them all."""
    structure, batch = plan.structure, next(plan.batches())
    if resample and not (structure.enumerates or structure.scored or structure.holes or structure.masked):
        at_once = min(AT_ONCE, plan.particles) if structure.broadcasts else 1
        whole = replace(structure, global_latents=frozenset(structure.latents))
        shared, found = weighed_particles(pair, replace(plan, structure=whole, at_once=at_once), 1, wanted=wanted)
        values = {n: v.cpu() for n, v in shared.of_model(structure).items()}
        return _Weighed(values, found.log_weight, missed=missed_by(shared, sorted(values), found.log_weight))
    parts = [completed(pair, plan.structure, batch, k) for k in plan.sizes()]
    log_weight = torch.cat([p.log_weight for p in parts]).double().cpu()[:, 0]
    refuse_blind(log_weight.sum()[None])
    return _Weighed({n: torch.cat([p.latents[n].cpu() for p in parts]) for n in parts[0].latents}, log_weight)


def _of_rows(pair: Pair, plan: Passes, layouts: Mapping[str, Layout], draws: int, resample: bool) -> dict[str, Tensor]:
    """Draws of rows that share nothing: each chooses among its own particles."""
    batches = []
    for i, batch in enumerate(plan.batches()):
        parts = [completed(pair, plan.structure, batch, k) for k in plan.sizes()]
        log_weight = torch.cat([p.log_weight for p in parts]).double().cpu()
        refuse_blind(log_weight.sum(0), i * plan.rows)
        row = torch.arange(log_weight.shape[1])[None]
        if resample:
            picked = torch.multinomial(smooth(log_weight).softmax(0).T, draws, replacement=True).T
        else:
            picked = torch.arange(draws)[:, None].expand(-1, log_weight.shape[1])
        held = {n: torch.cat([layouts[n].arranged(p.latents[n]).cpu() for p in parts]) for n in parts[0].latents}
        batches.append({n: v.expand(-1, row.shape[1], *v.shape[2:])[picked, row] for n, v in held.items()})
    return {n: torch.cat([b[n] for b in batches], 1) for n in batches[0]}
