"""Where a guide puts rows among the latents, and what the model makes of rows whose latents are moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.nn import functional as F

from ppl_vae.autoguide.inversion import ancestors
from ppl_vae.checks.analysis import analyse
from ppl_vae.data import Field, Schema
from ppl_vae.distributions import is_discrete, unwrapped
from ppl_vae.errors import unknown_name
from ppl_vae.prediction.coding import encode, typical
from ppl_vae.prediction.latents import draw_pair
from ppl_vae.programs.dependencies import Parents, dependencies
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes, is_missing
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.structure import TraceSites, frames, sample_sites

__all__ = ["Places", "find_places", "mean_of"]

DRAWS = 64
"""Of a field whose mean has no closed form."""


@dataclass(frozen=True)
class Places:
    """Every latent of some rows where the guide puts it: at its posterior mean, a class at its likeliest value.

    Attributes:
        pair: the programs.
        batch: the rows, by field name.
        values: the latents by site, with the rows at their dim `rows_at`, or None where all rows share it. A label that
            a row has is the row's own.
        probabilities: of the sites that are classes, [row, level].
        parents: the latents that each site of the model depends on.
        observed: the names of the fields that the model observes.
        fields: what the observed fields are, by name, where that is known.
        seed: of what is drawn: latents that the guide leaves to the model, and fields without a closed-form mean.
    """

    pair: Pair
    batch: Batch
    values: Mapping[str, Tensor]
    rows_at: Mapping[str, int | None]
    probabilities: Mapping[str, Tensor]
    parents: Parents
    observed: tuple[str, ...]
    fields: Mapping[str, Field]
    seed: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.batch.values())))

    def of(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """The latents of these rows, in this order."""
        index = torch.as_tensor(list(rows), device=self.pair.device)
        return {
            name: value if self.rows_at[name] is None else value.index_select(int(self.rows_at[name] or 0), index)
            for name, value in self.values.items()
        }

    def followers(self, moved: Sequence[str]) -> tuple[str, ...]:
        """The latents whose prior depends on those that are moved."""
        return tuple(n for n in self.values if n not in moved and ancestors(n, self.parents) & {*moved})

    def settled(
        self, moved: Mapping[str, Tensor], rows: Sequence[int], *, given: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """All latents of these rows, some of them `moved`.

        The others stay where the guide puts them. One whose prior depends on a moved one follows: it keeps its place
        within its prior, z' = m' + s' (z - m) / s if that is a normal; of another kind it stays. `given` are the rows
        whose conditions are taken; by default `rows`.
        """
        kept = self.of(rows)
        followers = self.followers([*moved])
        if not followers:
            return kept | dict(moved)
        before = self.sites(kept, rows)
        places = {n: place for n in followers if (place := _place(before[n]["fn"], kept[n])) is not None}
        after = self.sites(kept | dict(moved), rows if given is None else given, places)
        return kept | dict(moved) | {n: after[n]["value"] for n in places}

    def decode(self, latents: Mapping[str, Tensor], rows: Sequence[int], *, draw: bool = False) -> dict[str, Tensor]:
        """E[field | latents] (or a draw of it) under the conditions of these rows, by field, [row, *S]."""
        sites = self.sites(latents, rows)
        found = {}
        for name in self.observed:
            fn = sites[name]["fn"]
            value = _draw(fn, self.seed) if draw else mean_of(fn, self.fields.get(name), self.seed)
            found[name] = value.expand(len(rows), *value.shape[1:]) if value.dim() else value.expand(len(rows))
        return found

    def sites(
        self, latents: Mapping[str, Tensor], rows: Sequence[int], follow: Mapping[str, Tensor] | None = None
    ) -> TraceSites:
        """The model's sites for these latents, under the conditions of these rows."""
        trace = Trace()
        for name, value in latents.items():
            trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
        index = torch.as_tensor(list(rows), device=self.pair.device)
        batch = {n: v[index] for n, v in self.batch.items() if n not in latents}
        program = poutine.replay(self.pair.model, trace=trace)
        with preserved_randomness(), pyro.validation_enabled(False):
            seed_draws(self.seed)
            return sample_sites(traced(_Follow(follow)(program) if follow else program, batch))

    def probability(self, site: str, rows: Sequence[int]) -> Tensor:
        """q(site | x) of a class for these rows, [row, level]; a label that a row has is certain."""
        if site not in self.probabilities:
            raise unknown_name("class", site, self.probabilities)
        return self.probabilities[site][list(rows)]


