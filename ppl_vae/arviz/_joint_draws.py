"""Draws of everything that a pair has latent: what all rows share jointly, and given it what is each row's own.

Particles of the shared latents are drawn and weighed with all rows (`ppl_vae.evaluation.joint`), some are chosen by
their Pareto smoothed weights, and for every chosen one each row's own latents are chosen among a few of the guide's.
Where all data are one unit, all latents are of that unit; where nothing is shared, each row chooses for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from ppl_vae.arviz._layouts import Layout, read_layouts
from ppl_vae.data import Split
from ppl_vae.errors import UserError
from ppl_vae.evaluation.joint import INNER, SharedDraws, draw_shared, joint_passes, joint_weights, shares_latents
from ppl_vae.evaluation.passes import Passes, passes, refuse_blind, some_rows
from ppl_vae.programs.execution import for_particles, traced
from ppl_vae.programs.program import Pair
from ppl_vae.programs.structure import Structure, sample_sites
from ppl_vae.weights.completion import completed
from ppl_vae.weights.psis import smooth

__all__ = ["JointDraws", "draw_posterior"]

NUMBERS = 2**27
"""How many numbers the draws of one latent of the rows may be: 512 MB."""


@dataclass(frozen=True)
class JointDraws:
    """What was drawn: `particles` [particle, plates, *event] by site, and their `log_weight` [particle] in nats.

    `chosen` [draw] are the numbers of the particles that are draws, `local` [draw, row, plates, *event] the latents of
    rows for these, `log_likelihood` [draw, row] log p(x_n | shared), `prior` draws of what the particles hold from the
    model alone (nothing where it does not run without data), all values arranged by their `layouts`.
    """

    structure: Structure
    layouts: Mapping[str, Layout]
    particles: dict[str, Tensor]
    log_weight: Float[Tensor, " particle"]
    chosen: Tensor
    local: dict[str, Tensor]
    log_likelihood: Float[Tensor, "draw row"] | None
    prior: dict[str, Tensor]


class _Weighed(NamedTuple):
    """Particles of what is not of single rows: values [particle, plates, *event]; `shared` and `rows` if rows share."""

    values: dict[str, Tensor]
    log_weight: Tensor
    shared: SharedDraws | None = None
    rows: Tensor | None = None


def draw_posterior(
    pair: Pair, split: Split, draws: int, particles: int, *, resample: bool, seed: int, floats_at_once: int | None
) -> JointDraws:
    """Draws of the posterior by importance sampling, or of the guide where nothing is resampled.

    Raises:
        UserError: as `joint_passes` does, or for draws of rows that would not fit into memory.
    """
    if not split.is_one_unit and not shares_latents(pair, split):
        with passes(pair, split, particles, seed=seed, floats_at_once=floats_at_once) as plan:
            layouts = _layouts(pair, plan)
            _refuse_large(layouts, plan, draws)
            local = _of_rows(pair, plan, layouts, draws, resample)
            nothing = torch.zeros(particles, dtype=torch.float64)
            return JointDraws(plan.structure, layouts, {}, nothing, torch.arange(draws), local, None, {})
    if split.is_one_unit:
        with passes(pair, split, particles, seed=seed, floats_at_once=floats_at_once) as plan:
            return _joint(pair, plan, _one_unit(pair, plan), 1, draws, resample)
    with joint_passes(pair, split, particles, None, seed=seed, floats_at_once=floats_at_once) as (plan, inner):
        shared = draw_shared(pair, plan)
        found = joint_weights(pair, plan, shared, inner)
        values = {n: v.cpu() for n, v in shared.values.items() if n not in plan.structure.auxiliary}
        weighed = _Weighed(values, found.log_weight, shared, found.log_likelihood)
        return _joint(pair, plan, weighed, inner, draws, resample)


def _layouts(pair: Pair, plan: Passes) -> dict[str, Layout]:
    return read_layouts(pair, plan.structure, plan.split.schema, plan.split.batch(slice(0, 100)))


def _joint(pair: Pair, plan: Passes, weighed: _Weighed, inner: int, draws: int, resample: bool) -> JointDraws:
    layouts = _layouts(pair, plan)
    if resample:
        chances = smooth(weighed.log_weight[:, None]).softmax(0)[:, 0]
        chosen = torch.multinomial(chances, draws, replacement=True)
    else:
        chosen = torch.arange(draws)
    local: dict[str, Tensor] = {}
    if weighed.shared is not None and _own(plan.structure):
        _refuse_large(layouts, plan, draws)
        local = _given(pair, plan, layouts, weighed.shared.at(chosen), max(inner, INNER) if resample else 1)
    return JointDraws(
        plan.structure,
        layouts,
        {n: layouts[n].arranged(v) for n, v in weighed.values.items() if n in layouts},
        weighed.log_weight,
        chosen,
        local,
        None if weighed.rows is None else weighed.rows[chosen],
        _prior(pair, plan, layouts, sorted(weighed.values), 1000),
    )


def _own(structure: Structure) -> set[str]:
    """The latents that single rows have."""
    return {*structure.latents, *structure.summed_model} - structure.global_latents - structure.auxiliary


def _refuse_large(layouts: Mapping[str, Layout], plan: Passes, draws: int) -> None:
    for name in _own(plan.structure) & layouts.keys():
        if draws * len(plan.split) * layouts[name].size > NUMBERS:
            raise UserError(
                f"{draws:,} draws of {name!r} for {len(plan.split):,} rows are more than {NUMBERS:,} numbers: take "
                "fewer draws or rows"
            )


def _one_unit(pair: Pair, plan: Passes) -> _Weighed:
    batch = next(plan.batches())
    parts = [completed(pair, plan.structure, batch, k) for k in plan.sizes()]
    log_weight = torch.cat([p.log_weight for p in parts]).double().cpu()[:, 0]
    refuse_blind(log_weight.sum()[None])
    return _Weighed({n: torch.cat([p.latents[n].cpu() for p in parts]) for n in parts[0].latents}, log_weight)


def _given(
    pair: Pair, plan: Passes, layouts: Mapping[str, Layout], shared: SharedDraws, inner: int
) -> dict[str, Tensor]:
    """The rows' own latents for every draw of the shared ones: one of `inner` candidates, by its weight."""
    together = plan.structure.broadcasts
    batches = []
    for batch in plan.batches():
        parts: list[dict[str, Tensor]] = []
        for some in torch.arange(len(shared)).split(plan.at_once):
            held = shared.at(some.repeat_interleave(inner) if together else some).held(pair)
            drawn = completed(held, plan.structure, batch, len(some) * inner)
            weights = drawn.log_weight.unflatten(0, (len(some), inner)).softmax(1)
            picked = torch.distributions.Categorical(weights.movedim(1, -1).nan_to_num(1.0)).sample()
            own = {n: v for n, v in drawn.latents.items() if n in _own(plan.structure) and n in layouts}
            parts.append({n: _pick(layouts[n].arranged(v), picked, inner).cpu() for n, v in own.items()})
        batches.append({n: torch.cat([p[n] for p in parts]) for n in parts[0]})
    return {n: torch.cat([b[n] for b in batches], 1) for n in batches[0]}


