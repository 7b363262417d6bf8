"""Move latents of rows: one after another, from row to row, or from one row to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import pyro
import torch
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.errors import (
    UserError,
    check_choice,
    check_flag,
    check_number,
    check_several,
    check_whole,
    shown,
    unknown_name,
)
from ppl_vae.evaluation.passes import judging
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.prediction.latents import Latents, continuous_latents
from ppl_vae.prediction.moved import Moved
from ppl_vae.prediction.places import Places, find_places
from ppl_vae.programs.execution import traced
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.simulating import unobserved
from ppl_vae.programs.structure import sample_sites
from ppl_vae.programs.trained import takes_results

__all__ = ["Looked", "conditions_of", "interpolate", "look_at", "traverse"]

LOOKED = 500
"""Rows from which is learned where a latent lies and how much it tells."""


class Looked(NamedTuple):
    """Rows of a pair: where the guide puts those that were asked for, and what its continuous latents are."""

    places: Places
    latents: dict[str, Latents]
    numbers: list[int]


@exclusive
def look_at(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, rows: Sequence[int], seed: int
) -> tuple[Pair, Looked]:
    """Where the guide puts rows, by their numbers in the (test) rows of the data; the order is theirs.

    Raises:
        UserError: for a row that there is not, and pairs that break the contract.
    """
    pair = Pair(model, guide)
    split = rows_of(model, guide, data).to(pair.device)
    for row in rows:
        if check_whole("row", row, 0) >= len(split):
            raise UserError(f"row {row} was asked for, and there are {len(split):,} rows, from 0")
    numbers = [int(row) for row in rows]
    with judging(pair, seed):
        some = _some(split, seed)
        more = range(min(8, len(split)))  # a single row tells little of what is a row
        batch = split.batch(torch.tensor([*numbers, *more]))
        places = find_places(pair, batch, split.schema, seed=seed)
        latents = {each.site: each for each in continuous_latents(pair, some.batch(), seed=seed)}
    return pair, Looked(places, latents, numbers)


def _some(split: Split, seed: int) -> Split:
    if len(split) <= LOOKED:
        return split
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(check_whole("seed", seed, 0)))
    return split.rows(order[:LOOKED])


@takes_results
@exclusive
def traverse(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    row: int = 0,
    *,
    site: str | None = None,
    latents: Sequence[int] | None = None,
    span: float = 2.5,
    steps: int = 11,
    prior: bool = False,
    seed: int = 0,
) -> Moved:
    """Move the latents of a site one after another, the others staying where the guide puts a row.

    z_i goes through its prior mean plus -span to span prior deviations; a class goes through its values. Latents whose
    prior depends on z keep their place within it: the notes say which. What is shown is E[field | latents] of every
    field that the model observes.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        data: rows: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`).
        row: the number of the row.
        site: the latent site; by default the first continuous one that tells something about rows.
        latents: which of its entries; by default those that tell something, most first.
        span: in prior deviations.
        steps: how many.
        prior: start from a draw of all latents from the prior instead of from the row.
        seed: of the draws; the global generators are left alone.

    Raises:
        UserError: for a row, site or entry that there is not, or a site that cannot take every value.

    Source: Higgins et al. 2017, ICLR (beta-VAE).

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import VAE
        >>> model = VAE(ppl_vae.load("digits"), latent_dim=4)
        >>> found = traverse(model, MeanField(model), model.data, row=3, latents=[0, 2], steps=5)
        >>> found.values["x"].shape, found.lines
        (torch.Size([2, 5, 8, 8]), ('z0', 'z2'))
    """
    span, steps = check_number("span", span, positive=True), check_whole("steps", steps, 2)
    check_flag("prior", prior)
    pair, looked = look_at(model, guide, data, [row], seed)
    with judging(pair, seed):
        places = _from_prior(looked.places) if prior else looked.places
        if isinstance(site, str) and site in places.probabilities:
            return _through_classes(places, site)
        chosen = _site(looked.latents, site, places)
        which = _entries(chosen, latents)
        offsets = torch.linspace(-span, span, steps)
        count = len(which)
        start = places.of([0])[chosen.site].reshape(1, -1).repeat(count, 1)
        made = []
        for offset in offsets.tolist():
            z = start.clone()
            for line, i in enumerate(which):
                z[line, i] = chosen.centre[i] + offset * chosen.spread[i]
            settled = places.settled({chosen.site: chosen.shaped(z)}, [0] * count)
            made.append(places.decode(settled, [0] * count))
    notes = _follows(places, chosen.site)
    axis = f"prior sd of {chosen.site} from its mean"
    lines = tuple(f"{chosen.site}{i}" for i in which)
    return Moved(_stacked(made), lines, tuple(f"{o:.3g}" for o in offsets.tolist()), axis, places.fields, notes)


def _stacked(made: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in made], 1).detach() for name in made[0]}


def _follows(places: Places, site: str) -> tuple[str, ...]:
    followers = places.followers([site])
    return (f"{', '.join(followers)}: in the same place within the prior given {site}",) if followers else ()


def _site(found: Mapping[str, Latents], site: str | None, places: Places) -> Latents:
    if site is not None and not (isinstance(site, str) and site in found):
        raise unknown_name("latent site of rows", site, [*found, *places.probabilities])
    if not found:
        raise UserError("the pair has no continuous latent of single rows: name a class, site=")
    chosen = found[site] if site else max(found.values(), key=lambda s: (s.real, bool(s.ranked)))
    if not chosen.real:
        raise UserError(f"{chosen.site} cannot take every value, so it is not moved by fixed steps: name another site")
    return chosen


def _entries(chosen: Latents, latents: Sequence[int] | None) -> list[int]:
    size = chosen.mean.shape[1]
    if latents is None:
        return chosen.ranked or list(range(size))
    latents = check_several("latents", latents, "numbers of entries")
    for i in latents:
        if check_whole("latent", i, 0) >= size:
            raise UserError(f"latent {i} of {chosen.site} was asked for, and there are {size}, from 0")
    if not latents:
        raise UserError("latents expects at least one number, got none")
    return [int(i) for i in latents]


def _through_classes(places: Places, site: str) -> Moved:
    levels = places.probabilities[site].shape[-1]
    like = places.values[site]
    codes = torch.arange(levels, device=like.device)
    one_hot = like.dim() == 2
    values = torch.nn.functional.one_hot(codes).to(like.dtype) if one_hot else codes.to(like.dtype)
    rows = [0] * levels
    made = places.decode(places.settled({site: values}, rows), rows)
    stacked = {name: value.unsqueeze(0).detach() for name, value in made.items()}
    steps = tuple(map(str, range(levels)))
    return Moved(stacked, (site,), steps, f"value of {site}", places.fields, _follows(places, site))


def _from_prior(places: Places) -> Places:
    """The same row's conditions with latents drawn from the prior."""
    first = {name: value[:1] for name, value in places.batch.items()}
    with pyro.validation_enabled(False):
        sites = sample_sites(traced(unobserved()(places.pair.model), first))
    values = {n: sites[n]["value"] if places.rows_at[n] is not None else v for n, v in places.values.items()}
    return replace(places, batch=first, values=values)


@takes_results
@exclusive
def interpolate(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    pairs: Sequence[Sequence[int]] | Sequence[int],
    *,
    steps: int = 9,
    spherical: bool = False,
    labels: Literal["mix", "held"] = "mix",
    seed: int = 0,
) -> Moved:
    """The way of all latents from one row to another: E[field | latents] at steps from the left row's to the right's.

    Continuous latents go on a straight line, or with `spherical` at constant speed along the arc about the prior mean.
    Classes and conditions cannot be between two values: "mix" takes 1 - t of what the left row's values give and t of
    what the right row's give (for categories without an order, of the likeliest level, the nearer one), "held" keeps
    the left row's. The ends are the reconstructions of the rows.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        data: rows, as for `traverse`.
        pairs: numbers of rows, one pair or several.
        steps: how many, both ends included.
        spherical: an arc in units of the prior deviations, its length from one norm to the other (Shoemake 1985).
        labels: "mix" or "held".
        seed: of the draws; the global generators are left alone.

    Raises:
        UserError: for rows that there are not, or counts below 2.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import VAE
        >>> model = VAE(ppl_vae.load("digits"), latent_dim=4)
        >>> interpolate(model, MeanField(model), model.data, (3, 8), steps=5).values["x"].shape
        torch.Size([1, 5, 8, 8])
    """
    steps = check_whole("steps", steps, 2)
    check_choice("labels", labels, ("mix", "held"))
    check_flag("spherical", spherical)
    several = _pairs(pairs)
    numbers = [row for both in several for row in both]
    pair, looked = look_at(model, guide, data, numbers, seed)
    places, count = looked.places, len(several)
    left, right = range(0, 2 * count, 2), range(1, 2 * count, 2)
    with judging(pair, seed):
        start, end = places.of(left), places.of(right)
        made = []
        for t in torch.linspace(0, 1, steps).tolist():
            z = {n: _between(start[n], end[n], t, s if spherical else None) for n, s in looked.latents.items()}
            ends = [(1.0, left)] if labels == "held" else [(1 - t, left), (t, right)]
            made.append(_mixed([(w, places.decode(places.settled(z, rows), rows)) for w, rows in ends if w > 0]))
    classes = [*places.probabilities, *conditions_of(pair, places)]
    mixed = "mixed, 1 - t of the left row's value and t of the right row's"
    how = "held at the left row's value" if labels == "held" else mixed
    notes = (f"{', '.join(classes)}: {how}",) if classes else ()
    lines = tuple(f"row {a} to {b}" for a, b in several)
    words = tuple(f"{t:.3g}" for t in torch.linspace(0, 1, steps).tolist())
    return Moved(_stacked(made), lines, words, "share of the way", places.fields, notes)


def _pairs(pairs: object) -> list[tuple[Any, ...]]:
    """Pairs of row numbers, or the only pair."""
    what = "pairs of row numbers such as (3, 8)"
    found = check_several("pairs", pairs, what)
    one = all(not hasattr(each, "__len__") for each in found)
    several = [found] if one else [check_several("pairs", both, what) for both in found]
    if any(len(both) != 2 for both in several):
        raise UserError(f"pairs expects {what}, got {shown(pairs)}")
    return several


def conditions_of(pair: Pair, places: Places) -> list[str]:
    """The fields that the model is given and does not observe."""
    needed = [name for name, need in pair.model.arguments.items() if need]
    return [name for name in needed if name in places.batch and name not in places.observed]


def _between(start: Tensor, end: Tensor, t: float, about: Latents | None) -> Tensor:
    """A point of the line between two latents of each row, or of the arc about the prior mean."""
    if about is None:
        return (1 - t) * start + t * end
    a, b = ((v.reshape(len(v), -1) - about.centre) / about.spread for v in (start, end))
    lengths = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    ua, ub = (v / length.clamp(min=1e-12) for v, length in zip((a, b), lengths, strict=True))
    angle = (ua * ub).sum(-1, keepdim=True).clamp(-1, 1).arccos()
    sine = angle.sin()
    straight = sine < 1e-6
    safe = torch.where(straight, 1.0, sine)
    arc = ((1 - t) * angle).sin() / safe * ua + (t * angle).sin() / safe * ub
    unit = torch.where(straight, (1 - t) * ua + t * ub, arc)
    length = (1 - t) * lengths[0] + t * lengths[1]
    return (unit * length * about.spread + about.centre).reshape(start.shape)


def _mixed(parts: Sequence[tuple[float, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """The weighted mean of values; of codes the one with more weight."""
    most = max(parts, key=lambda part: part[0])[1]
    return {
        name: sum((w * one[name] for w, one in parts), torch.zeros(())) if value.is_floating_point() else most[name]
        for name, value in most.items()
    }
