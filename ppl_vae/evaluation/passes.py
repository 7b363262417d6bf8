"""Rows x particles of any pair in passes that fit into memory: what judging and imputing rows have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.checks.analysis import analyse
from ppl_vae.checks.support import check_support, observed_values
from ppl_vae.data import Split
from ppl_vae.data.convert import missing_in
from ppl_vae.data.example import example
from ppl_vae.errors import UserError, check_whole
from ppl_vae.evaluation.chunks import both
from ppl_vae.programs.density import refuse_points
from ppl_vae.programs.modes import evaluating
from ppl_vae.programs.program import Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.structure import Structure
from ppl_vae.speed.memory import Footprint, footprint
from ppl_vae.speed.threads import suitable_threads

__all__ = [
    "FLOATS_AT_ONCE",
    "Passes",
    "judging",
    "passes",
    "refuse_blind",
    "refuse_chosen_items",
    "refuse_endless",
    "refuse_global",
    "some_rows",
]

MOST_DRAWS = 2**38
"""Particles times rows at most: weeks of work, though they are never in memory together."""

FLOATS_AT_ONCE = 10 * 2**20
"""How many numbers one pass may hold: 40 MB in float32, small enough for a laptop; larger passes are no faster."""


@dataclass(frozen=True)
class Passes:
    """Rows to go through, `rows` of them and `at_once` of the particles at a time; the pair's structure."""

    split: Split
    structure: Structure
    particles: int
    rows: int
    at_once: int

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """The rows, in their order."""
        return self.split.scan(self.rows)

    @property
    def count(self) -> int:
        """How many batches there are."""
        return -(-len(self.split) // self.rows)

    def sizes(self) -> list[int]:
        """How many particles each pass over a batch draws."""
        return [min(self.at_once, self.particles - start) for start in range(0, self.particles, self.at_once)]


@contextmanager
def passes(
    pair: Pair,
    split: Split,
    particles: int,
    *,
    seed: int = 0,
    floats_at_once: int | None = None,
    at_once: int | None = None,
) -> Iterator[Passes]:
    """Read a pair on these rows and plan the passes; inside, draws are seeded and networks do not train.

    A pass holds `floats_at_once` numbers: by default `FLOATS_AT_ONCE`, on CUDA a quarter of what is free. With
    `at_once`, the particles of a pass, the pair may have latents that all rows share: its weights are joint.

    Raises:
        UserError: for particles < 1 or too many (MOST_DRAWS), programs that break the contract, values outside a
            likelihood's support, or latents shared by all rows, for which there are no weights per row.
    """
    particles = check_whole("particles", particles)
    floats_at_once = None if floats_at_once is None else check_whole("floats_at_once", floats_at_once)
    refuse_endless("particles", particles, len(split))
    with judging(pair, seed):
        structure = analyse(pair, some_rows(split))
        some = example(split.schema, split, 8)
        check_support(observed_values(pair, structure, some), some, split)
        refuse_global(structure, shared=at_once is not None)
        refuse_chosen_items(structure)
        refuse_points(structure, "evidence", shared=at_once is not None)
        limit = 4 * (floats_at_once or _floats_at_once(pair.device))
        most = min(len(split), 500) if at_once is None else len(split)
        memory = _footprint(pair, structure, split, most, at_once or particles, limit / 2)
        # half of the memory at most for what is made once a pass, so that it is made for many particles
        rows = min(most, memory.most_rows(at_once, limit) if at_once else memory.most_rows(1, limit / 2))
        yield Passes(split, structure, particles, rows, at_once or min(particles, memory.most_particles(rows, limit)))


def refuse_endless(name: str, number: int, rows: int, each: int = 1) -> None:
    """Raise for so many draws that nobody sees their end.

    Args:
        name: of the argument.
        number: its value.
        rows: of which each has so many draws.
        each: how many there are for each of them, such as the steps of a chain.
    """
    if number * rows * each > MOST_DRAWS:
        size = number * rows * each * 8 / 2**30
        most = max(1, MOST_DRAWS // (rows * each))
        raise UserError(
            f"{number:,} {name} of {rows:,} rows are {size:,.0f} GiB of numbers and weeks of work: "
            f"take {name}={most:,} at most"
        )


@contextmanager
def judging(programs: nn.Module, seed: int) -> Iterator[None]:
    """Inside, draws are seeded, networks do not train and nothing has a gradient; outside, all is as it was."""
    with (
        suitable_threads(),
        evaluating(programs),
        preserved_randomness(),
        torch.no_grad(),
        pyro.validation_enabled(False),
    ):
        seed_draws(check_whole("seed", seed, 0))
        yield


def _floats_at_once(device: torch.device) -> int:
    if device.type != "cuda":
        return FLOATS_AT_ONCE
    free, _ = torch.cuda.mem_get_info(device)
    return max(FLOATS_AT_ONCE, free // 16)


def refuse_global(structure: Structure, *, shared: bool = False) -> None:
    """Raise for a pair of which nothing can be told row by row; with `shared` latents may be shared by all rows."""
    if structure.rows_total:
        raise UserError(
            f"plate {structure.plate!r} chooses rows itself (subsample_size= or subsample=), so that values cannot be "
            f"told row by row: size it by the rows it is given, pyro.plate({structure.plate!r}, len(x)); fit, "
            "with its batch_size=, puts N/B on it"
        )
    if structure.global_latents and not shared:
        sites = ", ".join(sorted(structure.global_latents - structure.auxiliary))
        raise UserError(
            f"{sites} is shared by all rows, so that no row has an evidence of its own: see ppl_vae.posterior and "
            "ppl_vae.evaluate, which weigh all rows together, or make it a parameter"
        )


def refuse_chosen_items(structure: Structure) -> None:
    """Raise where a plate shows a part of its items: the exponential of a scaled sum is no estimate of the evidence."""
    if structure.inner_subsample:
        plates = ", ".join(repr(name) for name in sorted(structure.inner_subsample))
        raise UserError(
            f"plate {plates} shows a part of its items (subsample_size=), by which the ELBO can be trained, but no "
            "evidence be weighed: leave subsample_size out to evaluate"
        )


def refuse_blind(log_evidence: Tensor, start: int = 0) -> None:
    """Raise for a row of which the log weights, and so log p(x) [row], are no numbers; `start` is that of the first."""
    bad = torch.isnan(log_evidence).nonzero()
    if len(bad):
        row = start + int(bad[0])
        raise UserError(
            f"row {row} has no weights (NaN): the model or guide computes with its missing entries; let both "
            "replace them, x.nan_to_num(), or use a generated guide"
        )


def some_rows(split: Split, rows: int = 4) -> dict[str, Tensor]:
    """A few rows to read the pair on; what any row misses, the first of these misses too.

    A program may observe the entries of a field one by one: each has to be seen with a hole to be skipped there.
    """
    batch = split.batch(slice(0, rows))
    if split.is_one_unit:
        return batch
    sample = split.sample
    for field in split.schema:
        values = sample[field.name]
        holes = missing_in(field.kind, values)
        if bool(holes.any()):
            first = values[holes.flatten(1).any(1) if values.dim() > 1 else holes][0].clone()
            first[holes.any(0)] = -1 if field.kind == "categorical" else torch.nan
            batch[field.name] = batch[field.name].clone()
            batch[field.name][0] = first
    return batch


def _footprint(pair: Pair, structure: Structure, split: Split, rows: int, particles: int, enough: float) -> Footprint:
    """What weighing rows takes, told from a few of them; if it is less than `enough` bytes, only an upper bound."""

    def weigh(rows: int, particles: int) -> object:
        return both(pair, structure, split.batch(slice(0, rows)), particles)

    weigh(2, 1)  # what a first run makes once for all is not counted
    with preserved_randomness():
        return footprint(weigh, rows, particles, enough)
