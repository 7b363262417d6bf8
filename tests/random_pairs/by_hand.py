"""What the log weights of a pair are, computed the slow way: one run of Pyro's for every assignment of discrete values.

No vectorised enumeration, no tensor contraction and nothing of `ppl_vae`: the guide is traced, the model is
conditioned on its draws, log-probabilities are summed by the name of the plates around them, and sums over
discrete values are loops over all assignments of one row's values (rows are independent, so that all rows take an
assignment at once).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from random_pairs.draws import F64
from random_pairs.pair import Pair, asked, at
from random_pairs.writing import DISCRETE, PARTICLES, ROWS, Site, Style

__all__ = ["ByHand", "Known", "by_hand", "with_shared_values_summed"]

Values = dict[str, Tensor]


@dataclass
class ByHand:
    """Of every particle: the log weight of the rows with discrete values summed out, [particle, row]; its expectation
    under the guide's discrete sites, [particle, row]; and log p - log q of what all rows share, [particle].

    With `poutine.scale` the expectation alone means something: what shares a sum over values has one scale, outside of
    the logarithm of the sum.
    """

    marginal: Tensor
    expectation: Tensor
    shared: Tensor


@dataclass
class _Run:
    """Of one assignment, each [row]: log p by scale, log q of the continuous and of the discrete draws, the probability
    of the latter; log p - log q of what all rows share, the probability of its discrete draws; every site's scale."""

    log_p: dict[float, Tensor]
    log_q: Tensor
    log_discrete: Tensor
    log_probability: Tensor
    shared: Tensor
    log_shared: Tensor
    scales: dict[str, float]


class Known(Messenger):
    """Leaves what is missing out of a likelihood, and gives a label the values of an assignment."""

    def __init__(self, labels: Values) -> None:
        super().__init__()
        self.labels = labels

    def _pyro_sample(self, msg: Any) -> None:
        name, value = msg["name"], msg["value"]
        if not msg["is_observed"] or not isinstance(value, Tensor):
            return
        if name in self.labels:
            missing, own = value == -1, msg["mask"]
            msg["value"] = self.labels[name].expand(value.shape)
            # where it is missing it is summed out, masked or not: a sum over masked values would be their number
            msg["mask"] = own if own is None else torch.as_tensor(own) | missing
            if isinstance(msg["fn"], dist.MaskedDistribution):
                msg["fn"] = msg["fn"].base_dist.mask(torch.as_tensor(msg["fn"]._mask) | missing)
        elif value.is_floating_point() and bool(value.isnan().any()):
            msg["fn"], msg["value"] = _skipping(msg["fn"], value.isnan()), torch.nan_to_num(value)


def _skipping(fn: Any, missing: Tensor) -> Any:
    events, masks = fn.event_dim, []
    while isinstance(fn, dist.Independent | dist.MaskedDistribution):
        masks += [fn._mask] if isinstance(fn, dist.MaskedDistribution) else []
        fn = fn.base_dist
    fn = fn.expand(torch.broadcast_shapes(fn.batch_shape, missing.shape)).mask(~missing).to_event(events)
    for mask in masks:
        fn = fn.mask(mask)
    return fn


def by_hand(pair: Pair, style: Style) -> ByHand:
    """The log weights of every particle, of the pair written in a style."""
    parts = [_weigh(pair.written(style, k))[:3] for k in range(PARTICLES)]
    return ByHand(*(torch.stack(p) for p in zip(*parts, strict=True)))


def with_shared_values_summed(pair: Pair, style: Style) -> Tensor:
    """The ELBO of all rows, where the discrete values that all rows share are summed out, too."""
    total = torch.zeros((), dtype=F64)
    for k in range(PARTICLES):
        one = pair.written(style, k)
        for values in _assignments(one, [s for s in one.writer.drawn if s.discrete and not s.is_local]):
            _, expectation, shared, log_chance = _weigh(one, values)
            total = total + log_chance.exp() * (expectation.sum() + shared)
    return total / PARTICLES


