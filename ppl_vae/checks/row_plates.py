"""The plate of the rows: which plates of a model hold the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from ppl_vae.distributions import unwrapped
from ppl_vae.errors import ProgramError, one_unit_words
from ppl_vae.programs.structure import TraceSites, frames

__all__ = ["data_plate", "informative", "nothing_observed", "other_number", "row_plates"]


def row_plates(model: TraceSites, rows: int | None, others: TraceSites | None = None) -> list[CondIndepStackFrame]:
    """The plates that go over the rows, the data plate first: around observed sites, and as wide as there are rows.

    Of nested plates that are, the one named "data", else the outermost. A run of the model on another number of rows
    tells a plate of the rows from one that has their number by chance, and so finds plates of the rows in which there
    are latents alone. An observed site outside of them is a factor that all rows share.

    Args:
        model: the sites of a run.
        rows: of its batch; None where nobody knows.
        others: the sites of a run on another number of rows, where `other_number` asks for it.

    Raises:
        ProgramError: if nothing is observed, or nothing of it in a plate that follows the rows.
    """
    observed = informative(model)
    if not observed:
        raise nothing_observed(model)
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
    sizes = {f.name: f.size for s in (others or {}).values() for f in frames(s)}
    for each in around.values():
        following = [f for f in each if rows is None or f.size in (rows, -1) or f.full_size not in (None, f.size)]
        if others is not None and len(following) > 1:
            following = [f for f in following if sizes.get(f.name) != f.size] or following
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
    for each in _of_latents(model):
        if not found.keys() & {f.name for f in each}:
            found |= {f.name: f for f in each if f.size == rows and sizes.get(f.name, rows) != rows}
    return _one_dim(sorted(found.values(), key=lambda f: f.name != "data"))


def nothing_observed(model: TraceSites) -> ProgramError:
    """What is said of a model without observations; of one that had some, which of Pyro's handlers took them."""
    lost = next((name for name, site in model.items() if site["infer"].get("was_observed")), None)
    if lost is not None:
        return ProgramError(
            lost,
            f"the model observes nothing: poutine.uncondition makes a latent of site {lost!r}, which was observed",
            "hand over the model as it was, without that handler; ppl_vae.sample draws what it observes",
        )
    return ProgramError(
        None,
        "the model observes nothing",
        "give one of its pyro.sample statements obs=x, where x is an argument named after a data field, and let no "
        "poutine.block hide it",
    )


def other_number(model: TraceSites, batch: Mapping[str, Tensor], rows: int | None) -> dict[str, Tensor] | None:
    """The batch with another number of rows, where a run on it has to tell which plates go over the rows.

    That is where several plates have as many elements as there are rows. None where one run says it.
    """
    if rows is None:
        return None
    wide = [{f.name for f in frames(s) if f.size == rows} for s in informative(model).values()]
    several = any(len(names) > 1 and "data" not in names for names in wide)
    known = {name for names in wide for name in names}
    if not several and all(f.size != rows or f.name in known for each in _of_latents(model) for f in each):
        return None
    return {n: v[:-1] if rows > 1 else torch.cat([v, v]) for n, v in batch.items() if v.dim()}


def _of_latents(model: TraceSites) -> list[list[CondIndepStackFrame]]:
    """The plates around each latent, outermost first."""
    return [frames(s)[::-1] for s in model.values() if not s["is_observed"]]


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
