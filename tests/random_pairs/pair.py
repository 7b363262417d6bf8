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
            "known": _known, "noise": self._noise, **FAMILIES, **batch,
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
