"""Rows to latents and latents to rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.checks.analysis import analyse
from ppl_vae.data import Data, Schema, as_split
from ppl_vae.data.convert import missing_in
from ppl_vae.data.example import blank
from ppl_vae.display import Displayed
from ppl_vae.errors import UserError, check_flag, check_known, check_whole, shown, unknown_name
from ppl_vae.evaluation.passes import judging, refuse_endless, some_rows
from ppl_vae.evaluation.rows import fields_of_model, rows_of
from ppl_vae.nn.experts import of_all_given
from ppl_vae.prediction import coding
from ppl_vae.prediction.moved import column_names
from ppl_vae.prediction.places import mean_of
from ppl_vae.programs.execution import traced
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Pair, Program
from ppl_vae.programs.structure import sample_sites
from ppl_vae.programs.trained import takes_results

__all__ = ["Codes", "decode", "encode"]

ROWS_AT_ONCE = 2000
"""How many rows are encoded in one pass: enough to be fast, few enough for a small machine."""


@dataclass(frozen=True)
class Members:
    """The latents that every member of a group has, and which of its places are taken, [group, place]."""

    latents: tuple[str, ...]
    there: Tensor


@dataclass(frozen=True, repr=False)
class Codes(Displayed):
    """Latents of rows, by site: posterior means [row, *event], of classes probabilities [row, level]; or `draws`.

    Draws are [draw, row, *event], of classes their values. Of rows that are groups of a long table, `groups` are their
    names in its column `by`, and `members` says which of their places are taken and which latents have them.
    """

    values: Mapping[str, Tensor]
    draws: int = 0
    by: str = "row"
    groups: tuple[str, ...] = ()
    members: Members | None = None

    def __getitem__(self, site: str) -> Tensor:
        return self.values[check_known("latent site", site, self.values)]

    def frame(self) -> Any:
        """A DataFrame with a row for each row (and draw, in a first column), a column for each number.

        Groups are told by name, and what their members have is in `member_frame`.
        """
        own = [n for n in self.values if self.members is None or n not in self.members.latents]
        rows = next(iter(self.values.values())).shape[1 if self.draws else 0]
        return self._table({n: self.values[n].reshape(max(self.draws, 1), rows, -1) for n in own}, self._names(rows))

    def member_frame(self) -> Any:
        """A DataFrame with a row for each member of each group (and draw), a column for each number.

        Raises:
            UserError: where rows are no groups, or no latent is of their members.
        """
        if self.members is None or not self.members.latents:
            raise UserError("these rows have no latents of members of a group: ask for .frame()")
        group, place = self.members.there.nonzero(as_tuple=True)
        names = self._names(len(self.members.there))
        first = {n: [column[i] for i in group.tolist()] for n, column in names.items()} | {"place": place.tolist()}
        draws = max(self.draws, 1)
        each = {n: self.values[n].reshape(draws, *self.members.there.shape, -1) for n in self.members.latents}
        return self._table({n: v[:, group, place] for n, v in each.items()}, first)

    def _names(self, rows: int) -> dict[str, list[Any]]:
        if self.groups:
            return {self.by: [*self.groups]}
        return {"row": [*range(rows)]} if self.draws else {}

    def _table(self, values: Mapping[str, Tensor], first: Mapping[str, list[Any]]) -> Any:
        """[draw, row, number] of every site below one another, behind the first columns."""
        import pandas

        rows = len(next(iter(first.values()), ())) or next((v.shape[1] for v in values.values()), 0)
        table: dict[str, Any] = {"draw": [d for d in range(self.draws) for _ in range(rows)]} if self.draws else {}
        table |= {name: column * max(self.draws, 1) for name, column in first.items()}
        for site, value in values.items():
            flat = value.cpu().flatten(0, 1)
            table |= dict(zip(column_names(site, flat.shape[1], None), flat.T.tolist(), strict=True))
        return pandas.DataFrame(table)


@takes_results
@exclusive
def encode(model: Callable[..., Any], guide: Callable[..., Any], data: Any, *, draws: int = 0, seed: int = 0) -> Codes:
    """Encode rows: the posterior mean of every latent of a row, or draws from q(z | x).

    Means that have no closed form (flows, latents that depend on others) are averages of 32 draws. A label that a row
    has does not enter: what is told is what the guide says.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        data: rows: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`).
        draws: of every latent for each row; 0 for means.
        seed: of the draws; the global generators are left alone.

    Raises:
        UserError: for a pair without latents of single rows, or one that breaks the contract.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import VAE
        >>> model = VAE(ppl_vae.load("digits"), latent_dim=4)
        >>> codes = encode(model, MeanField(model), model.data)
        >>> codes["z"].shape, list(codes.frame().columns)
        (torch.Size([447, 4]), ['z[0]', 'z[1]', 'z[2]', 'z[3]'])
    """
    draws = check_whole("draws", draws, 0)
    pair = Pair(model, guide)
    split = rows_of(model, guide, data, rows_for="encode").to(pair.device)
    refuse_endless("draws", draws, len(split))
    parts: list[dict[str, Tensor]] = []
    with judging(pair, seed):
        structure = analyse(pair, some_rows(split))
        own = [n for n in structure.latents if n not in structure.global_latents | structure.auxiliary]
        if not own:
            raise UserError("this guide has no latent of single rows: there is nothing to encode")
        for batch in split.scan(ROWS_AT_ONCE):
            parts.append(_drawn(pair, batch, draws) if draws else dict(coding.encode(pair.guide, batch, seed=seed)))
    names = [name for name in own if name in parts[0]]
    values = {name: torch.cat([p[name] for p in parts], 1 if draws else 0) for name in names}
    groups = split.schema.groups
    if groups is None:
        return Codes(values, draws)
    there = torch.stack([_any(~missing_in(split.schema[n].kind, split[n])) for n in groups.inner]).any(0)
    inner = [n for n in names if len(structure.plates_of["guide"][n]) > 1 and groups.size in values[n].shape[1:]]
    return Codes(values, draws, groups.by, split.groups, Members(tuple(inner), there))


def _any(there: Tensor) -> Tensor:
    """Whether anything of a member is there, [group, place]."""
    return there.reshape(*there.shape[:2], -1).any(2)


def _drawn(pair: Pair, batch: Mapping[str, Tensor], draws: int) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for _ in range(draws):
        with of_all_given():
            trace = traced(Holes(None, batch=batch)(pair.guide), batch)
        for name, site in sample_sites(trace).items():
            if not site["is_observed"] and not site["infer"].get("is_auxiliary"):
                found.setdefault(name, []).append(site["value"])
    return {name: torch.stack(values) for name, values in found.items()}


@exclusive
def decode(
    model: Callable[..., Any],
    latents: Mapping[str, Any] | Codes,
    data: Any = None,
    *,
    draw: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """What the model makes of latents: E[field | latents], or a draw of it, by field, [row, *S].

    Sites that are not given are drawn from the model, given those that are.

    Args:
        model: p(z) p(x | z).
        latents: by site, [row, *event] each: tensors or arrays, such as means from `encode`.
        data: as many rows, of a model with conditions for these, and of a user's own model to tell what its fields are;
            what it observes is not looked at.
        draw: a draw of the fields instead of their mean.
        seed: of the draws; the global generators are left alone.

    Raises:
        UserError: for sites that there are not, unequal numbers of rows, or a model whose fields are not known.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> model = VAE(ppl_vae.load("digits"), latent_dim=4)
        >>> decode(model, {"z": torch.zeros(3, 4)})["x"].shape
        torch.Size([3, 8, 8])
    """
    given = latents.values if isinstance(latents, Codes) else latents
    if not isinstance(given, Mapping):
        raise UserError(f"decode expects latents by the name of their site, or what encode gave, got {shown(latents)}")
    if isinstance(latents, Codes) and latents.draws:
        raise UserError("decode takes one value of each latent a row, got draws: take some, {site: codes[site][0]}")
    program = model if isinstance(model, Program) else Program(model, "model")
    device = next((p.device for p in program.parameters()), torch.device("cpu"))
    check_flag("draw", draw)
    values = {name: _latent(name, value, device) for name, value in given.items()}
    counts = {len(value) for value in values.values()}
    if len(counts) != 1:
        raise UserError(f"decode expects latents of equally many rows, got {sorted(counts) or 'none'}")
    (count,) = counts
    batch = _rows(program, data, count, device)
    schema = fields_of_model(program)
    trace = Trace()
    for name, value in values.items():
        trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
    batch = {name: value for name, value in batch.items() if name not in values}
    with judging(program, seed), pyro.validation_enabled(False):
        sites = sample_sites(traced(poutine.replay(program, trace=trace), batch))
    if unknown := [name for name in values if name not in sites]:
        raise unknown_name("latent site", unknown[0], [n for n, s in sites.items() if not s["is_observed"]])
    known = {f.name: f for f in schema or ()}
    found = {}
    for name, site in sites.items():
        if (site["is_observed"] or site["infer"].get("leaf")) and type(site["fn"]).__name__ not in ("Unit", "Delta"):
            fn = site["fn"]
            found[name] = fn.sample() if draw else mean_of(fn, known.get(name), seed)
    return found


def _latent(name: str, value: Any, device: torch.device) -> Tensor:
    try:
        found = torch.as_tensor(value, device=device)
        if found.dim() and not found.is_complex():
            return found
    except (TypeError, ValueError, RuntimeError):  # what torch says of what is no table of numbers
        pass
    raise UserError(f"latent {name!r} expects numbers, [row, *event], got {shown(value)}")


def _rows(program: Program, data: Any, count: int, device: torch.device) -> dict[str, Tensor]:
    """Rows for the model: those that were given, else blank ones of its fields."""
    schema: Schema | None = fields_of_model(program)
    if data is not None:
        split = as_split(data, "test", schema)
        if len(split) != count:
            more = "a data set has its own rows: give some" if isinstance(data, Data) else "give as many"
            raise UserError(f"decode expects as many rows as latents, {count}, got {len(split)}: {more}")
        return dict(split.to(device).batch())
    if schema is None:
        raise UserError("decode needs rows to know the fields of this model: give data=, as many as latents")
    if needed := [n for n, need in program.arguments.items() if need]:
        raise UserError(f"the model is given {', '.join(needed)}: give data= with it, as many rows as latents")
    labels = {f.name for f in schema if f.kind == "categorical" and f.shape == ()}
    others = [f for f in schema if f.name not in labels] or [*schema]
    return {f.name: blank(f, count).to(device) for f in others}