class _Follow(Messenger):
    """Put latents where they were within their priors, though these have moved."""

    def __init__(self, places: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.places = places

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.places:
            base = unwrapped(msg["fn"])
            msg["done"], msg["value"] = True, base.loc + base.scale * self.places[str(msg["name"])]


def _place(fn: Any, value: Tensor) -> Tensor | None:
    """Where a value is within a normal, in its deviations; None for another distribution."""
    base = unwrapped(fn)
    return (value - base.loc) / base.scale if isinstance(base, dist.Normal) else None


def mean_of(fn: Any, field: Field | None, seed: int = 0) -> Tensor:
    """E[x] of a site's distribution, from draws where it has no closed form; the likeliest of a category."""
    try:
        return typical(fn, field)
    except (NotImplementedError, AttributeError):
        with preserved_randomness():
            seed_draws(seed)
            return torch.stack([fn.sample().to(torch.get_default_dtype()) for _ in range(DRAWS)]).mean(0)


def _draw(fn: Any, seed: int) -> Tensor:
    with preserved_randomness():
        seed_draws(seed)
        return fn.sample()


def find_places(pair: Pair, batch: Batch, schema: Schema | None = None, *, seed: int = 0) -> Places:
    """Where the guide of a pair puts these rows.

    Raises:
        UserError: for a pair that breaks the contract.
    """
    structure = analyse(pair, {n: v[:4] for n, v in batch.items()})
    guide, model = draw_pair(pair, batch, seed)
    means = encode(pair.guide, batch, seed=seed)
    holes = Holes(None, [*means], batch)
    parents = dependencies(holes(pair.model), {n: v[:2] for n, v in batch.items()}, [*model])
    values, rows_at, chances = {}, {}, {}
    for name in model:
        if name not in guide or model[name]["is_observed"]:
            continue
        site, mean = guide[name], means[name]
        local = name not in structure.global_latents
        if is_discrete(site["fn"]):
            mean, probs = _class_of(site["fn"], mean)
            if name in batch:  # a label that some rows have
                known = ~is_missing(model[name]["fn"], batch[name])
                mean = torch.where(known, batch[name].to(mean.dtype), mean)
                if probs is not None and probs.dim() == 2:
                    own = F.one_hot(batch[name].clamp(min=0).long(), probs.shape[-1]).to(probs.dtype)
                    probs = torch.where(known.unsqueeze(-1), own, probs)
            if probs is not None and local and len(frames(site)) == 1:
                chances[name] = probs
        values[name] = mean
        rows_at[name] = mean.dim() - site["fn"].event_dim + structure.dim if local else None
    observed = tuple(
        n for n, s in model.items() if s["is_observed"] and type(s["fn"]).__name__ not in ("Unit", "Delta")
    )
    fields = {f.name: f for f in schema or () if f.name in observed}
    return Places(pair, batch, values, rows_at, chances, parents, observed, fields, seed)


def _class_of(fn: Any, mean: Tensor) -> tuple[Tensor, Tensor | None]:
    """The likeliest value of a class, and the probabilities of its levels, from its mean over draws of the guide."""
    base = unwrapped(fn)
    if isinstance(base, dist.Categorical):
        return mean.argmax(-1), mean
    if isinstance(base, dist.Bernoulli):
        return (mean > 0.5).to(mean.dtype), torch.stack([1 - mean, mean], -1)
    if isinstance(base, dist.OneHotCategorical):
        return F.one_hot(mean.argmax(-1), mean.shape[-1]).to(mean.dtype), mean
    return mean.round(), None
