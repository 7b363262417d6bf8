"""A written pair as programs that run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from random_pairs.draws import F64, FAMILIES, Noise
from random_pairs.writing import Site, Style, Writer

__all__ = ["Pair", "asked", "at", "write"]


class Pair:
    """A model and a guide, their source, and one batch; in its own style or another, with all particles or one."""

    def __init__(self, writer: Writer, batch: dict[str, Tensor], style: Style, particle: int | None = None) -> None:
        self.writer, self.batch, self.particle = writer, batch, particle
        self.sites = writer.sites
        self.source = writer.text(style)
        space: dict[str, Any] = {
            "pyro": pyro, "torch": torch, "poutine": poutine, "at": at, "across": _across, "levels": _levels,
            "known": _known, "noise": self._noise, "entries": style.entries, **FAMILIES, **batch,
        }  # fmt: skip
        exec(compile(self.source, "<pair>", "exec"), space)
        self.model, self.guide = space["model"], space["guide"]

    def written(self, style: Style, particle: int | None = None) -> Pair:
        """The same pair in another style, or with one of the given draws alone."""
        return Pair(self.writer, self.batch, style, particle)

    @property
    def fields(self) -> dict[str, Tensor]:
        """What is given to the engine: tensors with the rows first."""
        shared = {f"e_{s.name}" for s in self.sites if not s.is_local}
        return {n: v for n, v in self.batch.items() if n not in shared}

    @property
    def both(self) -> tuple[Any, Any]:
        """Model and guide with the same arguments, as Pyro calls them."""
        space: dict[str, Any] = {"pair": self, "asked": asked}
        for role in ("model", "guide"):
            exec(f"def {role}({', '.join(self.fields)}): return pair.{role}(**asked(pair.{role}, locals()))", space)
        return space["model"], space["guide"]

    def has(self, what: Callable[[Site], Any]) -> bool:
        """Whether some site is so."""
        return any(what(s) for s in self.sites)

    @property
    def mixes(self) -> bool:
        """Whether a statement outside of a plate depends, through others, on a discrete value inside of it."""
        return any(
            s.discrete and any(p not in child.plates for p in s.plates)
            for child in self.sites
            for parents in (child.parents, child.guide_parents)
            for s in _ancestors(parents)
        )

    def counting(self) -> dict[str, Tensor]:
        """Of every masked latent that the guide draws the entries that count, as docs/programs.md has it.

        They are those that the model does not mask, and, where the guide forgets the mask, those that something that
        counts depends on.
        """
        found = {site.name: self.mask_of(site) for site in self.sites}
        for site in reversed(self.sites):
            if site in self.writer.drawn and site.mask and not self.masked_in_guide(site):
                for child in (s for s in self.sites if site in s.parents):
                    found[site.name] = found[site.name] | _anywhere(found[child.name], site)
            elif site not in self.writer.drawn and not site.observed:
                found[site.name] = torch.tensor(True)  # a summed latent always counts
        return {name: found[name] for name in self.writer.masked()}

    def mask_of(self, site: Site) -> Tensor:
        """The entries that the model does not mask."""
        if site.has_mask_field:
            return at(self.fields[f"m_{site.name}"].bool(), *self.writer.dims(site))
        return torch.tensor(site.mask is None)

    def masked_in_guide(self, site: Site) -> bool:
        """Whether the guide has the model's mask."""
        return site.guide_masked

    def _noise(self, values: Tensor, rows: bool) -> Noise:
        depth = self.writer.depth
        values = values.movedim(0, 1 + depth + self.writer.data.dim) if rows else values
        return Noise(values if self.particle is None else values[self.particle :][:1], depth)


def write(seed: int, *, more: bool = False) -> Pair:
    """The pair of a seed; of more kinds of statements than the first programs had."""
    writer = Writer(seed, more=more)
    return Pair(writer, writer.batch(), Style())


def asked(program: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fields of a batch that are arguments of a program."""
    names = program.__code__.co_varnames[: program.__code__.co_argcount]
    return {name: batch[name] for name in names}


def _anywhere(counts: Tensor, site: Site) -> Tensor:
    """Whether an entry counts, of all those along plates that the site is not in."""
    around = {p.dim for p in site.plates}
    for dim in range(-counts.dim(), 0):
        counts = counts if dim in around else counts.any(dim, keepdim=True)
    return counts


def _ancestors(sites: list[Site]) -> list[Site]:
    """All that a statement depends on, by way of the draws of guide and model."""
    found: list[Site] = []
    for site in sites:
        found += [site, *_ancestors(site.guide_parents if site.in_guide else site.parents)]
    return found


# -- words that the programs use -----------------------------------------------------------------------------------


def at(value: Tensor, *dims: int) -> Tensor:
    """A field [row, ...] with its dims where the plates are: the i-th at dims[i]; others, of an event, stay last."""
    order = sorted(range(len(dims)), key=lambda i: dims[i])
    sizes = {dims[i]: value.shape[i] for i in order}
    value = value.permute(*order, *range(len(dims), value.dim()))
    return value.reshape(*(sizes.get(d, 1) for d in range(min(dims), 0)), *value.shape[len(dims) :])


def _across(value: Tensor, dim: int) -> Tensor:
    """The mean over a plate that the statement is not in."""
    return value.mean(dim, keepdim=True) if value.dim() >= -dim else value


def _levels(value: Tensor) -> Tensor:
    """A number for the category that a one-hot value has."""
    return (value * torch.arange(value.shape[-1], dtype=F64)).sum(-1)


def _known(value: Tensor) -> Tensor:
    """A number for every row, without what is missing."""
    return torch.nan_to_num(value.to(F64)).reshape(len(value), -1).mean(1)
