"""What a pair of programs is made of: the sites, plates and dims that a step relies on without reading values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

__all__ = ["Structure", "TraceSites", "frames", "is_shapes_only", "sample_sites", "shapes_only"]


TraceSites = Mapping[str, Mapping[str, Any]]
"""Pyro's sample statements of one run, by site name."""


@dataclass(frozen=True)
class Structure:
    """The static facts of a pair, read once by `ppl_vae.checks.analysis.analyse`.

    A unit is what a log weight belongs to: a row of the data plate, or all data at once for a program that is read as
    one unit. `plate` is the data plate's name, None for one unit; `row_plates` are the plates that go over the rows
    (the data plate, and others of the same rows), `dim` is their dim. Plates are known by name: another plate may be
    at the same dim, beside the rows. `nesting` is the number of dims that plates use, `rows_total` the number of
    rows that a program which subsamples itself says there are. `plates_of` holds the plates around every sample site
    of the guide and of the model, to which later runs are held, `dims_of` how many dims the value of a latent has.

    `holes` says what happens at observed sites with missing entries (see `ppl_vae.programs.missing`), `masked` at
    latents that the model masks: the sites that depend on each, None where all of its entries count (`weights.masks`).
    `scaled` are the sites that a program scales by itself. `summed_guide`
    and `summed_model` are the discrete latents summed out (under the guide's classifier, or in the model
    alone), `scored` those drawn without a reparameterised sampler, `absent` the sites of fields that the data
    does not have, `auxiliary` the guide's own sites, which the model does not have, `global_latents` those outside
    the data plate, `points` the continuous latents that the guide draws from point masses, `improper` those of rows
    whose prior is improper, `inner_subsample` the plates inside a row that are subsampled. Without `broadcasts`,
    particles are run one by one.
    """

    plate: str | None
    dim: int
    nesting: int
    latents: tuple[str, ...]
    observed: tuple[str, ...]
    row_plates: frozenset[str] = frozenset()
    plates_of: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    dims_of: Mapping[str, int] = field(default_factory=dict)
    holes: Mapping[str, str] = field(default_factory=dict)
    masked: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    scaled: frozenset[str] = frozenset()
    summed_guide: frozenset[str] = frozenset()
    summed_model: frozenset[str] = frozenset()
    scored: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    auxiliary: frozenset[str] = frozenset()
    global_latents: frozenset[str] = frozenset()
    points: frozenset[str] = frozenset()
    improper: frozenset[str] = frozenset()
    inner_subsample: frozenset[str] = frozenset()
    rows_total: int | None = None
    broadcasts: bool = True

    @property
    def is_one_unit(self) -> bool:
        """Whether all data are one unit, without rows."""
        return self.plate is None

    @property
    def enumerates(self) -> bool:
        """Whether some discrete latent is summed out."""
        return bool(self.summed_guide or self.summed_model)

    @property
    def labelled(self) -> list[str]:
        """The latents that are observed in some rows, such as the label of M2."""
        return [n for n, what in self.holes.items() if what == "held" and n in self.latents]

    def alone(self, name: str, value: Tensor) -> Tensor:
        """A latent of one particle [1, plates, *event] as a run of its own has it: without dims that are others'.

        A program that does not broadcast may index it from the left, or take its number of dims for granted.
        """
        dims = self.dims_of.get(name, value.dim() - 1)
        return value.reshape(value.shape[value.dim() - dims :])

    def row_frame(self, site: Mapping[str, Any]) -> CondIndepStackFrame | None:
        """The plate of the rows around a site, if there is one."""
        return next((f for f in frames(site) if f.name in self.row_plates), None)

    def is_local(self, site: Mapping[str, Any]) -> bool:
        """Whether a site belongs to a unit: it is inside the plate of the rows, or all data are one unit."""
        return self.is_one_unit or self.row_frame(site) is not None


def sample_sites(trace: Trace) -> dict[str, dict[str, Any]]:
    """The sample statements of a run, in order, without those that plates use to draw their rows."""
    return {n: s for n, s in prune_subsample_sites(trace).nodes.items() if s["type"] == "sample"}


def frames(site: Mapping[str, Any]) -> list[CondIndepStackFrame]:
    """The vectorised plates around a site, outermost last."""
    return [f for f in site["cond_indep_stack"] if f.vectorized]


_SHAPES_ONLY = ContextVar("shapes_only", default=False)


@contextmanager
def shapes_only() -> Iterator[None]:
    """A program that runs in here is read for its sites, shapes and supports: a part that waits for others may guess.

    Example:
        >>> with shapes_only():
        ...     is_shapes_only()
        True
    """
    token = _SHAPES_ONLY.set(True)
    try:
        yield
    finally:
        _SHAPES_ONLY.reset(token)


def is_shapes_only() -> bool:
    """Whether the values that a program draws now are not going to be used."""
    return _SHAPES_ONLY.get()
