"""Encode rows, decode latents, draw rows: what a trained pair is asked for, for any model and guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.data import Field, Schema
from ppl_vae.data.example import blank
from ppl_vae.distributions import OneByOne, expected_value, unwrapped
from ppl_vae.errors import NoDensity, check_whole
from ppl_vae.nn.experts import of_all_given
from ppl_vae.prediction.sharing import shared_names, shared_traces
from ppl_vae.programs.density import is_improper
from ppl_vae.programs.execution import traced
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Batch, Pair, Program
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.simulating import unobserved
from ppl_vae.programs.structure import sample_sites

GROUPS = 100
"""Draws of what all rows share for simulated rows, at most."""

__all__ = ["decode", "decode_columns", "encode", "posterior_mean", "simulate", "typical"]


@exclusive
def encode(guide: Callable[..., Any], batch: Batch, *, draws: int = 32, seed: int = 0) -> dict[str, Tensor]:
    """The posterior mean of every latent site of a guide, [row, *event], by site name.

    Where a family has no closed-form mean (flows), and for latents that depend on others, it is the mean over
    `draws`; a discrete site gives its class probabilities.
    """
    program = guide if isinstance(guide, Program) else Program(guide, "guide")
    sums: dict[str, Tensor] = {}
    with preserved_randomness(), torch.no_grad(), pyro.validation_enabled(False):
        seed_draws(check_whole("seed", seed, 0))
        for _ in range(draws):
            with of_all_given():
                trace = traced(Holes(None, batch=batch)(program), batch)
            sites = {n: s for n, s in sample_sites(trace).items() if not s["is_observed"]}
            sites = {n: s for n, s in sites.items() if not s["infer"].get("is_auxiliary")}
            for name, site in sites.items():
                mean = posterior_mean(site)
                sums[name] = sums[name] + mean / draws if name in sums else mean / draws
            if len(sites) == 1 and _has_mean(next(iter(sites.values()))["fn"]):
                return {name: total * draws for name, total in sums.items()}
    return sums


def _has_mean(fn: Any) -> bool:
    try:
        return bool(torch.isfinite(fn.mean).all())
    except (NotImplementedError, AttributeError):
        return False


def posterior_mean(site: Mapping[str, Any]) -> Tensor:
    """The mean of a guide's site given earlier draws, its class probabilities, or the draw if neither is known."""
    fn = site["fn"]
    if isinstance(fn, dist.Categorical):
        return fn.probs
    return fn.mean if _has_mean(fn) else site["value"]


@exclusive
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
    fn = _given(model, latents, batch)[field]["fn"]
    return fn.sample() if draw else expected_value(fn)


@exclusive
def decode_columns(
    model: Callable[..., Any],
    latents: Mapping[str, Tensor],
    batch: Batch,
    columns: Sequence[Field],
    *,
    draw: bool = False,
) -> Tensor:
    """`decode` for several fields with one value a row, [row, column]; of categories without an order the likeliest."""
    sites = _given(model, latents, batch)
    fns = [sites[column.name]["fn"] for column in columns]
    values = [fn.sample() if draw else typical(fn, column) for fn, column in zip(fns, columns, strict=True)]
    return torch.stack([value.to(torch.get_default_dtype()) for value in values], dim=-1)


def typical(fn: Any, field: Field | None) -> Tensor:
    """The expected value; of what has none, a single category without an order or a row of tokens, the likeliest."""
    fn = unwrapped(fn)
    if isinstance(fn, OneByOne) and fn.levels:
        return fn.path()
    nominal = field is not None and field.kind == "categorical" and field.shape == () and not field.ordered
    return fn.probs.argmax(-1) if nominal and isinstance(fn, dist.Categorical) else expected_value(fn)


def _given(model: Callable[..., Any], latents: Mapping[str, Tensor], batch: Batch) -> dict[str, dict[str, Any]]:
    """The sites of a model whose latents are these."""
    trace = Trace()
    for name, value in latents.items():
        trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
    program = model if isinstance(model, Program) else Program(model, "model")
    with torch.no_grad(), pyro.validation_enabled(False):
        return sample_sites(traced(poutine.replay(program, trace=trace), batch))


@exclusive
def simulate(
    pair: Pair,
    schema: Schema,
    n: int,
    *,
    seed: int = 0,
    draw: bool = True,
    given: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """n rows from the model: latents and observed fields by site name, fields drawn or as means given the latents.

    Latents that all rows share are those of the guide, not of their prior, so that rows are like the rows that it was
    fitted to. There are `GROUPS` draws of them at most, each for as many rows as the others.

    `given` are the fields that a conditional model is given, [n, *S] each.

    Raises:
        NoDensity: for a model with an improper prior, from which nothing can be drawn.
    """
    labels = {f.name for f in schema if f.kind == "categorical" and f.shape == ()}
    batch = {f.name: blank(f, n).to(pair.device) for f in schema if f.name not in labels} | dict(given or {})
    with preserved_randomness(), torch.no_grad(), pyro.validation_enabled(False):
        seed_draws(check_whole("seed", seed, 0))
        few = {f.name: blank(f, 4).to(pair.device) for f in schema}
        few |= {name: values[torch.arange(4) % n] for name, values in (given or {}).items()}
        shared = shared_names(pair, few)
        parts = torch.arange(n).chunk(min(n, GROUPS) if shared else 1)
        groups = [_simulated(pair, schema, shared, {k: v[i] for k, v in batch.items()}, draw) for i in parts]
    return {name: torch.cat([group[name] for group in groups]) for name in groups[0]}


def _simulated(pair: Pair, schema: Schema, shared: frozenset[str], batch: Batch, draw: bool) -> dict[str, Tensor]:
    """Rows for one draw of what they share, which is repeated for each of them."""
    rows = len(next(iter(batch.values())))
    full = {f.name: blank(f, rows).to(pair.device) for f in schema} | dict(batch)
    (held,) = shared_traces(pair, shared, full, 1, None)
    sites = sample_sites(traced(poutine.replay(unobserved()(pair.model), trace=held), batch))
    if flat := [n for n, s in sites.items() if is_improper(s["fn"]) and n not in shared]:
        raise NoDensity(
            f"no samples: the prior of site {', '.join(flat)} is improper, and nothing can be drawn from it: train a "
            "VAE; the report of an autoencoder shows what decoding N(0, I) gives"
        )
    found, fields = {}, {f.name: f for f in schema}
    for name, site in sites.items():
        if isinstance(site["fn"], dist.Delta | dist.Unit):
            continue
        field, observed = fields.get(name), site["infer"].get("was_observed", False)
        mean = not draw and (field is not None or observed)
        value = typical(site["fn"], field) if mean else site["value"]
        found[name] = value.expand(rows, *value.shape) if name in shared else value
    return found