def _weigh(pair: Pair, shared: Values | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    local = [s for s in pair.sites if s.discrete and s.is_local]
    guided = [s for s in local if s in pair.writer.drawn]
    summed = [s for s in local if s.is_label or (not s.observed and s not in guided)]
    joint, log_q, log_d, chance = [], [], [], []
    for drawn in _assignments(pair, guided):
        runs = [_one(pair, drawn | (shared or {}), free) for free in _assignments(pair, summed)]
        joint.append(_summed(runs, summed))
        log_q.append(runs[0].log_q)
        log_d.append(runs[0].log_discrete)
        chance.append(runs[0].log_probability.exp())
    log_w = torch.stack(joint) - torch.stack(log_q)
    expected = torch.stack(chance) * (log_w - torch.stack(log_d))
    return log_w.logsumexp(0), expected.sum(0), runs[0].shared, runs[0].log_shared


def _summed(runs: list[_Run], summed: list[Site]) -> Tensor:
    """log of the sum over assignments, [row]: of what has one scale apart from what has another, each by its scale."""
    total = torch.zeros_like(runs[0].log_q)
    for scale in runs[0].log_p:
        others = [s for s in summed if runs[0].scales[s.name] != scale]
        counted_again = math.prod(len(_values(s)) ** s.per_row for s in others)
        logs = torch.stack([r.log_p[scale] for r in runs])
        total = total + scale * (logs.logsumexp(0) - math.log(counted_again))
    return total


def _assignments(pair: Pair, sites: list[Site]) -> Iterator[Values]:
    """All values of one row's discrete sites, each given to all rows."""
    lists = [list(itertools.product(_values(s), repeat=s.per_row)) for s in sites]
    for chosen in itertools.product(*lists):
        yield {s.name: _shaped(pair, s, torch.stack(v)) for s, v in zip(sites, chosen, strict=True)}


def _values(site: Site) -> list[Tensor]:
    if site.kind == "OneHotCategorical":
        return list(torch.eye(3, dtype=F64))
    numbers = torch.arange(DISCRETE[site.kind])
    return list(numbers if site.kind == "Categorical" else numbers.to(F64))


def _shaped(pair: Pair, site: Site, values: Tensor) -> Tensor:
    sizes = {p.dim: p.size if not p.of_rows else 1 for p in site.plates}
    shape = [sizes.get(d, 1) for d in range(min(sizes, default=0), 0)]
    values = values.reshape((*shape, *values.shape[1:]))
    if not site.is_local:
        return values
    repeats = [1] * values.dim()
    repeats[pair.writer.data.dim - (values.dim() - len(shape))] = pair.writer.rows
    return values.repeat(repeats)


def _one(pair: Pair, drawn: Values, free: Values) -> _Run:
    """The pair at one assignment of the guide's discrete sites and of those that are summed out in the model."""
    labels = {s.name: free[s.name] for s in pair.sites if s.is_label}
    latent = {n: v for n, v in free.items() if n not in labels}
    with pyro.validation_enabled(False):
        guide = poutine.trace(poutine.condition(pair.guide, data=drawn)).get_trace(**asked(pair.guide, pair.fields))
        values = {n: s["value"] for n, s in guide.nodes.items() if s["type"] == "sample"} | latent
        conditioned = Known(labels)(poutine.condition(pair.model, data=values))
        model = poutine.trace(conditioned).get_trace(**asked(pair.model, pair.fields))
    scales = {n: float(s["scale"]) for n, s in model.nodes.items() if s["type"] == "sample"}
    log_p, shared_p = _by_scale(pair, model.nodes, scales)
    for site in (s for s in pair.sites if s.is_label):  # it counts at its observed value, and where it is missing
        seen = at(pair.fields[site.name], *pair.writer.dims(site))
        wrong = (seen != -1) & (seen != labels[site.name])
        own = log_p[scales[site.name]]
        own.masked_fill_(_rows(pair, wrong).any(0), -torch.inf)
    discrete = {n: s for n, s in guide.nodes.items() if n in drawn}
    local = {s.name for s in pair.sites if s.is_local}
    log_q, shared_q = _by_row(pair, {n: s for n, s in guide.nodes.items() if n not in drawn or n not in local})
    log_d, _ = _by_row(pair, discrete)
    free_of = {"scale": 1.0, "mask": None}  # a value is drawn with its probability, whether or not that counts
    chance, log_shared = _by_row(pair, {n: s | free_of | {"fn": _unmasked(s["fn"])} for n, s in discrete.items()})
    return _Run(log_p, log_q, log_d, chance, shared_p - shared_q, log_shared, scales)


def _by_scale(pair: Pair, nodes: dict[str, Any], scales: dict[str, float]) -> tuple[dict[float, Tensor], Tensor]:
    """The sums of log-probabilities [row] of sites in the data plate, by their scales; and of all others."""
    found = {}
    for scale in {*scales.values()}:
        own = {n: nodes[n] | {"scale": 1.0} for n, s in scales.items() if s == scale}
        found[scale], _ = _by_row(pair, own)
    return found, _by_row(pair, nodes)[1]


def _unmasked(fn: Any) -> Any:
    return fn.base_dist if isinstance(fn, dist.MaskedDistribution) else fn


def _by_row(pair: Pair, nodes: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The sum of log-probabilities [row] of sites in the data plate, and of all others, a number."""
    local, shared = torch.zeros(pair.writer.rows, dtype=F64), torch.zeros((), dtype=F64)
    for name, site in nodes.items():
        if site["type"] != "sample" or name in {p.name for p in pair.writer.plates}:
            continue
        log = dist.util.scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
        frames = {f.name: f for f in site["cond_indep_stack"]}
        sizes = {f.dim: f.size for f in frames.values()}
        log = log.expand([sizes.get(d, 1) for d in range(min([*sizes, -log.dim()]), 0)])
        if any(name in frames for name in ROWS):
            local = local + _rows(pair, log).sum(0)
        else:
            shared = shared + log.sum()
    return local, shared


def _rows(pair: Pair, value: Tensor) -> Tensor:
    return value.movedim(pair.writer.data.dim, -1).reshape(-1, pair.writer.rows)
