"""How series go on: a field of the steps after the ends of the rows, drawn by the model and scored on held-out ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.autoguide.ends import ends_of, going_on, until
from ppl_vae.autoguide.reading import read_model
from ppl_vae.autoguide.timing import observing
from ppl_vae.checks.analysis import analyse
from ppl_vae.data import Split
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.evaluation.passes import judging
from ppl_vae.nn.entries import Timing
from ppl_vae.prediction._prediction import Prediction, joined
from ppl_vae.prediction._rolling import Coming, GoOn, Layout
from ppl_vae.prediction._scores import crps
from ppl_vae.prediction.sharing import HasShared, held_pair, shared_names, shared_traces
from ppl_vae.programs.execution import for_particles, traced
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import seed_draws
from ppl_vae.programs.structure import Structure
from ppl_vae.weights.completion import completed

__all__ = ["forecast"]

ROWS = 8
"""How many rows a program is read on."""

STAND_INS = 3
"""Values that stand for what is not known yet are tried: none may make a difference."""

ROWS_AT_ONCE = 500
"""How many rows are forecast in one pass."""


def forecast(
    pair: Pair,
    split: Split,
    field: str,
    horizon: int,
    draws: int,
    *,
    held_out: bool,
    posterior: HasShared | None,
    seed: int,
) -> Prediction:
    """The field at `horizon` steps after the end of each row; `held_out` ends a row so many steps earlier.

    Raises:
        UserError: for a program that goes through no steps, a field that these do not observe, or rows too short.
    """
    with judging(pair, seed):
        timing = _timing(pair, split)
        if field not in timing.observed:
            raise unknown_name("field that the steps observe", field, sorted(timing.observed))
        known = ends_of(timing, split.fields)
        ends = known - horizon if held_out else known
        if bool((ends < 1).any()):
            row = int((ends < 1).long().argmax())
            raise UserError(
                f"row {row} (from 0) has {int(known[row])} steps, and {horizon * held_out} are held out: leave short "
                "rows out, or ask for a shorter horizon"
            )
        past = until(timing, split.fields, ends)
        inputs = held_out or (timing.lengths is None and timing.mask is None)
        ahead, *others = (going_on(timing, split.fields, ends, horizon, inputs, stand_in=i) for i in range(STAND_INS))
        some = _some(past, ends)
        structure = analyse(pair, some)
        names = shared_names(pair, some)
        held = shared_traces(pair, names, some, draws if names else 1, posterior)
        steps, asked = _steps_to_come(pair, {n: v[_longest(ends)] for n, v in ahead.items()}, timing, field)
        nominal = split.schema[field].kind in ("categorical", "binary")
        true = _after_ends(split[field], ends + timing.starts[field], horizon) if held_out else None
        entry = tuple(split[field].shape[2:])
        about = _Ahead(pair, structure, field, steps, asked, nominal, horizon, entry, true)
        about.refuse_own_reading(held[:1], past, [ahead, *others], ends, seed)
        parts = []
        for start in range(0, len(split), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            before, after = ({n: v[rows] for n, v in fields.items()} for fields in (past, ahead))
            found = about.going_on(held, before, after, ends[rows], rows, draws // len(held))
            parts.append(about.prediction(found, rows))
        return joined(parts)


def _after_ends(values: Tensor, ends: Tensor, horizon: int) -> Tensor:
    """The entries after the end of each row, [row, lead, ...]."""
    places = ends.unsqueeze(1) + torch.arange(horizon, device=ends.device)
    return values[torch.arange(len(ends), device=ends.device).unsqueeze(1), places]


def _timing(pair: Pair, split: Split) -> Timing:
    timing = None if split.is_one_unit else read_model(pair.model, split.batch(slice(0, ROWS))).timing
    if timing is None:
        raise UserError(
            "horizon= goes on with the steps of a program, and this one goes through none: it needs four steps or more "
            "with the same latents, that depend on those before them and are observed"
        )
    return timing


def _some(fields: Batch, ends: Tensor) -> dict[str, Tensor]:
    """A few rows on which a pair is read: the longest is among them, and one with holes in each field."""
    rows = [int(ends.argmax()), *range(min(len(ends), ROWS))]
    for values in fields.values():
        gone = torch.isnan(values) if values.is_floating_point() else values < 0
        rows += [int(gone.reshape(len(gone), -1).any(1).long().argmax())]
    return {n: v[rows] for n, v in fields.items()}


def _longest(ends: Tensor) -> Tensor:
    """The rows on which the steps to come are read."""
    return ends.argsort(descending=True)[:ROWS]


def _steps_to_come(pair: Pair, few: Batch, timing: Timing, field: str) -> tuple[dict[str, int], frozenset[str]]:
    """The step of every site of the steps, those to come included, and the sites that observe the field."""
    reading = read_model(pair.model, few)
    if reading.chain is None:
        raise UserError("with more steps than its rows have the program is no chain of steps any more: it cannot go on")
    return observing(pair.model, reading.chain, reading.parents, few, field, timing.starts[field], reading.dim)


@dataclass(frozen=True)
class _Ahead:
    """A field of the steps to come, and what is known of the programs."""

    pair: Pair
    structure: Structure
    field: str
    steps: Mapping[str, int]
    asked: frozenset[str]
    nominal: bool
    horizon: int
    entry: tuple[int, ...]
    true: Tensor | None

    def going_on(
        self, held: Sequence[Trace], past: Batch, ahead: Batch, ends: Tensor, rows: slice, draws: int
    ) -> Coming:
        """The steps to come of some rows: what the guide says of them carried on by the model, draw by draw."""
        found = []
        for shared in held:
            pair = held_pair(self.pair, shared)
            latents = completed(pair, self.structure, past, draws).latents
            count = draws if self.structure.broadcasts else 1
            for k in range(0, draws, count):
                found.append(self._rolled({n: v[k : k + count] for n, v in latents.items()}, ahead, ends, rows, count))
        return _joined(found)

    def refuse_own_reading(
        self, held: Sequence[Trace], past: Batch, ahead: Sequence[Batch], ends: Tensor, seed: int
    ) -> None:
        """Raise where what a model says of steps to come depends on what stands in the field after the ends of rows."""
        rows = slice(0, ROWS)
        few = {n: v[rows] for n, v in past.items()}
        seen = []
        for fields in ahead:
            seed_draws(seed)
            seen.append(self.going_on(held, few, {n: v[rows] for n, v in fields.items()}, ends[rows], rows, 1).draws)
        if not all(torch.allclose(other.double(), seen[0].double(), equal_nan=True) for other in seen[1:]):
            raise UserError(
                f"the model goes on with {self.field!r} itself, which is not known after the end of a row: let it go "
                "on with what pyro.sample gives back"
            )
        seed_draws(seed)

    def _rolled(self, latents: Mapping[str, Tensor], ahead: Batch, ends: Tensor, rows: slice, count: int) -> Coming:
        layout = Layout(self.structure.dim, self.structure.nesting, count, self.entry)
        values = latents if count > 1 else {n: self.structure.alone(n, v) for n, v in latents.items()}
        true = None if self.true is None else self.true[rows]
        go_on = GoOn(values, self.steps, ends, layout, self.asked, true, self.nominal)
        traced(go_on(for_particles(self.pair.model, self.structure, count)), ahead)
        by_step = {self.steps[name]: coming for name, coming in go_on.found.items()}
        first = int(ends.min())
        columns = zip(*(by_step[t] for t in range(first, int(ends.max()) + self.horizon)), strict=True)
        return Coming(*(self._after(column, ends, first) for column in columns))  # type: ignore[arg-type]

    def _after(self, values: Sequence[Tensor | None], ends: Tensor, first: int) -> Tensor | None:
        """From [particle, row, ...] of every step to those after the end of each row, [particle, row, lead, ...]."""
        there = [v for v in values if v is not None]
        if len(there) < len(values):
            return None
        by_row = torch.stack(there, 2).transpose(0, 1).movedim(2, 1)
        return _after_ends(by_row, ends - first, self.horizon).movedim(2, 0)

    def prediction(self, found: Coming, rows: slice) -> Prediction:
        """Averages over the draws, and scores."""
        draws = found.draws
        score = None if found.log_prob is None else found.log_prob.logsumexp(0) - math.log(len(draws))
        if found.probs is not None:
            return Prediction(self.field, draws, probs=found.probs.mean(0), log_prob=score)
        number = draws if draws.is_floating_point() else draws.to(torch.get_default_dtype())
        mean, sd = number.mean(0), number.std(0, correction=0)
        if found.mean is not None and found.variance is not None:
            mean, sd = found.mean.mean(0), (found.variance.mean(0) + found.mean.var(0, correction=0)).sqrt()
        missed = crps(number, self.true[rows]) if self.true is not None and len(draws) > 1 else None
        return Prediction(self.field, draws, mean=mean, sd=sd, log_prob=score, crps=missed)


def _joined(found: Sequence[Coming]) -> Coming:
    """Particles of several runs."""
    columns = zip(*found, strict=True)
    return Coming(*(None if c[0] is None else torch.cat(c) for c in columns))  # type: ignore[arg-type]
