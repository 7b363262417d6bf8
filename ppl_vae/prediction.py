"""Encode rows, decode latents, draw rows: what a trained pair is asked for, for any model and guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.analysis import preserved_randomness
from ppl_vae.data import Schema
from ppl_vae.data.example import blank
from ppl_vae.missing import Holes
from ppl_vae.program import Batch, Pair, Program
from ppl_vae.structure import sample_sites

__all__ = ["decode", "encode", "expected_value", "simulate"]


def expected_value(fn: Any) -> Tensor:
    """E[x] of a likelihood: the mean, and for categories the mean level (grey level, count of a scale).

    Example:
        >>> expected_value(dist.Categorical(torch.tensor([0.5, 0.0, 0.5])))
        tensor(1.)
    """
    while isinstance(fn, dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    if isinstance(fn, dist.Categorical):
        return (fn.probs * torch.arange(fn.probs.shape[-1], device=fn.probs.device)).sum(-1)
    return fn.mean


def encode(guide: Callable[..., Any], batch: Batch, *, draws: int = 32, seed: int = 0) -> dict[str, Tensor]:
    """The posterior mean of every latent site of a guide, [row, *event], by site name.

    Where a family has no closed-form mean (flows), and for latents that depend on others, it is the mean over
    `draws`; a discrete site gives its class probabilities.
    """
    program = guide if isinstance(guide, Program) else Program(guide, "guide")
    sums: dict[str, Tensor] = {}
    with preserved_randomness(), torch.no_grad(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        for _ in range(draws):
            trace = poutine.trace(Holes(None, batch=batch)(program)).get_trace(**batch)
            sites = {n: s for n, s in sample_sites(trace).items() if not s["is_observed"]}
            sites = {n: s for n, s in sites.items() if not s["infer"].get("is_auxiliary")}
            for name, site in sites.items():
                mean = _posterior_mean(site)
                sums[name] = sums[name] + mean / draws if name in sums else mean / draws
            if len(sites) == 1 and _has_mean(next(iter(sites.values()))["fn"]):
                return {name: total * draws for name, total in sums.items()}
    return sums


def _has_mean(fn: Any) -> bool:
    try:
        return bool(torch.isfinite(fn.mean).all())
    except (NotImplementedError, AttributeError):
        return False


def _posterior_mean(site: Mapping[str, Any]) -> Tensor:
    fn = site["fn"]
    if isinstance(fn, dist.Categorical):
        return fn.probs
    return fn.mean if _has_mean(fn) else site["value"]


def decode(
    model: Callable[..., Any],
    latents: Mapping[str, Tensor],
    batch: Batch,
    field: str = "x",
    *,
    draw: bool = False,
) -> Tensor:
    """E[x | z] (or a draw of x) for given latents, [row, *S]; sites not given are drawn from the model.

    `batch` gives as many rows as there are latents: fields that the model conditions on are taken from it, the
    observed field itself is not looked at.
    """
    trace = Trace()
    for name, value in latents.items():
        trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
    program = model if isinstance(model, Program) else Program(model, "model")
    with torch.no_grad(), pyro.validation_enabled(False):
        sites = sample_sites(poutine.trace(poutine.replay(program, trace=trace)).get_trace(**batch))
    fn = sites[field]["fn"]
    return fn.sample() if draw else expected_value(fn)


def simulate(
    pair: Pair, schema: Schema, n: int, *, seed: int = 0, draw: bool = True, field: str = "x"
) -> dict[str, Tensor]:
    """n rows from the model: the latents by site name and `field`, drawn or as its mean given the latents."""
    labels = {f.name for f in schema if f.kind == "categorical" and f.shape == () and f.name != field}
    batch = {f.name: blank(f, n).to(pair.device) for f in schema if f.name not in labels}
    with preserved_randomness(), torch.no_grad(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        sites = sample_sites(poutine.trace(pair.model).get_trace(**batch))
        found = {name: site["value"] for name, site in sites.items() if not site["is_observed"]}
        fn = sites[field]["fn"]
        found[field] = fn.sample() if draw else expected_value(fn)
    return found