def _pick(values: Tensor, picked: Tensor, inner: int) -> Tensor:
    """Of candidates [draw x inner, row, ...] those picked [draw, row]."""
    each = values.unflatten(0, (-1, inner))
    each = each.expand(-1, -1, picked.shape[1], *each.shape[3:])
    draw, row = torch.arange(len(picked))[:, None], torch.arange(picked.shape[1])[None]
    return each[draw, picked.cpu(), row]


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


def _prior(pair: Pair, plan: Passes, layouts: Mapping[str, Layout], names: list[str], draws: int) -> dict[str, Tensor]:
    """Draws of the same latents from the model alone; of a program that cannot be drawn from, none."""
    structure, batch = plan.structure, some_rows(plan.split)
    program: Any = poutine.uncondition(pair.model)
    found: dict[str, list[Tensor]] = {n: [] for n in names if n in layouts}
    size = draws if structure.broadcasts else 1
    try:
        for _ in range(0, draws, size):
            sites = sample_sites(traced(for_particles(program, structure, size), batch))
            for name in found:
                value, depth = sites[name]["value"], structure.nesting + 1 + len(layouts[name].event_shape)
                value = value.reshape((1,) * (depth - value.dim()) + tuple(value.shape))
                found[name].append(layouts[name].arranged(value.expand(size, *value.shape[1:])).cpu())
    except (NotImplementedError, RuntimeError, ValueError, KeyError):  # improper, or simulated data that do not fit
        return {}
    return {name: torch.cat(values) for name, values in found.items()}
