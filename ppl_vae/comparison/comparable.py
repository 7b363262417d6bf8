"""Whether the evidences of pairs may be compared at all: the same numbers observed, all as masses or all as densities.

A density depends on the scale of x, a probability mass on how finely x was rounded, and both on which entries are
observed: between pairs that differ in these a difference in nats says nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import pyro
import torch
from torch import Tensor

from ppl_vae.data import Data, Split
from ppl_vae.errors import UserError
from ppl_vae.evaluation.passes import passes
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes, Watch, is_missing
from ppl_vae.programs.program import Pair

__all__ = ["Observed", "observed", "preparation", "refuse_incomparable"]

ROWS = 64
"""How many of the rows are looked at."""

_OF_TRAINING_ALONE = {"labels", "root"}


@dataclass(frozen=True)
class Observed:
    """What the evidence of a pair is the evidence of, on the first rows.

    Attributes:
        sites: names of the observed sites.
        masses: how many observed numbers have a probability mass.
        densities: how many have a density.
        digest: of these numbers, whatever their order and the names of their sites.
        preparation: how the rows of training were made, where that is known.
    """

    sites: tuple[str, ...]
    masses: int
    densities: int
    digest: str
    preparation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """In words."""
        kinds = [word for word, n in (("probability mass", self.masses), ("density", self.densities)) if n]
        return f"a {' times a '.join(kinds) or 'product of factors'}"

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values; `from_json` is its inverse."""
        return {**asdict(self), "sites": list(self.sites), "preparation": dict(self.preparation)}

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> Self:
        """What `to_json` described."""
        return cls(**{**json, "sites": tuple(json["sites"])})


def observed(pair: Pair, split: Split, prepared: Mapping[str, Any] | None = None) -> Observed:
    """Run the model of a pair on the first rows, and look at what it observes; missing entries are not observed.

    Raises:
        UserError: for what `evaluate` refuses.
    """
    rows = split.rows(slice(0, ROWS))
    batch = rows.batch()
    with passes(pair, rows, 1) as plan, torch.no_grad(), pyro.validation_enabled(False):
        watch = Watch()
        traced(Holes(plan.structure.holes, plan.structure.latents, batch)(watch(pair.model)), batch)
    parts: dict[bool, list[Tensor]] = {True: [], False: []}
    sites = []
    for name, (fn, value) in watch.seen.items():
        seen = value[~is_missing(fn, value)]
        if seen.numel():
            sites.append(name)
            parts[_is_discrete(fn)].append(seen.detach().cpu().to(torch.float32).flatten())
    numbers = {kind: torch.cat(values).sort().values if values else torch.zeros(0) for kind, values in parts.items()}
    digest = hashlib.sha256()
    for kind in (True, False):
        digest.update(numbers[kind].numpy().tobytes() + b"|")
    return Observed(tuple(sites), len(numbers[True]), len(numbers[False]), digest.hexdigest(), prepared or {})


def _is_discrete(fn: Any) -> bool:
    try:
        return bool(getattr(fn.support, "is_discrete", False))
    except NotImplementedError:
        return False


def preparation(thing: Any, model: Any = None) -> dict[str, Any]:
    """How the training rows of a fit, a run or a model of this package were made; nothing where it is not known."""
    info = getattr(thing, "info", None)
    data = getattr(thing, "data", None) if info is None else None
    if not isinstance(data, Data):
        data = getattr(model, "data", None)
    if info is not None:
        source = info["data"]["source"]
    elif isinstance(data, Data):
        source = data.source
    else:
        return {}
    if "path" in source:
        options = source.get("options", {})
    else:  # a named set has one split, whatever the seed
        options = {k: v for k, v in source.items() if k not in ("name", "seed")}
    place = Path(source["path"]).name if "path" in source else source.get("name")
    found = {"data": place} | {"content": source.get("sha256")} | dict(options)
    return {k: v for k, v in found.items() if k not in _OF_TRAINING_ALONE and v is not None}


def refuse_incomparable(found: Mapping[str, Observed]) -> None:
    """Raise if the evidence of some pair is no evidence of what the first one's is.

    Raises:
        UserError: naming both pairs, how they differ, and the remedy.

    Example:
        >>> a, b = Observed(("x",), 64, 0, "-"), Observed(("x",), 0, 64, "-")
        >>> refuse_incomparable({"counts": a, "normal": b})
        Traceback (most recent call last):
        ppl_vae.errors.UserError: 'counts' and 'normal' cannot be compared: p(x) of the first is a probability mass...
    """
    (first, one), *others = found.items()
    for name, other in others:
        problem = _difference(one, other)
        if problem is not None:
            raise UserError(f"{first!r} and {name!r} cannot be compared: {problem}")


def _difference(one: Observed, other: Observed) -> str | None:
    if bool(one.masses) != bool(other.masses) or bool(one.densities) != bool(other.densities):
        return (
            f"p(x) of the first is {one.kind}, of the second {other.kind}: give both a likelihood over the same kind "
            "of numbers"
        )
    if (one.masses, one.densities) != (other.masses, other.densities):
        a, b = one.masses + one.densities, other.masses + other.densities
        return (
            f"in the same rows the first observes {a:,} numbers ({', '.join(one.sites)}), the second {b:,} "
            f"({', '.join(other.sites)}): let both observe the same fields"
        )
    if one.digest != other.digest:
        return (
            f"they observe different values in the same rows ({', '.join(one.sites)}; {', '.join(other.sites)}), so "
            "one of them scales, thresholds or redraws them: let both observe the rows as they are"
        )
    return _preparations(one.preparation, other.preparation)


def _preparations(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    if not one or not other or one.get("data") != other.get("data"):
        return None  # not known, or rows of another origin, which are judged on these
    for key in sorted(one.keys() | other.keys()):
        if one.get(key) != other.get(key):
            a, b = one.get(key), other.get(key)
            what = f"{key}={a!r}, the second with {b!r}" if key != "content" else "one content, the second another"
            return (
                f"the first was trained on {one['data']} with {what}, so that held-out rows are not the same or were "
                "seen in training: train both on the same rows"
            )
    return None
