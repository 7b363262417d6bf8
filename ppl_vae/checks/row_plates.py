"""The plate of the rows: which plates of a model hold the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
from pyro.poutine.indep_messenger import CondIndepStackFrame

from ppl_vae.distributions import unwrapped
from ppl_vae.errors import ProgramError, one_unit_words
from ppl_vae.programs.structure import TraceSites, frames

__all__ = ["data_plate", "informative", "row_plates"]


def row_plates(model: TraceSites, rows: int | None, fewer: TraceSites | None = None) -> list[CondIndepStackFrame]:
    """The plates that go over the rows, the data plate first: around observed sites, and as wide as there are rows.

    Of nested plates that are, the one named "data", else the outermost. `fewer` is a run of the model on one row less,
    which tells a plate of the rows from one that has their number by chance. An observed site outside of them is a
    factor that all rows share.

    Args:
        model: the sites of a run.
        rows: of its batch; None where nobody knows.
        fewer: the sites of a run on fewer rows.

    Raises:
        ProgramError: if nothing is observed, or nothing of it in a plate that follows the rows.
    """
    observed = informative(model)
    if not observed:
        raise ProgramError(
            None,
            "the model observes nothing",
            "give one of its pyro.sample statements obs=x, where x is an argument named after a data field",
        )
    around = {name: frames(site)[::-1] for name, site in observed.items()}  # outermost first
    if not any(around.values()):
        name, site = next(iter(observed.items()))
        raise ProgramError(
            name,
            f"the observed site {name!r} (value {tuple(site['value'].shape)}) is in no plate, so that no bound can "
            "tell rows apart",
            f"put the statements of a row under `with pyro.plate('data', len({name})):`, or take all data as one unit, "
            + one_unit_words(),
        )
    found: dict[str, CondIndepStackFrame] = {}
    for each in around.values():
        following = [f for f in each if rows is None or f.size in (rows, -1) or f.full_size not in (None, f.size)]
        if fewer is not None and len(following) > 1:
            narrower = {f.name: f.size for s in fewer.values() for f in frames(s)}
            following = [f for f in following if narrower.get(f.name) != f.size] or following
        if following:
            named = next((f for f in following if f.name == "data"), following[0])
            found.setdefault(named.name, named)
    if not found:
        frame = next(each[0] for each in around.values() if each)
        raise ProgramError(
            frame.name,
            f"plate {frame.name!r} has size {frame.size}, but the batch has {rows} rows",
            f"size it by its rows, pyro.plate({frame.name!r}, len(x)): batch size belongs to inference; or take all "
            f"data as one unit, {one_unit_words()}",
        )
    return _one_dim(sorted(found.values(), key=lambda f: f.name != "data"))


def informative(model: TraceSites) -> dict[str, Mapping[str, Any]]:
    """The observed sites of a model: what is only noted says nothing about it.

    That is `pyro.deterministic`, and a site that `poutine.reparam` replaced by its value.

    A `pyro.factor` counts where nothing else is observed.
    """
    observed = {n: s for n, s in model.items() if s["is_observed"] or s["infer"].get("held")}
    observed = {n: s for n, s in observed.items() if not s["infer"].get("_deterministic") and not _is_noted(s)}
    return {n: s for n, s in observed.items() if not isinstance(s["fn"], dist.Unit)} or observed


def _is_noted(site: Mapping[str, Any]) -> bool:
    """Whether an observed site is a point, at its own value: its density is 1 whatever that is."""
    fn = unwrapped(site["fn"])
    return isinstance(fn, dist.Delta) and not bool((fn.log_density != 0).any())


def _one_dim(plates: list[CondIndepStackFrame]) -> list[CondIndepStackFrame]:
    first = plates[0]
    for other in plates[1:]:
        if other.dim != first.dim:
            raise ProgramError(
                other.name,
                f"plates {first.name!r} and {other.name!r} both go over the rows, at dims {first.dim} and {other.dim}",
                f"put both at one dim, pyro.plate({other.name!r}, len(x), dim={first.dim})",
            )
    return plates


def data_plate(model: TraceSites, rows: int | None = None) -> CondIndepStackFrame:
    """The first of `row_plates`."""
    return row_plates(model, rows)[0]
